# SPDX-License-Identifier: Apache-2.0
"""How many polls run at once, and how often an idle queue is asked."""

import heapq
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.flow import Flow
from queuekit._engine.growth import Growth

BATCH, WAIT_S, ANSWER_S = 10, 20.0, 0.015


@given(
    polls=st.lists(st.tuples(st.integers(1, BATCH), st.integers(0, BATCH)), max_size=60),
    most=st.integers(1, 6),
)
def test_it_grows_by_one_after_a_full_poll_alone(polls: Sequence[tuple[int, int]], most: int) -> None:
    growth = Growth(batch=BATCH, most=most)
    for asked, brought in polls:
        before, came = growth.allowed, min(asked, brought)
        growth.ended(asked=asked, came=came)
        assert 1 <= growth.allowed <= most
        assert growth.allowed <= before + 1
        assert growth.allowed <= before or came == BATCH
        assert growth.allowed < before or came == asked or before == 1
        assert growth.allowed == 1 or came


class Service:
    """A queue whose polls take their time on a clock of its own, and who polls it as `Poller` does.

    What was asked for is answered at once where there is something, else when something comes or the wait is over.
    Takers take all that came, ``slots`` at a time, each for ``work_s``.
    """

    def __init__(self, *, most: int, slots: int, work_s: float, arrivals: Sequence[tuple[float, int]]) -> None:
        self.growth = Growth(batch=BATCH, most=most)
        self.flow = Flow(batch=BATCH, prefetch=BATCH, max_in_flight=200, max_bytes=1 << 30, by_pace=True)
        self.slots, self.work_s = slots, work_s
        self.now, self.stored, self.waiting, self.running = 0.0, 0, 0, 0
        self.sent = sum(count for _, count in arrivals)
        self.done = 0
        self.polls: dict[int, int] = {}
        self.open: dict[int, int] = {}  # those that wait at the service
        self.begun: list[tuple[int, int]] = []
        self.ended: list[tuple[float, int]] = []
        self._events: list[tuple[float, int, str, int]] = []
        self._number = 0
        for when, count in arrivals:
            self._at(when, "arrive", count)

    def run(self, until: float) -> None:
        self._poll()
        while self._events and self._events[0][0] <= until:
            self.now, _, kind, number = heapq.heappop(self._events)
            getattr(self, f"_{kind}")(number)
            self._take()
            self._poll()
        self.now = until

    def _at(self, when: float, kind: str, number: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, kind, number))

    def _arrive(self, count: int) -> None:
        self.stored += count
        self._serve()

    def _serve(self) -> None:
        for number in list(self.open):
            if self.stored:
                came = min(self.stored, self.open.pop(number))
                self.stored -= came
                self._at(self.now + ANSWER_S, "bring", number << 8 | came)

    def _expire(self, number: int) -> None:
        if self.open.pop(number, None) is not None:
            self._at(self.now, "bring", number << 8)

    def _bring(self, what: int) -> None:
        number, came = what >> 8, what & 0xFF
        asked = self.polls.pop(number)
        self.ended.append((self.now, came))
        self.growth.ended(asked=asked, came=came)
        self.flow.add((1,) * came)
        self.waiting += came

    def _finish(self, _: int) -> None:
        self.running -= 1
        self.done += 1
        self.flow.remove(1, 1)

    def _take(self) -> None:
        while self.waiting and self.running < self.slots:
            self.waiting -= 1
            self.running += 1
            self.flow.taken += 1
            self._at(self.now + self.work_s, "finish", 0)

    def _poll(self) -> None:
        while len(self.polls) < self.growth.allowed and (want := self._want()):
            self.flow.polled(self.now, coming=sum(self.polls.values()))
            assert want == BATCH or not self.polls, "beside another poll only for as many as one can bring"
            self._number += 1
            self.polls[self._number] = self.open[self._number] = want
            self.begun.append((len(self.ended), len(self.polls)))
            self._at(self.now + WAIT_S, "expire", self._number)
            self._serve()

    def _want(self) -> int:
        demand = self.slots - self.running
        return self.flow.want(demand=demand, waiting=self.waiting, coming=sum(self.polls.values()))


ARRIVALS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 300)), max_size=12)


@given(
    arrivals=ARRIVALS,
    most=st.integers(1, 5),
    slots=st.integers(1, 60),
    work_s=st.sampled_from([0.0001, 0.01, 0.1]),
)
def test_all_is_handled_and_each_poll_beside_the_first_was_paid_for_by_a_full_one(
    arrivals: list[tuple[float, int]], most: int, slots: int, work_s: float
) -> None:
    service = Service(most=most, slots=slots, work_s=work_s, arrivals=arrivals)
    service.run(until=500.0)
    assert service.done == service.sent
    assert max(beside for _, beside in service.begun) <= most
    for ended, beside in service.begun:
        if beside > 1:
            assert BATCH in [came for _, came in service.ended[:ended]]
            assert service.ended[ended - 1][1], "nothing was there a moment ago"


@given(arrivals=ARRIVALS, most=st.integers(1, 5))
def test_an_idle_queue_is_asked_once_in_each_wait(arrivals: list[tuple[float, int]], most: int) -> None:
    service = Service(most=most, slots=20, work_s=0.001, arrivals=arrivals)
    service.run(until=200.0)
    before = len(service.begun)
    service.run(until=200.0 + 50 * WAIT_S)
    assert len(service.begun) - before == 50
    assert all(beside == 1 for _, beside in service.begun[before:])


@pytest.mark.parametrize(("most", "at_least"), [(1, 1.0), (2, 1.9), (4, 3.6)])
def test_a_long_queue_is_drained_as_many_times_as_fast(most: int, at_least: float) -> None:
    def takes_s(polls: int) -> float:
        service = Service(most=polls, slots=100, work_s=0.001, arrivals=[(0.0, 10_000)])
        service.run(until=100.0)
        assert service.done == 10_000
        full = [when for when, came in service.ended if came]
        assert len(full) == 1000, "each poll was full"
        return max(full)

    assert takes_s(1) / takes_s(most) >= at_least


def test_arrivals_one_by_one_never_make_a_second_poll() -> None:
    chance = random.Random(5)
    arrivals = [(chance.uniform(0, 100), 1) for _ in range(300)]
    service = Service(most=4, slots=50, work_s=0.01, arrivals=arrivals)
    service.run(until=200.0)
    assert service.done == 300
    assert all(beside == 1 for _, beside in service.begun)
