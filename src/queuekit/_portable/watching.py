# SPDX-License-Identifier: Apache-2.0
"""What looks after a running worker: whether its queues make progress, and whether its event loop answers."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import FrameType

from queuekit._engine.pulse import LOOKS_PER_PATIENCE, Watchdog
from queuekit._portable.intake import Intake
from queuekit._portable.link import seconds
from queuekit._values.clock import Clock, SystemClock

PATIENCE_S = 300.0
LOOP_LIMIT_S = 1.5
_PINGS_PER_LIMIT = 4
_FRAMES = 5


class Patience:
    """How long a worker may stand still before it is taken for stuck.

    Args:
        wanted: The user's choice: for engine and handlers alike. None watches the engine alone, for five
            minutes.

    Raises:
        UsageError: It is no length above 0.

    Attributes:
        seconds: How long.
        handlers: Whether handlers are watched too.
    """

    __slots__ = ("handlers", "seconds")

    def __init__(self, wanted: timedelta | None) -> None:
        self.seconds: float = PATIENCE_S if wanted is None else seconds("watchdog", wanted, least=0.001)
        self.handlers: bool = wanted is not None


class ProgressWatch:
    """A thread that looks for queues of a worker that make no progress.

    Args:
        queues: Each open queue with how many handlers it runs at once.
        patience: How long nothing may happen.
        clock: Time.
        stalled: Called once, with the queue and the reason, when one is stuck.
    """

    def __init__(
        self,
        queues: Sequence[tuple[Intake, int]],
        patience: Patience,
        clock: Clock,
        stalled: Callable[[Intake, str], None],
    ) -> None:
        self._clock, self._stalled, self._patience = clock, stalled, patience
        self._watched = [
            (intake, Watchdog(patience_s=patience.seconds, slots=slots if patience.handlers else None))
            for intake, slots in queues
        ]
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="queuekit-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _watch(self) -> None:
        while self._look_again():
            now = self._clock.monotonic()
            for intake, dog in self._watched:
                receiver = intake.receiver
                reason = dog.look(now, receiver.pulses, running=receiver.running, taken=receiver.taken)
                if reason is not None:
                    self._stalled(intake, reason)
                    return

    def _look_again(self) -> bool:
        with self._changed:
            if not self._stopping:
                self._clock.wait(self._changed, self._patience.seconds / LOOKS_PER_PATIENCE)
            return not self._stopping


class Oversight:
    """Everything that looks after one worker.

    Args:
        queues: Each open queue with how many of its messages can be worked on at once.
        patience: How long nothing may happen.
        clock: Time.
        stalled: Called once, with the reason, when a queue makes no progress; it was logged and told by then.
    """

    def __init__(
        self, queues: Sequence[tuple[Intake, int]], patience: Patience, clock: Clock, stalled: Callable[[], None]
    ) -> None:
        self._stalled = stalled
        self._watches: list[ProgressWatch | LoopWatch] = [ProgressWatch(queues, patience, clock, self._report)]

    def watch_loop(self, loop: asyncio.AbstractEventLoop, intakes: Sequence[Intake]) -> None:
        """Watch the event loop that the handlers of these queues run on, too."""

        def blocked(where: str) -> None:
            for intake in intakes:
                intake.link.journal.note("worker.loop_blocked", where)
                intake.stalled(f"the event loop does not answer: {where}")

        self._watches.append(LoopWatch(loop, blocked))

    def start(self) -> None:
        """Start looking."""
        for each in self._watches:
            each.start()

    def stop(self, timeout_s: float) -> None:
        """Look no more."""
        for each in self._watches:
            each.stop(timeout_s)

    def _report(self, intake: Intake, reason: str) -> None:
        intake.link.journal.note("worker.stalled", reason)
        intake.stalled(reason)
        self._stalled()


class LoopWatch:
    """A thread that asks an event loop, again and again, whether it is there.

    A handler that blocks the loop holds up every other handler on it, and nothing else would tell. This is about
    real time, whatever clock the worker has.

    Args:
        loop: The loop.
        blocked: Called with where the loop's thread is, once for each time that it does not answer.
        limit_s: After how long.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, blocked: Callable[[str], None], *, limit_s: float = LOOP_LIMIT_S
    ) -> None:
        self._loop, self._blocked, self._limit_s = loop, blocked, limit_s
        self._clock = SystemClock()
        self._changed = threading.Condition()
        self._answered = self._stopping = False
        self._loop_thread: int | None = None
        self._thread = threading.Thread(target=self._watch, name="queuekit-loop-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _watch(self) -> None:
        # A loop that was closed meanwhile has nobody left who waits.
        with suppress(RuntimeError):
            while not self._stopping:
                self._answered = False
                self._loop.call_soon_threadsafe(self._answer)
                if not self._wait(lambda: self._answered, self._limit_s):
                    if self._stopping:
                        return
                    self._blocked(self._where())
                    self._wait(lambda: self._answered, None)
                self._wait(lambda: False, self._limit_s / _PINGS_PER_LIMIT)

    def _answer(self) -> None:
        with self._changed:
            self._loop_thread = threading.get_ident()
            self._answered = True
            self._changed.notify_all()

    def _wait(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        until = None if timeout_s is None else self._clock.monotonic() + timeout_s
        with self._changed:
            while not (done() or self._stopping):
                left_s = None if until is None else until - self._clock.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self._clock.wait(self._changed, left_s)
            return done()

    def _where(self) -> str:
        frames: Mapping[int, FrameType] = sys._current_frames()  # noqa: SLF001 - documented for just this
        # One that was blocked before it ever answered tells its thread only under asyncio's own name for it.
        thread: int | None = self._loop_thread or getattr(self._loop, "_thread_id", None)
        frame = None if thread is None else frames.get(thread)
        places: list[str] = []
        while frame is not None and len(places) < _FRAMES:
            places.append(f"{frame.f_code.co_qualname} at {frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        return ", called from ".join(places) or "not known where"
