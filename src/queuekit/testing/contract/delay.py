# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""DEL: delays of a send, and taking a delayed message back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from queuekit._portable.consumer import Consumer
from queuekit._portable.producer import Producer
from queuekit._values.capability import Support
from queuekit._values.errors import UnsupportedError, UsageError
from queuekit._values.message import Message
from queuekit.backend import Cancellable, ErrorCode, Rejected, Settled
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import FaultyOpener


class Delay(Group):
    """Never early, and not much later than asked."""

    @requires("delay")
    def test_DEL_01_delay_never_early(self, harness: Harness) -> None:
        """It is delivered at its due time or after it, also to a consumer that is waiting."""
        queue, delay = Queue(harness), harness.min_delay_s
        sent_at = harness.clock.monotonic()
        queue.put(b"x", delay_s=delay)
        queue.expect_nothing("it was sent just now, with a delay")
        harness.pass_time(0.9 * delay)
        # On a busy host it may be later than it should be: what counts is when it comes.
        if not queue.receive():
            queue.take(within_s=delay + harness.tolerance_s)
        assert harness.clock.monotonic() - sent_at >= delay - 0.005
        queue.put(b"y", delay_s=delay)
        queue.expect_waiting_receive_after(delay)

    @requires("delay")
    def test_DEL_02_delay_delivered_in_window(self, harness: Harness) -> None:
        """It is delivered by its due time plus the tolerance."""
        queue, delay = Queue(harness), harness.min_delay_s
        queue.put(b"x", delay_s=delay)
        harness.pass_time(delay)
        assert queue.take(within_s=harness.tolerance_s)[0].body == b"x"

    def test_DEL_03_delay_zero_is_now(self, harness: Harness) -> None:
        """A delay of zero is as if there were none."""
        queue = Queue(harness)
        queue.put(b"x", delay_s=0.0)
        assert queue.take()[0].body == b"x"

    def test_DEL_04_negative_delay_refused(self, harness: Harness, face: Face) -> None:
        """A negative delay is the caller's error, before any call to the service."""
        opener = FaultyOpener(harness.opener)
        producer = face.producer(harness.unique_name(), opener=opener)
        with pytest.raises(UsageError):
            face.send(producer, b"x", delay=timedelta(seconds=-1))
        (outcome,) = face.send_many(producer, [Message(b"x", delay=timedelta(microseconds=-1))])
        assert isinstance(outcome, Rejected)
        with pytest.raises(UsageError):
            face.send(producer, b"x", delay=5)
        assert opener.script.calls("send") == []

    def test_DEL_05_past_schedule_is_now(self, harness: Harness, face: Face) -> None:
        """An instant in the past is now."""
        queue = Queue(harness)
        past = datetime.fromtimestamp(harness.clock.time() - 3600, UTC)
        face.send(face.producer(queue), b"x", not_before=past)
        assert queue.take()[0].body == b"x"

    def test_DEL_06_naive_datetime_refused(self, harness: Harness, face: Face) -> None:
        """An instant without a time zone is refused, as it names a different moment on every host."""
        opener = FaultyOpener(harness.opener)
        producer = face.producer(harness.unique_name(), opener=opener)
        with pytest.raises(UsageError, match="aware"):
            face.send(producer, b"x", not_before=datetime(2030, 1, 1))  # noqa: DTZ001  the point of the case
        with pytest.raises(UsageError):
            face.send(producer, b"x", not_before=datetime(2030, 1, 1, tzinfo=UTC), delay=timedelta(seconds=1))
        assert opener.script.calls("send") == []

    @requires("delay")
    def test_DEL_07_delay_above_native_limit(self, harness: Harness) -> None:
        """The longest delay is kept to its end; a longer one is refused or bridged, and never shortened."""
        queue = Queue(harness)
        longest = queue.capabilities.max_delay_s
        queue.put(b"x", delay_s=longest)
        harness.pass_time(0.999 * longest if harness.virtual else min(2 * harness.min_delay_s, 0.5 * longest))
        queue.expect_nothing("its delay has not ended")
        if harness.virtual:
            harness.pass_time(0.001 * longest)
            assert queue.take()[0].body == b"x"
        lowered = harness.limits(max_delay_s=harness.min_delay_s)
        with Producer(harness.url(queue.name), _opener=lowered) as producer:
            producer.send(b"limit", delay=timedelta(seconds=harness.min_delay_s))
            if queue.capabilities.long_delay is Support.BRIDGED:
                # Its first hop ends with the shorter delay, and a consumer of queuekit's sends it on.
                producer.send(b"over", delay=timedelta(seconds=2 * harness.min_delay_s))
        with Producer(harness.url(queue.name), _opener=lowered, foreign=True) as producer:
            with pytest.raises(UnsupportedError, match="foreign=true"):
                producer.send(b"over", delay=timedelta(seconds=2 * harness.min_delay_s))
            producer.send(b"limit", delay=timedelta(seconds=harness.min_delay_s))
        with harness.closing(Consumer(harness.url(queue.name), _opener=lowered)) as consumer:
            harness.pass_time(harness.min_delay_s)
            first = [harness.let(consumer.receive) for _ in range(2)]
            assert [each.body for each in first if each is not None] == [b"limit"] * 2
            assert harness.let(lambda: consumer.receive(timeout=0.05)) is None, "the longer delay still runs"
            for each in first:
                if each is not None:
                    each.ack()

    def test_DEL_08_delay_not_declared_is_refused(self, harness: Harness, face: Face) -> None:
        """Where a queue has no delays a delayed send is refused, and nothing is sent."""
        queue = Queue(harness)
        opener = FaultyOpener(harness.opener, max_delay_s=0.0)
        producer = face.producer(queue, opener=opener)
        with pytest.raises(UnsupportedError, match="delay"):
            face.send(producer, b"x", delay=timedelta(seconds=1))
        (outcome,) = face.send_many(producer, [Message(b"x", delay=timedelta(seconds=1))])
        assert isinstance(outcome, Rejected)
        assert outcome.error.code is ErrorCode.UNSUPPORTED
        assert opener.script.calls("send") == []

    @requires("delay_refused_with_ordering")
    def test_DEL_09_delay_on_fifo_refused(self, harness: Harness, face: Face) -> None:
        """Where an ordered message cannot be delayed, asking for both is refused, and nothing is sent."""
        queue = Queue(harness)
        producer = face.producer(queue)
        named = "ordering key" if queue.capabilities.longest_delay_s else "delay"
        with pytest.raises(UnsupportedError, match=named):
            face.send(producer, b"x", delay=timedelta(seconds=1), ordering_key="k")
        queue.expect_nothing("the send was refused")

    @requires("delay")
    def test_DEL_10_equal_delay_keeps_each_message(self, harness: Harness) -> None:
        """Two messages with the same body and the same due time both arrive."""
        queue, delay = Queue(harness), harness.min_delay_s
        queue.put(b"same", b"same", b"same", delay_s=delay)
        harness.pass_time(delay)
        assert len(queue.take(3, within_s=harness.tolerance_s)) == 3

    @requires("delay")
    def test_DEL_11_shorter_delay_overtakes_longer(self, harness: Harness) -> None:
        """A short delay sent after a long one is delivered first: nothing stands in a line behind it."""
        queue, delay = Queue(harness), harness.min_delay_s
        queue.put(b"long", delay_s=10 * delay)
        queue.put(b"short", delay_s=delay)
        queue.put(b"now")
        assert queue.take()[0].body == b"now"
        harness.pass_time(delay)
        assert queue.take(within_s=harness.tolerance_s)[0].body == b"short"
        queue.expect_nothing("the long delay has hardly begun")

    @requires("delay", "durable")
    def test_DEL_12_delayed_survives_restart(self, harness: Harness) -> None:
        """Closing everything, and a restart of the server where there is one, neither lose nor hasten it."""
        queue, delay = Queue(harness), 4 * harness.min_delay_s
        sent_at = harness.clock.monotonic()
        queue.put(b"x", delay_s=delay)
        queue.backend.close()
        if hasattr(harness, "restart"):
            harness.hook("restart")()
        later = queue.again()
        harness.pass_time(0.25 * delay)
        # A restart may take longer than the delay: what counts is when it comes.
        (only,) = later.receive() or later.take(within_s=delay + harness.tolerance_s)
        assert only.body == b"x"
        assert harness.clock.monotonic() - sent_at >= delay - 0.005

    @requires("cancel")
    def test_DEL_15_cancel_scheduled(self, harness: Harness) -> None:
        """Cancelled before it is due it is never delivered; once delivered it is too late."""
        queue, delay = Queue(harness), harness.min_delay_s
        assert isinstance(queue.backend, Cancellable), "cancel is declared, so Cancellable must be there"
        (gone,) = queue.put(b"gone", delay_s=delay)
        (kept,) = queue.put(b"kept", delay_s=delay)
        assert queue.backend.cancel(gone.message_id)
        assert not queue.backend.cancel(gone.message_id), "it was cancelled before"
        assert not queue.backend.cancel("no-such-id")
        harness.pass_time(delay)
        assert queue.take(within_s=harness.tolerance_s)[0].message_id == kept.message_id
        queue.expect_nothing("the other one was cancelled")
        assert not queue.backend.cancel(kept.message_id), "it is leased"

    @requires("cancel")
    def test_DEL_16_cancel_what_was_given_back(self, harness: Harness) -> None:
        """An attempt that counts is too late for a cancel; a release that does not count leaves it possible."""
        for give_back, counts in ((Queue.retry, True), (Queue.release, harness.capabilities.release_counts)):
            queue = Queue(harness)
            assert isinstance(queue.backend, Cancellable), "cancel is declared, so Cancellable must be there"
            (sent,) = queue.put(b"x")
            assert isinstance(give_back(queue, queue.take()[0]), Settled)
            assert queue.backend.cancel(sent.message_id) is not counts, f"after a {give_back.__name__}"
            if counts:
                assert queue.take(within_s=harness.tolerance_s)[0].message_id == sent.message_id
            else:
                queue.expect_nothing("it was cancelled")
