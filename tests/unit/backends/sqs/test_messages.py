# SPDX-License-Identifier: Apache-2.0
"""What a message is on the wire, and that it comes back as it went."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit.backend import OutgoingMessage
from queuekit.backends.sqs import LIST_PRICES, DamagedAnswerError, Prices, cost_per_million
from queuekit.backends.sqs import _entries as entries
from queuekit.backends.sqs import _messages as messages

_CARRIED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_NAMES = st.one_of(st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True), _TEXT.filter(bool))


def arrived(message: OutgoingMessage, *, grouped: bool = True) -> Any:
    wire = messages.Writer(grouped=grouped).write(message)
    native = messages.native_attributes(wire.attributes)
    raw: dict[str, Any] = {
        "MessageId": "service",
        "Body": wire.body,
        "MD5OfBody": messages.md5_of_body(wire.body),
        "MessageAttributes": native,
        "MD5OfMessageAttributes": messages.md5_of_attributes(native),
        "Attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1500",
            "ApproximateFirstReceiveTimestamp": "2000",
        },
    }
    if message.ordering_key is not None:
        raw["Attributes"]["MessageGroupId"] = messages.group_of(message.ordering_key)
    return messages.Reader(grouped=grouped).read(raw, "handle", 5.0)


@given(
    body=st.one_of(st.binary(max_size=60), _TEXT.map(str.encode)),
    attributes=st.dictionaries(_NAMES, _TEXT, max_size=14),
    metadata=st.dictionaries(_TEXT, _TEXT, max_size=4),
    key=st.one_of(st.none(), _TEXT.filter(bool)),
    message_id=st.from_regex(r"[\x21-\x7e]{1,20}", fullmatch=True),
)
def test_every_message_is_carried_exactly(
    body: bytes, attributes: dict[str, str], metadata: dict[str, str], key: str | None, message_id: str
) -> None:
    message = OutgoingMessage(message_id, body, attributes, metadata, ordering_key=key)
    wire = messages.Writer(grouped=True).write(message)
    assert _CARRIED.fullmatch(wire.body)
    assert len(wire.attributes) <= 8
    for name, text in wire.attributes.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name)
        assert _CARRIED.fullmatch(text)
    size = len(wire.body.encode()) + sum(len(name) + 6 + len(text.encode()) for name, text in wire.attributes.items())
    assert messages.Writer(grouped=True).size(message) == size
    got = arrived(message)
    assert (got.message_id, got.body, got.attributes) == (message_id, body, attributes)
    assert (got.metadata, got.ordering_key) == (metadata, key)
    assert (got.attempt, got.enqueued_at, got.received_at) == (1, 1.5, 2.0)


@given(key=_TEXT.filter(bool))
def test_a_group_is_one_that_the_service_takes_and_no_two_keys_share_one(key: str) -> None:
    group = messages.group_of(key)
    assert re.fullmatch(r"[\x21-\x7e]{1,128}", group)
    assert group == key or messages.group_of(group) != group, "a key that looks like a hash is hashed too"


@pytest.mark.parametrize("body", [b"tea", b"tee\t\r\n", "grüße 🦄".encode()])
def test_what_the_service_can_carry_travels_as_it_is(body: bytes) -> None:
    assert messages.Writer(grouped=False).write(OutgoingMessage("1", body)).body.encode() == body


def test_a_message_of_another_program_is_received_with_the_service_s_own_id() -> None:
    raw = {"MessageId": "service", "Body": "hi", "MessageAttributes": {
        "n": {"DataType": "Number", "StringValue": "7"},
        "b": {"DataType": "Binary", "BinaryValue": b"\x00"},
        "qk": {"DataType": "String", "StringValue": "not ours"},
    }}  # fmt: skip
    got = messages.Reader(grouped=False).read(raw, "handle", None)
    assert (got.message_id, got.body, dict(got.metadata)) == ("service", b"hi", {})
    assert got.attributes == {"n": "7", "b": "AA==", "qk": "not ours"}


def test_a_text_that_no_parser_of_json_gets_to_the_end_of_is_of_another_program() -> None:
    deep = {"qk": {"DataType": "String", "StringValue": "[" * 100_000}}
    got = messages.Reader(grouped=False).read(
        {"MessageId": "service", "Body": "hi", "MessageAttributes": deep}, "handle", None
    )
    assert (got.message_id, got.body) == ("service", b"hi")


@pytest.mark.parametrize("field", ["MD5OfBody", "MD5OfMessageAttributes"])
def test_a_damaged_message_is_not_handed_out(field: str) -> None:
    raw = {"MessageId": "1", "Body": "hi", "MessageAttributes": {"a": {"DataType": "String", "StringValue": "1"}}}
    with pytest.raises(DamagedAnswerError):
        messages.Reader(grouped=False).read({**raw, field: "0" * 32}, "handle", 1.0)


def test_the_digest_of_attributes_is_the_one_of_aws() -> None:
    native = {"timestamp": {"DataType": "Number", "StringValue": "1493147359900"}}
    assert messages.md5_of_attributes(native) == "235c5c510d26fb653d073faed50ae77c"


def test_what_has_no_slot_of_its_own_is_packed_and_tracing_keeps_two() -> None:
    attributes = {f"a{number}": "x" for number in range(9)} | {"AWS.trace": "x", "empty": ""}
    wire = messages.Writer(grouped=False).write(OutgoingMessage("1", b"x", attributes))
    packed = json.loads(wire.attributes.pop("qk"))
    assert list(wire.attributes) == [f"a{number}" for number in range(7)]
    assert packed["attrs"] == {"a7": "x", "a8": "x", "AWS.trace": "x", "empty": ""}


def test_each_entry_of_an_answer_is_judged_by_itself() -> None:
    failed = {"Code": "InternalError", "SenderFault": False}
    told = entries.read(
        {
            "Successful": [{"Id": "0", "MessageId": "m"}, {"Id": "2"}, {"Id": "7"}],
            "Failed": [
                {"Id": "1", **failed},
                {"Id": "1", **failed},
                {"Id": "2", **failed},
                {"Id": "stranger", **failed},
            ],
        },
        4,
    )
    assert told[0].success is not None
    assert (told[1].known, told[1].error.retryable) == (True, True)
    assert (told[2].success, told[2].known) == (None, False), "in both lists: nobody knows"
    assert (told[3].success, told[3].known) == (None, False), "in neither"


def test_a_million_messages_cost_what_their_calls_cost() -> None:
    calls = {"SendMessageBatch": 100, "ReceiveMessage": 100, "DeleteMessageBatch": 100}
    assert cost_per_million(calls, 1000) == pytest.approx(0.12)
    assert cost_per_million(calls, 1000, fifo=True) == pytest.approx(0.15)
    assert cost_per_million(calls, 1000, fair=True) == pytest.approx(0.15)
    assert cost_per_million(calls, 1000, call_bytes=100 * 1024) == pytest.approx(0.20)
    dearer = Prices(standard=0.48, fifo=0.6, source="another region")
    assert cost_per_million(calls, 1000, prices=dearer) == pytest.approx(0.144)
    assert "2026" in LIST_PRICES.source
    counts = {"sent": 1000, "accepted": 1000} | {f"api.{name}": count for name, count in calls.items()}
    assert cost_per_million(counts, counts["sent"]) == pytest.approx(0.12)
    with pytest.raises(ValueError, match="one message"):
        cost_per_million(calls, 0)


def packed(message_id: str, metadata: str) -> dict[str, Any]:
    attribute = {"DataType": "String", "StringValue": f'{{"id":"{message_id}","meta":{metadata}}}'}
    return {"MessageId": "service", "Body": "hi", "MessageAttributes": {"qk": attribute}}


def test_messages_that_were_sent_alike_share_their_metadata_and_nothing_else() -> None:
    reader = messages.Reader(grouped=False)
    one, two = (reader.read(packed(name, '{"type":"Email"}'), "handle", None) for name in ("1", "2"))
    assert one.metadata is two.metadata, "who works them looks at equal metadata once"
    assert (one.message_id, two.message_id, dict(two.metadata)) == ("1", "2", {"type": "Email"})
    assert one.attributes is not two.attributes
    other = reader.read(packed("3", '{"type":"Letter"}'), "handle", None)
    assert (other.message_id, dict(other.metadata)) == ("3", {"type": "Letter"})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("9", '{},"id":"9"'), ("2", '{},"id":"9"')),
        (("9", r'{},"\u0069d":"9"'), ("2", r'{},"\u0069d":"9"')),
        (("1", '{},"enc":"base64"'), ("2", "{}")),
        (("1", '{"a":"b"},"attrs":{"c":"d"}'), ("2", '{"a":"b"}')),
        (("1", "{}"), ("2\\u0020", "{}")),
        (("1", "{}"), ("x" * 129, "{}")),
        (("1", "not JSON"), ("2", "not JSON")),
    ],
)
def test_what_was_read_before_changes_nothing(before: tuple[str, str], after: tuple[str, str]) -> None:
    reader = messages.Reader(grouped=False)
    for _ in range(2):
        for each in (before, after):
            assert reader.read(packed(*each), "h", None) == messages.Reader(grouped=False).read(
                packed(*each), "h", None
            )
