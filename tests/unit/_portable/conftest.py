# SPDX-License-Identifier: Apache-2.0
"""A worker on a thread of the test's own, on a clock that the test moves."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queuekit import App, Consumer, DeadLetters, DeadMessage, ExitCode
from queuekit.testing.clock import VirtualClock

LIMIT_S = 20.0
"""Real time after which a test that waits for a thread has failed."""


_PAUSE_S = 0.001


def let(clock: VirtualClock, done: Callable[[], bool], *, step_s: float = 0.02) -> None:
    """Let time pass, slowly enough for a busy host, until something is so."""
    until = time.monotonic() + LIMIT_S
    pause = threading.Event()
    while not done():
        began = time.monotonic()
        assert began < until, "it did not come to pass"
        pause.wait(_PAUSE_S)
        late_s = time.monotonic() - began - _PAUSE_S
        if late_s > _PAUSE_S:  # others, who have something to do before time passes, waited as long
            pause.wait(min(8 * late_s, 0.2))
        clock.advance(step_s)


class Running:
    """A worker that runs until `stop`."""

    def __init__(self, app: App, clock: VirtualClock, **options: Any) -> None:
        self.app = app
        self._clock = clock
        self.codes: list[ExitCode] = []
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, kwargs=options, daemon=True)
        self._thread.start()

    def _run(self, **options: Any) -> None:
        try:
            self.codes.append(self.app.run(signals=False, **options))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.errors.append(error)

    def stop(self) -> ExitCode:
        self.app.stop()
        return self.end()

    def end(self, *, step_s: float = 0.02) -> ExitCode:
        """Wait for the end that something else brings about."""
        self.let(lambda: not self.alive, step_s=step_s)
        if self.errors:
            raise self.errors[0]
        return self.codes[0]

    def let(self, done: Callable[[], bool], *, step_s: float = 0.02) -> None:
        """Let time pass until something is so."""
        let(self._clock, done, step_s=step_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()


Work = Callable[..., Running]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def app(clock: VirtualClock) -> Iterator[App]:
    with App("memory://", clock=clock) as made:
        yield made


@pytest.fixture
def work(app: App, clock: VirtualClock) -> Iterator[Work]:
    started: list[Running] = []

    def start(which: App = app, **options: Any) -> Running:
        started.append(Running(which, clock, **options))
        return started[-1]

    yield start
    for each in started:
        if each.alive:
            each.app.stop()
            each.app.stop()
            each.end(step_s=1.0)


@pytest.fixture
def left(clock: VirtualClock) -> Callable[[str], int]:
    """How many messages a queue still holds, leased ones included."""

    def count(queue: str) -> int:
        with Consumer(f"memory://{queue}", clock=clock) as consumer:
            stats = consumer._link.backend.stats()  # type: ignore[attr-defined]
        return int(stats.ready + stats.delayed + stats.leased)

    return count


@pytest.fixture
def dead(clock: VirtualClock) -> Callable[[str], list[DeadMessage]]:
    """The dead letters of a queue."""

    def read(queue: str) -> list[DeadMessage]:
        with DeadLetters(f"memory://{queue}", clock=clock) as letters:
            return list(letters.letters())

    return read
