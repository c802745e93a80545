# SPDX-License-Identifier: Apache-2.0
"""Workers inside this process, on whatever backend, on the real clock or on one that the test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import queuekit as qk
from queuekit.testing import VirtualClock

from .rows import FULL

LIMIT_S = 150.0 if FULL else 60.0
BOTH = ("memory", "sqlite")
on_both = pytest.mark.parametrize("backend", BOTH)
on_each = pytest.mark.parametrize("backend", [*BOTH, "redis"])
on_redis = pytest.mark.parametrize("backend", ["redis"])
on_sqs = pytest.mark.parametrize("backend", ["sqs"])
on_servers = pytest.mark.parametrize("backend", ["redis", "sqs"])
on_networks = pytest.mark.parametrize("backend", ["redis", "sqs", "pubsub"])
on_all = pytest.mark.parametrize("backend", [*BOTH, "redis", "sqs"])
on_every = pytest.mark.parametrize("backend", [*BOTH, "redis", "sqs", "pubsub"])


@contextmanager
def working(app: qk.App, *, clock: VirtualClock | None = None) -> Iterator[Callable[[], qk.ExitCode]]:
    """A worker of the app on a thread. What is given stops it; so does the end of the block."""
    ended: list[qk.ExitCode | BaseException] = []

    def run() -> None:
        try:
            ended.append(app.run(signals=False))
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def stop() -> qk.ExitCode:
        app.stop()
        until(lambda: not thread.is_alive(), clock=clock, step_s=1.0)
        if isinstance(ended[0], BaseException):
            raise ended[0]
        return ended[0]

    try:
        yield stop
    finally:
        if thread.is_alive():
            app.stop()
            app.stop()
            until(lambda: not thread.is_alive(), clock=clock, step_s=1.0)


def until(done: Callable[[], bool], *, clock: VirtualClock | None = None, step_s: float = 0.0) -> None:
    """Wait until something is so; on a virtual clock its time passes meanwhile, if a step is given."""
    limit, pause = time.monotonic() + LIMIT_S, threading.Event()
    while not done():
        assert time.monotonic() < limit, "it did not come to pass"
        pause.wait(0.002)
        if clock is not None and step_s:
            clock.advance(step_s)
