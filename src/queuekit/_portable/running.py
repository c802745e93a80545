# SPDX-License-Identifier: Apache-2.0
"""Running handlers on threads. Where jobs come from is somebody else's business."""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Generic, Protocol, TypeVar

from queuekit._portable.context import Current, _current
from queuekit._portable.retry import ACK, Judge, Verdict
from queuekit._portable.triage import Bound, Job, Triage
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError


class Abandoned(Protocol):
    """What can be left to its lease."""

    def abandon(self) -> None:
        """Keep its lease no longer: its handler hangs."""
        ...


A = TypeVar("A", bound=Abandoned)
_LOOK_AGAIN_S = 0.05
J_co = TypeVar("J_co", covariant=True)


class Feed(Protocol[J_co]):
    """Where jobs come from."""

    def take(self) -> J_co | None:
        """The next job, waiting for it. Raises ClosedError when there will be no more."""
        ...

    def take_now(self) -> J_co | None:
        """The next job that is here, or None. Raises as `take` does."""
        ...

    def when_ready(self, callback: Callable[[], None], wanted: int = 1) -> None:
        """Have ``callback`` called once, from any thread, when `take_now` is worth trying."""
        ...

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back a `when_ready`."""
        ...


class Slot:
    """One thread that runs sync handlers, one job at a time."""

    __slots__ = ("deadline", "hung", "job", "thread")

    def __init__(self) -> None:
        self.job: Abandoned | None = None
        self.deadline: float | None = None
        self.hung = False
        self.thread: threading.Thread | None = None


class WorkerThreads(ABC, Generic[A]):
    """Runs jobs on a fixed number of threads; what running one means is a subclass's.

    A handler past its timeout cannot be stopped: it is flagged, its lease is kept no longer, its result is
    dropped, and its slot stays taken.

    Args:
        feed: Where jobs come from.
        triage: Picks handlers.
        clock: Time.
        slots: How many threads.
        failed: Called with what ended the feed, if it was not a stop.
        hung: Called when a handler is past its timeout, with how many are, and how many slots there are.
        name: For the threads.
    """

    def __init__(
        self,
        feed: Feed[A],
        triage: Triage,
        clock: Clock,
        *,
        slots: int,
        failed: Callable[[BaseException], None],
        hung: Callable[[int, int], None],
        name: str,
    ) -> None:
        self._feed, self._triage, self._clock = feed, triage, clock
        self._failed, self._report_hung, self._name = failed, hung, name
        self._slots = [Slot() for _ in range(slots)]
        self._lock = threading.Lock()
        self._watch = threading.Condition(self._lock)
        self._watcher: threading.Thread | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the threads."""
        for index, slot in enumerate(self._slots):
            slot.thread = threading.Thread(
                target=self._work, args=(slot,), name=f"queuekit-run-{self._name}-{index}", daemon=True
            )
            slot.thread.start()

    def cancel(self) -> None:
        """The time is over; sync handlers cannot be cancelled, their deliveries are released by the caller."""

    def join(self, until: float) -> None:
        """Wait for the threads that are not in a handler; the others are daemons."""
        with self._lock:
            self._stopped = True
            self._watch.notify_all()
        for slot in self._slots:
            if slot.thread is not None and slot.job is None and slot.thread is not threading.current_thread():
                slot.thread.join(max(0.0, until - self._clock.monotonic()))

    def join_all(self, until: float) -> None:
        """Wait for every thread but those whose handlers are past their timeout, once the feed has ended."""
        for slot in self._slots:
            while slot.thread is not None and slot.thread.is_alive() and not slot.hung:
                left_s = until - self._clock.monotonic()
                if left_s <= 0:
                    break
                # A handler may come to its timeout meanwhile.
                slot.thread.join(min(left_s, _LOOK_AGAIN_S))
        with self._lock:
            self._stopped = True
            self._watch.notify_all()
        if self._watcher is not None:
            self._watcher.join(max(0.0, min(until - self._clock.monotonic(), 1.0)))

    @property
    def is_alive(self) -> bool:
        """Whether a handler, or a thread that waits for one, is left."""
        return any(slot.thread is not None and slot.thread.is_alive() for slot in self._slots)

    def _work(self, slot: Slot) -> None:
        try:
            while (job := self._feed.take()) is not None:
                slot.job = job
                self._run(slot, job)
                slot.job = None
        except ClosedError:
            return
        except BaseException as error:  # noqa: BLE001 - the feed failed for good; the worker decides
            self._failed(error)

    @abstractmethod
    def _run(self, slot: Slot, job: A) -> None:
        """Run one job to its end, and settle it."""

    def _watch_over(self, slot: Slot, timeout_s: float) -> None:
        with self._lock:
            slot.deadline = self._clock.monotonic() + timeout_s
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch_slots, name="queuekit-timeouts", daemon=True)
                self._watcher.start()
            self._watch.notify()

    def _was_abandoned(self, slot: Slot) -> bool:
        with self._lock:
            slot.deadline = None
            abandoned, slot.hung = slot.hung, False
            return abandoned

    def _watch_slots(self) -> None:
        with self._lock:
            while not self._stopped:
                now = self._clock.monotonic()
                late = [s for s in self._slots if s.deadline is not None and s.deadline <= now]
                for slot in late:
                    slot.deadline, slot.hung = None, True
                    if slot.job is not None:
                        slot.job.abandon()
                if late:
                    self._report_hung(sum(slot.hung for slot in self._slots), len(self._slots))
                nearest = min((s.deadline for s in self._slots if s.deadline is not None), default=None)
                self._clock.wait(self._watch, None if nearest is None else nearest - now)


class ThreadRunner(WorkerThreads[Job]):
    """Runs sync handlers on threads, one message at a time on each."""

    def _run(self, slot: Slot, job: Job) -> None:
        opened = self._triage.open(job)
        if isinstance(opened, Verdict):
            job.settle(opened)
            return
        bound, judge, payload, current = opened
        if bound.timeout_s is not None:
            self._watch_over(slot, bound.timeout_s)
        # A context of its own, so that what one handler sets no other one sees.
        verdict = copy_context().run(self._call, bound, judge, payload, current)
        if bound.timeout_s is not None and self._was_abandoned(slot):
            return
        job.settle(verdict)

    def _call(self, bound: Bound, judge: Judge, payload: Any, current: Current) -> Verdict:
        _current.set(current)
        try:
            value = bound.call(payload)
            if value is not None and inspect.isawaitable(value):
                # Nothing that has not run is ever acked: the awaitable runs on the worker's loop.
                value = self._triage.wait_for(value)
        except BaseException as error:  # noqa: BLE001 - the handler boundary: whatever a handler raises is an outcome
            return judge.on_error(error, current.attempt)
        return ACK if value is None else judge.on_return(value, current.attempt)
