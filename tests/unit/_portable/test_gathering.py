# SPDX-License-Identifier: Apache-2.0
"""What is gathered into one batch, and when it goes."""

import math

from hypothesis import given
from hypothesis import strategies as st

from queuekit._portable.gathering import BatchLimit, Gatherer

LIMITS = {"a": BatchLimit(3, 10.0), "b": BatchLimit(2, 1.0)}


def test_a_batch_is_complete_with_its_last_message() -> None:
    gatherer: Gatherer[int] = Gatherer(LIMITS)
    assert gatherer.add(1, "a", 0.0) is None
    assert gatherer.add(2, "a", 1.0) is None
    assert gatherer.add(3, "a", 2.0) == [1, 2, 3]
    assert gatherer.due_at() == math.inf


def test_the_first_message_says_when_a_batch_is_due() -> None:
    gatherer: Gatherer[int] = Gatherer(LIMITS)
    gatherer.add(1, "a", 0.0)
    gatherer.add(2, "a", 9.0)
    gatherer.add(3, "b", 9.5)
    assert gatherer.due_at() == 10.0
    assert gatherer.take_due(9.9) is None
    assert gatherer.take_due(11.0) == [1, 2]
    assert gatherer.take_due(11.0) == [3]
    assert gatherer.take_due(11.0) is None


def test_what_belongs_to_no_group_goes_alone_and_at_once() -> None:
    gatherer: Gatherer[int] = Gatherer(LIMITS)
    gatherer.add(1, "a", 0.0)
    assert gatherer.add(2, None, 0.0) == [2]


def test_room_is_that_of_the_emptiest_batch() -> None:
    gatherer: Gatherer[int] = Gatherer(LIMITS)
    assert gatherer.room() == 3
    gatherer.add(1, "a", 0.0)
    gatherer.add(2, "a", 0.0)
    assert gatherer.room() == 2


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.floats(0, 5)), max_size=40))
def test_every_message_goes_once_in_order_and_in_time(steps: list[tuple[str | None, float]]) -> None:
    gatherer: Gatherer[tuple[str | None, int, float]] = Gatherer(LIMITS)
    now, out = 0.0, list[list[tuple[str | None, int, float]]]()
    for number, (group, wait_s) in enumerate(steps):
        now += wait_s
        while (due := gatherer.take_due(now)) is not None:
            assert now >= due[0][2] + LIMITS[due[0][0] or ""].wait_s
            out.append(due)
        full = gatherer.add((group, number, now), group, now)
        out.extend([] if full is None else [full])
        assert gatherer.due_at() > now - max(limit.wait_s for limit in LIMITS.values())
    out.extend(gatherer.drain())
    assert sorted(number for batch in out for _, number, _ in batch) == list(range(len(steps)))
    for batch in out:
        assert len({group for group, _, _ in batch}) == 1
        assert len(batch) <= (LIMITS[batch[0][0]].size if batch[0][0] else 1)
    for group in LIMITS:
        numbers = [number for batch in out for kind, number, _ in batch if kind == group]
        assert numbers == sorted(numbers)
