# SPDX-License-Identifier: Apache-2.0
"""A worker whose handlers run in child processes, while it keeps every delivery and every lease itself."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

from queuekit._engine.held import Held
from queuekit._engine.metadata import read, read_overrides
from queuekit._portable import child as child_module
from queuekit._portable.batch_feed import BatchFeed
from queuekit._portable.child_process import ChildProcess
from queuekit._portable.forwarding import Forwarder
from queuekit._portable.handler import AnyHandler, BatchHandler, handler_for
from queuekit._portable.intake import Intake
from queuekit._portable.intake_feed import HeldJob, IntakeFeed
from queuekit._portable.letters import Cause
from queuekit._portable.retry import RELEASE, Judge, Verdict
from queuekit._portable.watching import Patience
from queuekit._portable.worker import QueuePlan, Worker
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError, QueueKitError, UsageError
from queuekit.backend import Action

MAX_CRASHES = 3
_REMEMBERED_CRASHES = 10_000


class HoldsHandlers(Protocol):
    """An app, as far as finding it again needs it."""

    @property
    def handlers(self) -> Sequence[AnyHandler]:
        """Every registered handler."""
        ...


def target_of(app: HoldsHandlers) -> str:
    """Where children find the app: ``module:attribute``.

    Raises:
        UsageError: No module of a handler holds the app.
    """
    for handler in app.handlers:
        module = sys.modules.get(handler.function.__module__)
        for name, value in vars(module).items() if module is not None else ():
            if value is app:
                return f"{handler.function.__module__}:{name}"
    msg = "child processes cannot find this app; keep it in a variable of the module that defines its handlers"
    raise UsageError(msg)


class Crashes:
    """How often a message was running in a child that died. Bounded; the oldest are forgotten first.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def count(self, message_id: str) -> int:
        """One more crash; returns how many there are now."""
        with self._lock:
            known = self._counts.pop(message_id, 0) + 1
            self._counts[message_id] = known
            if len(self._counts) > _REMEMBERED_CRASHES:
                del self._counts[next(iter(self._counts))]
            return known

    def suspect(self, message_id: str) -> bool:
        """Whether the message was there when a child died, so that it should run alone."""
        with self._lock:
            return message_id in self._counts

    def clear(self, message_id: str) -> None:
        """The message was run to its end."""
        with self._lock:
            self._counts.pop(message_id, None)


