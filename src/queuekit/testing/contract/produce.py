# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""PRO: sending."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta

import pytest

from queuekit._engine.guard import Guard
from queuekit._values.errors import UnavailableError
from queuekit._values.message import Message
from queuekit.backend import Accepted, ErrorCode, NotAttempted, QueueURL, Rejected, Unknown
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.spi import CALL_S, Queue, message
from queuekit.testing.faults import FaultyOpener, InjectedFault, access_denied, raise_after, raise_before, unavailable


class Produce(Group):
    """What becomes of a message on its way in."""

    def test_PRO_01_send_one_returns_accepted_with_id(self, harness: Harness) -> None:
        """One message yields Accepted with an id that is printable and safe to log."""
        sent = message()
        (outcome,) = Queue(harness).send(sent)
        assert isinstance(outcome, Accepted)
        assert outcome.message_id == sent.message_id
        assert outcome.message_id.isascii()
        assert (outcome.message_id + (outcome.provider_id or "")).isprintable()

    def test_PRO_02_send_many_all_accepted(self, harness: Harness) -> None:
        """N messages give N outcomes in input order, and all of them arrive."""
        queue = Queue(harness)
        count = min(queue.capabilities.max_send_batch, 25)
        batch = queue.keyed(*(message(b"%d" % index) for index in range(count)))
        outcomes = queue.backend.send(batch, timeout_s=CALL_S)
        assert [type(each) for each in outcomes] == [Accepted] * count
        assert [each.message_id for each in outcomes] == [each.message_id for each in batch]
        assert {each.body for each in queue.take(count)} == {each.body for each in batch}

    def test_PRO_03_send_zero_messages_is_noop(self, harness: Harness, face: Face) -> None:
        """An empty list makes no call to the service and gives an empty report."""
        opener = FaultyOpener(harness.opener)
        producer = face.producer(harness.unique_name(), opener=opener)
        report = face.send_many(producer, [])
        assert (len(report), report.ok, report.outcomes) == (0, True, ())
        report.raise_for_failures()
        assert opener.script.calls() == []

    def test_PRO_04_send_over_batch_limit_is_chunked(self, harness: Harness, face: Face) -> None:
        """Ten times the limit and one more all arrive, and no call is over the limit."""
        queue = Queue(harness)
        limit = min(queue.capabilities.max_send_batch, 7)
        opener = FaultyOpener(harness.opener, max_send_batch=limit)
        payloads = [b"%d" % index for index in range(10 * limit + 1)]
        report = face.send_many(face.producer(queue, opener=opener), payloads)
        assert report.ok
        assert len(report) == len(payloads)
        assert {each.body for each in queue.take(len(payloads))} == set(payloads)
        assert all(0 < len(call.batch) <= limit for call in opener.script.calls("send"))

    def test_PRO_05_send_over_byte_limit_is_chunked(self, harness: Harness, face: Face) -> None:
        """Messages that are legal alone and too big together are split by bytes, overhead included."""
        queue = Queue(harness)
        size = queue.backend.size
        limit = 3 * size(message(b"x" * 400)) + 200
        opener = FaultyOpener(harness.opener, max_send_batch_bytes=limit)
        payloads = [b"%03d" % index + b"x" * 397 for index in range(20)]
        assert face.send_many(face.producer(queue, opener=opener), payloads).ok
        assert {each.body for each in queue.take(20)} == set(payloads)
        calls = opener.script.calls("send")
        assert len(calls) > 1
        assert all(sum(size(each) for each in call.batch) <= limit for call in calls)

    def test_PRO_06_same_payload_twice_is_two_messages(self, harness: Harness) -> None:
        """Identical bodies and attributes are two deliveries unless a dedup id was given."""
        queue = Queue(harness)
        queue.put(b"same", b"same", attributes={"a": "1"})
        queue.put(b"same", attributes={"a": "1"})
        assert [each.body for each in queue.take(3)] == [b"same"] * 3

    @requires("durable")
    def test_PRO_07_send_before_any_consumer(self, harness: Harness) -> None:
        """A backlog that was sent first is received by a consumer that is opened later."""
        queue = Queue(harness)
        queue.put(b"1", b"2", b"3")
        queue.backend.close()
        assert {each.body for each in queue.again().take(3)} == {b"1", b"2", b"3"}

    def test_PRO_08_client_message_id_round_trips(self, harness: Harness) -> None:
        """An id that the sender chose comes back as it is, and is not the handle."""
        queue = Queue(harness)
        queue.put(b"x", message_id="order-4711:retry/1")
        (got,) = queue.take()
        assert got.message_id == "order-4711:retry/1"
        assert got.handle != got.message_id

    def test_PRO_09_headers_are_not_mutated(self, harness: Harness, face: Face) -> None:
        """What is passed to send is unchanged after it, can be sent again, and can be changed then."""
        queue = Queue(harness)
        producer = face.producer(queue)
        attributes = {"Color": "red", "b": "2"}
        sent = Message(b"x", attributes=attributes)
        face.send(producer, sent)
        face.send_many(producer, [sent, sent])
        assert attributes == {"Color": "red", "b": "2"}
        assert sent == Message(b"x", attributes={"Color": "red", "b": "2"})
        attributes["Color"] = "changed too late"
        got = queue.take(3)
        assert [dict(each.attributes) for each in got] == [{"Color": "red", "b": "2"}] * 3
        assert len({each.message_id for each in got}) == 3, "each send is a message with an id of its own"

    def test_PRO_10_send_waits_for_broker_confirm(self, harness: Harness, face: Face) -> None:
        """Without the service's confirmation a send is Unknown or an error, and never Accepted."""
        queue = Queue(harness)
        opener = FaultyOpener(harness.opener)
        producer = face.producer(queue, opener=opener, timeout=timedelta(seconds=2))
        opener.script.always("send", raise_after(unavailable()))
        report = face.send_many(producer, [b"1", b"2"])
        assert [type(each) for each in report.outcomes] == [Unknown, Unknown]
        assert len(report.unknown) == 2
        with pytest.raises(UnavailableError) as caught:
            face.send(producer, b"3")
        assert isinstance(caught.value.__cause__, InjectedFault)
        opener.script.always("send", None)
        assert isinstance(face.send(producer, b"4"), Accepted)
        assert {each.body for each in queue.take_up_to(100)} == {b"1", b"2", b"3", b"4"}

    @requires("declared")
    def test_PRO_11_unroutable_is_rejected(self, harness: Harness) -> None:
        """Sending to a queue that does not exist is refused as not found, never accepted."""
        missing = harness.opener.open(QueueURL.parse(harness.url_of(harness.unique_name())))
        guard = Guard(missing, "the missing queue")
        (outcome,) = guard.send(Queue(harness, backend=missing).keyed(message()), timeout_s=CALL_S)
        assert isinstance(outcome, Rejected | NotAttempted)
        assert outcome.error.code is ErrorCode.NOT_FOUND
        missing.close()

    def test_PRO_12_producer_only_permissions_suffice(self, harness: Harness, face: Face) -> None:
        """Sending needs the right to send and no other: nothing is received, counted, looked at or made. Where a
        queue has limits of its own they are asked for once, and no answer is no hindrance."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        opener.script.always("probe", raise_before(access_denied()))
        with harness.hook("deny")("receive") if hasattr(harness, "deny") else nullcontext():
            producer = face.producer(queue, opener=opener)
            face.send(producer, b"1", attributes={"a": "1"})
            assert face.send_many(producer, [b"2", b"3"]).ok
            assert isinstance(producer.send_soon(b"4").result(REAL_LIMIT_S), Accepted)
            face.close(producer)
        verbs = [call.verb for call in opener.script.calls() if call.verb != "send"]
        assert verbs == (["probe"] if queue.capabilities.queues == "declared" else [])
        assert {each.body for each in queue.take(4)} == {b"1", b"2", b"3", b"4"}
