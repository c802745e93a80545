# SPDX-License-Identifier: Apache-2.0
"""Lanes: one queue over several, each answer by position, and no message lost to another lane's failure."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import queuekit as qk
from queuekit._engine.laned import LaneHandle
from queuekit._engine.laned_abilities import laned_backend
from queuekit._engine.lanes_merge import merged
from queuekit._engine.lanes_order import STARVED_AFTER, LaneOrder, lane_of, least_priority
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    Accepted,
    Action,
    Admin,
    Cancellable,
    Interruptible,
    LeaseLost,
    NotAttempted,
    OutgoingMessage,
    Peekable,
    QueueURL,
    Redrivable,
    Settled,
    Settlement,
    Unknown,
)
from queuekit.testing import VirtualClock
from queuekit.testing.faults import FaultyOpener, InjectedFault, Script, raise_before, unavailable, wrap

NAMES = ("high", "normal", "low")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def scripts() -> dict[str, Script]:
    """Faults by lane."""
    return {name: Script() for name in NAMES}


@pytest.fixture
def laned(clock: VirtualClock, scripts: dict[str, Script]) -> Any:
    opener = Opener(clock)
    lanes = [wrap(opener.open(QueueURL.parse(f"memory://q-{name}")), scripts[name]) for name in NAMES]
    return laned_backend(lanes, weights=(), clock=clock, queue="memory://q")


def _send(laned: Any, *priorities: int, **fields: Any) -> Sequence[Any]:
    batch = [OutgoingMessage(f"m{each}", b"%d" % each, priority=each, **fields) for each in priorities]
    answers: Sequence[Any] = laned.send(batch, timeout_s=30.0)
    return answers


def _take(laned: Any, most: int = 10, wait_s: float = 0.0) -> list[Any]:
    return list(laned.receive(max_messages=most, wait_s=wait_s, lease_s=60.0))


def _settle(laned: Any, action: Action, *handles: Any) -> list[Any]:
    return list(laned.settle([Settlement(each, action) for each in handles], timeout_s=30.0))


@given(lanes=st.integers(2, 10))
def test_priorities_are_spread_evenly_and_in_order(lanes: int) -> None:
    chosen = [lane_of(priority, lanes) for priority in range(10)]
    assert chosen == sorted(chosen, reverse=True)
    assert set(chosen) == set(range(lanes))
    counts = Counter(chosen).values()
    assert max(counts) - min(counts) <= 1
    assert [least_priority(lane, lanes) for lane in range(lanes)] == [chosen.index(lane) for lane in range(lanes)]


@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_weights_are_kept_to_over_any_whole_round(weights: list[int]) -> None:
    order = LaneOrder(len(weights), weights)
    firsts = Counter(order.next()[0] for _ in range(3 * sum(weights)))
    assert [firsts[lane] for lane in range(len(weights))] == [3 * weight for weight in weights]


def test_a_lane_that_is_never_reached_is_asked_first_after_a_while() -> None:
    order = LaneOrder(3, ())
    firsts = []
    for _ in range(3 * STARVED_AFTER):
        chosen = order.next()
        assert sorted(chosen) == [0, 1, 2]
        firsts.append(chosen[0])
        order.asked(chosen[:1])
    assert firsts[:STARVED_AFTER] == [0] * STARVED_AFTER
    assert set(firsts[STARVED_AFTER:]) == {0, 1, 2}


def test_a_message_comes_back_from_its_lane_as_it_was_sent(laned: Any) -> None:
    sent = range(10)
    assert all(isinstance(each, Accepted) for each in _send(laned, *sent, metadata={"type": "t"}))
    got = _take(laned)
    assert [each.priority for each in got] == [7, 8, 9, 4, 5, 6, 0, 1, 2, 3]
    assert all(each.body == b"%d" % each.priority and each.metadata == {"type": "t"} for each in got)
    assert _settle(laned, Action.ACK, *(each.handle for each in reversed(got))) == [Settled()] * 10
    assert laned.stats().leased == 0


def test_a_foreign_message_has_the_least_priority_of_its_lane(laned: Any) -> None:
    for lane, name in zip(laned.lanes, NAMES, strict=True):
        lane.send([OutgoingMessage(name, name.encode(), metadata={"priority": "junk"})], timeout_s=1.0)
    assert [(each.body, each.priority) for each in _take(laned)] == [(b"high", 7), (b"normal", 4), (b"low", 0)]


@pytest.mark.parametrize(("sent", "expected"), [("no", NotAttempted), ("maybe", Unknown)])
def test_a_lane_that_fails_answers_for_its_own_messages_only(
    laned: Any, scripts: dict[str, Script], sent: Any, expected: type
) -> None:
    scripts["normal"].on("send", raise_before(unavailable(sent=sent)))
    answers = _send(laned, 9, 5, 0, 4)
    assert [type(each) for each in answers] == [Accepted, expected, Accepted, expected]
    assert [each.body for each in _take(laned)] == [b"9", b"0"]


def test_a_batch_of_one_lane_fails_as_a_whole(laned: Any, scripts: dict[str, Script]) -> None:
    scripts["high"].on("send", raise_before(unavailable()))
    with pytest.raises(InjectedFault):
        _send(laned, 9, 8)


def test_what_a_lane_gave_is_handed_out_though_the_next_one_fails_and_the_failure_is_told(
    laned: Any, scripts: dict[str, Script]
) -> None:
    _send(laned, 9, 0)
    scripts["normal"].on("receive", raise_before(unavailable()))
    assert [each.body for each in _take(laned)] == [b"9"]
    with pytest.raises(InjectedFault):
        _take(laned)
    assert [each.body for each in _take(laned)] == [b"0"]


@pytest.mark.parametrize("handle", ["", None, 7, LaneHandle(9, 1), LaneHandle(-1, 1), LaneHandle(0, "no"), (0, 1)])
def test_a_handle_that_no_lane_made_is_lost_and_harms_no_other(laned: Any, handle: Any) -> None:
    _send(laned, 9)
    (got,) = _take(laned)
    assert _settle(laned, Action.ACK, handle, got.handle) == [LeaseLost(), Settled()]


def test_the_last_lane_is_waited_at_and_an_interrupt_ends_the_wait(laned: Any, clock: VirtualClock) -> None:
    ended: list[list[Any]] = []
    waiting = threading.Thread(target=lambda: ended.append(_take(laned, wait_s=100.0)), daemon=True)
    waiting.start()
    clock.wait_for_waiters(1)
    laned.interrupt()
    waiting.join(10.0)
    assert ended == [[]]


def test_dead_letters_stand_beside_their_lane_and_are_redriven_from_it(laned: Any, clock: VirtualClock) -> None:
    opener = Opener(clock)
    backend: Any = opener.open(QueueURL.parse("memory://q?lanes=high,normal,low"))
    _send(backend, 8, 5)
    for got in _take(backend):
        letter = OutgoingMessage(got.message_id, got.body, metadata={"dead-reason": "x"}, priority=got.priority)
        assert backend.settle([Settlement(got.handle, Action.DEAD, dead=letter)], timeout_s=1.0) == [Settled()]
    dead: Any = opener.open(QueueURL.parse("memory://q.dead?lanes=high,normal,low"))
    letters = dead.peek(limit=10)
    assert [(each.body, each.priority) for each in letters] == [(b"8", 8), (b"5", 5)]
    assert dead.peek(limit=1, after=letters[0].cursor)[0].body == b"5"
    back = [OutgoingMessage(each.message_id, each.body, priority=0) for each in letters]
    answers = dead.redrive([*back, OutgoingMessage("gone", b"")], timeout_s=9.0)
    assert answers == [Settled(), Settled(), LeaseLost()]
    assert {each.body for each in _take(backend)} == {b"8", b"5"}


def test_counting_looking_emptying_and_cancelling_reach_every_lane(laned: Any) -> None:
    assert all(isinstance(laned, each) for each in (Admin, Peekable, Redrivable, Cancellable, Interruptible))
    laned.create()
    assert laned.exists()
    _send(laned, 9, 5, 0)
    assert (laned.stats().ready, laned.stats().dead) == (3, 0)
    assert [each.body for each in laned.peek(limit=2)] == [b"9", b"5"]
    assert laned.cancel("m5")
    assert not laned.cancel("m5")
    assert laned.purge() == 2
    laned.delete()
    assert not laned.exists()
    assert laned.recreated() == 0
    _take(laned)
    assert laned.recreated() == 3


def test_what_is_kept_though_done_is_seen_lane_by_lane(clock: VirtualClock) -> None:
    opener = Opener(clock)
    lanes = [opener.open(QueueURL.parse(f"memory://q-{name}?keep_done=1h")) for name in NAMES]
    laned: Any = laned_backend(lanes, weights=(), clock=clock, queue="memory://q")
    _send(laned, 0, 9)
    done = laned.receive(max_messages=1, wait_s=0.0, lease_s=30.0)
    laned.settle([Settlement(each.handle, Action.ACK) for each in done], timeout_s=5.0)
    assert [each.body for each in laned.peek(limit=10, done=True)] == [b"9"]
    assert [each.body for each in laned.peek(limit=10)] == [b"0"]


def test_lanes_claim_only_what_all_of_them_can(clock: VirtualClock) -> None:
    class Plain:
        def __init__(self, inner: Any) -> None:
            for name in ("probe", "size", "send", "receive", "settle", "classify", "close", "capabilities"):
                setattr(self, name, getattr(inner, name))

    opener = Opener(clock)
    one, two = (opener.open(QueueURL.parse(f"memory://q-{name}")) for name in NAMES[:2])
    poor: Any = laned_backend([one, Plain(two)], weights=(), clock=clock, queue="")  # type: ignore[list-item]
    assert not any(isinstance(poor, each) for each in (Admin, Peekable, Redrivable, Cancellable, Interruptible))


def test_capabilities_are_the_least_of_the_lanes_and_promise_no_order(laned: Any) -> None:
    can = laned.lanes[0].capabilities
    worse = replace(can, max_receive=3, min_lease_s=5.0, attempts="none", purge=False, release_counts=True,
                    max_lease_total_s=9.0, native_max_attempts=4, assumed=frozenset({"depth"}))  # fmt: skip
    both = merged([can, worse])
    assert (both.priority_levels, both.ordering, both.delay_with_ordering) == (2, "none", False)
    assert (both.max_receive, both.min_lease_s, both.attempts, both.purge) == (3, 5.0, "none", False)
    assert (both.release_counts, both.max_lease_total_s, both.native_max_attempts) == (True, 9.0, 4)
    assert both.assumed == {"depth"}
    assert laned.probe() == laned.capabilities


def test_queues_that_keep_everything_in_order_take_no_lanes(clock: VirtualClock) -> None:
    opener = FaultyOpener(Opener(clock), ordering_key_required=True)
    lanes = [opener.open(QueueURL.parse(f"memory://q-{name}")) for name in NAMES]
    with pytest.raises(qk.UnsupportedError, match="lanes="):
        laned_backend(lanes, weights=(), clock=clock, queue="memory://q")


def test_every_lane_is_closed_though_one_fails_to(clock: VirtualClock, laned: Any) -> None:
    closed: list[int] = []

    def failing(index: int) -> Callable[[], None]:
        def close() -> None:
            closed.append(index)
            if index == 1:
                raise OSError

        return close

    for index, lane in enumerate(laned.lanes):
        lane.close = failing(index)
    with pytest.raises(OSError):  # noqa: PT011  it is raised right above
        laned.close()
    assert sorted(closed) == [0, 1, 2]
