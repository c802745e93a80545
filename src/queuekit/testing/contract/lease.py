# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""LEA: leases, redelivery, and holders whose lease has gone to another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from queuekit._portable.consumer import Consumer
from queuekit._portable.delivery import Delivery
from queuekit._values.errors import AlreadySettledError, LeaseLostError, UnsupportedError, UsageError
from queuekit.backend import Action, IncomingMessage, LeaseLost, Settled, Settlement, SettleOutcome, Unsupported
from queuekit.testing.contract.faces import Face, extended
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import FaultyOpener

HOLDER_LEASES = 2
"""The lease of the second holder, in leases of the first."""


class Lease(Group):
    """A delivery is ours alone while its lease lasts, and only then."""

    def test_LEA_01_lease_hides_message(self, harness: Harness) -> None:
        """While it is leased nobody else receives it."""
        queue = Queue(harness)
        queue.put(b"x")
        queue.take()
        queue.expect_nothing("it is leased")
        queue.again().expect_nothing("it is leased to another")

    @requires("lease")
    def test_LEA_02_lease_expiry_redelivers(self, harness: Harness) -> None:
        """Unsettled, it returns when the lease ends, with the attempt counted, also to a consumer that waits."""
        queue = Queue(harness)
        queue.put(b"x")
        (first,) = queue.take(lease_s=harness.min_lease_s)
        harness.pass_time(harness.min_lease_s)
        (second,) = queue.again().take()
        assert second.message_id == first.message_id
        if queue.capabilities.attempts == "exact":
            assert second.attempt == 2
        waiting = Queue(harness)
        waiting.put(b"y")
        waiting.take(lease_s=harness.min_lease_s)
        waiting.expect_waiting_receive_after(harness.min_lease_s)

    @requires("lease")
    def test_LEA_03_not_redelivered_before_expiry(self, harness: Harness) -> None:
        """It is not delivered again before nine tenths of the lease have passed."""
        queue = Queue(harness)
        queue.put(b"x")
        queue.take(lease_s=harness.min_lease_s)
        harness.pass_time(0.9 * harness.min_lease_s - (0 if harness.virtual else 0.2))
        queue.expect_nothing("nine tenths of the lease have passed")

    @requires("extend")
    def test_LEA_04_extend_keeps_hidden(self, harness: Harness) -> None:
        """Extended before its end, the lease hides it past the original time."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take(lease_s=harness.min_lease_s)
        harness.pass_time(0.5 * harness.min_lease_s)
        assert isinstance(queue.extend(got, 2 * harness.min_lease_s), Settled)
        harness.pass_time(harness.min_lease_s)
        queue.expect_nothing("the lease was extended")
        assert isinstance(queue.ack(got)[0], Settled)

    @requires("extend")
    def test_LEA_05_extend_is_absolute_from_now(self, harness: Harness) -> None:
        """EXTEND counts from now, is not added to what is left, and reports the lease that it gave."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take(lease_s=2 * harness.min_lease_s)
        now = harness.clock.monotonic()
        outcome = queue.extend(got, harness.min_lease_s)
        assert isinstance(outcome, Settled)
        assert outcome.lease_until is not None, "EXTEND must report lease_until"
        assert outcome.lease_until <= now + harness.min_lease_s + harness.tolerance_s
        left = outcome.lease_until - harness.clock.monotonic()
        assert left > 0, "the reported lease has ended already"
        harness.pass_time(0.8 * left)
        queue.expect_nothing("the lease still runs")
        harness.pass_time(0.2 * left)
        (again,) = queue.take()
        assert again.message_id == got.message_id

    @requires("absolute_extend")
    def test_LEA_06_extend_shorter_is_allowed(self, harness: Harness) -> None:
        """EXTEND to less than what is left makes the lease shorter."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take(lease_s=10 * harness.min_lease_s)
        assert isinstance(queue.extend(got, harness.min_lease_s), Settled)
        harness.pass_time(harness.min_lease_s)
        (again,) = queue.take()
        assert again.message_id == got.message_id

    def test_LEA_07_extend_above_limit_refused(self, harness: Harness, face: Face) -> None:
        """Asking for more than the longest lease is the caller's error, before any call."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        queue.put(b"x")
        delivery = face.next(face.consumer(queue, opener=opener))
        with pytest.raises((UsageError, UnsupportedError)):
            face.extend(delivery, by_s=queue.capabilities.max_lease_s + 1)
        with pytest.raises((UsageError, UnsupportedError)):
            face.extend(delivery, by_s=-1.0)
        assert opener.script.calls("settle") == []

    @requires("extend", "lease")
    def test_LEA_08_extend_total_cap_reported(self, harness: Harness, face: Face) -> None:
        """At the most that a delivery may be kept in all, keeping stops, is counted, and the holder is told."""
        queue, opener, lease = Queue(harness), FaultyOpener(harness.opener), harness.min_lease_s
        queue.put(b"x")
        consumer = face.consumer(
            queue,
            opener=opener,
            lease=timedelta(seconds=lease),
            max_lease=timedelta(seconds=2.5 * lease),
        )
        delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
        for kept in (1, 2):
            harness.pass_time(0.6 * lease)
            harness.until_kept(partial(extended, opener, kept))
        assert not delivery.lease_lost
        harness.until(lambda: delivery.lease_lost, within_s=4 * lease, what="the holder is told")
        assert consumer.counts()["lease.at_limit"] == 1
        assert consumer.counts()["lease.lost"] == 1
        queue.take(within_s=lease + harness.tolerance_s)
        with pytest.raises(LeaseLostError):
            face.extend(delivery, by_s=lease)

    def test_LEA_09_stale_ack_after_redelivery(self, harness: Harness) -> None:
        """An old holder's ACK cannot remove what another holds: LeaseLost under strict fencing."""
        queue, stale, holder = _superseded(harness)
        outcome = queue.ack(stale)[0]
        if _fenced(queue, outcome):
            harness.pass_time(HOLDER_LEASES * harness.min_lease_s)
            (again,) = queue.take()
            assert again.message_id == holder.message_id

    def test_LEA_10_stale_retry_after_redelivery(self, harness: Harness) -> None:
        """An old holder's RETRY or RELEASE makes no third delivery under strict fencing."""
        for action in (Action.RETRY, Action.RELEASE):
            queue, stale, holder = _superseded(harness)
            outcome = queue.settle(Settlement(stale.handle, action))[0]
            if _fenced(queue, outcome):
                queue.expect_nothing("it is leased to the new holder")
                assert isinstance(queue.ack(holder)[0], Settled)

    def test_LEA_11_stale_extend_after_redelivery(self, harness: Harness) -> None:
        """An old holder's EXTEND does not touch the new lease under strict fencing."""
        queue, stale, holder = _superseded(harness)
        outcome = queue.extend(stale, min(100 * harness.lease_s, queue.capabilities.max_lease_s))
        if isinstance(outcome, Unsupported):
            assert queue.capabilities.extend == "none"
        elif _fenced(queue, outcome):
            harness.pass_time(HOLDER_LEASES * harness.min_lease_s)
            (again,) = queue.take()
            assert again.message_id == holder.message_id

    def test_LEA_12_ack_after_expiry_before_redelivery(self, harness: Harness) -> None:
        """An ACK after the lease, with nobody else holding it, is accepted or LeaseLost, and means it."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take(lease_s=harness.min_lease_s)
        harness.pass_time(harness.min_lease_s + harness.tolerance_s)
        outcome = queue.ack(got)[0]
        assert isinstance(outcome, Settled | LeaseLost)
        if isinstance(outcome, Settled):
            queue.expect_nothing("its ACK was accepted")
        else:
            assert queue.take()[0].message_id == got.message_id

    @requires("lease")
    def test_LEA_13_engine_guard_skips_known_expired(self, harness: Harness, face: Face) -> None:
        """Once our own clock says that the lease ended, a RETRY, RELEASE or DEAD is LeaseLost without a call;
        an ACK is sent where that is safe."""
        queue, opener, lease = Queue(harness), FaultyOpener(harness.opener), harness.min_lease_s
        consumer = face.consumer(queue, opener=opener, lease=timedelta(seconds=lease), keep_leases=False)
        settles: list[Callable[[Delivery[bytes]], None]] = [
            Delivery.retry,
            Delivery.release,
            lambda delivery: delivery.dead_letter("late"),
        ]
        for settle in settles:
            queue.put(b"x")
            delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
            harness.pass_time(lease + harness.tolerance_s)
            with contextlib.suppress(AlreadySettledError, LeaseLostError):
                settle(delivery)
            with pytest.raises((LeaseLostError, UsageError)):
                face.settled(delivery)
            assert opener.script.calls("settle") == [], "nothing is sent for a lease that is over"
            again = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
            assert again.message_id == delivery.message_id, "it comes back"
            _ack_for_good(face, consumer, again)
            opener.script.forget_calls()

    def test_LEA_14_receipt_is_unique_per_delivery(self, harness: Harness) -> None:
        """Two deliveries of one message have different handles."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take(lease_s=harness.min_lease_s)
        handles = {got.handle}
        queue.retry(got)
        (got,) = queue.take(lease_s=harness.min_lease_s)
        handles.add(got.handle)
        queue.release(got)
        (got,) = queue.take(lease_s=harness.min_lease_s)
        handles.add(got.handle)
        if queue.capabilities.lease == "timed":
            harness.pass_time(harness.min_lease_s)
            handles.add(queue.take()[0].handle)
        assert len(handles) == (4 if queue.capabilities.lease == "timed" else 3)

    def test_LEA_15_receipt_survives_reconnect_or_is_lost(self, harness: Harness) -> None:
        """After a reconnect an old handle settles its own message or is LeaseLost, never another message."""
        queue = Queue(harness)
        queue.put(b"old")
        (old,) = queue.take(lease_s=harness.min_lease_s)
        queue.backend.close()
        fresh = queue.again()
        fresh.put(b"new")
        got = {each.body: each for each in fresh.take_up_to(2, lease_s=5 * harness.min_lease_s)}
        outcome = fresh.ack(old)[0]
        assert isinstance(outcome, Settled | LeaseLost)
        assert isinstance(fresh.ack(got[b"new"])[0], Settled), "the old handle settled a stranger"
        if isinstance(outcome, LeaseLost) and b"old" not in got:
            harness.pass_time(2 * harness.min_lease_s)
            assert fresh.take()[0].body == b"old"

    @requires("extend", "lease")
    def test_LEA_16_slow_handler_is_not_duplicated(self, harness: Harness, face: Face) -> None:
        """What is held for five leases stays ours while the engine keeps it, and its ACK counts."""
        queue, opener, lease = Queue(harness), FaultyOpener(harness.opener), harness.min_lease_s
        queue.put(b"x")
        consumer = face.consumer(queue, opener=opener, lease=timedelta(seconds=lease), prefetch=0)
        delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
        other = queue.again()
        for kept in range(1, 10):
            harness.pass_time(0.6 * lease)
            harness.until_kept(partial(extended, opener, kept))
            other.expect_nothing("the engine keeps the lease")
        assert not delivery.lease_lost
        delivery.ack()
        face.settled(delivery)

    @requires("lease")
    def test_LEA_17_prefetched_not_started_is_released(self, harness: Harness, face: Face) -> None:
        """What waits in a buffer and is not taken is given back, not extended for ever."""
        queue, lease = Queue(harness), harness.min_lease_s
        queue.put(*[b"%d" % index for index in range(5)])
        consumer = face.consumer(queue, lease=timedelta(seconds=lease), prefetch=10)
        face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
        other, got = queue.again(), list[IncomingMessage]()

        def all_back() -> bool:
            got.extend(other.receive(1, lease_s=harness.lease_s))
            return len(got) >= 4

        harness.until(all_back, within_s=20 * lease, what="the four that wait are given back", steps=200)
        assert len({each.message_id for each in got}) == 4

    def test_LEA_18_attempt_is_monotone(self, harness: Harness) -> None:
        """The attempt of one message never falls, over RETRY, the end of a lease, and a new connection."""
        queue = Queue(harness)
        queue.put(b"x")
        seen = []
        for step in ("retry", "expire", "retry", "reconnect", "retry", "look"):
            (got,) = queue.take(lease_s=harness.min_lease_s)
            seen.append(got.attempt)
            if step == "retry":
                queue.retry(got)
            elif step == "expire" and queue.capabilities.lease == "timed":
                harness.pass_time(harness.min_lease_s)
            elif step != "look":
                queue.backend.close()
                queue = queue.again()
                harness.pass_time(harness.min_lease_s)
        _expect_counted(seen, queue)

    def test_LEA_19_crash_without_settle_redelivers(self, harness: Harness) -> None:
        """A consumer that is killed before it settles loses nothing: another one gets the message."""
        if harness.one_process:
            queue, lease_s = Queue(harness), harness.min_lease_s
            queue.put(b"survivor")
            queue.again().take(lease_s=lease_s)
            harness.pass_time(lease_s)
        else:
            harness = harness.in_real_time()
            queue, lease_s = Queue(harness), max(0.5, harness.capabilities.min_lease_s)
            queue.put(b"survivor")
            harness.crash_consumer(queue.name, lease_s=lease_s)
        (got,) = queue.take(within_s=lease_s + harness.tolerance_s)
        assert got.body == b"survivor"
        assert got.attempt in {2, None}


