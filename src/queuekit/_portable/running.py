# SPDX-License-Identifier: Apache-2.0
"""Running handlers: on threads, or on an event loop. Where jobs come from is somebody else's business."""

from __future__ import annotations

import asyncio
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Generic, Protocol, TypeVar

from queuekit._portable.context import Current, _current
from queuekit._portable.retry import ACK, RELEASE, Judge, Verdict
from queuekit._portable.triage import Bound, Job, Triage
from queuekit._portable.wrapping import awaited
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
            if inspect.isawaitable(value):
                # Nothing that has not run is ever acked: the awaitable runs on the worker's loop.
                value = self._triage.wait_for(value)
        except BaseException as error:  # noqa: BLE001 - the handler boundary: whatever a handler raises is an outcome
            return judge.on_error(error, current.attempt)
        return ACK if value is None else judge.on_return(value, current.attempt)


class TaskRunner(ABC, Generic[A]):
    """Runs jobs on one event loop, each in a task of its own; what running one means is a subclass's.

    Args:
        feed: Where jobs come from.
        triage: Picks handlers.
        slots: Most handlers at once.
        failed: Called with what ended the feed, if it was not a stop.

    Concurrency:
        `run` belongs to the event loop; `cancel` may be called from any thread.
    """

    def __init__(self, feed: Feed[A], triage: Triage, *, slots: int, failed: Callable[[BaseException], None]) -> None:
        self._feed, self._triage, self._slots, self._failed = feed, triage, slots, failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = asyncio.Event()
        self._cancelling = False
        self._wake: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Take and run jobs until the feed is closed, then wait for what runs."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                await self._take_what_is_here()
                await self._more()
        except ClosedError:
            pass
        except Exception as error:  # noqa: BLE001 - the feed failed for good; the worker decides
            self._failed(error)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Cancel what runs; its deliveries are released, not failed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_all)

    def _cancel_all(self) -> None:
        self._cancelling = True
        for task in self._tasks:
            task.cancel()

    async def _take_what_is_here(self) -> None:
        while True:
            while len(self._tasks) >= self._slots:
                self._free.clear()
                await self._free.wait()
            job = self._feed.take_now()
            if job is None:
                return
            task = asyncio.get_running_loop().create_task(self._run(job))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free.set()
        if not self._tasks and self._wake is not None:
            # Nothing runs any more: to wait anew says so, and what is recorded is sent at once.
            self._feed.forget(self._wake)
            self._feed.when_ready(self._wake, self._slots)

    async def _more(self) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake() -> None:
            # A loop that was closed meanwhile has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived.set)

        self._wake = wake
        self._feed.when_ready(wake, self._slots - len(self._tasks))
        try:
            await arrived.wait()
        finally:
            self._wake = None
            self._feed.forget(wake)

    @abstractmethod
    async def _run(self, job: A) -> None:
        """Run one job to its end, and settle it."""


class LoopRunner(TaskRunner[Job]):
    """Runs async handlers on an event loop, each message in a task of its own."""

    async def _run(self, job: Job) -> None:
        opened = self._triage.open(job)
        if isinstance(opened, Verdict):
            job.settle(opened)
            return
        bound, judge, payload, current = opened
        _current.set(current)
        try:
            async with asyncio.timeout(bound.timeout_s):
                value = await awaited(bound.call(payload))
            verdict = ACK if value is None else judge.on_return(value, current.attempt)
        except asyncio.CancelledError as error:
            # Only our own cancelling is a release; a handler that cancels itself has failed.
            verdict = RELEASE if self._cancelling else judge.on_error(error, current.attempt)
        except BaseException as error:  # noqa: BLE001 - the handler boundary: whatever a handler raises is an outcome
            verdict = judge.on_error(error, current.attempt)
        job.settle(verdict)


def own_loop() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    """An event loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="queuekit-loop", daemon=True)
    thread.start()
    return loop, thread


def end_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, timeout_s: float) -> None:
    """Stop a loop that `own_loop` made."""
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout_s)
    if not thread.is_alive():
        loop.close()
