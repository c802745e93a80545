# SPDX-License-Identifier: Apache-2.0
"""The documented formulas: waits between attempts, when they end, and the token bucket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit.testing.emulators.cloud_tasks._backoff import RetryRule
from queuekit.testing.emulators.cloud_tasks._pace import Pace, burst_of


def waits(rule: RetryRule, count: int) -> list[float]:
    return [rule.wait_s(attempts) for attempts in range(1, count + 1)]


def test_the_documentations_own_example_of_waits() -> None:
    assert waits(RetryRule(-1, 0, 10, 300, 3), 8) == [10, 20, 40, 80, 160, 240, 300, 300]


def test_without_doublings_waits_grow_by_equal_steps() -> None:
    assert waits(RetryRule(-1, 0, 5, 100, 0), 4) == [5, 10, 15, 20]


def test_no_backoff_is_no_wait_however_often_it_failed() -> None:
    assert waits(RetryRule(-1, 0, 0, 3600, 1000), 200) == [0.0] * 200


@given(
    shortest=st.floats(0.001, 1000), longest=st.floats(1000, 1e6), doublings=st.integers(0, 2000),
    attempts=st.integers(1, 10_000),
)  # fmt: skip
def test_waits_never_shrink_and_keep_their_bounds(
    shortest: float, longest: float, doublings: int, attempts: int
) -> None:
    rule = RetryRule(-1, 0, shortest, longest, doublings)
    assert shortest <= rule.wait_s(attempts) <= rule.wait_s(attempts + 1) <= longest


@pytest.mark.parametrize(
    ("max_attempts", "max_retry_s", "attempts", "since_first_s", "over"),
    [
        (3, 0, 2, 1e6, False),
        (3, 0, 3, 0, True),
        (3, 60, 3, 59, False),  # both limits must be reached
        (3, 60, 2, 61, False),
        (3, 60, 3, 60, True),
        (-1, 60, 1000, 59, False),
        (-1, 60, 1, 60, True),
        (-1, 0, 10_000, 1e6, False),
    ],
)
def test_a_task_is_given_up_when_all_that_is_limited_is_used_up(
    max_attempts: int, max_retry_s: float, attempts: int, since_first_s: float, over: bool
) -> None:
    assert RetryRule(max_attempts, max_retry_s, 1, 1, 1).exhausted(attempts, since_first_s) is over


def test_a_bucket_holds_a_second_of_the_rate_and_at_least_ten() -> None:
    assert [burst_of(rate) for rate in (0.1, 1, 10, 10.5, 500)] == [10, 10, 10, 11, 500]


def test_after_the_burst_tokens_come_at_the_rate() -> None:
    pace = Pace(2, 0)
    assert sum(pace.take(0) for _ in range(100)) == 10
    assert pace.ready_at(0) == 0.5
    assert [pace.take(at / 4) for at in range(1, 9)] == [False, True] * 4


def test_a_busy_target_halves_the_rate_and_success_brings_it_back() -> None:
    pace = Pace(100, 0)
    pace.slow_down(10)
    pace.slow_down(10.5)  # within the same second it says nothing new
    assert pace.rate == 50
    for second in range(20):
        pace.slow_down(12 + second)
    assert pace.rate == 100 / 64
    pace.speed_up(50)
    pace.speed_up(50.9)
    assert pace.rate == 100 / 64 + 10
    for second in range(20):
        pace.speed_up(52 + second)
    assert pace.rate == 100


def test_a_slow_queue_is_not_slowed_below_its_own_rate() -> None:
    pace = Pace(0.5, 0)
    pace.slow_down(10)
    assert pace.rate == 0.5


def test_another_rate_keeps_the_tokens_that_fit() -> None:
    pace = Pace(500, 0)
    pace.configure(1, 0)
    assert sum(pace.take(0) for _ in range(100)) == 10
