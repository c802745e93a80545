# SPDX-License-Identifier: Apache-2.0
"""The worker: receives from every queue of an app and runs its handlers until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType

from queuekit._engine.shutdown import ShutdownPlan
from queuekit._portable.batch_feed import BatchFeed
from queuekit._portable.fitness import tell_limits
from queuekit._portable.forwarding import SLOTS as FORWARD_SLOTS
from queuekit._portable.forwarding import Forwarder
from queuekit._portable.handler import AnyHandler, BatchHandler
from queuekit._portable.intake import Intake, drain
from queuekit._portable.intake_feed import IntakeFeed
from queuekit._portable.loop_running import TaskRunner, end_loop, own_loop
from queuekit._portable.runners import Runner, RunnerMaker
from queuekit._portable.running import WorkerThreads
from queuekit._portable.triage import Triage
from queuekit._portable.watching import Oversight, Patience
from queuekit._portable.wrapping import waiting_on
from queuekit._values.clock import Clock
from queuekit._values.errors import QueueNotFoundError

logger = logging.getLogger("queuekit")

_FLUSH_S = 10.0


class ExitCode(IntEnum):
    """How a worker ended; also the exit code of ``queuekit worker``."""

    DRAINED = 0
    FAILED = 1
    USAGE = 2
    STUCK = 3
    QUEUE_GONE = 4


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """One queue of a worker.

    Attributes:
        name: As the handlers name it.
        intake: The open queue.
        handlers: Its handlers; all sync or all async.
        slots: Most handlers running at once.
    """

    name: str
    intake: Intake
    handlers: Sequence[AnyHandler]
    slots: int

    @property
    def is_async(self) -> bool:
        """Whether the handlers are coroutine functions."""
        return self.handlers[0].is_async

    @property
    def largest(self) -> int:
        """How many messages a slot takes at most."""
        return max(each.batch.max_size if isinstance(each, BatchHandler) else 1 for each in self.handlers)

    @property
    def is_batch(self) -> bool:
        """Whether the handlers take batches; ``slots`` counts those then."""
        return isinstance(self.handlers[0], BatchHandler)


class Worker:
    """Runs the handlers of an app.

    Args:
        queues: What to work.
        clock: Time.
        drain_s: How long running handlers may go on after a request to stop.
        patience: How long nothing may happen before it is taken for stuck.
        forwarders: Bring to their queues what has waited elsewhere; always in this process.

    Concurrency:
        `run` or `arun` once; `stop` from any thread, or from a signal handler.
    """

    def __init__(
        self,
        queues: Sequence[QueuePlan],
        clock: Clock,
        *,
        drain_s: float,
        patience: Patience | None = None,
        forwarders: Sequence[Forwarder] = (),
    ) -> None:
        self._queues, self._forwarders = queues, forwarders
        self._intakes = [*(queue.intake for queue in queues), *(each.intake for each in forwarders)]
        forwarded = [(each.intake, FORWARD_SLOTS) for each in forwarders]
        self._oversight = Oversight(
            [*((queue.intake, queue.slots * queue.largest) for queue in queues), *forwarded],
            patience or Patience(None),
            clock,
            self._stalled,
        )
        self._clock = clock
        self._drain_s = drain_s
        self._stopping = False
        self._requests = 0
        # A pipe, because a signal handler may take no lock: it writes one byte.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._pipe_lock = threading.Lock()
        self._pipe_open = True
        self._ended: list[Future[None]] = []
        self._plan: ShutdownPlan | None = None
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        self._stuck = False
        self._runners: list[Runner] = []
        self._batch_feeds: list[BatchFeed] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
        self._loop_lock = threading.Lock()

    @property
    def draining(self) -> bool:
        """Whether the worker was asked to stop."""
        return self._stopping

    def stop(self) -> None:
        """Ask the worker to drain and end. A second request gives running handlers no more time."""
        self._requests += 1
        self._wake()
        self._hurry()

    def _stop_by_signal(self) -> None:
        """As `stop`, in a signal handler, which may take no lock; while there is one, the pipe is open."""
        self._requests += 1
        self._wake_unlocked()
        self._hurry()

    def _hurry(self) -> None:
        if self._requests > 1 and self._plan is not None:
            self._plan.hurry(self._clock.monotonic())

    def _wake(self) -> None:
        # The worker may see the request and end before the byte is written, to what is another file by then.
        with self._pipe_lock:
            self._wake_unlocked()

    def _wake_unlocked(self) -> None:
        if not self._stopping:
            self._stopping = True
            if self._pipe_open:
                os.write(self._wake_write, b"s")

    def run(self, *, signals: bool = True) -> ExitCode:
        """Work until `stop`, a signal, or a failure that no other try can mend.

        Args:
            signals: Whether SIGTERM and SIGINT stop the worker; only on the main thread.

        Raises:
            UnsupportedError: A queue lacks what is required of it.
            KeyboardInterrupt: Where signals are not taken; the worker has drained by then.
            QueueKitError: Something is required, and the service could not be asked.
        """
        with self._wake_pipe(), self._signals(signals):
            self._ensure()
            try:
                self._start(self._own_loop)
                self._oversee(self._own_loop)
                self._start_forwarding()
                while not self._stopping:
                    self._await_wake()
            except KeyboardInterrupt:  # signals=False: it drains all the same, and is the caller's then
                self.stop()
                self._end()
                raise
            self._end()
        return self._exit_code()

    async def arun(self, *, signals: bool = True) -> ExitCode:
        """As `run`, with async handlers on the caller's event loop.

        Raises:
            CancelledError: The caller was cancelled; the worker has drained by then.
            QueueKitError: As `run` does.
        """
        loop = asyncio.get_running_loop()
        with self._wake_pipe(), self._signals(signals):
            await loop.run_in_executor(None, self._ensure)
            self._start(lambda: loop)
            self._oversee(lambda: loop)
            self._start_forwarding()
            try:
                while not self._stopping:
                    await loop.run_in_executor(None, self._await_wake)
            except asyncio.CancelledError:
                self.stop()
                raise
            finally:
                await loop.run_in_executor(None, self._shut_down)
        return self._exit_code()

    def _ensure(self) -> None:
        for intake in self._intakes:
            intake.link.ensure()

    def _start(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        for queue in self._queues:
            link = queue.intake.link
            triage = Triage(queue.handlers, link, self._clock, lambda: self._stopping, waiting_on(loop))
            runner = self._runner(queue, IntakeFeed(queue.intake), triage)
            if isinstance(runner, TaskRunner):
                self._ended.append(asyncio.run_coroutine_threadsafe(runner.run(), loop()))
            else:
                runner.start()
            self._runners.append(runner)
            link.journal.note("worker.started", f"{len(queue.handlers)} handlers, {queue.slots} at once")

    def _start_forwarding(self) -> None:
        for each in self._forwarders:
            runner = each.runner(self._fail)
            runner.start()
            self._runners.append(runner)
            each.tell_start()

    def pause(self, name: str) -> None:
        """Receive nothing more from a queue until `resume`; what runs goes on. A queue of no concern is let be."""
        for queue in self._named(name):
            queue.intake.receiver.pause()
            for feed in self._batch_feeds:
                if feed.name == queue.intake.link.shown:
                    feed.give_back()
            queue.intake.link.journal.note("worker.paused")

    def resume(self, name: str) -> None:
        """Receive from a queue again."""
        for queue in self._named(name):
            queue.intake.receiver.resume()
            queue.intake.link.journal.note("worker.resumed")

    def _named(self, name: str) -> list[QueuePlan]:
        return [queue for queue in self._queues if queue.name == name]

    def _oversee(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        for queue in self._queues:
            tell_limits(queue.intake, queue.handlers, self._clock, drain_s=self._drain_s)
        on_loop = [queue.intake for queue in self._queues if queue.is_async]
        if on_loop and self._runners:
            self._oversight.watch_loop(loop(), on_loop)
        self._oversight.start()

    def _runner(self, queue: QueuePlan, feed: IntakeFeed, triage: Triage) -> Runner:
        make = RunnerMaker(
            triage, self._clock, slots=queue.slots, failed=self._fail, hung=self._hung, name=queue.intake.link.shown
        )
        if not queue.is_batch:
            return make.one_by_one(feed, is_async=queue.is_async)
        batches = BatchFeed(feed, queue.handlers, self._clock, name=queue.intake.link.shown)
        self._batch_feeds.append(batches)
        return make.in_batches(batches, is_async=queue.is_async)

    def _await_wake(self) -> None:
        """Wait for a byte from `stop`, or from the interpreter's own signal handler.

        That one writes although this thread is just about to block, when ours cannot run; it runs then.
        """
        os.read(self._wake_read, 1)

    @contextmanager
    def _wake_pipe(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._pipe_lock:
                self._pipe_open = False
                os.close(self._wake_read)
                os.close(self._wake_write)

    def _end(self) -> None:
        """Drain, whatever interrupts; each interruption is another request to stop."""
        while True:
            try:
                self._shut_down()
            except KeyboardInterrupt:
                self.stop()
            else:
                return

    def _shut_down(self) -> None:
        self._oversight.stop(1.0)
        self._plan = ShutdownPlan(now=self._clock.monotonic(), drain_s=self._drain_s, flush_s=_FLUSH_S)
        if self._requests > 1:
            self._plan.hurry(self._clock.monotonic())
        for intake in self._intakes:
            intake.link.journal.note("worker.draining", f"at most {self._drain_s:g} s")
        for feed in self._batch_feeds:
            feed.stop()
        drain(self._intakes, self._plan, self._clock, cancel=self._cancel)
        self._join(self._plan.close_at)
        wait(self._ended, max(0.0, self._plan.close_at - self._clock.monotonic()))
        if self._loop is not None and self._loop_thread is not None:
            end_loop(self._loop, self._loop_thread, 1.0)
        for forwarder in self._forwarders:
            forwarder.close()
        for intake in self._intakes:
            intake.link.journal.note("worker.stopped", self._exit_code().name.lower(), totals=intake.counts())

    def _join(self, until: float) -> None:
        for runner in self._runners:
            if isinstance(runner, WorkerThreads):
                runner.join(until)
        for feed in self._batch_feeds:
            feed.join(max(0.0, until - self._clock.monotonic()))

    def _cancel(self) -> None:
        for runner in self._runners:
            runner.cancel()

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._loop_lock:
            if self._loop is None:
                self._loop, self._loop_thread = own_loop()
            return self._loop

    def _fail(self, error: BaseException) -> None:
        with self._failing:  # all threads that take messages of a queue fail at once
            is_first = self._failure is None and not self._stopping
            if is_first:
                self._failure = error
        if is_first:
            logger.error("the worker cannot go on: %s", error, extra={"action": "worker.failed"})
        self._wake()

    def _hung(self, hung: int, slots: int) -> None:
        for queue in self._queues[:1]:
            queue.intake.link.journal.note("worker.hung", f"{hung} of {slots} handlers are past their timeout")
        if hung * 2 >= slots:
            self._stuck = True
            self._wake()

    def _stalled(self) -> None:
        self._stuck = True
        self._wake()

    def _exit_code(self) -> ExitCode:
        if self._stuck:
            return ExitCode.STUCK
        if self._failure is None:
            return ExitCode.DRAINED
        return ExitCode.QUEUE_GONE if isinstance(self._failure, QueueNotFoundError) else ExitCode.FAILED

    @contextmanager
    def _signals(self, wanted: bool) -> Iterator[None]:
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop_by_signal()

        before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
        others = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        if others != -1:
            # The caller's event loop has its own, which wakes it for our handlers too.
            signal.set_wakeup_fd(others)
        try:
            yield
        finally:
            if others == -1:
                signal.set_wakeup_fd(-1)
            for each, handler in before.items():
                signal.signal(each, handler)
