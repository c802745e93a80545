# SPDX-License-Identifier: Apache-2.0
"""Running handlers on an event loop. Where jobs come from is somebody else's business."""

from __future__ import annotations

import asyncio
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Generic, cast

from queuekit._portable.context import _current
from queuekit._portable.resuming import Resumed, Turn
from queuekit._portable.retry import ACK, RELEASE, Verdict
from queuekit._portable.running import A, Feed
from queuekit._portable.triage import Job, Triage
from queuekit._portable.wrapping import awaited
from queuekit._values.errors import ClosedError

_JOBS_PER_TURN = 16


class TaskRunner(ABC, Generic[A]):
    """Runs jobs on one event loop; what running one means is a subclass's.

    One task, the leader, takes jobs and begins each in a context of its own. A job that never waits for
    anything ends right there, and costs no task. With the first one that waits, the leader's task is that
    job's alone until it ends, and two new leaders take the next jobs, if there are slots for them; one that
    finds none ends, unless it is the last. So what a handler does with its task, such as cancelling it or
    counting on its end, concerns no other handler that waits.

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
        self._main: asyncio.Task[Any] | None = None
        self._leading: set[asyncio.Task[None]] = set()
        self._leaders = 0
        self._ended = False
        self._changed = asyncio.Event()
        self._cancelling = False
        self._wake: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Take and run jobs until the feed is closed, then wait for what runs."""
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        try:
            self._appoint(self._loop, 1)
            while not self._ended or self._tasks:
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._ended = True
            for task in self._leading:
                task.cancel()

    @property
    def is_alive(self) -> bool:
        """Whether a handler is left, on a loop that can still run it."""
        return bool(self._tasks) and self._loop is not None and not self._loop.is_closed()

    def cancel(self) -> None:
        """Cancel what runs; its deliveries are released, not failed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_all)

    def _cancel_all(self) -> None:
        self._cancelling = True
        for task in self._tasks:
            task.cancel()

    def _appoint(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        """Have so many new tasks take the next jobs."""
        self._leaders += count
        for _ in range(count):
            if loop.get_task_factory() is None:
                self._begin_leader(loop)
            else:
                # A factory may run the new task at once, in the middle of what this one is doing.
                loop.call_soon(self._begin_leader, loop)

    def _begin_leader(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._ended:
            task = loop.create_task(self._lead(loop))
            if not (task.done() or task in self._tasks):
                self._leading.add(task)

    async def _lead(self, loop: asyncio.AbstractEventLoop) -> None:
        task = cast("asyncio.Task[Any]", asyncio.current_task(loop))
        try:
            begun = await self._begin_jobs(task)
        except asyncio.CancelledError:
            # Whoever cancels between two jobs means one that is over, unless all is to end.
            self._resign(loop, task, anew=self._main is not None and not self._main.cancelling())
            raise
        except ClosedError:
            self._end()
        except Exception as error:  # noqa: BLE001 - the feed failed for good; the worker decides
            self._failed(error)
            self._end()
        else:
            self._resign(loop, task, anew=begun is None)
            if begun is not None:
                await self._finish(loop, task, begun)

    def _resign(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], *, anew: bool) -> None:
        """This task leads no more; another does, if asked for and there is none."""
        self._leaders -= 1
        self._leading.discard(task)
        if anew and not self._leaders and not self._ended:
            self._appoint(loop, 1)

    async def _begin_jobs(self, task: asyncio.Task[Any]) -> Resumed | None:
        """Begin jobs until one of them waits, and return the rest of that.

        None where there are none for this task, as others lead too, or where it is spoilt for any.
        """
        take_now, run, begun = self._feed.take_now, self._run, 0
        while True:
            job = take_now()
            if job is None:
                if self._leaders > 1:
                    return None
                await self._more()
                continue
            context, coroutine = copy_context(), run(job)
            try:
                waits_for = context.run(coroutine.send, None)
            except StopIteration:
                begun += 1
            else:
                return Resumed(coroutine, context, waits_for)
            if task.cancelling() or getattr(task, "_must_cancel", False):
                # The handler asked for its own end, and is over. The next one must not get to feel it.
                return None
            if begun % _JOBS_PER_TURN == 0:
                await Turn()

    async def _finish(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], begun: Resumed) -> None:
        """Run a job that waits for something to its end; others lead meanwhile, if there are slots."""
        self._tasks.add(task)
        # Two, so that the jobs of a poll have all begun after a few turns of the loop.
        self._appoint(loop, min(2, self._slots - len(self._tasks) - self._leaders))
        try:
            await begun
        except Exception as error:  # noqa: BLE001 - its settlement could not be recorded; the worker decides
            self._failed(error)
        finally:
            self._tasks.discard(task)
            if self._ended:
                self._changed.set()
            elif not self._leaders:
                self._appoint(loop, 1)
            elif not self._tasks and self._wake is not None:
                # Nothing runs any more: to wait anew says so, and what is recorded is sent at once.
                self._feed.forget(self._wake)
                self._feed.when_ready(self._wake, self._slots)

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

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
    def _run(self, job: A) -> Coroutine[Any, Any, None]:
        """Run one job to its end, and settle it."""


class LoopRunner(TaskRunner[Job]):
    """Runs async handlers on an event loop, one message each."""

    async def _run(self, job: Job) -> None:
        opened = self._triage.open(job)
        if isinstance(opened, Verdict):
            job.settle(opened)
            return
        bound, judge, payload, current = opened
        _current.set(current)
        try:
            if bound.timeout_s is None:
                value = await bound.call(payload)
                if value is not None and inspect.isawaitable(value):
                    value = await awaited(value)
            else:
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
