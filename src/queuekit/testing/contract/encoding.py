# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""ENC: bodies, attributes and sizes."""

from __future__ import annotations

from queuekit.backend import Accepted, IncomingMessage, OutgoingMessage
from queuekit.testing.contract import corpus
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message


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

    def test_ENC_07_foreign_message_readable(self, harness: Harness) -> None:
        """A message that the service's own SDK sent arrives as its bytes, without metadata."""
        queue = Queue(harness)
        harness.hook("raw_put")(queue.name, b"foreign")
        (got,) = queue.take()
        assert (got.body, dict(got.metadata)) == (b"foreign", {})
        assert got.message_id

    def test_ENC_08_raw_sdk_can_read_ours(self, harness: Harness) -> None:
        """The service's own SDK sees the body and the attributes as the backend's page documents them."""
        queue = Queue(harness)
        queue.put(b"ours", attributes={"color": "red"})
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

    def test_ENC_12_header_count_over_native(self, harness: Harness) -> None:
        """Fifteen attributes survive beside the metadata, also where the service has fewer slots."""
        queue = Queue(harness)
        many = {f"name-{index}": f"value {index}" for index in range(15)}
        queue.put(b"x", attributes=many, metadata={"traceparent": "00-1-2-3", "type": "t"})
        (got,) = queue.take()
        assert dict(got.attributes) == many
        assert dict(got.metadata) == {"traceparent": "00-1-2-3", "type": "t"}

    def test_ENC_14_size_at_limit(self, harness: Harness) -> None:
        """The largest legal message is accepted and arrives whole."""
        queue = Queue(harness)
        largest = largest_message(queue)
        assert queue.backend.size(largest) <= queue.capabilities.max_message_bytes
        assert isinstance(queue.send(largest)[0], Accepted)
        (got,) = queue.take(within_s=max(harness.tolerance_s, 10.0))
        assert got.body == largest.body, "the largest body arrived changed"


def largest_message(queue: Queue, **fields: str) -> OutgoingMessage:
    """A message whose size is the limit, or as near below it as the encoding allows."""
    limit = queue.capabilities.max_message_bytes
    size, short = queue.backend.size, message(b"", **fields)
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if size(short._replace(body=bytes(middle))) <= limit:
            low = middle
        else:
            high = middle - 1
    return short._replace(body=b"x" * low)


def _bodies(deliveries: list[IncomingMessage]) -> list[bytes]:
    return sorted(each.body for each in deliveries)