class ProcessWorker(Worker):
    """As `Worker`, with handlers in child processes.

    The parent polls, keeps leases and settles, so code that holds the interpreter lock, hangs or crashes
    harms its own child only. What a dead child was running is retried, alone; after three crashes it is
    dead as ``worker lost``.

    Args:
        queues: What to work.
        clock: Time.
        drain_s: How long running handlers may go on after a request to stop.
        processes: How many children.
        target: Where they find the app.
        patience: As for `Worker`.
        forwarders: As for `Worker`.
    """

    def __init__(
        self,
        queues: Sequence[QueuePlan],
        clock: Clock,
        *,
        drain_s: float,
        processes: int,
        target: str,
        patience: Patience | None = None,
        forwarders: Sequence[Forwarder] = (),
    ) -> None:
        super().__init__(queues, clock, drain_s=drain_s, patience=patience, forwarders=forwarders)
        if type(processes) is not int or processes < 1:
            msg = f"processes must be a whole number of at least 1 and is {processes!r}"
            raise UsageError(msg)
        self._crashes = Crashes()
        self._cancelled = False
        self._context = multiprocessing.get_context("spawn")
        self._target = target
        # Slots are shared out, and every child has at least one of each queue.
        self._child_slots = [-(-queue.slots // processes) for queue in queues]
        self._children = [self._make_child() for _ in range(processes)]
        self._dispatchers: list[threading.Thread] = []

    def _make_child(self) -> ChildProcess:
        return ChildProcess(
            self._spawn,
            [slots * _largest(queue) for slots, queue in zip(self._child_slots, self._queues, strict=True)],
            settle=self._settle,
            extend=lambda queue, held, by_s: self._intake(queue).extend(held, by_s),
            lost=self._child_lost,
            failed=self._fail,
            timeout_s=lambda queue, held: self._handler(queue, held).timeout_s,
            clock=self._clock,
            stop=self.stop,
        )

    def _spawn(self) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        names = [(queue.name, slots) for queue, slots in zip(self._queues, self._child_slots, strict=True)]
        process = self._context.Process(
            target=child_module.main, args=(theirs, self._target, names), name="queuekit-worker", daemon=True
        )
        process.start()
        # Our copy of the child's end must go, or its death would not end the pipe.
        theirs.close()
        return process, ours

    def _start(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:  # noqa: ARG002 - children have their own
        for child in self._children:
            child.start()
        for index, queue in enumerate(self._queues):
            queue.intake.on_lost = self._tell_lost
            for dispatch in self._dispatchers_of(index, queue):
                thread = threading.Thread(target=dispatch, name="queuekit-dispatch", daemon=True)
                self._dispatchers.append(thread)
                thread.start()
            detail = f"{len(queue.handlers)} handlers, {queue.slots} at once in {len(self._children)} processes"
            queue.intake.link.journal.note("worker.started", detail)

    def _dispatchers_of(self, index: int, queue: QueuePlan) -> Iterator[Callable[[], None]]:
        if not queue.is_batch:
            yield from (partial(self._dispatch, index, queue.intake, child) for child in self._children)
            return
        feed = BatchFeed(IntakeFeed(queue.intake), queue.handlers, self._clock, name=queue.intake.link.shown)
        self._batch_feeds.append(feed)
        for child in self._children:
            # One for each batch at once: it waits for its batch to end.
            for _ in range(self._child_slots[index]):
                yield partial(self._dispatch_batches, index, feed, child)

    def _dispatch_batches(self, index: int, feed: BatchFeed, child: ChildProcess) -> None:
        try:
            while child.await_room(index) and (batch := feed.take()) is not None:
                held = [job.held for job in batch.jobs if isinstance(job, HeldJob) and not job.lease_lost]
                self._hand_over(index, self._intake(index), child, held)
                child.await_end(held)
        except ClosedError:
            return
        except QueueKitError as error:
            self._fail(error)

    def _dispatch(self, index: int, intake: Intake, child: ChildProcess) -> None:
        try:
            while room := child.await_room(index):
                self._hand_over(index, intake, child, intake.receiver.take_many(room, None))
        except ClosedError:
            return
        except QueueKitError as error:
            self._fail(error)

    def _hand_over(self, index: int, intake: Intake, child: ChildProcess, batch: Sequence[Held]) -> None:
        plain = [held for held in batch if not self._crashes.suspect(held.message.message_id)]
        if plain and not child.submit(index, plain):
            _release(intake, plain)
        for held in batch:
            if held not in plain and not child.submit_alone(index, held):
                _release(intake, [held])

    def _settle(self, index: int, held: Held, verdict: Verdict) -> None:
        if self._crashes.suspect(held.message.message_id):
            self._crashes.clear(held.message.message_id)
        self._intake(index).settle(held, verdict)

    def _child_lost(self, jobs: list[tuple[int, Held]], hung: set[Held]) -> None:
        """Retry what a dead child was running; what merely ran beside a hung handler was not to blame."""
        for index, held in jobs:
            if self._cancelled:
                verdict = RELEASE  # killed at the end of the drain, which is nobody's fault
            elif not hung:
                verdict = self._crashed(index, held)
            else:
                verdict = self._timed_out(index, held) if held in hung else RELEASE
            self._intake(index).settle(held, verdict)
        if jobs and not self.draining:
            journal = self._intake(jobs[0][0]).link.journal
            journal.note("worker.child_lost", f"it was running {len(jobs)} messages", count=len(jobs))

    def _crashed(self, index: int, held: Held) -> Verdict:
        crashes = self._crashes.count(held.message.message_id)
        if crashes >= MAX_CRASHES:
            judge, _ = self._judge(index, held)
            cause = Cause(f"worker lost {crashes} times")
            return judge.used_up(RuntimeError(cause.reason), crashes, cause)
        return Verdict(Action.RETRY, cause=Cause("worker lost"))

    def _timed_out(self, index: int, held: Held) -> Verdict:
        """A handler that was killed at its timeout has failed, and its policy decides."""
        judge, attempt = self._judge(index, held)
        return judge.on_error(TimeoutError("the handler ran past its timeout"), attempt)

    def _judge(self, index: int, held: Held) -> tuple[Judge, int | None]:
        """Who decides about a message, and which attempt it is."""
        message, handler = held.message, self._handler(index, held)
        can = self._intake(index).link.capabilities
        judge = Judge(handler.retry, can, self._clock, holds=handler.on_dead == "hold")
        attempt = None if message.attempt is None else message.attempt + read(message.metadata).base
        return judge.of(read_overrides(message.metadata), message.ordering_key), attempt

    def _handler(self, index: int, held: Held) -> AnyHandler:
        """The handler that a message goes to, or one of its queue where there is none for it."""
        handlers = self._queues[index].handlers
        return handler_for(handlers, held.message.metadata) or handlers[0]

    def _shut_down(self) -> None:
        for child in self._children:
            child.drain()
        super()._shut_down()
        for child in self._children:
            child.close(1.0)

    def _cancel(self) -> None:
        self._cancelled = True
        for child in self._children:
            child.kill()

    def _tell_lost(self, held: Held) -> None:
        for child in self._children:
            child.tell_lost(held)

    def _intake(self, index: int) -> Intake:
        return self._queues[index].intake


def _release(intake: Intake, batch: Iterable[Held]) -> None:
    for held in batch:
        intake.settle(held, RELEASE)


def _largest(queue: QueuePlan) -> int:
    """Most messages that one slot of a queue takes."""
    return max(each.batch.max_size if isinstance(each, BatchHandler) else 1 for each in queue.handlers)
