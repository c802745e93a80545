# SPDX-License-Identifier: Apache-2.0
"""The app of the workers that forward, on SQLite without delays. It works in the current folder."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import queuekit as qk
from queuekit._portable import forwarding
from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, Backend, QueueURL
from queuekit.cli.ledger import Line, write_line
from queuekit.testing.faults import Answers, Call, FaultyOpener, Proceed, Script

LEASE_S = 1.0
VIA = "sqlite:///waiting.db?queue=waiting"


class Undelayed(FaultyOpener):
    """Opens queues that keep no delays, but for the one that is there for them, whose acks a script may stop."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(Opener(SystemClock()), max_delay_s=0.0)
        self._waiting = Script() if script is None else script

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        if url.options.get("queue") == "waiting":
            return FaultyOpener(self._opener, self._waiting).open(url, keywords)
        return super().open(url, keywords)

    def close(self) -> None:
        self._opener.close()


def die_before_an_ack(call: Call, proceed: Proceed) -> Answers:
    """What is to be acked has been forwarded."""
    if any(each.action is Action.ACK for each in call.batch):
        os.kill(os.getpid(), signal.SIGKILL)
    return proceed(call.batch)


if "QK_APP_URL" in os.environ:  # in a worker, which is killed and whose messages are waited for
    forwarding._LEASE_S = LEASE_S  # type: ignore[misc]  # a Final; nobody waits a minute for it here
app = qk.App("sqlite:///jobs.db", delay_via=VIA)
_script = Script().always("settle", die_before_an_ack) if "QK_DIE" in os.environ else None
app._opener = Undelayed(_script)  # an App has no argument for it


@app.handler("jobs", lease=timedelta(seconds=30))
def work(number: int) -> None:
    running = qk.current()
    line = Line(
        message_id=running.message_id,
        file=str(number),
        attempt=running.attempt or 0,
        redriven=running.redriven,
        pid=os.getpid(),
        at=time.monotonic(),
        digest="done",
    )
    descriptor = os.open("ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, write_line(line))
    os.close(descriptor)


@app.handler("other")
def rest(_number: int) -> None:
    """Nothing comes here: its worker only forwards."""
