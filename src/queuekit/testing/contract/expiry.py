# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""EXP: messages that are of no use after a while."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from queuekit._engine import metadata as meta
from queuekit._portable.worker import ExitCode
from queuekit._values.errors import InvalidMessageError
from queuekit._values.message import Message
from queuekit.backend import Action, ErrorCode, Rejected, Support
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import FaultyOpener

_LONG: dict[str, Any] = {"lease": timedelta(hours=1)}


class Expiry(Group):
    """What has expired is dropped and counted, never handled, and nothing is dropped before."""

    @requires("expiry")
    def test_EXP_01_ttl_drops_unconsumed(self, harness: Harness, face: Face) -> None:
        """Not delivered after its time, also when that ended during a retry; delivered before it."""
        queue, length = Queue(harness), timedelta(seconds=4 * harness.min_delay_s)
        producer, consumer = face.producer(queue), face.consumer(queue)
        face.send(producer, b"in time", expires_in=length)
        delivery = face.next(consumer)
        assert delivery.body == b"in time"
        delivery.retry()
        face.settled(delivery)
        face.close(consumer)
        face.send(producer, b"too late", expires_in=length)
        harness.pass_time(length.total_seconds() + 0.01)  # an instant is written to the microsecond
        face.send(producer, b"fresh", expires_in=100 * length)
        face.send(producer, b"for ever")
        seen = list[bytes]()
        work = Work(face, queue, seen.append, **_LONG)
        work.await_begun(2, within_s=10.0)
        assert work.stop() is ExitCode.DRAINED
        assert sorted(seen) == [b"for ever", b"fresh"]
        queue.expect_nothing("what has expired is gone for good")
        _expect_none_that_expires_here(harness, face)

    def test_EXP_02_ttl_not_declared_checked_by_core(self, harness: Harness, face: Face) -> None:
        """A service that knows no expiry delivers it all the same: the engine drops it when it is received, acks
        it, and counts it. Without a readable time nothing is dropped."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, expiry=Support.BRIDGED)
        past = meta.write_instant(harness.clock.time() - 1.0)
        queue.put(b"expired", b"expired", metadata={meta.EXPIRES: past})
        queue.put(b"malformed", metadata={meta.EXPIRES: "soon"})
        queue.put(b"later", metadata={meta.EXPIRES: meta.write_instant(harness.clock.time() + 3600.0)})
        consumer, got = face.consumer(queue, opener=opener), list[bytes]()
        for _ in range(2):
            delivery = face.next(consumer)
            got.append(delivery.body)
            delivery.ack()
        face.close(consumer)
        assert sorted(got) == [b"later", b"malformed"]
        assert consumer.counts()["delivery.expired"] == 2
        settled = [entry.action for call in opener.script.calls("settle") for entry in call.batch]
        assert settled == [Action.ACK] * 4
        queue.expect_nothing("what has expired is gone for good")

    def test_EXP_03_ttl_and_delay_interplay(self, harness: Harness, face: Face) -> None:
        """A delay that outlasts the message's time is refused before any call; a shorter one is kept."""
        queue, opener, delay = Queue(harness), FaultyOpener(harness.opener), timedelta(seconds=harness.min_delay_s)
        producer = face.producer(queue, opener=opener)
        can = queue.capabilities
        if can.max_delay_s:
            for expires in (delay, delay / 2):
                with pytest.raises(InvalidMessageError, match="expires_in"):
                    face.send(producer, b"x", delay=delay, expires_in=expires)
            (outcome,) = face.send_many(producer, [Message(b"x", delay=delay, expires_in=delay)])
            assert isinstance(outcome, Rejected)
            assert outcome.error.code is ErrorCode.INVALID_MESSAGE
        with pytest.raises(InvalidMessageError, match="expires_in"):
            face.send(producer, b"x", expires_in=timedelta(0))
        assert opener.script.calls("send") == []
        face.send(producer, b"kept", expires_in=100 * delay, **({"delay": delay} if can.max_delay_s else {}))
        harness.pass_time(harness.min_delay_s)
        assert face.next(face.consumer(queue), within_s=max(harness.tolerance_s, 1.0)).body == b"kept"


def _expect_none_that_expires_here(harness: Harness, face: Face) -> None:
    """Nor is a message handed out that expired while it waited, fetched ahead, for somebody to take it."""
    queue, length = Queue(harness), timedelta(seconds=4 * harness.min_delay_s)
    producer, consumer = face.producer(queue), face.consumer(queue, prefetch=5)
    face.send(producer, b"first")
    face.send(producer, b"too late", expires_in=length)
    delivery = face.next(consumer)
    harness.until(lambda: consumer.counts()["received"] == 2, within_s=5.0, what="the second is fetched ahead")
    harness.pass_time(length.total_seconds() + 0.01)
    face.send(producer, b"last")
    delivery.ack()
    last = face.next(consumer)
    assert last.body == b"last"
    last.ack()
    face.close(consumer)
    assert consumer.counts()["delivery.expired"] == 1
    queue.expect_nothing("what has expired is gone for good")
