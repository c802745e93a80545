# SPDX-License-Identifier: Apache-2.0
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.flow import Flow


def _flow(**options: Any) -> Flow:
    return Flow(**{"batch": 10, "prefetch": 10, "max_in_flight": 20, "max_bytes": 1000} | options)


STEPS = st.lists(
    st.tuples(st.sampled_from(["poll", "take", "settle", "pass", "tighten", "relax"]), st.integers(0, 300)),
    max_size=100,
)


@given(
    steps=STEPS,
    demand=st.integers(0, 5),
    prefetch=st.integers(0, 30),
    batch=st.integers(1, 30),
    most=st.integers(1, 30),
    by_pace=st.booleans(),
)
def test_never_more_in_flight_than_allowed(  # noqa: C901 - one branch per kind of step
    steps: list[tuple[str, int]], demand: int, prefetch: int, batch: int, most: int, by_pace: bool
) -> None:
    flow = _flow(prefetch=prefetch, batch=batch, max_in_flight=most, by_pace=by_pace)
    now = 0.0
    waiting: list[int] = []
    running: list[int] = []
    for kind, number in steps:
        now += number / 100
        if kind == "poll":
            want = flow.want(demand=demand, waiting=len(waiting))
            assert 0 <= want <= min(batch, most - flow.count)
            if want:
                flow.polled(now)
            for size in [number] * want:
                if flow.admits(size):
                    flow.add((size,))
                    waiting.append(size)
        elif kind == "take" and waiting:
            running.append(waiting.pop(0))
            flow.taken += 1
        elif kind == "settle" and running:
            flow.remove(1, running.pop())
        elif kind == "tighten":
            flow.tighten(now)
        elif kind == "relax":
            flow.relax(now, 5.0)
        assert flow.count == len(waiting) + len(running) <= most
        assert flow.bytes == sum(waiting) + sum(running)
        assert flow.bytes <= 1000 or flow.count == 1
    flow.remove(flow.count, flow.bytes)
    assert flow.want(demand=1, waiting=0) >= 1


def test_what_nobody_takes_is_not_asked_for_again() -> None:
    flow = _flow()
    assert flow.want(demand=0, waiting=0) == 0
    assert flow.want(demand=1, waiting=0) > 0
    flow.polled(0.0)
    assert flow.want(demand=0, waiting=0) == 0


def test_a_full_flow_stalls_and_goes_on() -> None:
    flow = _flow(max_in_flight=2)
    flow.add((1, 1))
    assert flow.want(demand=5, waiting=0) == 0
    flow.remove(1, 1)
    assert flow.want(demand=5, waiting=0) == 1


def test_full_by_bytes_stalls_and_goes_on() -> None:
    flow = _flow(max_bytes=100)
    flow.add((60, 60))
    assert flow.want(demand=5, waiting=0) == 0
    flow.remove(1, 60)
    assert flow.want(demand=5, waiting=0) == 1


def test_one_delivery_is_always_allowed_whatever_its_size() -> None:
    flow = _flow(max_bytes=100)
    assert flow.admits(5000)
    flow.add((5000,))
    assert flow.want(demand=5, waiting=0) == 0


def test_a_delivery_that_did_not_fit_is_not_fetched_and_released_again_and_again() -> None:
    flow = _flow(max_bytes=100)
    flow.add((60,))
    polls = 0
    while flow.want(demand=1, waiting=0):
        polls += 1
        assert polls < 10
        flow.polled(0.0)
        assert not flow.admits(50)  # released at once
        flow.add((50,))
        flow.remove(1, 50)
    flow.remove(1, 60)
    assert flow.want(demand=1, waiting=0)


def test_tightening_halves_what_is_fetched_ahead_until_it_relaxes() -> None:
    flow = _flow(prefetch=8)
    asked = [flow.want(demand=1, waiting=0)]
    for now in range(4):
        flow.tighten(float(now))
        asked.append(flow.want(demand=1, waiting=0))
    assert asked == [9, 5, 3, 2, 1]
    flow.relax(12.9, 10.0)
    assert flow.want(demand=1, waiting=0) == 1
    flow.relax(13.0, 10.0)
    assert flow.want(demand=1, waiting=0) == 9


def test_without_a_number_of_its_own_the_pace_decides_what_is_fetched_ahead() -> None:
    flow = _flow(prefetch=100, batch=100, max_in_flight=1000, by_pace=True)
    assert flow.want(demand=1, waiting=0) == 1
    now = 0.0
    for _ in range(10):
        flow.polled(now)
        flow.taken += 100
        now += 1.0
    fast = flow.want(demand=1, waiting=0)
    assert fast > 10
    for _ in range(20):
        flow.polled(now)
        flow.taken += 1
        now += 10.0
    assert flow.want(demand=1, waiting=0) == 1


def test_polls_at_once_ask_for_no_more_than_may_be_in_flight() -> None:
    for count, size in ((25, 1 << 20), (1000, 25)):
        flow = _flow(batch=10, prefetch=0, max_in_flight=count, max_bytes=size)
        asked: list[int] = []
        while (want := flow.want(demand=1000, waiting=0, coming=sum(asked))) and len(asked) < 9:
            asked.append(want)
        assert asked == [10, 10], "for the last five alone a call is not worth it"


def test_polls_that_begin_together_tell_nothing_about_the_pace() -> None:
    flow = _flow(prefetch=100, batch=100, max_in_flight=1000, by_pace=True)
    for now in range(20):
        flow.polled(float(now))
        flow.taken += 100
    flow.polled(20.0)
    alone = flow.want(demand=1, waiting=0)
    assert alone > 10
    for _ in range(5):
        flow.polled(20.0, coming=100)
    assert flow.want(demand=1, waiting=0) == alone
