# SPDX-License-Identifier: Apache-2.0
"""The app of the servers that are killed while messages are pushed to them. It works in the current folder."""

import os
import time

from pydantic import BaseModel

import queuekit as qk
from queuekit.cli.ledger import Line, write_line

MAX_ATTEMPTS = 5
WAIT_S = 0.5

app = qk.App(os.environ.get("QK_APP_URL", "cloudtasks://shop/here?target=https://worker.example/tasks"))


class Task(BaseModel):
    number: int


@app.handler(
    "failing",
    concurrency=16,
    retry=qk.RetryPolicy(max_attempts=MAX_ATTEMPTS, wait=lambda _state: WAIT_S),
    dead_letter=os.environ.get("QK_DEAD", "memory://buried"),
)
def fail(task: Task) -> None:
    append(task)
    raise ValueError(task.number)


@app.handler("jobs", default=True)
def work(task: Task) -> None:
    append(task)


def append(task: Task) -> None:
    running = qk.current()
    line = Line(
        message_id=running.message_id,
        file=f"{task.number}",
        attempt=running.attempt or 0,
        redriven=running.redriven,
        pid=os.getpid(),
        at=time.monotonic(),
        digest="",
    )
    # By one write and not by the interpreter's buffers, so that a kill cannot take it back.
    descriptor = os.open("ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, write_line(line))
    os.close(descriptor)
