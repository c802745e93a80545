# SPDX-License-Identifier: Apache-2.0
"""Workers inside this process, on memory, SQLite or Redis, on the real clock or on one that the test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import queuekit as qk
from queuekit.testing import VirtualClock

from .rows import FULL

LIMIT_S = 150.0 if FULL else 60.0
BOTH = ("memory", "sqlite")
on_both = pytest.mark.parametrize("backend", BOTH)
on_each = pytest.mark.parametrize("backend", [*BOTH, "redis"])
on_redis = pytest.mark.parametrize("backend", ["redis"])


class Place:
    """Where the queues of a test are.

    Args:
        backend: The scheme.
        app_url: The URL without a queue.
    """

    def __init__(self, backend: str, app_url: str) -> None:
        self.backend = backend
        self.app_url = app_url

    def url(self, queue: str, **options: str) -> str:
        if self.backend == "memory":
            return f"memory://{queue}"
        return f"{self.app_url}?queue={queue}" + "".join(f"&{name}={value}" for name, value in options.items())


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


def left(place: Place, queue: str, **options: Any) -> int:
    """How many messages a queue still holds, leased and delayed ones included."""
    with qk.Consumer(place.url(queue), **options) as consumer:
        stats = consumer._link.backend.stats()  # type: ignore[attr-defined]
    return int(stats.ready + stats.delayed + stats.leased)


def letters(place: Place, queue: str, **options: Any) -> list[qk.DeadMessage]:
    with qk.DeadLetters(place.url(queue), **options) as dead:
        return list(dead.letters())
