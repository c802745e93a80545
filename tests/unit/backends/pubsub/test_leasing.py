# SPDX-License-Identifier: Apache-2.0
"""When the leases of a pull end, and how often the service is asked to change them."""

from collections.abc import Sequence

import pytest
from google.api_core.exceptions import InvalidArgument, PermissionDenied, ServiceUnavailable
from google.rpc.error_details_pb2 import ErrorInfo

from queuekit.backends.pubsub._leasing import Leases
from queuekit.testing import VirtualClock


class Subscription:
    """One whose deadline can be changed, as it answers."""

    def __init__(self, deadline_s: int) -> None:
        self.clock = VirtualClock()
        self.deadline_s, self.looked, self.changes = deadline_s, 0, list[tuple[Sequence[str], int]]()
        self.fails: Exception | None = None
        self.hides: Exception | None = None
        self.leases = Leases(self.clock, change=self._change, deadline=self._look)

    def _change(self, ack_ids: Sequence[str], seconds: int) -> None:
        self.changes.append((ack_ids, seconds))
        if self.fails is not None:
            raise self.fails

    def _look(self) -> int:
        self.looked += 1
        if self.hides is not None:
            raise self.hides
        return self.deadline_s

    def pull(self, *, took_s: float, lease_s: int = 60) -> float:
        """For how long from now the leases of a pull last that took so long."""
        begun_at = self.clock.monotonic()
        self.clock.advance(took_s)
        return self.leases.make(["a"], lease_s, begun_at).until - self.clock.monotonic()


def test_where_the_deadline_is_the_lease_only_the_first_pull_changes_it() -> None:
    subscription = Subscription(60)
    assert subscription.pull(took_s=1) == 60
    assert [subscription.pull(took_s=1) for _ in range(20)] == [59] * 20
    assert (len(subscription.changes), subscription.looked) == (1, 1)


@pytest.mark.parametrize(("deadline_s", "lease_s"), [(10, 10), (60, 60), (10, 60), (600, 60)])
def test_a_lease_that_was_waited_for_is_not_over_when_it_arrives(deadline_s: int, lease_s: int) -> None:
    # A message that comes at the end of a long pull: counted from when that began, its lease would be over.
    subscription = Subscription(deadline_s)
    subscription.leases.learn(deadline_s)
    assert subscription.pull(took_s=58, lease_s=lease_s) == lease_s
    assert subscription.changes == [(["a"], lease_s)]


def test_a_deadline_that_somebody_changes_is_noticed() -> None:
    subscription = Subscription(60)
    subscription.pull(took_s=0)
    subscription.deadline_s = 10
    assert [subscription.pull(took_s=5) for _ in range(13)][-1] == 60
    assert subscription.looked == 2
    before = len(subscription.changes)
    assert [subscription.pull(took_s=1) for _ in range(3)] == [60] * 3
    assert len(subscription.changes) == before + 3


def test_an_idle_queue_is_not_asked_for_its_deadline() -> None:
    subscription = Subscription(60)
    assert [subscription.pull(took_s=20) for _ in range(5)] == [60] * 5
    assert (len(subscription.changes), subscription.looked) == (5, 0)


def test_a_subscription_that_may_not_be_looked_at_is_not_asked_with_every_pull() -> None:
    subscription = Subscription(60)
    subscription.hides = PermissionDenied("no")  # type: ignore[no-untyped-call]  # Google's classes have no types
    assert [subscription.pull(took_s=1) for _ in range(100)] == [60] * 100
    assert (len(subscription.changes), subscription.looked) == (100, 1)


@pytest.mark.parametrize(("known_s", "left_s"), [(0, 8), (30, 28), (600, 58)])
def test_where_the_service_changes_nothing_the_subscriptions_own_deadline_counts(known_s: int, left_s: int) -> None:
    subscription = Subscription(known_s)
    if known_s:
        subscription.leases.learn(known_s)
    subscription.fails = ServiceUnavailable("down")  # type: ignore[no-untyped-call]
    assert subscription.pull(took_s=2) == left_s


def test_leases_that_the_service_names_end_sooner_than_the_others() -> None:
    subscription = Subscription(60)
    told = {"gone": "PERMANENT_FAILURE_INVALID_ACK_ID", "busy": "TRANSIENT_FAILURE_X"}
    subscription.fails = InvalidArgument("some", details=[ErrorInfo(metadata=told)])  # type: ignore[no-untyped-call]
    now = subscription.clock.monotonic()
    leased = subscription.leases.make(["fine", "gone", "busy"], 60, now)
    assert leased.until == now + 60
    assert leased.sooner == {"gone": now, "busy": now + 10}
