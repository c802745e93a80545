# SPDX-License-Identifier: Apache-2.0
"""One round: a finite number of pushed messages on their way through the handlers of one queue."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, Generic, NamedTuple, TypeVar

from queuekit._engine.held import Held
from queuekit._portable.batch_running import BatchJob
from queuekit._portable.context import Current
from queuekit._portable.course import Course
from queuekit._portable.retry import Judge, Verdict
from queuekit._portable.rulings import GIVEN_BACK, LEFT, Outcome, Ruling
from queuekit._portable.triage import Bound, Job, Triage
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError
from queuekit.backend import IncomingMessage

J = TypeVar("J")

logger = logging.getLogger("queuekit")

_LEAST_S: Final = 0.001


class Limits(NamedTuple):
    """By when things must be over, on the clock's monotonic scale.

    Attributes:
        begin_by: No handler begins after that.
        end_by: No handler is given more time than that.
        answer_by: What has no outcome by then is left to the service.
    """

    begin_by: float = math.inf
    end_by: float = math.inf
    answer_by: float = math.inf


class PushedJob:
    """One pushed message, as the runners see it.

    Args:
        held: The message.
        round_: Where its outcome is recorded.
        extend: Extends its lease.
    """

    __slots__ = ("_extend", "_round", "began", "held")

    def __init__(self, held: Held, round_: Round, extend: Callable[[Held, float], None]) -> None:
        self.held = held
        self._round, self._extend = round_, extend
        self.began: float | None = None

    @property
    def message(self) -> IncomingMessage:
        """The delivery as the service made it."""
        return self.held.message

    @property
    def lease_lost(self) -> bool:
        """Whether it is not ours any more."""
        return self.held.lease_lost

    def settle(self, verdict: Verdict) -> None:
        """Record the verdict."""
        self._round.settle(self, verdict)

    def abandon(self) -> None:
        """Its handler hangs: it comes again when the service says so."""
        self._round.abandon(self)

    def extend(self, by_s: float) -> None:
        """Extend its lease now."""
        self._extend(self.held, by_s)


class Round:
    """Hands out the jobs of a round and gathers an outcome for each.

    Args:
        clock: Time.
        limits: When to stop.
        rule: Says what a verdict comes to, and tells whoever listens.
        given_back: Called with how many messages were not takeable, because the time was over.

    Concurrency:
        `settle`, `abandon` and the feeds from any thread; the rest from the one that runs the round.
    """

    def __init__(
        self,
        clock: Clock,
        limits: Limits,
        *,
        rule: Callable[[PushedJob, Verdict], Ruling],
        given_back: Callable[[int], None],
    ) -> None:
        self._clock, self._limits = clock, limits
        self._rule, self._given_back = rule, given_back
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._course: Course[PushedJob] = Course(())
        self._open: set[PushedJob] = set()
        self._outcomes: dict[PushedJob, Outcome] = {}
        self._to_do: list[tuple[PushedJob, Ruling]] = []
        self._callbacks: dict[Callable[[], None], None] = {}

    def begin(
        self, jobs: Sequence[PushedJob], course: Course[PushedJob], settled: Sequence[tuple[PushedJob, Ruling]]
    ) -> None:
        """Take in the jobs.

        Args:
            jobs: All of them.
            course: In which order they are handed out.
            settled: Those that are not to be, and what is to be done for them.
        """
        self._open = set(jobs)
        self._course = course
        for job, _ in settled:
            course.begin(job)
        for job, ruling in settled:
            self._record(job, ruling)

    def take(self) -> list[PushedJob]:
        """What is to be takeable next, waiting for it. Raises ClosedError when nothing will be any more."""
        with self._lock:
            while not (taken := self._next()):
                self._clock.wait(self._changed, None)
        return taken

    def take_now(self) -> list[PushedJob]:
        """What may be takeable now, if anything may. Raises as `take` does."""
        with self._lock:
            return self._next()

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, from any thread, when something has changed."""
        with self._lock:
            takeable = self._clock.monotonic() < self._limits.begin_by and self._course.is_ready
            waits = not (takeable or self._course.is_over)
            if waits:
                self._callbacks[callback] = None
        if not waits:
            callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back a `when_ready`."""
        with self._lock:
            self._callbacks.pop(callback, None)

    def settle(self, job: PushedJob, verdict: Verdict) -> None:
        """A handler's verdict; one that comes too late is dropped."""
        with self._lock:
            if job not in self._open:
                return
        try:
            ruling = self._rule(job, verdict)
        except BaseException:
            # Whatever went wrong, whoever waits for this outcome must not wait for ever.
            self._record(job, Ruling(LEFT))
            raise
        self._record(job, ruling)

    def abandon(self, job: PushedJob) -> None:
        """A handler is past its timeout, and goes on."""
        self._record(job, Ruling(LEFT))

    def stop(self) -> None:
        """Begin nothing more."""
        with self._lock:
            left = self._course.stop()
            for job in left:
                self._open.discard(job)
                self._outcomes[job] = GIVEN_BACK
        if left:
            self._given_back(len(left))
        self._notify()

    def fail(self, error: BaseException) -> None:
        """A thread of the runner broke down, which is a bug of ours: what has no outcome is left to the service."""
        logger.error("a round of pushed messages broke down", exc_info=error, extra={"action": "worker.failed"})
        with self._lock:
            self._course.stop()
            self._outcomes.update(dict.fromkeys(self._open, LEFT))
            self._open.clear()
        self._notify()

    def await_work(self) -> Sequence[tuple[PushedJob, Ruling]]:
        """What has to be done before its messages have an outcome; empty when the round is over."""
        while True:
            with self._lock:
                if self._to_do:
                    work, self._to_do = self._to_do, []
                    return work
                now = self._clock.monotonic()
                if not self._open or now >= self._limits.answer_by:
                    return ()
                stopping = now >= self._limits.begin_by and not self._course.is_over
                if not stopping:
                    begin_by = math.inf if self._course.is_over else self._limits.begin_by
                    until = min(begin_by, self._limits.answer_by)
                    self._clock.wait(self._changed, None if until == math.inf else until - now)
            if stopping:
                self.stop()

    def answer(self, job: PushedJob, outcome: Outcome) -> None:
        """What had to be done for a message is done, or could not be."""
        self._record(job, Ruling(outcome))

    def end(self) -> tuple[dict[PushedJob, Outcome], int]:
        """Every outcome, and how many messages have none and are left to the service."""
        with self._lock:
            for job in self._course.stop():
                self._open.discard(job)
                self._outcomes[job] = GIVEN_BACK
            left = len(self._open)
            self._outcomes.update(dict.fromkeys(self._open, LEFT))
            self._open.clear()
            outcomes = dict(self._outcomes)
        self._notify()
        return outcomes, left

    def _next(self) -> list[PushedJob]:
        """What may be begun now. Lock held.

        Raises:
            ClosedError: Nothing will be any more.
        """
        now = self._clock.monotonic()
        if self._course.is_over:
            msg = "nothing is left of this round"
            raise ClosedError(msg, operation="receive")
        taken = [] if now >= self._limits.begin_by else self._course.take()
        for job in taken:
            job.began = now
        return taken

    def _record(self, job: PushedJob, ruling: Ruling) -> None:
        with self._lock:
            if job not in self._open:
                return
            if not ruling.is_ready:
                self._to_do.append((job, ruling))
            else:
                self._open.discard(job)
                self._outcomes[job] = ruling.outcome
                if ruling.outcome.is_done:
                    self._course.done(job)
                else:
                    for behind in self._course.failed(job):
                        self._open.discard(behind)
                        self._outcomes[behind] = GIVEN_BACK
        self._notify()

    def _notify(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, {}
            self._changed.notify_all()
        for callback in callbacks:
            callback()


class RoundFeed(Generic[J]):
    """The jobs of a round for one runner.

    Args:
        round_: Where they come from.
        form: Makes one job of what is taken together.
    """

    __slots__ = ("_form", "_round", "forget")

    def __init__(self, round_: Round, form: Callable[[list[PushedJob]], J]) -> None:
        self._round, self._form = round_, form
        self.forget = round_.forget

    def take(self) -> J | None:
        """The next one, waiting for it."""
        return self._form(self._round.take())

    def take_now(self) -> J | None:
        """The next one that is here, or None."""
        taken = self._round.take_now()
        return self._form(taken) if taken else None

    def when_ready(self, callback: Callable[[], None], wanted: int = 1) -> None:  # noqa: ARG002 - as every feed
        """Have ``callback`` called once when `take_now` is worth trying."""
        self._round.when_ready(callback)


def alone(taken: list[PushedJob]) -> Job:
    """For handlers that take one message."""
    return taken[0]


def together(taken: list[PushedJob]) -> BatchJob:
    """For handlers that take batches."""
    return BatchJob(taken)


class TimedTriage(Triage):
    """A triage whose handlers get no more time than there is."""

    _left_s: Callable[[], float] = staticmethod(lambda: math.inf)
    _now: Callable[[], float] = staticmethod(lambda: math.nan)

    def within(self, limits: Limits, clock: Clock) -> TimedTriage:
        """The same for one round."""
        made = copy(self)
        made.keep_to(limits, clock)
        return made

    def keep_to(self, limits: Limits, clock: Clock) -> None:
        """From now on, give no handler more time than that; for the triage of one round."""
        stopping = self._draining
        self._left_s = lambda: limits.end_by - clock.monotonic()
        self._now = clock.time
        self._draining = lambda: stopping() or clock.monotonic() >= limits.begin_by

    def open(self, job: Job) -> tuple[Bound, Judge, Any, Current] | Verdict:
        """As `Triage.open`, with the handler's timeout bounded."""
        opened = super().open(job)
        if isinstance(opened, Verdict):
            return opened
        bound, judge, payload, current = opened
        left_s = max(_LEAST_S, self._left_s())
        if left_s < math.inf:
            current.ends_at(self._now() + left_s)
        return bound.within(left_s), judge, payload, current
