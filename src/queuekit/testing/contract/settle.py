# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""ACK: settling a delivery, in each of the ways."""

from __future__ import annotations

from typing import Any

from queuekit.backend import (
    Action,
    Admin,
    Failed,
    LeaseLost,
    Settled,
    Settlement,
    Unsupported,
)
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message

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
        harness.pass_time(0.9 * delay)
        queue.expect_nothing("nine tenths of its delay have passed")
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
            return
        assert isinstance(outcome, Settled)
        assert outcome.applied_delay_s is not None, "the delay is beyond the limit: say what is applied"
        assert outcome.applied_delay_s >= longest + 60.0
        harness.pass_time(longest + 30.0 if harness.virtual else harness.min_delay_s)
        queue.expect_nothing("its delay has not ended")

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
        assert (letter.body, letter.message_id, letter.attempt) == (b"x", got.message_id, 1)
        assert (dict(letter.attributes), dict(letter.metadata)) == ({"a": "1"}, {"dead": "why"})
        harness.pass_time(2 * harness.min_lease_s)
        queue.expect_nothing("it is dead")

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
