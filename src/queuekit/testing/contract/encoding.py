# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""ENC: bodies, attributes and sizes."""

from __future__ import annotations

import math

import pytest

from queuekit._portable.producer import Producer
from queuekit._values.capability import Support
from queuekit._values.errors import DecodeError, EncodeError, InvalidMessageError, MessageTooLargeError
from queuekit._values.message import Message
from queuekit.backend import Accepted, ErrorCode, IncomingMessage, OutgoingMessage, Rejected
from queuekit.testing.contract import corpus
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message
from queuekit.testing.faults import FaultyOpener


class Encoding(Group):
    """What was sent is what arrives, to the byte."""

    def test_ENC_01_binary_body_all_bytes(self, harness: Harness) -> None:
        """Every byte value, in any order, arrives as it was sent."""
        queue = Queue(harness)
        queue.put(*corpus.BODIES.values())
        assert _bodies(queue.take(len(corpus.BODIES))) == sorted(corpus.BODIES.values())

    def test_ENC_02_empty_body(self, harness: Harness) -> None:
        """An empty body arrives, and empty."""
        queue = Queue(harness)
        queue.put(b"")
        queue.put(b"", attributes={"a": ""})
        assert _bodies(queue.take(2)) == [b"", b""]

    def test_ENC_03_xml_illegal_text(self, harness: Harness) -> None:
        """Text that XML, JSON or a column type would change arrives exactly."""
        queue = Queue(harness)
        sent = sorted(text.encode() for text in corpus.TEXTS.values())
        queue.put(*sent)
        assert _bodies(queue.take(len(sent))) == sent

    def test_ENC_04_lone_surrogate_str_refused(self, harness: Harness, face: Face) -> None:
        """Half a character is refused at the API, before the service is called."""
        opener = FaultyOpener(harness.opener)
        producer = face.producer(harness.unique_name(), opener=opener, payload=str)
        for text in corpus.LONE_SURROGATES:
            with pytest.raises((InvalidMessageError, EncodeError)):
                face.send(producer, text)
            for options in ({"attributes": {"a": text}}, {"attributes": {text: "a"}}, {"ordering_key": text}):
                with pytest.raises(InvalidMessageError):
                    face.send(producer, "x", **options)
        assert opener.script.calls("send") == []

    def test_ENC_05_looks_like_base64(self, harness: Harness) -> None:
        """A body that could be base64 is not decoded."""
        queue = Queue(harness)
        queue.put(*corpus.LOOKS_LIKE_BASE64)
        assert _bodies(queue.take(len(corpus.LOOKS_LIKE_BASE64))) == sorted(corpus.LOOKS_LIKE_BASE64)

    def test_ENC_06_looks_like_our_envelope(self, harness: Harness) -> None:
        """A body or an attribute that imitates queuekit's own metadata confuses nothing."""
        queue = Queue(harness)
        queue.put(*corpus.LOOKS_LIKE_OURS, attributes={"id": "theirs", "metadata": "{}"}, metadata={"id": "ours"})
        got = queue.take(len(corpus.LOOKS_LIKE_OURS))
        assert _bodies(got) == sorted(corpus.LOOKS_LIKE_OURS)
        for each in got:
            assert (dict(each.attributes), dict(each.metadata)) == (
                {"id": "theirs", "metadata": "{}"},
                {"id": "ours"},
            )

    def test_ENC_07_foreign_message_readable(self, harness: Harness, face: Face) -> None:
        """A message that queuekit did not send, without any metadata, is decoded as the consumer declares."""
        for payload, value in ((bytes, b"[1]"), (str, "[1]"), (list[int], [1])):
            queue = Queue(harness)
            if harness.private:
                queue.put(b"[1]")
            else:
                harness.hook("raw_put")(queue.name, b"[1]")
            delivery = face.next(face.consumer(queue, payload=payload))
            assert (delivery.body, delivery.payload, delivery.type) == (b"[1]", value, None)
            assert delivery.message_id

    def test_ENC_08_raw_sdk_can_read_ours(self, harness: Harness, face: Face) -> None:
        """Others see the body and the attributes as they were sent; queuekit's own metadata is in neither."""
        queue = Queue(harness)
        face.send(face.producer(queue), b"ours", attributes={"color": "red"})
        if harness.private:
            (got,) = queue.take()
            assert (got.body, dict(got.attributes)) == (b"ours", {"color": "red"})
            return
        body, attributes = harness.hook("raw_get")(queue.name)
        assert body == b"ours"
        assert attributes.get("color") == "red"

    def test_ENC_09_header_corpus_keys_values(self, harness: Harness) -> None:
        """Odd attribute names and values arrive unchanged, alone and all together."""
        queue = Queue(harness)
        singles = [{name: value} for name, value in corpus.ATTRIBUTES.items()]
        sets = [dict(corpus.ATTRIBUTES), *singles]
        batch = [message(b"%d" % index, attributes=each) for index, each in enumerate(sets)]
        assert all(isinstance(each, Accepted) for each in queue.send(*batch))
        got = {int(each.body): dict(each.attributes) for each in queue.take(len(sets))}
        assert [got[index] for index in range(len(sets))] == sets

        _expect_refused(harness, [{"a": text} for text in corpus.CONTROLS])
        _expect_refused(harness, [{f"a{text}b": "value"} for text in corpus.CONTROLS])

    def test_ENC_10_header_case_and_duplicates(self, harness: Harness) -> None:
        """Attribute names that differ in case alone are refused up front; case itself is kept."""
        _expect_refused(harness, [{"Color": "1", "color": "2"}, {"STRASSE": "1", "strasse": "2", "x": "3"}])
        queue = Queue(harness)
        queue.put(b"x", attributes={"CamelCase": "Value", "lower": "UPPER"})
        assert dict(queue.take()[0].attributes) == {"CamelCase": "Value", "lower": "UPPER"}

    def test_ENC_11_header_reserved_prefix_refused(self, harness: Harness) -> None:
        """Users cannot set queuekit's own names; names that a service reserves are carried or refused."""
        _expect_refused(harness, [{name: "value"} for name in corpus.RESERVED_NAMES])
        queue = Queue(harness)
        sent = [message(b"%d" % index, attributes={name: "v"}) for index, name in enumerate(corpus.PROVIDER_NAMES)]
        accepted = [each for each in queue.send(*sent) if isinstance(each, Accepted)]
        for got in queue.take(len(accepted)):
            assert dict(got.attributes) == {corpus.PROVIDER_NAMES[int(got.body)]: "v"}

    def test_ENC_12_header_count_over_native(self, harness: Harness) -> None:
        """Fifteen attributes survive beside the metadata, also where the service has fewer slots."""
        queue = Queue(harness)
        many = {f"name-{index}": f"value {index}" for index in range(15)}
        queue.put(b"x", attributes=many, metadata={"traceparent": "00-1-2-3", "type": "t"})
        (got,) = queue.take()
        assert dict(got.attributes) == many
        assert dict(got.metadata) == {"traceparent": "00-1-2-3", "type": "t"}

    def test_ENC_13_header_total_size_limit(self, harness: Harness, face: Face) -> None:
        """Attributes count: over the limit they are too large, and the error names size and limit."""
        opener = FaultyOpener(harness.opener, max_message_bytes=2000)
        producer = face.producer(harness.unique_name(), opener=opener)
        with pytest.raises(MessageTooLargeError, match="2000") as caught:
            face.send(producer, b"", attributes={f"name-{index}": "x" * 100 for index in range(20)})
        assert caught.value.limit == 2000
        assert caught.value.size > 2000
        assert opener.script.calls("send") == []

    def test_ENC_14_size_at_limit(self, harness: Harness) -> None:
        """The largest legal message is accepted and arrives whole."""
        queue = Queue(harness)
        largest = largest_message(queue)
        assert queue.backend.size(largest) <= queue.capabilities.max_message_bytes
        assert isinstance(queue.send(largest)[0], Accepted)
        (got,) = queue.take(within_s=max(harness.tolerance_s, 10.0))
        assert got.body == largest.body, "the largest body arrived changed"

    def test_ENC_15_size_limit_plus_one(self, harness: Harness, face: Face) -> None:
        """One byte more than fits is refused before any call, with its size and the limit."""
        queue = Queue(harness)
        opener = FaultyOpener(harness.opener, max_message_bytes=4000)
        producer = face.producer(queue, opener=opener)
        fits = _longest_accepted(face, producer, b"x")
        assert face.send(producer, b"x" * fits).message_id
        calls = len(opener.script.calls("send"))
        with pytest.raises(MessageTooLargeError) as caught:
            face.send(producer, b"x" * (fits + 1))
        assert (caught.value.limit, caught.value.size) == (4000, 4001)
        assert len(opener.script.calls("send")) == calls

    def test_ENC_16_size_counts_encoding_overhead(self, harness: Harness) -> None:
        """The size of a body that needs an encoding is that of its encoded form: what fits is accepted."""
        queue = Queue(harness)
        limit = queue.capabilities.max_message_bytes
        largest = largest_message(queue, fill=b"\xff")
        assert queue.backend.size(largest) <= limit
        assert queue.backend.size(largest._replace(body=largest.body + b"\xff")) > limit
        assert isinstance(queue.send(largest)[0], Accepted), "size() said that it fits"
        assert queue.take(within_s=max(harness.tolerance_s, 10.0))[0].body == largest.body

    def test_ENC_17_oversized_in_batch(self, harness: Harness, face: Face) -> None:
        """Of a batch only the message that is too large is rejected; the rest is sent."""
        queue = Queue(harness)
        opener = FaultyOpener(harness.opener, max_message_bytes=2000)
        report = face.send_many(face.producer(queue, opener=opener), [b"1", b"x" * 3000, b"3"])
        assert [type(each) for each in report] == [Accepted, Rejected, Accepted]
        (rejected,) = report.failed
        assert isinstance(rejected, Rejected)
        assert rejected.error.code is ErrorCode.TOO_LARGE
        assert _bodies(queue.take(2)) == [b"1", b"3"]
        queue.expect_nothing("the third was too large")

    def test_ENC_18_codec_round_trip_types(self, harness: Harness, face: Face) -> None:
        """Typed payloads come back equal and of their type: dates, decimals, bytes, enums, None, big numbers."""
        queue = Queue(harness)
        for payload, value in corpus.typed_payloads():
            face.send(face.producer(queue, payload=payload), value)
            consumer = face.consumer(queue, payload=payload)
            delivery = face.next(consumer)
            assert delivery.payload == value
            assert type(delivery.payload) is type(value)
            delivery.ack()
            face.close(consumer)
        opener = FaultyOpener(harness.opener)
        producer = face.producer(queue, payload=float, opener=opener)
        for number in (math.nan, math.inf):
            with pytest.raises(EncodeError):
                face.send(producer, number)
        assert opener.script.calls("send") == []

    def test_ENC_19_unknown_content_type(self, harness: Harness, face: Face) -> None:
        """A body that does not decode raises DecodeError where the payload is read, shows its raw bytes, and
        can still be settled."""
        queue = Queue(harness)
        queue.put(b"\xff{", metadata={"v": "1", "datacontenttype": "application/x-unheard-of"})
        queue.put(b"\xff{", metadata={"v": "1", "datacontenttype": "application/json"})
        queue.put(b"\xff{")
        consumer = face.consumer(queue, payload=dict[str, int])
        for _ in range(3):
            delivery = face.next(consumer)
            with pytest.raises(DecodeError) as caught:
                _ = delivery.payload
            assert "\xff" not in str(caught.value), "no error shows a body"
            assert delivery.body == b"\xff{"
            delivery.ack()
            face.settled(delivery)

    def test_ENC_20_old_envelope_versions(self, harness: Harness, face: Face) -> None:
        """Metadata as every released version wrote it is still understood; names of later versions are kept."""
        for golden in corpus.GOLDEN_METADATA:
            queue = Queue(harness)
            queue.put(b'{"n": 1}', metadata=golden.metadata)
            consumer = face.consumer(queue, payload=dict[str, int])
            delivery = face.next(consumer)
            assert (delivery.payload, delivery.type, delivery.redriven) == ({"n": 1}, golden.type, golden.redriven)
            if queue.capabilities.attempts == "exact":
                assert delivery.attempt == golden.attempt
            delivery.retry()
            face.settled(delivery)
            face.close(consumer)
            found = dict(queue.take()[0].metadata)
            can = queue.capabilities
            if can.retries_by_copy or can.counted_attempts is Support.BRIDGED:  # a copy that carries the count
                expected = golden.metadata | {name: found[name] for name in ("v", "base", "first") if name in found}
                assert int(found["base"]) == int(golden.metadata.get("base", "0")) + 1
            else:
                expected = dict(golden.metadata)
            assert found == expected


