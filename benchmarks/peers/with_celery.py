# SPDX-License-Identifier: Apache-2.0
"""Celery: acks late and rejects on a lost worker (at least once), no results, more prefetched for short tasks."""

from celery import Celery
from measuring import SCENARIO, URL, Payload, handled, send_on_command

app = Celery("bench", broker=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    # Its guide: "If you have many tasks with a short duration [...] a large prefetch multiplier".
    worker_prefetch_multiplier=64 if SCENARIO in {"simple", "large"} else 4,
    broker_connection_retry_on_startup=True,
)


@app.task(name="bench")
def handle(payload: Payload) -> None:
    handled(payload)


if __name__ == "__main__":
    send_on_command(lambda payloads: [handle.delay(each) for each in payloads], handle.delay)
