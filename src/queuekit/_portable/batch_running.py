# SPDX-License-Identifier: Apache-2.0
"""Running batch handlers: on threads, or on an event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from contextvars import Context, copy_context
from typing import Any

from queuekit._engine.journal import Journal
from queuekit._portable.batch_judging import BatchJudge
from queuekit._portable.batches import BatchEntry
from queuekit._portable.context import _current
from queuekit._portable.loop_running import TaskRunner
from queuekit._portable.middleware import Handling
from queuekit._portable.retry import ACK, RELEASE, DeadLetter, Retry, Verdict
from queuekit._portable.running import Slot, WorkerThreads
from queuekit._portable.triage import Bound, Job, Triage
from queuekit._portable.wrapping import awaited
from queuekit.backend import Action

Entry = BatchEntry[Any]


class BatchJob:
    """Deliveries that are handled together.

    Args:
        jobs: In the order in which they came.
    """

    __slots__ = ("jobs",)

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def abandon(self) -> None:
        """Keep their leases no longer: their handler hangs."""
        for job in self.jobs:
            job.abandon()


class BatchRun:
    """One batch on its way through its handler.

    Args:
        bound: The handler.
        entries: What is handled; each has its own job and judge.
        journal: Where to count and log.
    """

    def __init__(self, bound: Bound, entries: Sequence[Entry], journal: Journal) -> None:
        options = bound.batch
        self.timeout_s, self.call = bound.timeout_s, bound.call
        self._entries, self._journal = entries, journal
        self._judge = BatchJudge(
            entries,
            strict=options.strict,
            on_error=options.on_error,
            forgotten=lambda count: journal.note(
                "batch.forgotten", "the handler did not mention them, and strict=True", count=count
            ),
        )
        self.next, self.returned = self._judge.next, self._judge.returned
        self.failed, self.stop = self._judge.failed, self._judge.stop
        self._around = {entry: Surroundings(entry, bound.handlings) for entry in entries} if bound.handlings else {}

    def begin(self) -> None:
        """Enter what stands around each entry; one whose surroundings fail is not handled."""
        for entry, around in self._around.items():
            error = around.enter()
            if around.over:
                self._judge.refuse(entry, error)

    def settle(self) -> None:
        """Leave what stands around each entry, and record what became of it, in order."""
        judge = self._judge
        for entry in self._entries:
            given = judge.verdict(entry)
            if given is not None:
                self._leave(entry, _as_failure(given))
            elif judge.waits(entry) or not judge.is_decided(entry):
                self._leave(entry, asyncio.CancelledError())
                self._record(entry, RELEASE)
            else:
                failure = self._leave(entry, judge.fate(entry))
                self._record(entry, ACK if failure is None else entry._judge.on_error(failure, entry.attempt))  # noqa: SLF001

    def give_up(self) -> None:
        """Leave what stands around each entry, of a batch that is past its timeout; nothing more is recorded."""
        for entry in self._entries:
            given = self._judge.verdict(entry)
            failure = TimeoutError("the handler ran past its timeout") if given is None else _as_failure(given)
            self._leave(entry, failure)

    def _leave(self, entry: Entry, failure: BaseException | None) -> BaseException | None:
        around = self._around.get(entry)
        return failure if around is None else around.leave(failure)

    def _record(self, entry: Entry, verdict: Verdict) -> None:
        # Somebody who kept the entry may settle it at this moment; that one stands then.
        if entry._claim(verdict):  # noqa: SLF001 - the other half of the entry
            entry._job.settle(verdict)  # noqa: SLF001


class Surroundings:
    """The `handling` of each middleware for one entry, in a context of its own.

    Args:
        entry: What is handled.
        handlings: The outermost first.

    Attributes:
        over: Whether it was left already.
    """

    def __init__(self, entry: Entry, handlings: Sequence[Handling]) -> None:
        self._entry, self._handlings = entry, handlings
        self._stack = ExitStack()
        self._context: Context = copy_context()
        self.over = False

    def enter(self) -> BaseException | None:
        """Enter them all; what one of them failed with."""
        try:
            self._context.run(self._enter)
        except BaseException as error:  # noqa: BLE001 - the handler boundary: it counts as the handler's own
            return self.leave(error)
        return None

    def leave(self, failure: BaseException | None) -> BaseException | None:
        """Leave them all; what the entry came to after that."""
        if self.over:
            return failure
        self.over = True
        kind = None if failure is None else type(failure)
        traceback = None if failure is None else failure.__traceback__
        try:
            swallowed = self._context.run(self._stack.__exit__, kind, failure, traceback)
        except BaseException as raised:  # noqa: BLE001 - the handler boundary: it counts as the handler's own
            return raised
        return None if swallowed else failure

    def _enter(self) -> None:
        current = self._entry._current  # noqa: SLF001 - the other half of the entry
        _current.set(current)
        for each in self._handlings:
            self._stack.enter_context(each.enter(current))


def _as_failure(verdict: Verdict) -> BaseException | None:
    """What stands around an entry sees of a settlement that the handler gave itself."""
    if verdict.action is Action.ACK:
        return None
    if verdict.action is Action.RELEASE:
        return asyncio.CancelledError()
    cause = verdict.cause
    if cause is not None and cause.error is not None:
        return cause.error
    return Retry() if verdict.action is Action.RETRY else DeadLetter("" if cause is None else cause.reason)


def open_batch(triage: Triage, batch: BatchJob) -> BatchRun | None:
    """What is to be run for a batch; None where nothing is. What cannot be handled is settled alone."""
    lock = threading.Lock()
    entries: list[Entry] = []
    chosen: Bound | None = None
    broken: set[str] = set()
    for job in batch.jobs:
        key = job.message.ordering_key if triage.orders else None
        if job.lease_lost or key in broken:
            # What was lost stays so; but in a child process, the parent counts it as running until it is told.
            job.settle(RELEASE)
            broken.update(() if key is None else (key,))
            continue
        opened = triage.open(job)
        if isinstance(opened, Verdict):
            job.settle(opened)
            if key is not None and opened.action is Action.RETRY:
                broken.add(key)
            continue
        chosen, judge, payload, current = opened
        entries.append(BatchEntry(payload, job, judge, current, lock))
    return None if chosen is None else BatchRun(chosen, entries, triage.journal)


class BatchThreadRunner(WorkerThreads[BatchJob]):
    """Runs sync batch handlers on threads, one batch at a time on each; as `ThreadRunner`."""

    def _run(self, slot: Slot, job: BatchJob) -> None:
        run = open_batch(self._triage, job)
        if run is None:
            return
        run.begin()
        if run.timeout_s is not None:
            self._watch_over(slot, run.timeout_s)
        # A context of its own, so that what one handler sets no other one sees.
        copy_context().run(self._call, slot, run)
        if run.timeout_s is not None and self._was_abandoned(slot):
            run.give_up()
            return
        run.settle()

    def _call(self, slot: Slot, run: BatchRun) -> None:
        while not slot.hung and (batch := run.next()) is not None:
            try:
                value = run.call(batch)
                if inspect.isawaitable(value):
                    value = self._triage.wait_for(value)
            except BaseException as error:  # noqa: BLE001 - the handler boundary: whatever it raises is an outcome
                run.failed(batch, error)
            else:
                run.returned(batch, value)


class BatchLoopRunner(TaskRunner[BatchJob]):
    """Runs async batch handlers on an event loop; as `LoopRunner`."""

    async def _run(self, job: BatchJob) -> None:
        run = open_batch(self._triage, job)
        if run is None:
            return
        run.begin()
        try:
            async with asyncio.timeout(run.timeout_s):
                await self._call(run)
        except asyncio.CancelledError as error:
            # Only our own cancelling is a release; a handler that cancels itself has failed.
            run.stop(None if self._cancelling else error)
        except TimeoutError as error:
            run.stop(error)
        run.settle()

    async def _call(self, run: BatchRun) -> None:
        while (batch := run.next()) is not None:
            try:
                value = await awaited(run.call(batch))
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - the handler boundary: whatever it raises is an outcome
                run.failed(batch, error)
            else:
                run.returned(batch, value)
