# SPDX-License-Identifier: Apache-2.0
"""The handler pipe: what a service pushed goes through the handlers of a queue, and an outcome for each comes out.

Doors share it: AWS Lambda, and whatever pushes over HTTP. A door reads messages, gives them to a pipe with the time
that there is, and turns the outcomes into its answer. Nothing of a pipe runs between two rounds.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from queuekit._engine.bridging import Bridge
from queuekit._engine.copies import CopySender
from queuekit._engine.held import Held
from queuekit._engine.tally import ReceiveTally, Stopwatch, Timing
from queuekit._portable.carrying import Carrier, Waiting, pushed_held
from queuekit._portable.course import Course, Entry
from queuekit._portable.delivery import check_extension
from queuekit._portable.events import Listeners
from queuekit._portable.fitness import check_pushed
from queuekit._portable.handler import AnyHandler, BatchHandler, handler_for
from queuekit._portable.intake import dead_letter_mode, letter_writer, why
from queuekit._portable.letters import Cause
from queuekit._portable.link import BackendOpener, Link
from queuekit._portable.loop_running import TaskRunner
from queuekit._portable.putting_off import PuttingOff
from queuekit._portable.retry import Verdict
from queuekit._portable.round import Limits, PushedJob, Round, RoundFeed, TimedTriage, alone, together
from queuekit._portable.rulings import LEFT, Outcome, Ruling, Rulings
from queuekit._portable.runners import Runner, RunnerMaker
from queuekit._portable.running import WorkerThreads
from queuekit._portable.time_boxed import finish_by
from queuekit._portable.wrapping import waiting_on
from queuekit._values.clock import Clock
from queuekit._values.errors import UnavailableError
from queuekit._values.outcome import Settled
from queuekit.backend import Action, IncomingMessage, Settlement

Loop = Callable[[], asyncio.AbstractEventLoop]
"""Gives the event loop for async handlers; it must be running then."""


Ending = Callable[[float], Callable[[], bool]]
"""Waits for the end of what runs handlers, until that time at most; returns what tells whether it runs on."""


class Passage(NamedTuple):
    """What became of messages.

    Attributes:
        outcomes: One for each message, in order.
        runs_on: Tells whether a handler that was waited for no more still runs.
        waiting: By position, what is to be over later, by `Pipe.finish`. Until then its outcome is that of a message
            whose copy cannot be sent.
    """

    outcomes: list[Outcome]
    runs_on: Callable[[], bool] = lambda: False
    waiting: Mapping[int, Waiting] = MappingProxyType({})


class Pipe:
    """Runs pushed messages through the handlers of one queue.

    Args:
        link: The open queue; nothing is received from it.
        handlers: Its handlers.
        slots: Most handlers, or batches, at once.
        opener: Opens the dead-letter queue, where one is named.
        listeners: Who is told what becomes of its messages.
        loop: For async handlers.
        stopping: Whether handlers should come to an end.

    Raises:
        SetupError: The dead-letter queue's URL is wrong, or the queue cannot do what the handlers ask for.
        UsageError: They ask for what only a worker does.

    Attributes:
        link: The same.

    Concurrency:
        Safe from any thread.
    """

    def __init__(
        self,
        link: Link,
        handlers: Sequence[AnyHandler],
        *,
        slots: int,
        opener: BackendOpener,
        listeners: Listeners,
        loop: Loop,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        check_pushed(link, handlers)
        self.link = link
        self._handlers, self._slots, self._listeners, self._clock = handlers, slots, listeners, link.clock
        self._loop = loop
        self._triage = TimedTriage(handlers, link, link.clock, stopping, waiting_on(loop))
        can = link.capabilities
        choice = handlers[0].options.dead_letter if handlers else None
        mode, self._route = dead_letter_mode(link, choice, opener)
        self._rulings = Rulings(
            can=can,
            journal=link.journal,
            writer=letter_writer(link, link if self._route is None else self._route.link),
            dead_letters=mode,
            bridge=Bridge(can, link.guard.fits),
            copies=CopySender(link.guard, can, link.backend.size),
            route=self._route,
            now=self._clock.time,
        )
        self._ordered = can.ordering != "none"
        self._putting_off = PuttingOff(link)
        self._carrier = Carrier(link, self._putting_off)
        self._lock = threading.Lock()
        self._tally, self._handling = ReceiveTally(), Stopwatch()
        self._going = 0
        self._is_open = True

    def run(self, messages: Sequence[IncomingMessage], limits: Limits) -> list[Outcome]:
        """Run the messages through the handlers. As `pass_through`, without what is left behind.

        Raises:
            QueueKitError: As `pass_through` does.
        """
        return self.pass_through(messages, limits).outcomes

    def pass_through(
        self,
        messages: Sequence[IncomingMessage],
        limits: Limits,
        *,
        unreadable: Mapping[int, Exception] = MappingProxyType({}),
        hold_by: float = -math.inf,
    ) -> Passage:
        """Run the messages through the handlers, on threads and on the loop, and wait for their outcomes.

        A handler that is still running at ``limits.answer_by`` is waited for no more, and its message left to the
        service. Dead letters and other copies are sent; a message is only done by one that is confirmed.

        Args:
            messages: In the order of the service; their handles may be settled through the queue.
            limits: When to stop.
            unreadable: By position, those that are no messages, and why: their bodies become dead letters.
            hold_by: Until when copies may wait to be sent; by default none waits.

        Returns:
            An outcome for each message, in order, and what runs on.

        Raises:
            UnsupportedError: The queue lacks what is required of it, so that nothing was begun.
            UnsafeSettingsError: ``strict=true`` refuses the queue, so that nothing was begun.
            QueueKitError: One of these was to be asked, and the service did not answer.
        """
        if not messages:
            return Passage([])
        self.link.ensure()
        waiting: dict[PushedJob, Waiting] = {}
        rule = partial(self._rule, hold_by=hold_by)
        round_ = Round(self._clock, limits, rule=rule, given_back=self._given_back)
        jobs = self._admit(round_, messages, unreadable, limits.end_by)
        ended = self._start(round_, limits, len(messages))
        while work := round_.await_work():
            # What is not confirmed by then is left to the service, though it may be there.
            due = self._carrier.held_back(round_, work, waiting)
            finish_by(limits.answer_by, partial(self._carrier.carry_out, round_, due, limits.answer_by), self._clock)
        left_behind = ended(limits.answer_by)
        outcomes, left = round_.end()
        if left:
            self.link.journal.note("push.left", "their handlers run on; they come again", count=left)
        found = self._counted([(job.held, outcomes[job]) for job in jobs])
        return Passage(found, left_behind, {at: waiting[job] for at, job in enumerate(jobs) if job in waiting})

    def finish(self, waiting: Waiting, until: float) -> Outcome:
        """The outcome of what waited for its time; its copy, if it has one, is sent.

        Args:
            waiting: From a `Passage`.
            until: When the answer is due, in monotonic seconds.
        """
        return self._carrier.finish(waiting, until)

    def put_off(self, messages: Sequence[IncomingMessage], outcomes: Sequence[Outcome], until: float) -> None:
        """Have the service wait as long before a message comes again as its outcome says, where it lets us."""
        batch = [
            pushed_held(message, Settlement(message.handle, outcome.action, outcome.delay_s))
            for message, outcome in zip(messages, outcomes, strict=True)
            if not outcome.is_done and outcome.delay_s is not None
        ]
        if batch and finish_by(until, partial(self._putting_off.put_off, batch, until), self._clock) is None:
            self.link.journal.note("settle.failed", "the time is over; they come again sooner", count=len(batch))

    def remove(self, messages: Sequence[IncomingMessage], outcomes: Sequence[Outcome], until: float) -> int:
        """Remove those that are done; how many the service did not confirm, so that they come again."""
        batch = [
            pushed_held(message, Settlement(message.handle, Action.ACK))
            for message, outcome in zip(messages, outcomes, strict=True)
            if outcome.action is Action.ACK
        ]
        if batch:
            finish_by(until, partial(self._putting_off.settle, batch, until), self._clock)
        missing = sum(not isinstance(held.outcome, Settled) for held in batch)
        if missing:
            self.link.journal.note("settle.failed", "not removed, though done; they come again", count=missing)
        return missing

    @property
    def longest_timeout_s(self) -> float | None:
        """The longest time that a handler may take by its own ``timeout=``; None where none has any."""
        return max((each.timeout_s for each in self._handlers if each.timeout_s is not None), default=None)

    def counts(self) -> dict[str, int]:
        """What was pushed and what became of it, and how often each thing happened."""
        with self._lock:
            counted = self._tally.counts(self._going)
        return counted | self.link.counts()

    def timings(self) -> Mapping[str, Timing]:
        """``queue_age`` and ``handler_time``."""
        with self._lock:
            return {"queue_age": self._tally.age.read(), "handler_time": self._handling.read()}

    def close(self) -> None:
        """Close the queue, and the one for its dead letters, and tell the totals. Idempotent."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open:
            self.link.journal.note("push.closed", totals=self.counts())
        self.link.close()
        if self._route is not None:
            self._route.close()

    def _admit(
        self,
        round_: Round,
        messages: Sequence[IncomingMessage],
        unreadable: Mapping[int, Exception],
        end_by: float,
    ) -> list[PushedJob]:
        extend = partial(self._extend, end_by=end_by)
        counted = [m._replace(attempt=1) for m in messages] if self._rulings.bridge.counts else messages
        jobs = [PushedJob(pushed_held(each), round_, extend) for each in counted]
        with self._lock:
            self._tally.received += len(messages)
            self._going += len(messages)
            if messages and messages[0].enqueued_at is not None:
                self._tally.age.add(self._clock.time() - messages[0].enqueued_at)
        settled = self._rulings.arrivals([job.held for job in jobs])
        for at, error in unreadable.items():
            verdict = Verdict(Action.DEAD, cause=Cause("undecodable", error))
            settled[jobs[at].held] = self._rule(jobs[at], verdict, hold_by=-math.inf)
        entries = [self._entry(job) for job in jobs]
        round_.begin(jobs, Course(entries), [(job, settled[job.held]) for job in jobs if job.held in settled])
        return jobs

    def _entry(self, job: PushedJob) -> Entry[PushedJob]:
        key = job.message.ordering_key if self._ordered else None
        handler = handler_for(self._handlers, job.message.metadata)
        if isinstance(handler, BatchHandler):
            return Entry(job, key, handler.message_type, handler.batch.max_size)
        return Entry(job, key)

    def _start(self, round_: Round, limits: Limits, count: int) -> Ending:
        """Start what runs the handlers."""
        clock = self._clock
        triage = self._triage.within(limits, clock)
        make = RunnerMaker(
            triage, clock, slots=min(self._slots, count), failed=round_.fail, hung=self._hung, name=self.link.shown
        )
        is_async = any(each.is_async for each in self._handlers)
        runner: Runner
        if any(isinstance(each, BatchHandler) for each in self._handlers):
            runner = make.in_batches(RoundFeed(round_, together), is_async=is_async)
        else:
            runner = make.one_by_one(RoundFeed(round_, alone), is_async=is_async)
        if isinstance(runner, WorkerThreads):
            runner.start()
            return _joining(runner)
        return _ending(runner, asyncio.run_coroutine_threadsafe(runner.run(), self._loop()), clock)

    def _rule(self, job: PushedJob, verdict: Verdict, *, hold_by: float) -> Ruling:
        now = self._clock.monotonic()
        if job.began is not None:
            with self._lock:
                self._handling.add(now - job.began)
        ruling = self._rulings.rule(job.message, verdict, holdable_s=max(0.0, hold_by - now))
        self._tell(job.message, verdict, ruling)
        return ruling

    def _tell(self, message: IncomingMessage, verdict: Verdict, ruling: Ruling) -> None:
        tell, shown, journal = self._listeners.tell, self.link.shown, self.link.journal
        cause = verdict.cause
        if verdict.action is Action.ACK:
            tell("completed", shown, journal, message=message)
        elif cause is not None and ruling.is_dead:
            tell("dead", shown, journal, message=message, reason=cause.reason)
        elif cause is not None:
            delay_s = ruling.told_delay_s
            tell("retried", shown, journal, message=message, reason=why(cause), delay_s=delay_s)

    def _extend(self, held: Held, by_s: float, *, end_by: float) -> None:
        shown = self.link.shown
        check_extension(self.link.capabilities, by_s, shown)
        if not finish_by(end_by, partial(self._putting_off.extend, held, by_s), self._clock):
            msg = f"{shown} did not answer within the time that is left; the old lease still runs"
            raise UnavailableError(msg, queue=shown, operation="extend")

    def _given_back(self, count: int) -> None:
        self.link.journal.note("push.out_of_time", "not begun; given back", count=count)

    def _hung(self, hung: int, slots: int) -> None:
        self.link.journal.note("worker.hung", f"{hung} of {slots} handlers are past their timeout")

    def _counted(self, settled: Sequence[tuple[Held, Outcome]]) -> list[Outcome]:
        left = sum(outcome is LEFT for _, outcome in settled)
        with self._lock:
            self._going -= len(settled)
            self._tally.settled(len(settled) - left)
            self._tally.lost(left)
        return [outcome for _, outcome in settled]


def _joining(runner: WorkerThreads[Any]) -> Ending:
    def wait_for_threads(until: float) -> Callable[[], bool]:
        runner.join_all(until)
        return lambda: runner.is_alive

    return wait_for_threads


def _ending(runner: TaskRunner[Any], ended: Future[None], clock: Clock) -> Ending:
    def wait_for_tasks(until: float) -> Callable[[], bool]:
        left_s = until - clock.monotonic()
        try:
            ended.result(None if left_s == math.inf else max(0.0, left_s))
        except TimeoutError:
            runner.cancel()
        return lambda: runner.is_alive

    return wait_for_tasks
