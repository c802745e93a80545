# SPDX-License-Identifier: Apache-2.0
"""The app of the workers that are killed. It works in the current folder."""

import os
import threading
import time
from datetime import timedelta

from pydantic import BaseModel

import queuekit as qk
from queuekit.cli.ledger import Line, write_line

LEASE_S = 2.0

app = qk.App("sqlite:///jobs.db")


class Task(BaseModel):
    number: int
    hold: bool = False


def append(task: Task, *, done: bool) -> None:
    """By one write and not by the interpreter's buffers, so that a kill cannot take it back."""
    running = qk.current()
    line = Line(
        message_id=running.message_id,
        file=str(task.number),
        attempt=running.attempt or 0,
        redriven=running.redriven,
        pid=os.getpid(),
        at=time.monotonic(),
        digest="done" if done else "",
    )
    descriptor = os.open("ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, write_line(line))
    os.close(descriptor)


@app.handler("busy", concurrency=4, lease=timedelta(seconds=LEASE_S))
def work(task: Task) -> None:
    append(task, done=True)


@app.handler("idle", concurrency=1, prefetch=0, lease=timedelta(seconds=LEASE_S))
def work_or_hold(task: Task) -> None:
    if task.hold and qk.current().attempt == 1:
        append(task, done=False)
        threading.Event().wait()
    append(task, done=True)