def _superseded(harness: Harness) -> tuple[Queue, IncomingMessage, IncomingMessage]:
    """A message whose first holder let the lease end, and which another holds now."""
    queue = Queue(harness)
    queue.put(b"x")
    (stale,) = queue.take(lease_s=harness.min_lease_s)
    if queue.capabilities.lease != "timed":
        pytest.skip("the lease is bound to the connection: LEA-15 covers it")
    harness.pass_time(harness.min_lease_s)
    (holder,) = queue.again().take(lease_s=HOLDER_LEASES * harness.min_lease_s)
    assert holder.message_id == stale.message_id
    return queue, stale, holder


def _fenced(queue: Queue, outcome: SettleOutcome) -> bool:
    """Whether the case goes on to the effects; what a weaker backend does is as its level says."""
    if queue.capabilities.fencing == "strict":
        assert outcome == LeaseLost(), f"strict fencing must answer LeaseLost, not {outcome}"
        return True
    assert isinstance(outcome, Settled | LeaseLost), f"never an error: {outcome}"
    return False


def _expect_counted(seen: list[int | None], queue: Queue) -> None:
    counted = [each for each in seen if each is not None]
    assert counted == sorted(counted), f"the attempt fell: {seen}"
    if queue.capabilities.attempts == "exact":
        assert seen == list(range(1, len(seen) + 1))


def _ack_for_good(face: Face, consumer: Consumer[Any], delivery: Delivery[bytes]) -> None:
    """Ack a delivery whose short lease nobody keeps, again and again where the host is too busy for it."""
    while True:
        try:
            delivery.ack()
            face.settled(delivery)
        except LeaseLostError:
            delivery = face.next(consumer)
        else:
            return
