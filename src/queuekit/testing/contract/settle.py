# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""ACK: settling a delivery, in each of the ways."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tenacity import wait_none

from queuekit._portable.consumer import Consumer
from queuekit._portable.delivery import Delivery
from queuekit._portable.retry import RetryPolicy
from queuekit._portable.worker import ExitCode
from queuekit._values.errors import AccessDeniedError, AlreadySettledError
from queuekit.backend import (
    Action,
    Admin,
    ErrorClass,
    ErrorCode,
    Failed,
    LeaseLost,
    Settled,
    Settlement,
    Support,
    Unsupported,
)
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import FaultyOpener, raise_before

GARBAGE: tuple[Any, ...] = ("", "no-such-handle", b"\x00\xff", 0, -1, None, (), ("a", 1), frozenset())


class Settle(Group):
    """Each settlement has its own effect, and none on its neighbours."""

    def test_ACK_01_ack_removes(self, harness: Harness) -> None:
        """After an ACK, and twice the lease, nothing comes back and nothing is counted."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take(lease_s=harness.min_lease_s)
        assert isinstance(queue.ack(got)[0], Settled)
        harness.pass_time(2 * harness.min_lease_s)
        queue.expect_nothing("it was acked")
        if isinstance(queue.backend, Admin) and queue.capabilities.depth == "exact":
            stats = queue.backend.stats()
            assert (stats.ready, stats.delayed, stats.leased) == (0, 0, 0)

    def test_ACK_02_ack_twice_same_receipt(self, harness: Harness) -> None:
        """A second ACK is Settled or LeaseLost, never an exception, and the connection lives on."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take()
        assert isinstance(queue.ack(got)[0], Settled)
        assert isinstance(queue.ack(got)[0], Settled | LeaseLost)
        queue.put(b"y")
        (after,) = queue.take()
        assert after.body == b"y"
        assert isinstance(queue.ack(after)[0], Settled)

    def test_ACK_03_ack_then_retry_is_error(self, harness: Harness, face: Face) -> None:
        """A second settlement of a delivery, the same or another, is refused before it reaches the service."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        consumer = face.consumer(queue, opener=opener)
        first: list[Callable[[Delivery[bytes]], None]] = [
            Delivery.ack,
            Delivery.retry,
            Delivery.release,
            lambda delivery: delivery.dead_letter("why"),
        ]
        for settle in first:
            queue.put(b"x")
            delivery = face.next(consumer)
            settle(delivery)
            for again in first:
                with pytest.raises(AlreadySettledError):
                    again(delivery)
            face.settled(delivery)
            with pytest.raises(AlreadySettledError):
                delivery.ack()
            _drain(queue, face, consumer)
        # Answered ones only: a call that failed on the way is made again.
        per_handle = Counter(entry.handle for call in opener.script.answered("settle") for entry in call.batch)
        assert set(per_handle.values()) == {1}, "each delivery was settled at the service once"

    def test_ACK_04_retry_redelivers(self, harness: Harness) -> None:
        """RETRY without a delay makes it visible again promptly, with the attempt counted."""
        queue = Queue(harness)
        queue.put(b"x")
        (first,) = queue.take()
        assert isinstance(queue.retry(first), Settled)
        (second,) = queue.take()
        assert second.message_id == first.message_id
        if queue.capabilities.attempts == "exact":
            assert (first.attempt, second.attempt) == (1, 2)

    @requires("retry_delay")
    def test_ACK_05_retry_with_delay(self, harness: Harness) -> None:
        """RETRY with a delay is not visible before it, and is by its end."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take()
        delay = max(harness.min_delay_s, queue.capabilities.min_retry_delay_s)
        outcome = queue.retry(got, delay)
        assert isinstance(outcome, Settled)
        assert outcome.applied_delay_s is None or outcome.applied_delay_s >= delay
        harness.pass_time(harness.most_of(delay))
        queue.expect_nothing("its delay has not ended")
        harness.pass_time(0.1 * delay)
        (again,) = queue.take()
        assert again.message_id == got.message_id

    def test_ACK_06_retry_delay_above_max_refused(self, harness: Harness) -> None:
        """A RETRY beyond the longest delay is refused or kept in full, and never shortened in silence."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take()
        longest = queue.capabilities.max_retry_delay_s
        outcome = queue.retry(got, longest + 60.0)
        if isinstance(outcome, Unsupported):
            queue.expect_nothing("it is still leased: a refused settlement does nothing")
            assert isinstance(queue.ack(got)[0], Settled)
        else:
            assert isinstance(outcome, Settled)
            assert outcome.applied_delay_s is not None, "the delay is beyond the limit: say what is applied"
            assert outcome.applied_delay_s >= longest + 60.0
            harness.pass_time(longest + 30.0 if harness.virtual else harness.min_delay_s)
            queue.expect_nothing("its delay has not ended")
        if queue.capabilities.own_copies and queue.capabilities.max_delay_s:
            _expect_kept_in_full(harness, Action.ACK)
        if queue.capabilities.extend != "none":
            _expect_kept_in_full(harness, Action.RETRY, copies="fanout")
        if queue.capabilities.max_retry_delay_s:
            _expect_shortened_openly(harness)

    def test_ACK_07_release_redelivers_without_attempt(self, harness: Harness) -> None:
        """RELEASE brings it back, and costs an attempt only where the backend says so."""
        queue = Queue(harness)
        queue.put(b"x")
        (first,) = queue.take()
        assert isinstance(queue.release(first), Settled)
        (second,) = queue.take()
        assert second.message_id == first.message_id
        if queue.capabilities.attempts == "exact":
            assert second.attempt == (2 if queue.capabilities.release_counts else 1)

    @requires("native_dead_letters")
    def test_ACK_08_dead_goes_to_dlq_with_reason(self, harness: Harness) -> None:
        """DEAD puts the dead letter into the dead-letter queue, and takes the original from the source."""
        queue = Queue(harness)
        queue.put(b"x", attributes={"a": "1"})
        (got,) = queue.take(lease_s=harness.min_lease_s)
        dead = message(b"x", message_id=got.message_id, attributes={"a": "1"}, metadata={"dead": "why"})
        assert isinstance(queue.bury(got, dead), Settled)
        (letter,) = queue.dead().take()
        first = None if queue.capabilities.attempts == "none" else 1
        assert (letter.body, letter.message_id, letter.attempt) == (b"x", got.message_id, first)
        assert (dict(letter.attributes), dict(letter.metadata)) == ({"a": "1"}, {"dead": "why"})
        harness.pass_time(2 * harness.min_lease_s)
        queue.expect_nothing("it is dead")

    def test_ACK_09_dead_without_dlq(self, harness: Harness, face: Face) -> None:
        """With nowhere to put it a dead letter is retried at a long wait, counted as missing; only
        ``dead_letter="discard"`` drops it, counted too."""
        queue = Queue(harness)
        without = FaultyOpener(harness.opener, dead_letters=Support.BRIDGED, dead_letter_queue="")
        queue.put(b"kept")
        consumer = face.consumer(queue, opener=without)
        delivery = face.next(consumer)
        delivery.dead_letter("broken")
        face.settled(delivery)
        (entry,) = without.script.calls("settle")[-1].batch
        assert entry.action is Action.RETRY
        assert entry.delay_s == min(600.0, queue.capabilities.max_retry_delay_s)
        assert consumer.counts()["dead_letter.missing"] == 1
        face.close(consumer)
        harness.pass_time(entry.delay_s if harness.virtual else 0.0)
        if harness.virtual:
            assert queue.ack(*queue.take()) == [Settled()]
        queue.put(b"dropped")
        discarding = face.consumer(queue, opener=without, dead_letter="discard")
        dropped = face.next(discarding)
        dropped.dead_letter("broken")
        face.settled(dropped)
        assert discarding.counts()["dead_letter.discarded"] == 1
        face.close(discarding)
        queue.expect_nothing("it was discarded by name")

    def test_ACK_10_settle_unknown_receipt(self, harness: Harness) -> None:
        """A handle that was never ours answers LeaseLost for its entry; the others are settled."""
        queue = Queue(harness)
        queue.put(b"1", b"2")
        got = queue.take(2, lease_s=harness.min_lease_s)
        entries = [got[0].handle, *GARBAGE, got[1].handle]
        outcomes = queue.settle(*(Settlement(handle, Action.ACK) for handle in entries))
        assert isinstance(outcomes[0], Settled)
        assert isinstance(outcomes[-1], Settled)
        assert all(isinstance(each, LeaseLost | Failed) for each in outcomes[1:-1]), outcomes
        harness.pass_time(2 * harness.min_lease_s)
        queue.expect_nothing("both were acked")

    def test_ACK_11_settle_receipt_from_other_queue(self, harness: Harness) -> None:
        """A handle of queue A given to queue B settles nothing in B."""
        one, two = Queue(harness), Queue(harness)
        one.put(b"one")
        two.put(b"two")
        (ours,), (theirs,) = one.take(), two.take()
        for action in (Action.ACK, Action.RETRY, Action.RELEASE):
            two.settle(Settlement(ours.handle, action))
        two.expect_nothing("it is leased, and its handle was not used")
        assert isinstance(two.ack(theirs)[0], Settled)

    def test_ACK_12_settle_batch_mixed_actions(self, harness: Harness) -> None:
        """ACK, RETRY, EXTEND and RELEASE in one flush each have their own effect and outcome."""
        queue = Queue(harness)
        queue.put(b"ack", b"retry", b"extend", b"release")
        got = {each.body: each for each in queue.take(4, lease_s=harness.min_lease_s)}
        outcomes = queue.settle(
            Settlement(got[b"ack"].handle, Action.ACK),
            Settlement(got[b"retry"].handle, Action.RETRY),
            Settlement(got[b"extend"].handle, Action.EXTEND, lease_s=4 * harness.min_lease_s),
            Settlement(got[b"release"].handle, Action.RELEASE),
        )
        extends = queue.capabilities.extend != "none"
        expected = [Settled, Settled, Settled if extends else Unsupported, Settled]
        assert [type(each) for each in outcomes] == expected
        again = queue.take(2)
        assert {each.body for each in again} == {b"retry", b"release"}
        harness.pass_time(1.5 * harness.min_lease_s)
        if extends:
            queue.expect_nothing("one is acked, two are leased again, one was extended")

    def test_ACK_13_settle_over_limit_is_chunked(self, harness: Harness, face: Face) -> None:
        """Three times the settle limit is settled, in calls within it."""
        queue = Queue(harness)
        limit = min(queue.capabilities.max_settle_batch, 4)
        opener = FaultyOpener(harness.opener, max_settle_batch=limit)
        count = 3 * limit + 1
        queue.put(*[b"%d" % index for index in range(count)])
        consumer = face.consumer(queue, opener=opener)
        deliveries = [face.next(consumer) for _ in range(count)]
        for delivery in deliveries:
            delivery.ack()
        for delivery in deliveries:
            face.settled(delivery)
        calls = opener.script.calls("settle")
        assert max(len(call.batch) for call in calls) <= limit
        assert sum(len(call.batch) for call in calls) == count
        face.close(consumer)
        queue.expect_nothing("all were acked")

    def test_ACK_14_ack_error_does_not_poison_receive(self, harness: Harness, face: Face) -> None:
        """A settlement that fails for good surfaces on that delivery only; receiving goes on."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        consumer = face.consumer(queue, opener=opener)
        opener.script.on("settle", raise_before(ErrorClass(ErrorCode.ACCESS_DENIED, sent="no")))
        queue.put(b"1")
        failed = face.next(consumer)
        failed.ack()
        with pytest.raises(AccessDeniedError):
            face.settled(failed)
        queue.put(b"2")
        fine = face.next(consumer)
        assert fine.body == b"2"
        fine.ack()
        face.settled(fine)
        assert consumer.counts()["settle.failed"] == 1

    @requires("ack_confirmed")
    def test_ACK_15_ack_confirmed_when_declared(self, harness: Harness) -> None:
        """Settled means that the service has said so: nobody can receive it any more, whatever breaks next."""
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take(lease_s=harness.min_lease_s)
        assert isinstance(queue.ack(got)[0], Settled)
        queue.backend.close()
        later = queue.again()
        harness.pass_time(2 * harness.min_lease_s)
        later.expect_nothing("the service confirmed its ACK")

    def test_ACK_16_handler_exception_is_retry_not_loss(self, harness: Harness, face: Face) -> None:
        """Whatever a handler raises, the message comes back, and the worker goes on."""
        raised: list[type[BaseException]] = [
            ValueError,
            asyncio.CancelledError,
            KeyboardInterrupt,
            SystemExit,
            GeneratorExit,
            StopIteration,
            MemoryError,
            BaseException,
        ]
        queue, seen = Queue(harness), Counter[bytes]()
        queue.put(*[each.__name__.encode() for each in raised])

        def fail_first(body: bytes) -> None:
            seen[body] += 1
            if seen[body] == 1:
                raise {each.__name__.encode(): each for each in raised}[body]

        work = Work(face, queue, fail_first, retry=RetryPolicy(wait=wait_none()), lease=timedelta(hours=1))
        work.await_true(lambda: sum(seen.values()) == 2 * len(raised), "each is run twice", within_s=60.0)
        assert set(seen.values()) == {2}
        assert work.stop() is ExitCode.DRAINED
        queue.expect_nothing("each was acked at its second attempt")

    def test_ACK_17_cancelled_handler_does_not_settle(self, harness: Harness, face: Face) -> None:
        """A handler that the shutdown cuts off is a RELEASE: no ACK, and no attempt lost."""
        queue, gate, ended = Queue(harness), threading.Event(), list[bytes]()
        queue.put(b"x")
        work = Work(face, queue, ended.append, gate=gate, app={"drain": timedelta(0)}, lease=timedelta(hours=1))
        work.await_begun(1)
        work.stop(within_s=5.0)
        assert ended == []
        (got,) = queue.take()
        if queue.capabilities.attempts == "exact" and not queue.capabilities.release_counts:
            assert got.attempt == 1
        gate.set()


