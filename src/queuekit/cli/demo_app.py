# SPDX-License-Identifier: Apache-2.0
"""The app of the demo's workers; `queuekit.cli.demo` starts them and tells them where to work."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path

from tenacity import wait_fixed

from queuekit import App, Current, RetryPolicy, current
from queuekit._values.clock import SystemClock
from queuekit.cli.demo_place import LEASE_S, PREFETCH, QUEUE, SLOTS, FileTask, Place
from queuekit.cli.ledger import Line

place: Place = Place.of(os.environ)
app: App = App(place.app_url, drain=timedelta(seconds=5))
clock: SystemClock = SystemClock()


@app.handler(
    QUEUE,
    concurrency=SLOTS,
    prefetch=PREFETCH,
    lease=timedelta(seconds=LEASE_S),
    retry=RetryPolicy(max_attempts=5, wait=wait_fixed(0.2)),
)
def hash_file(task: FileTask) -> None:
    """Hash one file, and say so in the ledger whatever comes of it.

    Raises:
        ValueError: The file is one of those that are to go wrong.
        OSError: The file cannot be read.
    """
    threading.Event().wait(task.pause_s)
    running = current()
    try:
        _go_wrong(task, running)
        digest = hashlib.sha256(Path(task.path).read_bytes()).hexdigest()
    except (ValueError, OSError):
        place.append(_line(task, running, ""))
        raise
    place.append(_line(task, running, digest))


def _go_wrong(task: FileTask, running: Current) -> None:
    if task.trouble == "poison" and not place.cure.exists():
        msg = "this file is poison until it is fixed"
        raise ValueError(msg)
    # By the ledger and not by the attempt: an attempt that a killed worker took with it did not fail.
    if task.trouble == "fails twice" and sum(each.message_id == running.message_id for each in place.lines()) < 2:
        msg = "this file fails twice"
        raise ValueError(msg)


def _line(task: FileTask, running: Current, digest: str) -> Line:
    return Line(
        message_id=running.message_id,
        file=task.path,
        attempt=running.attempt or 0,
        redriven=running.redriven,
        pid=os.getpid(),
        at=clock.monotonic(),
        digest=digest,
    )


def _end_with_the_demo() -> None:
    # The demo holds the other end of stdin, so it ends however the demo does.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=_end_with_the_demo, name="queuekit-demo-watch", daemon=True).start()
place.mark_up(os.getpid()).touch()
