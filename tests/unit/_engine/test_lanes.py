# SPDX-License-Identifier: Apache-2.0
"""Lanes: one of a key at a time, in order, and nothing of it is worked on past a failure."""

from collections import defaultdict, deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.held import Held, Lease
from queuekit._engine.lanes import KeyLanes
from queuekit.backend import IncomingMessage

LEASE = Lease(until=100.0, received_at=0.0, renew_at=50.0)


def held(key: str | None, number: int) -> Held:
    return Held(IncomingMessage(number, f"{key}{number}", b"", {}, {}, 1, None, 100.0, key), LEASE)


def names(group: list[Held]) -> list[str]:
    return [each.message.message_id for each in group]


STEPS = st.lists(
    st.tuples(st.sampled_from(["poll", "succeed", "fail", "take_along", "empty"]), st.integers(0, 7)), max_size=60
)


class Service:
    """Hands out what is ready of a key, in order, but nothing of a key of which something is out."""

    def __init__(self) -> None:
        self.ready: dict[str, deque[int]] = {key: deque(range(30)) for key in "abc"}
        self.out: dict[str, set[int]] = defaultdict(set)

    def poll(self, most: int) -> list[Held]:
        found: list[Held] = []
        for key, numbers in self.ready.items():
            if not self.out[key]:
                for number in list(numbers)[:most]:
                    numbers.popleft()
                    self.out[key].add(number)
                    found.append(held(key, number))
        return found

    def back(self, each: Held) -> None:
        key, number = str(each.message.ordering_key), int(str(each.message.handle))
        self.out[key].discard(number)
        self.ready[key] = deque(sorted([*self.ready[key], number]))


class Work:
    """Somebody who takes what the lanes let go, in whatever order chance wants."""

    def __init__(self) -> None:
        self.service, self.lanes = Service(), KeyLanes()
        self.takeable: list[Held] = []
        self.done: dict[str, list[int]] = defaultdict(list)

    def poll(self, number: int) -> None:
        fresh, refused = self.lanes.admit(self.service.poll(number + 1))
        self.takeable += fresh
        self.go_back(refused)

    def empty(self, _number: int) -> None:
        self.go_back(self.lanes.empty())
        assert self.lanes.waiting() == 0

    def succeed(self, number: int) -> None:
        self.finish(self.choose(number))

    def take_along(self, number: int) -> None:
        """A batch, whose entries are done in their order."""
        for head in self.choose(number):
            self.finish([head, *self.lanes.take_along(head, number, 0.0)])

    def fail(self, number: int) -> None:
        for each in self.choose(number):
            self.go_back([each, *self.lanes.failed(each)])

    def choose(self, number: int) -> list[Held]:
        return [self.takeable.pop(number % len(self.takeable))] if self.takeable else []

    def finish(self, group: list[Held]) -> None:
        for each in group:
            key, number = str(each.message.ordering_key), int(str(each.message.handle))
            self.done[key].append(number)
            self.service.out[key].discard(number)
        self.takeable += [following for each in group if (following := self.lanes.done(each)) is not None]

    def go_back(self, group: list[Held]) -> None:
        for each in group:
            self.service.back(each)

    def check(self) -> None:
        keys = [each.message.ordering_key for each in self.takeable]
        assert len(keys) == len(set(keys))
        assert len(self.takeable) + self.lanes.waiting() == sum(map(len, self.service.out.values()))


@given(steps=STEPS)
def test_every_key_is_worked_on_in_order_whatever_fails(steps: list[tuple[str, int]]) -> None:
    work = Work()
    for step, number in steps:
        getattr(work, step)(number)
        work.check()
    assert all(numbers == list(range(len(numbers))) for numbers in work.done.values())


def test_what_leaves_the_middle_of_a_lane_takes_those_behind_it_along() -> None:
    lanes = KeyLanes()
    first, second, third, fourth = (held("a", number) for number in range(4))
    lanes.admit([first, second, third, fourth])
    assert names(lanes.failed(third)) == ["a3"]
    assert lanes.admit([held("a", 3)])[1], "its predecessor is not here, so it may not come before it"
    assert lanes.done(first) is second
    assert lanes.done(second) is None
    assert names(lanes.admit([held("a", 2)])[0]) == ["a2"]


def test_a_batch_that_failed_in_its_middle_lets_nothing_of_the_key_begin() -> None:
    lanes = KeyLanes()
    group = [held("a", number) for number in range(4)]
    lanes.admit(group)
    assert names(lanes.take_along(group[0], 2, 0.0)) == ["a1", "a2"]
    assert lanes.done(group[0]) is None
    assert names(lanes.failed(group[1])) == ["a3"]
    assert lanes.failed(group[2]) == []
    assert names(lanes.admit([held("a", 1), held("a", 2)])[0]) == ["a1"]


def test_messages_without_a_key_pass() -> None:
    lanes = KeyLanes()
    group = [held(None, number) for number in range(3)]
    assert lanes.admit(group) == (group, [])
    assert lanes.done(group[0]) is None
    assert lanes.failed(group[1]) == []
    unknown: Any = held("a", 1)
    assert lanes.done(unknown) is None
    assert lanes.failed(unknown) == []


def test_what_nobody_may_begin_any_more_is_not_taken_along() -> None:
    lanes = KeyLanes()
    group = [held("a", number) for number in range(3)]
    lanes.admit(group)
    assert lanes.take_along(group[0], 5, LEASE.until) == []
