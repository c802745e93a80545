# SPDX-License-Identifier: Apache-2.0
"""What can happen at a call: faults of a service, of a network, and of a backend that breaks its contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal

from queuekit._values.clock import Clock
from queuekit.backend import SETTLED, ErrorClass, ErrorCode, Unknown
from queuekit.testing.faults.script import Answers, Call, InjectedFault, Proceed, Step

_HOLD_LIMIT_S = 30.0


def unavailable(*, sent: Literal["no", "maybe"] = "maybe") -> ErrorClass:
    """The service could not be reached, or its answer was lost."""
    return ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, scope="connection", sent=sent)


def refused() -> ErrorClass:
    """The service declined this entry for good."""
    return ErrorClass(ErrorCode.REFUSED, sent="no")


def throttled(retry_after_s: float | None) -> ErrorClass:
    """The service asks for fewer calls; None where it does not say for how long."""
    return ErrorClass(ErrorCode.THROTTLED, retryable=True, scope="queue", sent="no", retry_after_s=retry_after_s)


def access_denied() -> ErrorClass:
    """The credentials are wrong, or lack a permission."""
    return ErrorClass(ErrorCode.ACCESS_DENIED, scope="queue", sent="no")


def not_found() -> ErrorClass:
    """The queue does not exist."""
    return ErrorClass(ErrorCode.NOT_FOUND, scope="queue", sent="no")


def as_is(call: Call, proceed: Proceed) -> Answers:
    """A step that does no harm, for a call before the one that is to fail."""
    return proceed(call.batch)


def raise_before(what: ErrorClass) -> Step:
    """Raise, and do nothing."""

    def step(_call: Call, _proceed: Proceed) -> Answers:
        raise InjectedFault(what)

    return step


def raise_after(what: ErrorClass) -> Step:
    """Carry the call out, then lose its answer."""

    def step(call: Call, proceed: Proceed) -> Answers:
        proceed(call.batch)
        raise InjectedFault(what)

    return step


def throttle(retry_after_s: float) -> Step:
    """Refuse the whole call for now."""
    return raise_before(throttled(retry_after_s))


def fail_entries(positions: Iterable[int], outcome: Callable[[Any], Any]) -> Step:
    """Carry out all but the entries at these positions, and answer those with ``outcome(entry)``."""
    failing = frozenset(positions)

    def step(call: Call, proceed: Proceed) -> Answers:
        kept = [entry for index, entry in enumerate(call.batch) if index not in failing]
        answers = iter(proceed(kept) if kept else ())
        return [outcome(entry) if index in failing else next(answers) for index, entry in enumerate(call.batch)]

    return step


def edit_answer(edit: Callable[[list[Any]], list[Any]]) -> Step:
    """Carry the call out, then change what it answered: drop, repeat, reorder."""

    def step(call: Call, proceed: Proceed) -> Answers:
        return edit(list(proceed(call.batch)))

    return step


def hold(released: threading.Event, reached: threading.Event | None = None) -> Step:
    """Carry the call out, and keep its answer back until ``released`` is set; tells by ``reached``."""

    def step(call: Call, proceed: Proceed) -> Answers:
        answers = proceed(call.batch)
        if reached is not None:
            reached.set()
        released.wait(_HOLD_LIMIT_S)
        return answers

    return step


def hold_before(released: threading.Event, reached: threading.Event) -> Step:
    """Tell by ``reached`` that the call has come, and carry it out once ``released`` is set."""

    def step(call: Call, proceed: Proceed) -> Answers:
        reached.set()
        released.wait(_HOLD_LIMIT_S)
        return proceed(call.batch)

    return step


def do_nothing(answer: Callable[[Any], Any]) -> Step:
    """Claim an answer for every entry without doing anything: a backend that lies."""

    def step(call: Call, _proceed: Proceed) -> Answers:
        return [answer(entry) for entry in call.batch]

    return step


def pretend_settled(_call: Call, _proceed: Proceed) -> Answers:
    """Answer that every entry is settled, and do nothing."""
    return [SETTLED for _ in _call.batch]


def delay(clock: Clock, seconds: float, *, after: bool = False) -> Step:
    """Let the call take longer, before it is carried out or before its answer comes back.

    Args:
        clock: Whose time passes.
        seconds: How much longer.
        after: Whether the service acts at once, and only the answer is late.
    """

    def step(call: Call, proceed: Proceed) -> Answers:
        if after:
            answers = proceed(call.batch)
            _let_pass(clock, seconds)
            return answers
        _let_pass(clock, seconds)
        return proceed(call.batch)

    return step


def _let_pass(clock: Clock, seconds: float) -> None:
    passed, until = threading.Condition(), clock.monotonic() + seconds
    with passed:
        while (left_s := until - clock.monotonic()) > 0:
            clock.wait(passed, left_s)


def hang(reached: threading.Event | None = None) -> Step:
    """Never answer: the call ends, as unavailable, when it is interrupted or the backend is closed."""

    def step(call: Call, _proceed: Proceed) -> Answers:
        if reached is not None:
            reached.set()
        call.ended.wait(_HOLD_LIMIT_S)
        raise InjectedFault(unavailable())

    return step


def leave_out(positions: Iterable[int]) -> Step:
    """Carry the call out, and answer nothing for the entries at these positions: the rest moves up."""
    missing = frozenset(positions)
    return edit_answer(lambda answers: [each for index, each in enumerate(answers) if index not in missing])


def answer_twice(positions: Iterable[int]) -> Step:
    """Carry the call out, and answer twice for the entries at these positions; a receive delivers them twice."""
    doubled = frozenset(positions)
    return edit_answer(lambda answers: [each for i, each in enumerate(answers) for _ in range(1 + (i in doubled))])


def answer_for_stranger(answer: Any) -> Step:
    """Carry the call out, and answer for an entry more than there are."""
    return edit_answer(lambda answers: [*answers, answer])


def contradict(positions: Iterable[int]) -> Step:
    """Carry the call out, and leave open what became of these entries: they are in both lists of the answer."""
    both = frozenset(positions)

    def step(call: Call, proceed: Proceed) -> Answers:
        answers = proceed(call.batch)
        return [
            Unknown(ErrorClass(ErrorCode.BACKEND_BUG), getattr(entry, "message_id", "")) if index in both else answer
            for index, (entry, answer) in enumerate(zip(call.batch, answers, strict=True))
        ]

    return step


def too_many(call: Call, proceed: Proceed) -> Answers:
    """Let a receive return up to twice as many as were asked for."""
    return [*proceed(call.batch), *proceed(call.batch)]
