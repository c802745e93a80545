# SPDX-License-Identifier: Apache-2.0
"""Settlements that wait for their time: in order, bounded, and given up with the lease."""

from collections.abc import Callable

from queuekit._engine.held import Held, State
from queuekit._engine.leases import LeaseKeeper
from queuekit._engine.parking import Parked, Parking
from queuekit.testing import VirtualClock

MakeHeld = Callable[..., Held]


def _parked(held: Held) -> Parked:
    held.state = State.PARKED
    return Parked(held, None, short=True)


def test_the_first_that_is_due_comes_first(make_held: MakeHeld) -> None:
    parking = Parking(most=10, most_bytes=1000)
    late, soon = make_held(), make_held()
    assert parking.due_at() is None
    parking.add(_parked(late), 20.0)
    parking.add(_parked(soon), 10.0)
    assert parking.due_at() == 10.0
    assert parking.take(9.9) == []
    assert [each.held for each in parking.take(10.0)] == [soon]
    assert [each.held for each in parking.empty()] == [late]
    assert parking.due_at() is None


def test_what_was_lost_meanwhile_is_left_out(make_held: MakeHeld) -> None:
    parking = Parking(most=10, most_bytes=1000)
    lost, other = make_held(), make_held()
    for held in (lost, other):
        parking.add(_parked(held), 10.0)
        held.state = State.DONE
    assert parking.take(10.0) == []
    parking.add(Parked(lost, None, short=True), 10.0)
    assert parking.empty() == []


def test_it_is_bounded_by_count_and_by_bytes(make_held: MakeHeld) -> None:
    parking = Parking(most=2, most_bytes=100)
    parking.add(_parked(make_held(body=b"x" * 60)), 1.0)
    assert not parking.has_room(make_held(body=b"x" * 50))
    parking.add(_parked(make_held(body=b"x" * 40)), 1.0)
    assert not parking.has_room(make_held())


def test_a_lease_is_kept_while_its_delivery_is_parked_and_for_as_long_as_may_be(make_held: MakeHeld) -> None:
    keeper = LeaseKeeper(lease_s=60.0, max_total_s=600.0, keep=True, random=VirtualClock().random)
    held = make_held(until=60.0)
    assert keeper.holdable_s(held, 100.0) == 600.0 - 100.0 - 60.0
    assert keeper.holdable_s(held, 590.0) == 0.0
    held.state = State.PARKED
    keeper.track([held], [held.lease._replace(renew_at=30.0)])
    held.lease = held.lease._replace(renew_at=30.0)
    assert keeper.beat(30.0, lambda _: 0.0).extend == [held]
    unkept = LeaseKeeper(lease_s=60.0, max_total_s=600.0, keep=False, random=VirtualClock().random)
    assert unkept.holdable_s(held, 0.0) == 0.0