def _drain(queue: Queue, face: Face, consumer: Consumer[bytes]) -> None:
    """Ack whatever the consumer still gets, so that the next step begins with an empty queue."""
    while (left := face.receive_now(consumer)) is not None:
        left.ack()
        face.settled(left)
    # A poll that does not wait may miss what was given back this moment.
    while rest := queue.receive(min(10, queue.capabilities.max_receive)):
        queue.settle(*(Settlement(each.handle, Action.ACK) for each in rest))


def _expect_kept_in_full(harness: Harness, how: Action, **limits: Any) -> None:
    """Through the engine, a RETRY beyond the longest delay is kept in full: by a copy, or by the lease."""
    queue, longest = Queue(harness), harness.min_delay_s
    lowered = harness.limits(max_retry_delay_s=longest, **limits)
    queue.put(b"x")
    with harness.closing(Consumer(harness.url(queue.name), _opener=lowered)) as consumer:
        first = harness.let(consumer.receive)
        assert first is not None
        asked_at = harness.clock.monotonic()
        first.retry(delay=timedelta(seconds=3 * longest))
        again = harness.let(consumer.receive, within_s=12 * longest)
        assert again is not None
        assert harness.clock.monotonic() - asked_at >= 3 * longest - 0.005
        assert (again.message_id, again.body) == (first.message_id, b"x")
        if queue.capabilities.attempts == "exact":
            assert again.attempt == 2
        entries = [entry for call in lowered.script.calls("settle") for entry in call.batch]
        assert [entry.action for entry in entries if entry.action is not Action.EXTEND] == [how]
        assert all(entry.delay_s <= longest for entry in entries)
        assert "retry.shortened" not in consumer.counts()
        again.ack()
    queue.expect_nothing("it was acked")


def _expect_shortened_openly(harness: Harness) -> None:
    """Through the engine, a RETRY that can neither be copied nor held is shortened, with a count."""
    queue, longest = Queue(harness), harness.min_delay_s
    lowered = harness.limits(max_retry_delay_s=longest, copies="fanout", extend="none")
    queue.put(b"x")
    with harness.closing(Consumer(harness.url(queue.name), _opener=lowered)) as consumer:
        delivery = harness.let(consumer.receive)
        assert delivery is not None
        delivery.retry(delay=timedelta(seconds=4 * longest))
        harness.let(delivery.settled)
        (entry,) = lowered.script.calls("settle")[-1].batch
        assert (entry.action, entry.delay_s) == (Action.RETRY, longest), "the nearest possible wait"
        assert consumer.counts()["retry.shortened"] == 1