def _longest_accepted(face: Face, producer: Producer[bytes], fill: bytes) -> int:
    """How long a body may be: the refusal itself tells by how much it is over."""
    with pytest.raises(MessageTooLargeError) as caught:
        face.send(producer, fill * 5000)
    return 5000 - (caught.value.size - caught.value.limit)


def _expect_refused(harness: Harness, attribute_sets: list[dict[str, str]]) -> None:
    """Each set of attributes is refused as invalid, by send and by send_many, before any call."""
    opener = FaultyOpener(harness.opener)
    with Producer(harness.url(harness.unique_name()), _opener=opener) as producer:
        for attributes in attribute_sets:
            with pytest.raises(InvalidMessageError):
                producer.send(b"x", attributes=attributes)
        report = producer.send_many([Message(b"x", attributes=each) for each in attribute_sets])
    assert all(isinstance(each, Rejected) for each in report), report.outcomes
    assert opener.script.calls("send") == []


def largest_message(queue: Queue, *, fill: bytes = b"x") -> OutgoingMessage:
    """A message whose size is the limit, or as near below it as the encoding allows."""
    limit = queue.capabilities.max_message_bytes
    size, short = queue.backend.size, message(b"")
    low, high = max(0, limit - size(short)), limit
    if size(short._replace(body=fill * low)) <= limit < size(short._replace(body=fill * (low + 1))):
        return short._replace(body=fill * low)
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if size(short._replace(body=fill * middle)) <= limit:
            low = middle
        else:
            high = middle - 1
    return short._replace(body=fill * low)


def _bodies(deliveries: list[IncomingMessage]) -> list[bytes]:
    return sorted(each.body for each in deliveries)
