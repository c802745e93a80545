# SPDX-License-Identifier: Apache-2.0
"""What a handler's end means for its message."""

import asyncio
import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit import DeadLetter, Retry, RetryPolicy, UsageError
from queuekit._portable.retry import ACK, Judge
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, Capabilities, QueueURL
from queuekit.testing.clock import VirtualClock

CAN = Opener(VirtualClock()).open(QueueURL.parse("memory://q")).capabilities


def _judge(policy: RetryPolicy | None = None, **limits: Any) -> Judge:
    return Judge(policy or RetryPolicy(wait=lambda _: 10.0), replace(CAN, **limits), VirtualClock())


@given(attempt=st.integers(1, 100), most=st.integers(1, 100))
def test_attempts_are_counted_to_the_limit_and_no_further(attempt: int, most: int) -> None:
    verdict = _judge(RetryPolicy(max_attempts=most)).on_error(ValueError(), attempt)
    assert (verdict.action is Action.DEAD) == (attempt >= most)


@given(attempt=st.integers(1, 100), most=st.integers(1, 50), counts=st.booleans())
def test_on_receipt_only_what_is_beyond_the_limit_is_dead(attempt: int, most: int, counts: bool) -> None:
    verdict = _judge(RetryPolicy(max_attempts=most), release_counts=counts).on_receipt(attempt)
    assert (verdict is not None) == (attempt > most + (10 if counts else 0))


def test_without_a_count_nothing_is_dead_for_it() -> None:
    assert _judge().on_receipt(None) is None
    assert _judge().on_error(ValueError(), None).action is Action.RETRY


def iter_nothing() -> Iterator[int]:
    yield from ()


class CarelessDeadLetter(DeadLetter):
    def __init__(self, code: int) -> None:
        self.code = code


class CarelessRetry(Retry):
    def __init__(self) -> None:
        """Calls no super."""


@pytest.mark.parametrize(
    ("value", "action", "delay_s"),
    [
        (None, Action.ACK, 0),
        (5, Action.ACK, 0),
        (ValueError("returned, not raised"), Action.ACK, 0),
        (Retry(), Action.RETRY, 10),
        (Retry, Action.RETRY, 10),
        (Retry(delay=timedelta(seconds=3)), Action.RETRY, 3),
        (Retry(delay=timedelta(0)), Action.RETRY, 0),
        (DeadLetter("x"), Action.DEAD, 0),
        (DeadLetter, Action.DEAD, 0),
        (CarelessDeadLetter, Action.RETRY, 10),
        (CarelessDeadLetter(5), Action.DEAD, 0),
        (CarelessRetry, Action.RETRY, 10),
        (CarelessRetry(), Action.RETRY, 10),
        (iter_nothing(), Action.RETRY, 10),
    ],
)
def test_what_a_handler_returns(value: object, action: Action, delay_s: float) -> None:
    verdict = _judge().on_return(value, 1)
    assert (verdict.action, verdict.delay_s) == (action, delay_s)


def test_nothing_returned_is_an_ack() -> None:
    assert _judge().on_return(None, 1) is ACK


@pytest.mark.parametrize(
    ("error", "action", "delay_s"),
    [
        (ValueError(), Action.RETRY, 10),
        (asyncio.CancelledError(), Action.RETRY, 10),
        (SystemExit(), Action.RETRY, 10),
        (Retry(delay=timedelta(seconds=3)), Action.RETRY, 3),
        (DeadLetter("x"), Action.DEAD, 0),
        (BaseExceptionGroup("g", [Retry(), DeadLetter("x")]), Action.DEAD, 0),
        (BaseExceptionGroup("g", [ValueError(), BaseExceptionGroup("h", [DeadLetter("x")])]), Action.DEAD, 0),
        (BaseExceptionGroup("g", [Retry(delay=timedelta(seconds=d)) for d in (3, 9, 5)]), Action.RETRY, 9),
        (BaseExceptionGroup("g", [ValueError(), Retry(delay=timedelta(seconds=4))]), Action.RETRY, 4),
        (ExceptionGroup("g", [ValueError(), KeyError()]), Action.RETRY, 10),
    ],
    ids=repr,
)
def test_what_a_handler_raises(error: BaseException, action: Action, delay_s: float) -> None:
    verdict = _judge().on_error(error, 1)
    assert (verdict.action, verdict.delay_s) == (action, delay_s)


