# SPDX-License-Identifier: Apache-2.0
"""Leases: none ends needlessly, none is extended that should not be."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.held import Held, State
from queuekit._engine.leases import Beat, LeaseKeeper

MakeHeld = Callable[..., Held]


class Service:
    """Grants leases to a keeper, on a clock of its own, and plays the control thread."""

    def __init__(self, make_held: MakeHeld, *, lease_s: float = 60.0, seed: int = 0, **options: Any) -> None:
        options = {"max_total_s": 43_200.0, "keep": True} | options
        self.keeper = LeaseKeeper(lease_s=lease_s, random=Random(seed), **options)
        self.lease_s, self.now = lease_s, 1000.0
        self.make_held = make_held
        self.granted_s = lease_s
        self.fails = 0
        self.starts_in_s: Callable[[Held], float] = lambda _: 0.0
        self.extended: list[tuple[float, Held]] = []
        self.lost: list[Held] = []
        self.released: list[Held] = []
        self.at_limit: list[Held] = []

    def arrive(self, state: State = State.RUNNING, *, lease_s: float | None = None) -> Held:
        until = self.now + (self.granted_s if lease_s is None else lease_s)
        held = self.make_held(until=until, received_at=self.now)
        held.state = state
        held.lease = self.keeper.first_lease(until, self.now, self.now)
        self.keeper.track([held], [held.lease])
        return held

    def settle(self, *group: Held) -> None:
        for held in group:
            held.state = State.DONE
        self.keeper.forget(group)

    def run_until(self, end: float) -> None:
        beats = 0
        while (at := self.keeper.next_at()) is not None and at <= end:
            self.now = max(self.now, at)
            self._carry_out(self.keeper.beat(self.now, self.starts_in_s))
            beats += 1
            assert beats < 5000, "the keeper beats again and again"
        self.now = max(self.now, end)

    def _carry_out(self, beat: Beat) -> None:
        for held in beat.lost:
            self.lost.append(held)
            self.settle(held)
        for held in beat.release:
            self.released.append(held)
            self.settle(held)
        self.at_limit += beat.at_limit
        for held in beat.extend:
            assert held.state <= State.RUNNING
            assert self.now < held.lease.until
            if self.fails:
                self.fails -= 1
                self.keeper.failed([held], self.now)
            else:
                self.extended.append((self.now, held))
                self.keeper.extended(held, self.now + self.granted_s, self.now)


@given(
    jobs=st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 500)), min_size=1, max_size=10),
    fails=st.integers(0, 3),
    lease_s=st.floats(5, 100),
    seed=st.integers(0, 100),
)
def test_no_running_delivery_is_lost_while_the_service_answers(
    make_held: MakeHeld, jobs: list[tuple[float, float]], fails: int, lease_s: float, seed: int
) -> None:
    service = Service(make_held, lease_s=lease_s, seed=seed)
    service.fails = fails
    events = sorted((at, number, kind) for number, (begin, took) in enumerate(jobs)
                    for at, kind in ((begin, "begin"), (begin + took, "end")))  # fmt: skip
    running: dict[int, Held] = {}
    ended: dict[int, float] = {}
    for at, number, kind in events:
        service.run_until(1000.0 + at)
        if kind == "begin":
            running[number] = service.arrive()
        else:
            ended[id(running[number])] = service.now
            service.settle(running[number])
    service.run_until(1000.0 + 10_000)
    assert not service.lost
    assert service.keeper.next_at() is None
    for at, held in service.extended:
        assert at <= ended[id(held)]


def test_a_short_job_is_never_extended(make_held: MakeHeld) -> None:
    service = Service(make_held)
    held = service.arrive()
    service.run_until(1020.0)
    service.settle(held)
    service.run_until(5000.0)
    assert not service.extended


def test_extensions_are_not_made_much_more_often_than_they_must(make_held: MakeHeld) -> None:
    service = Service(make_held)
    for _ in range(10):
        service.arrive()
    service.run_until(1000.0 + 600)
    assert len(service.extended) <= 10 * 600 / (0.4 * 60) + 10


def test_failing_extensions_are_tried_often_and_the_end_is_told(make_held: MakeHeld) -> None:
    service = Service(make_held)
    held = service.arrive()
    service.fails = 10_000
    service.run_until(1059.9)
    assert not service.lost
    assert 10_000 - service.fails >= 4
    service.run_until(1060.0)
    assert service.lost == [held]
    assert service.keeper.next_at() is None


def test_a_lease_shorter_than_asked_for_is_extended_at_once(make_held: MakeHeld) -> None:
    service = Service(make_held)
    service.arrive(lease_s=10.0)
    service.run_until(1000.0)
    assert len(service.extended) == 1


def test_a_service_that_caps_leases_is_asked_in_time(make_held: MakeHeld) -> None:
    service = Service(make_held, lease_s=60.0)
    service.granted_s = 10.0
    service.arrive()
    service.run_until(1500.0)
    assert not service.lost
    assert len(service.extended) < 500 / 10 * 3


@given(by_s=st.floats(1, 3600))
def test_a_longer_lease_that_the_handler_asked_for_is_not_cut_short(make_held: MakeHeld, by_s: float) -> None:
    service = Service(make_held)
    held = service.arrive()
    service.run_until(1010.0)
    asked = service.now + by_s
    service.keeper.extended(held, asked, service.now)
    service.run_until(1010.0 + by_s / 2)
    assert held.lease.until >= asked
    before = held.lease.until
    for step in range(1, 200):
        service.run_until(1010.0 + by_s / 2 + step * by_s / 100)
        assert held.lease.until >= before
        before = held.lease.until
    assert not service.lost


def test_an_abandoned_delivery_runs_out_and_is_not_extended(make_held: MakeHeld) -> None:
    service = Service(make_held)
    held, other = service.arrive(), service.arrive()
    service.run_until(1040.0)
    extended = len(service.extended)
    service.keeper.abandon(held)
    service.run_until(held.lease.until - 0.001)
    assert not service.lost
    service.run_until(held.lease.until + 1)
    assert service.lost == [held]
    assert all(each is other for _, each in service.extended[extended:])


def test_an_answer_that_comes_after_the_abandoning_does_not_revive_it(make_held: MakeHeld) -> None:
    service = Service(make_held)
    held = service.arrive()
    service.keeper.abandon(held)
    service.keeper.extended(held, service.now + 60, service.now)
    service.run_until(service.now + 1000)
    assert service.lost == [held]
    assert not service.extended


def test_nothing_is_kept_beyond_its_total(make_held: MakeHeld) -> None:
    service = Service(make_held, max_total_s=300.0)
    held = service.arrive()
    service.run_until(3000.0)
    assert service.lost == [held]
    assert service.at_limit == [held]
    assert max(at for at, _ in service.extended) + 60.0 <= 1300.0
    assert held.lease.until <= 1300.0


def test_leases_are_only_watched_where_they_are_not_to_be_kept(make_held: MakeHeld) -> None:
    service = Service(make_held, keep=False)
    held = service.arrive()
    service.run_until(1059.9)
    assert not service.lost
    service.run_until(1060.0)
    assert service.lost == [held]
    assert not service.extended


def test_waiting_deliveries_are_given_back_when_nobody_will_take_them(make_held: MakeHeld) -> None:
    service = Service(make_held)
    soon, late, running = service.arrive(State.WAITING), service.arrive(State.WAITING), service.arrive()
    service.starts_in_s = lambda held: 100.0 if held is soon else math.inf
    service.run_until(1050.0)
    assert service.released == [late]
    assert {id(held) for _, held in service.extended} == {id(soon), id(running)}


def test_what_is_recorded_is_neither_extended_nor_lost(make_held: MakeHeld) -> None:
    service = Service(make_held)
    held = service.arrive()
    held.state = State.RECORDED
    service.run_until(5000.0)
    assert not service.extended
    assert not service.lost
    assert service.keeper.next_at() is None


def test_a_clock_that_jumped_past_the_end_finds_it_lost(make_held: MakeHeld) -> None:
    service = Service(make_held)
    held = service.arrive()
    service.now += 180.0
    service.run_until(service.now)
    assert service.lost == [held]
    assert not service.extended
