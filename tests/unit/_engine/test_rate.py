# SPDX-License-Identifier: Apache-2.0
"""The token bucket: never more than its rate allows, and no token gets lost."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit import UsageError
from queuekit._engine.rate import Rate, TokenBucket

RATES = st.builds(
    Rate,
    st.integers(1, 50),
    per=st.sampled_from([timedelta(seconds=1), timedelta(milliseconds=70), timedelta(minutes=1)]),
    burst=st.none() | st.integers(1, 20),
)
POLLS = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 30), st.floats(0, 30), st.integers(0, 30)), min_size=1, max_size=25
)
"""Quiet before the poll, asked for, length of the poll, messages that it could bring."""


@given(rate=RATES, polls=POLLS)
def test_no_stretch_of_time_sees_more_than_the_burst_and_what_the_rate_gives_in_it(
    rate: Rate, polls: list[tuple[float, int, float, int]]
) -> None:
    now, came = 1000.0, []
    bucket = TokenBucket(rate, now)
    for quiet_s, most, length_s, available in polls:
        now += quiet_s
        tokens = bucket.take(most, now)
        assert 0 <= tokens <= most
        now += length_s
        used = min(tokens, available)
        bucket.settle(used, now, of=tokens)
        came.append((now, used))
    for first, (since, _) in enumerate(came):
        for last in range(first, len(came)):
            begun = sum(used for _, used in came[first : last + 1])
            assert begun <= rate.most_at_once + rate.per_second * (came[last][0] - since) + 1e-6


@given(
    rate=RATES,
    polls=st.lists(
        st.tuples(st.floats(0, 5), st.integers(1, 30), st.floats(0, 30), st.integers(0, 30)), min_size=2, max_size=20
    ),
)
def test_polls_that_run_at_once_share_the_tokens(rate: Rate, polls: list[tuple[float, int, float, int]]) -> None:
    now, came, ends = 1000.0, list[tuple[float, int]](), list[tuple[float, int, int]]()
    bucket = TokenBucket(rate, now)
    for quiet_s, most, length_s, available in polls:
        now += quiet_s
        for when, tokens, used in sorted(each for each in ends if each[0] <= now):
            bucket.settle(used, when, of=tokens)
            came.append((when, used))
        ends = [each for each in ends if each[0] > now]
        tokens = bucket.take(most, now)
        assert tokens + sum(tokens for _, tokens, _ in ends) <= rate.most_at_once
        ends.append((now + length_s, tokens, min(tokens, available)))
    for first, (since, _) in enumerate(came):
        for last in range(first, len(came)):
            begun = sum(used for _, used in came[first : last + 1])
            assert begun <= rate.most_at_once + rate.per_second * (came[last][0] - since) + 1e-6


@given(rate=RATES, most=st.integers(1, 30))
def test_tokens_of_messages_that_did_not_come_are_back_at_once(rate: Rate, most: int) -> None:
    bucket = TokenBucket(rate, 0.0)
    taken = bucket.take(most, 0.0)
    assert taken == min(most, rate.most_at_once)
    bucket.settle(0, 0.0, of=taken)
    assert bucket.take(most, 0.0) == taken


@given(rate=RATES)
def test_after_the_wait_that_it_names_there_is_a_token_and_not_before(rate: Rate) -> None:
    bucket = TokenBucket(rate, 0.0)
    assert bucket.wait_s(0.0) == 0.0
    taken = bucket.take(1000, 0.0)
    bucket.settle(taken, 0.0, of=taken)
    wait_s = bucket.wait_s(0.0)
    assert bucket.take(1, wait_s * 0.99) == 0
    assert bucket.take(1, wait_s) == 1


def test_a_rate_that_is_kept_for_long_gives_its_limit() -> None:
    bucket = TokenBucket(Rate(7, per=timedelta(seconds=3)), 0.0)
    begun, now = 0, 0.0
    while now < 3000:
        now += max(bucket.wait_s(now), 1e-6)
        taken = bucket.take(100, now)
        bucket.settle(taken, now, of=taken)
        begun += taken
    assert math.isclose(begun, 7000, rel_tol=0.01)


@pytest.mark.parametrize(("limit", "per_s", "most"), [(1, 1, 1), (100, 1, 10), (100, 60, 1), (10_000, 1, 1000)])
def test_what_may_begin_at_once_is_a_tenth_of_a_second_unless_it_is_named(limit: int, per_s: int, most: int) -> None:
    assert Rate(limit, per=timedelta(seconds=per_s)).most_at_once == most
    assert Rate(limit, per=timedelta(seconds=per_s), burst=3).most_at_once == 3


@pytest.mark.parametrize(
    "wrong",
    [{"limit": 0}, {"limit": 1.5}, {"limit": True}, {"burst": 0}, {"per": timedelta(0)}, {"per": 1}],
    ids=str,
)
def test_a_rate_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        Rate(**{"limit": 1} | wrong)