def test_a_group_that_is_no_verdict_is_its_own_cause() -> None:
    group = ExceptionGroup("g", [ValueError()])
    verdict = _judge(RetryPolicy(max_attempts=1)).on_error(group, 1)
    assert verdict.cause is not None
    assert verdict.cause.error is group


def test_a_dead_letter_keeps_its_reason_and_what_it_was_raised_from() -> None:
    try:
        try:
            raise KeyError("x")
        except KeyError as error:
            raise DeadLetter("bad row") from error
    except DeadLetter as raised:
        verdict = _judge().on_error(raised, 1)
    assert verdict.cause is not None
    assert verdict.cause.reason == "bad row"
    assert isinstance(verdict.cause.error, KeyError)


def test_only_what_another_attempt_may_mend_is_retried() -> None:
    policy = RetryPolicy(retry_on=OSError, dead_letter_on=(FileNotFoundError,))
    judge = _judge(policy)
    assert judge.on_error(ConnectionError(), 1).action is Action.RETRY
    assert judge.on_error(FileNotFoundError(), 1).action is Action.DEAD
    assert judge.on_error(ValueError(), 1).action is Action.DEAD
    assert judge.on_error(Retry(), 1).action is Action.RETRY


@given(wait_s=st.floats(0, 1e308), resolution=st.sampled_from([0.001, 1.0, 30.0]), longest=st.floats(30, 43200))
def test_a_wait_is_rounded_up_and_kept_within_what_the_service_can(
    wait_s: float, resolution: float, longest: float
) -> None:
    judge = _judge(RetryPolicy(wait=lambda _: wait_s), retry_delay_resolution_s=resolution, max_retry_delay_s=longest)
    delay_s = judge.on_error(ValueError(), 1).delay_s
    assert 0 <= delay_s <= longest
    assert delay_s >= min(wait_s, longest) - 1e-6
    assert delay_s <= wait_s + resolution


@given(wait_s=st.floats(0.001, 60))
def test_a_wait_is_never_shorter_than_the_service_can(wait_s: float) -> None:
    judge = _judge(RetryPolicy(wait=lambda _: wait_s), min_retry_delay_s=10.0)
    assert judge.on_error(ValueError(), 1).delay_s >= 10.0
    assert judge.on_error(Retry(delay=timedelta(seconds=wait_s)), 1).delay_s >= 10.0
    assert judge.on_error(Retry(delay=timedelta(0)), 1).delay_s == 0.0


@given(seconds=st.floats(0, 1e9))
def test_a_demand_is_rounded_up_and_said_to_be_one(seconds: float) -> None:
    delay = timedelta(seconds=seconds)
    verdict = _judge(retry_delay_resolution_s=1.0).on_error(Retry(delay=delay), 1)
    assert verdict.demanded
    assert delay.total_seconds() - 1e-6 <= verdict.delay_s < delay.total_seconds() + 1.001


def test_a_demand_does_not_raise_the_limit_of_attempts() -> None:
    assert _judge(RetryPolicy(max_attempts=3)).on_error(Retry(delay=timedelta(1)), 3).action is Action.DEAD


@pytest.mark.parametrize("each", [Retry(), Retry(delay=timedelta(seconds=5)), DeadLetter("x")], ids=repr)
def test_verdicts_pickle(each: BaseException) -> None:
    back = pickle.loads(pickle.dumps(each))
    assert type(back) is type(each)
    assert vars(back) == vars(each)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 2.0},
        {"wait": 5},
        {"retry_on": ValueError()},
        {"retry_on": (int,)},
        {"dead_letter_on": ["x"]},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RetryPolicy(**options)


@pytest.mark.parametrize("delay", [5, timedelta(seconds=-1), "5s"], ids=repr)
def test_a_retry_that_cannot_be_is_refused(delay: Any) -> None:
    with pytest.raises(UsageError):
        Retry(delay=delay)


def test_capabilities_of_memory_leave_every_delay_as_it_is() -> None:
    assert isinstance(CAN, Capabilities)
    assert _judge().on_error(Retry(delay=timedelta(milliseconds=1)), 1).delay_s == 0.001
