# SPDX-License-Identifier: Apache-2.0
"""Laws of batches: every message in exactly one, none too large, none ahead of its key's former one."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.batching import BatchLimits, SendBatcher, split
from queuekit._engine.turns import TurnBatcher
from queuekit.backend import OutgoingMessage

KEYS = st.sampled_from([None, "a", "b", "c"])
LIMITS = st.builds(
    BatchLimits,
    count=st.integers(1, 5),
    size=st.none() | st.integers(10, 40),
    one_key_per_call=st.booleans(),
    one_per_key=st.booleans(),
).filter(lambda limits: not (limits.one_key_per_call and limits.one_per_key))
ITEMS = st.lists(st.tuples(KEYS, st.integers(0, 10)), max_size=30)


def _check_call(limits: BatchLimits, keys: list[str | None], sizes: list[int]) -> None:
    assert 0 < len(keys) <= limits.count
    assert limits.size is None or sum(sizes) <= limits.size
    if limits.one_key_per_call:
        assert len(set(keys)) == 1
    if limits.one_per_key:
        named = [key for key in keys if key is not None]
        assert len(named) == len(set(named))


def _check_order(calls: list[list[tuple[int, str | None]]]) -> None:
    by_key: dict[str | None, list[int]] = defaultdict(list)
    for call in calls:
        for position, key in call:
            by_key[key].append(position)
    for key, positions in by_key.items():
        assert key is None or positions == sorted(positions)


@given(items=ITEMS, limits=LIMITS)
def test_split_calls_are_within_limits_and_keep_each_keys_order(
    items: list[tuple[str | None, int]], limits: BatchLimits
) -> None:
    messages = [OutgoingMessage(str(i), b"x" * size, ordering_key=key) for i, (key, size) in enumerate(items)]
    calls = [list(call) for call in split(messages, limits, lambda message: len(message.body))]
    assert sorted(position for call in calls for position in call) == list(range(len(items)))
    for call in calls:
        _check_call(limits, [items[i][0] for i in call], [items[i][1] for i in call])
    _check_order([[(i, items[i][0]) for i in call] for call in calls])


@given(items=ITEMS)
def test_split_by_key_takes_no_more_calls_than_it_must(items: list[tuple[str | None, int]]) -> None:
    messages = [OutgoingMessage(str(i), b"", ordering_key=key) for i, (key, _) in enumerate(items)]
    limits = BatchLimits(count=1000, one_per_key=True)
    calls = list(split(messages, limits, lambda _: 0))
    named = [key for key, _ in items if key is not None]
    assert len(calls) == max([1, *(named.count(key) for key in named)] if items else [0])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.integers(0, 10)),
        st.tuples(st.just("take"), st.none(), st.integers(1, 3)),
        st.tuples(st.just("pass"), st.none(), st.integers(0, 5)),
        st.tuples(st.just("flush"), st.none(), st.just(0)),
    ),
    max_size=60,
)


@given(steps=STEPS, limits=LIMITS, linger=st.sampled_from([0.0, 3.0]))
def test_the_batcher_hands_over_every_item_once_in_order_and_within_limits(
    steps: list[tuple[str, Any, int]], limits: BatchLimits, linger: float
) -> None:
    batcher = _any_batcher(limits, linger)
    now, added, calls = 0.0, 0, []
    for kind, key, number in steps:
        if kind == "add":
            batcher.add((added, key, number), size=number, key=key, now=now)
            added += 1
        elif kind == "pass":
            now += number
        elif kind == "flush":
            batcher.flush()
        else:
            calls += [batch for _ in range(number) if (batch := batcher.take(now))]
        due = batcher.due_at()
        assert (due is None) == (len(batcher) == 0)
    batcher.flush()
    while batch := batcher.take(now):
        calls.append(batch)
    assert len(batcher) == 0
    assert batcher.due_at() is None
    assert sorted(i for call in calls for i, _, _ in call) == list(range(added))
    for call in calls:
        _check_call(limits, [key for _, key, _ in call], [size for _, _, size in call])
    _check_order([[(i, key) for i, key, _ in call] for call in calls])


@given(steps=STEPS, limits=LIMITS)
def test_nothing_waits_longer_than_its_linger_while_there_is_somebody_to_send(
    steps: list[tuple[str, Any, int]], limits: BatchLimits
) -> None:
    batcher = _any_batcher(limits, 3.0)
    now = 0.0
    for kind, key, number in steps:
        if kind == "add":
            batcher.add(now, size=number, key=key, now=now)
        elif kind == "pass":
            for _ in range(number):
                now += 1.0
                while batch := batcher.take(now):
                    assert now - min(batch) <= 3.0
    assert batcher.take(now + 3.0) or not len(batcher)


def _any_batcher(limits: BatchLimits, linger_s: float) -> SendBatcher[Any] | TurnBatcher[Any]:
    kind = TurnBatcher[Any] if limits.one_per_key else SendBatcher[Any]
    return kind(limits, linger_s=linger_s, max_pending=1000)


def _batcher(**limits: Any) -> SendBatcher[str]:
    return SendBatcher(BatchLimits(**{"count": 3} | limits), linger_s=10.0, max_pending=4)


def test_a_full_batch_goes_at_once() -> None:
    batcher = _batcher()
    for each in "abc":
        assert batcher.take(0.0) is None
        batcher.add(each, size=1, key=None, now=0.0)
    assert batcher.take(0.0) == ["a", "b", "c"]


def test_what_does_not_fit_any_more_sends_the_batch_before_it() -> None:
    batcher = _batcher(size=10)
    batcher.add("a", size=6, key=None, now=0.0)
    assert batcher.take(0.0) is None
    batcher.add("b", size=5, key=None, now=0.0)
    assert batcher.take(0.0) == ["a"]
    assert batcher.take(0.0) is None


def test_the_linger_sends_what_there_is() -> None:
    batcher = _batcher()
    batcher.add("a", size=1, key=None, now=5.0)
    assert batcher.due_at() == 15.0
    assert batcher.take(14.9) is None
    assert batcher.take(15.0) == ["a"]


def test_room_ends_at_max_pending_and_comes_back_with_the_next_batch() -> None:
    batcher = _batcher()
    for each in "abcd":
        assert batcher.has_room()
        batcher.add(each, size=1, key=None, now=0.0)
    assert not batcher.has_room()
    batcher.take(0.0)
    assert batcher.has_room()


@pytest.mark.parametrize("limits", [{"one_key_per_call": True}, {"one_per_key": True}], ids=str)
def test_a_busy_key_does_not_keep_others_waiting(limits: dict[str, bool]) -> None:
    batcher = _any_batcher(BatchLimits(count=2, **limits), 0.0)
    taken: list[str] = []
    batcher.add("patient", size=0, key="quiet" if "one_key_per_call" in limits else None, now=0.0)
    for now in range(1, 20):
        for _ in range(4):
            batcher.add("busy", size=0, key="busy", now=float(now))
        taken += batcher.take(float(now)) or []
    assert "patient" in taken[:10]
