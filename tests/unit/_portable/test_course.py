# SPDX-License-Identifier: Apache-2.0
"""The order of a finite number of messages: each is handed out once, and of a key one at a time."""

import random

import pytest

from queuekit._portable.course import Course, Entry


def course(*entries: tuple[str, str | None]) -> Course[str]:
    return Course([Entry(job, key) for job, key in entries])


def test_without_keys_everything_may_begin_at_once_in_order() -> None:
    made = course(("a", None), ("b", None))
    assert [made.take(), made.take(), made.take()] == [["a"], ["b"], []]
    assert made.is_over


def test_a_key_has_one_going_and_others_go_on() -> None:
    made = course(("a1", "a"), ("a2", "a"), ("b1", "b"))
    assert [made.take(), made.take(), made.take()] == [["a1"], ["b1"], []]
    assert not made.is_ready
    made.done("a1")
    assert made.is_ready
    assert made.take() == ["a2"]


def test_what_stands_behind_a_failure_goes_back_unstarted() -> None:
    made = course(("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a"))
    made.take()
    assert made.failed("a1") == ["a2", "a3"]
    assert made.take() == ["b1"]
    assert made.is_over


def test_what_is_settled_without_being_handed_out_bars_its_key_until_then() -> None:
    made = course(("a1", "a"), ("a2", "a"))
    made.begin("a1")
    assert made.take() == []
    made.done("a1")
    assert made.take() == ["a2"]


def test_stop_hands_out_nothing_more() -> None:
    made = course(("a1", "a"), ("a2", "a"), ("b", None))
    made.take()
    assert made.stop() == ["a2", "b"]
    assert made.is_over
    assert made.failed("a1") == []


def test_a_batch_has_one_group_and_takes_a_key_in_order() -> None:
    made = Course(
        [
            Entry("x1", "k", "x", 3),
            Entry("y1", "k", "y", 3),
            Entry("x2", "k", "x", 3),
            Entry("x3", None, "x", 3),
            Entry("x4", None, "x", 3),
            Entry("x5", None, "x", 3),
        ]
    )
    # x2 stands behind y1, of its key, which is of another group.
    assert made.take() == ["x1", "x3", "x4"]
    assert made.take() == ["x5"]
    made.done("x1")
    assert made.take() == ["y1"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_each_is_handed_out_or_goes_back_and_a_key_keeps_its_order(seed: int) -> None:
    chance = random.Random(seed)
    keys = [chance.choice([None, "a", "b", "c"]) for _ in range(60)]
    made = Course([Entry(i, key, chance.choice("xy"), chance.randint(1, 5)) for i, key in enumerate(keys)])
    going: list[int] = []
    begun: list[int] = []
    back: list[int] = []
    failed: set[str] = set()
    while not made.is_over or going:
        taken = made.take()
        assert bool(taken) or going
        for key in {keys[each] for each in taken} - {None}:
            assert all(keys[each] != key for each in going)
            assert key not in failed
        begun += taken
        going += taken
        if going and (not taken or chance.random() < 0.5):
            job = going.pop(chance.randrange(len(going)))
            if chance.random() < 0.2:
                gone = made.failed(job)
                back += gone
                failed.update(keys[job] for _ in gone if keys[job] is not None)
            else:
                made.done(job)
    assert sorted(begun + back) == list(range(60))
    for key in "abc":
        assert [each for each in begun if keys[each] == key] == sorted(each for each in begun if keys[each] == key)
