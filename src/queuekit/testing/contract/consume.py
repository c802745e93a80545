# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""CON: receiving."""

from __future__ import annotations

from queuekit.backend import IncomingMessage, Interruptible
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import FaultyOpener

DAY_S = 86_400.0
CLOCK_STEP_S = 0.005


class Consume(Group):
    """What a receiver sees, and when."""

    def test_CON_01_receive_returns_body_headers_id(self, harness: Harness) -> None:
        """A delivery has the body, attributes, metadata and id as sent, attempt 1, and sane times."""
        queue = Queue(harness)
        (sent,) = queue.put(b"\x00body", attributes={"Color": "red"}, metadata={"type": "t"})
        before = harness.clock.monotonic()
        (got,) = queue.take(lease_s=harness.lease_s)
        assert (got.body, got.message_id) == (sent.body, sent.message_id)
        assert (dict(got.attributes), dict(got.metadata)) == ({"Color": "red"}, {"type": "t"})
        assert got.attempt == (None if queue.capabilities.attempts == "none" else 1)
        assert got.enqueued_at is None or abs(got.enqueued_at - harness.clock.time()) < DAY_S
        if queue.capabilities.lease == "timed":
            assert got.lease_until is not None
            assert got.lease_until <= before + harness.lease_s + harness.tolerance_s

    @requires("long_poll")
    def test_CON_02_receive_empty_returns_within_max_wait(self, harness: Harness) -> None:
        """An empty queue answers with nothing after the wait that was asked for, and not before."""
        queue = Queue(harness)
        queue.expect_nothing("the queue is new")
        wait_s = max(2 * harness.tolerance_s, 1.0, queue.capabilities.wait_at_least_s)
        poll = harness.start(lambda: queue.receive(wait_s=wait_s))
        if harness.virtual:
            harness.until_blocked()
            harness.pass_time(0.9 * wait_s)
            poll.join(0.05)  # real time in which a poll that gave up too soon would end
            assert not poll.done, "the poll gave up before its time"
            harness.pass_time(0.1 * wait_s)
        assert poll.result("an empty receive") == []
        assert -CLOCK_STEP_S <= poll.took_s - wait_s <= 2 * harness.tolerance_s + CLOCK_STEP_S

    def test_CON_03_receive_zero_wait_returns_at_once(self, harness: Harness) -> None:
        """A receive that may not wait takes no longer than the service's own least wait."""
        queue = Queue(harness)
        queue.expect_nothing("the queue is new")  # a first call also makes a client and a connection
        poll = harness.start(lambda: queue.receive(wait_s=0.0))
        assert poll.result("a receive without waiting") == []
        assert poll.took_s <= queue.capabilities.wait_at_least_s + harness.tolerance_s

    def test_CON_04_receive_honours_max_messages(self, harness: Harness) -> None:
        """Never more than asked for: with 1, with 2 and with the limit."""
        queue = Queue(harness)
        limit = min(queue.capabilities.max_receive, 100)
        queue.put(*[b"%d" % index for index in range(limit + 5)])
        got = [*queue.receive(1), *queue.receive(min(2, limit)), *queue.receive(limit)]
        assert len({each.message_id for each in got}) == len(got)
        got += queue.take(limit + 5 - len(got))
        assert len({each.message_id for each in got}) == limit + 5

    def test_CON_05_receive_all_full(self, harness: Harness) -> None:
        """As many as are asked for arrive when they are ready, in one or several calls."""
        queue = Queue(harness)
        sent = queue.put(*[b"%d" % index for index in range(12)])
        assert {each.message_id for each in queue.take(12)} == {each.message_id for each in sent}

    def test_CON_06_receive_all_partial(self, harness: Harness) -> None:
        """Fewer ready than asked for are returned by the deadline, and not held back for more."""
        queue = Queue(harness)
        queue.put(b"1", b"2", b"3")
        poll = harness.start(lambda: queue.receive(min(10, queue.capabilities.max_receive), wait_s=harness.lease_s))
        assert len(poll.result("a receive with three messages ready")) >= 1
        assert poll.took_s <= harness.tolerance_s

    def test_CON_07_receive_full_then_partial(self, harness: Harness) -> None:
        """With one more ready than a call takes, the remainder follows."""
        queue = Queue(harness)
        limit = min(queue.capabilities.max_receive, 100)
        queue.put(*[b"%d" % index for index in range(limit + 1)])
        first = queue.take(limit)
        last = queue.take(1)
        assert {each.message_id for each in first}.isdisjoint(each.message_id for each in last)

    @requires("long_poll")
    def test_CON_08_late_arrival_wakes_long_poll(self, harness: Harness) -> None:
        """A message sent during a poll is delivered long before the poll would end."""
        queue, other = Queue(harness), None
        wait_s = min(harness.lease_s, 20.0)
        poll = harness.start(lambda: queue.receive(wait_s=wait_s))
        harness.until_blocked()
        other = queue.again()
        other.put(b"late")
        harness.until(lambda: poll.done, within_s=harness.tolerance_s, what="the poll wakes for a message")
        assert [each.body for each in poll.result()] == [b"late"]
        assert poll.took_s < wait_s / 2

    def test_CON_09_fetch_timeout_leaves_no_orphan(self, harness: Harness) -> None:
        """A poll that ended empty, by time or by interruption, swallows no message sent just after it."""
        queue = Queue(harness)
        poll = harness.start(lambda: queue.receive(wait_s=harness.min_delay_s))
        harness.until_blocked()
        harness.pass_time(harness.min_delay_s + harness.tolerance_s)
        assert poll.result("a poll of an empty queue") == []
        queue.put(b"1")
        (first,) = queue.take()
        if isinstance(queue.backend, Interruptible):
            interrupted = harness.start(lambda: queue.receive(wait_s=harness.lease_s / 2))
            harness.until_blocked()
            queue.backend.interrupt()
            assert interrupted.result("an interrupted poll") == []
        queue.put(b"2")
        (second,) = queue.take()
        assert (first.body, second.body) == (b"1", b"2")
        assert second.attempt in {1, None}

    def test_CON_10_two_queues_are_isolated(self, harness: Harness) -> None:
        """Nothing crosses between two queues of one service."""
        one, two = Queue(harness), Queue(harness)
        one.put(b"one", b"one")
        two.put(b"two")
        (got,) = two.take()
        two.expect_nothing("the queue had one message")
        assert got.body == b"two"
        assert [each.body for each in one.take(2)] == [b"one", b"one"]

    def test_CON_11_competing_consumers_share(self, harness: Harness) -> None:
        """Two consumers of one queue get everything between them, and no message twice."""
        one = Queue(harness)
        two = one.again()
        sent = one.put(*[b"%d" % index for index in range(20)])
        got: list[IncomingMessage] = []
        while len(got) < 20:
            more = [*one.receive(3 if one.capabilities.max_receive >= 3 else 1), *two.take_up_to(1)]
            assert more, f"only {len(got)} of 20 came"
            got += more
        assert sorted(each.message_id for each in got) == sorted(each.message_id for each in sent)
        assert len({each.handle for each in got}) == 20

    @requires("fanout")
    def test_CON_12_fanout_each_subscription_gets_all(self, harness: Harness) -> None:
        """Two subscriptions each see every message."""
        name = harness.unique_name()
        one = Queue(harness, name, backend=harness.open(name, subscription="one"))
        two = Queue(harness, name, backend=harness.open(name, subscription="two"))
        for each in (one, two):
            each.expect_nothing("the subscription is new")
        one.put(b"1", b"2")
        assert {each.body for each in one.take(2)} == {each.body for each in two.take(2)} == {b"1", b"2"}

    def test_CON_13_iterator_stops_on_close(self, harness: Harness, face: Face) -> None:
        """Iterating a consumer ends, with no exception, when it is closed elsewhere."""
        queue = Queue(harness)
        queue.put(b"1", b"2")
        opener = FaultyOpener(harness.opener)
        consumer = face.consumer(queue, opener=opener)
        loop = harness.start(lambda: face.iterate(consumer))
        harness.until(lambda: consumed(opener, 2), within_s=60.0, what="both messages are acked")
        assert not loop.done
        face.close(consumer)
        assert sorted(loop.result("the iteration")) == [b"1", b"2"]
        queue.expect_nothing("both were acked")

    def test_CON_14_get_one_times_out(self, harness: Harness, face: Face) -> None:
        """Receiving with a timeout answers None when nothing came, and that is no error."""
        queue = Queue(harness)
        consumer = face.consumer(queue)
        assert face.receive_now(consumer) is None
        queue.put(b"x")
        assert face.next(consumer).body == b"x"


def consumed(opener: FaultyOpener, count: int) -> bool:
    """Whether so many settlements have reached the service."""
    return sum(len(call.batch) for call in opener.script.calls("settle")) >= count
