# SPDX-License-Identifier: Apache-2.0
"""Messages on the wire of Pub/Sub: what others see, what comes back, and what has no room."""

import base64
import json
from typing import Any

import pytest
from google.pubsub_v1 import PublishRequest, PubsubMessage, ReceivedMessage
from hypothesis import given
from hypothesis import strategies as st

from queuekit.backend import ErrorCode, OutgoingMessage
from queuekit.backends.pubsub import _messages
from queuekit.backends.pubsub._messages import Writer, as_json, read, read_pushed, unfit

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def written(message: OutgoingMessage) -> PubsubMessage:
    attributes = Writer().attributes(message)
    return PubsubMessage(data=message.body, attributes=attributes, ordering_key=message.ordering_key or "")


def received(message: OutgoingMessage) -> Any:
    got = ReceivedMessage(ack_id="ack", message=written(message), delivery_attempt=3)
    return read_one(got, 7.0)


def read_one(got: Any, lease_until: float | None) -> Any:
    (message,) = read([ReceivedMessage.pb(got)], lambda ack_id: f"handle of {ack_id}", lease_until)
    return message


def test_a_plain_message_has_one_attribute_of_ours_beside_its_own() -> None:
    sent = OutgoingMessage("id-1", b"body", {"color": "red"}, {"v": "1", "type": "t"})
    assert Writer().attributes(sent) == {"color": "red", "qk": '{"id":"id-1","meta":{"v":"1","type":"t"}}'}


@given(
    body=st.binary(max_size=50),
    attributes=st.dictionaries(NAMES, TEXT, max_size=5),
    metadata=st.dictionaries(NAMES, TEXT, max_size=5),
    key=st.none() | TEXT.filter(bool),
)
def test_what_is_written_is_read_again(
    body: bytes, attributes: dict[str, str], metadata: dict[str, str], key: str | None
) -> None:
    got = received(OutgoingMessage("id-1", body, attributes, metadata, ordering_key=key))
    assert (got.body, got.attributes, got.metadata, got.ordering_key) == (body, attributes, metadata, key)
    assert (got.handle, got.message_id, got.attempt, got.lease_until) == ("handle of ack", "id-1", 3, 7.0)


@given(
    body=st.binary(max_size=300),
    attributes=st.dictionaries(NAMES, TEXT, max_size=5),
    metadata=st.dictionaries(NAMES, st.text(max_size=2000).filter(lambda text: text.isprintable()), max_size=3),
    key=st.none() | TEXT.filter(bool),
)
def test_the_size_is_what_the_message_adds_to_a_request(
    body: bytes, attributes: dict[str, str], metadata: dict[str, str], key: str | None
) -> None:
    message = OutgoingMessage("id-1", body, attributes, metadata, ordering_key=key)
    alone, two = (
        PublishRequest.pb(PublishRequest(topic="t", messages=[written(message)] * count)).ByteSize()
        for count in (1, 2)
    )
    assert Writer().size(message) == two - alone


@given(st.integers(0, 3), st.integers(0, 100), st.integers(0, 30))
def test_however_much_there_is_to_pack_no_attribute_is_too_long_and_none_too_many(
    long: int, count: int, kilobytes: int
) -> None:
    attributes = {f"name-{index}": "v" * (index % 7) for index in range(count)}
    metadata = {"dead-traceback": "é" * 1000 * kilobytes, "dead-reason": "r"} if kilobytes else {"first": "x" * long}
    sent = OutgoingMessage("id-1", b"", attributes, metadata)
    wire = Writer().attributes(sent)
    assert len(wire) <= _messages.MOST_ATTRIBUTES
    assert all(len(text.encode()) <= _messages.LONGEST_VALUE for text in wire.values())
    got = received(sent)
    assert got.attributes == attributes
    if "dead-trimmed" in got.metadata:
        assert got.metadata == {"dead-reason": "r", "dead-trimmed": "dead-traceback"}
    else:
        assert got.metadata == metadata


def test_what_has_no_room_at_all_is_left_to_be_refused() -> None:
    attributes = {f"name-{index}": "v" * 3000 for index in range(60)}
    assert len(Writer().attributes(OutgoingMessage("id-1", b"", attributes, {"first": "x"}))) > 100


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({f"name-{index}": "" for index in range(101)}, "101"),
        ({"googclient_x": "v"}, "googclient_x"),
        ({"n" * 257: "v"}, "256 bytes"),
        ({"é" * 129: "v"}, "256 bytes"),
        ({"long": "v" * 1025}, "'long'"),
        ({"long": "é" * 513}, "'long'"),
    ],
    ids=["count", "reserved", "name", "name in bytes", "value", "value in bytes"],
)
def test_attributes_beyond_the_services_rules_are_refused_by_name(attributes: dict[str, str], named: str) -> None:
    error = unfit(OutgoingMessage("id-1", b"", attributes))
    assert error is not None
    assert (error.code, error.sent) == (ErrorCode.INVALID_MESSAGE, "no")
    assert named in error.detail


@pytest.mark.parametrize("name", ["first", "base", "redriven", "dead-reason"])
def test_a_copy_of_a_received_message_carries_what_has_no_native_place(name: str) -> None:
    attributes = {
        "googclient_x": "v",
        "long": "v" * 3000,
        "n" * 300: "",
        "qk": "theirs",
        "qk-1": "theirs",
        "plain": "1",
    }
    copy = OutgoingMessage("id-1", b"", attributes, {name: "1"})
    assert unfit(copy) is None
    assert {each for each in Writer().attributes(copy) if not each.startswith("qk")} == {"plain"}
    assert received(copy).attributes == attributes


@pytest.mark.parametrize("key", ["", "k" * 1025, "é" * 513])
def test_an_ordering_key_has_bytes_and_not_too_many(key: str) -> None:
    error = unfit(OutgoingMessage("id-1", b"", ordering_key=key))
    assert error is not None
    assert "1024 bytes" in error.detail


@pytest.mark.parametrize(
    "packed",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '"qk"',
        "{}",
        '{"id":7}',
        '{"id":""}',
        '{"id":"has space"}',
        '{"id":"' + "x" * 129 + '"}',
    ],
)
def test_an_attribute_that_only_looks_like_ours_is_the_senders(packed: str) -> None:
    raw = ReceivedMessage(ack_id="ack", message=PubsubMessage(data=b"x", message_id="17", attributes={"qk": packed}))
    got = read_one(raw, None)
    assert (got.message_id, dict(got.attributes), dict(got.metadata)) == ("17", {"qk": packed}, {})


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["id-1", "id.2", 'quo"te', "back\\slash", "x" * 128]),
            st.sampled_from([{}, {"color": "red"}, {"qk-7": "theirs"}, {"long": "v" * 1100}]),
            st.sampled_from([{}, {"v": "1"}, {"v": "2", "type": "é"}, {"first": "x" * 1500}]),
        ),
        max_size=8,
    ),
    st.lists(
        st.sampled_from(
            [
                {},
                {"a": "b"},
                {"qk": ""},
                {"qk": '{"id":"a","meta":{},"id":"b"}'},
                {"qk": '{"id":"a","meta":{"v":"1"}}', "qk-1": "more"},
                {"qk": '{"id":"a","meta":{"v":"1"},"meta":{}}'},
                {"qk": '{"id":"a","meta":{"v":1}}'},
                {"qk": ' {"id":"a","meta":{}}'},
                {"qk": '{"id":"","meta":{}}'},
                {"qk": '{"id":"has space","meta":{}}'},
            ]
        ),
        max_size=4,
    ),
    st.randoms(),
)
def test_what_is_read_together_is_what_each_is_alone(ours: Any, theirs: Any, random: Any) -> None:
    bodies = [written(OutgoingMessage(own_id, b"x", beside, metadata)) for own_id, beside, metadata in ours]
    bodies += [PubsubMessage(data=b"y", message_id="17", attributes=each) for each in theirs]
    random.shuffle(bodies)
    raw = [ReceivedMessage.pb(ReceivedMessage(ack_id="ack", message=each)) for each in bodies]
    together = read(raw, str, 7.0)
    assert together == [each for alone in raw for each in read([alone], str, 7.0)]
    ids = [alone.message.attributes.get("qk", "") for alone in raw]
    for text, message in zip(ids, together, strict=True):
        if text.startswith('{"id":"a","meta":{},"id"'):
            assert message.message_id == "b"


def test_neighbours_share_what_they_have_in_common() -> None:
    raw = [
        ReceivedMessage.pb(ReceivedMessage(ack_id="ack", message=written(OutgoingMessage(each, b"", {}, {"v": "1"}))))
        for each in ("id-1", "id-2")
    ]
    one, other = read(raw, str, None)
    assert (one.message_id, other.message_id) == ("id-1", "id-2")
    assert one.metadata is other.metadata
    with pytest.raises(TypeError):
        one.metadata["v"] = "2"  # type: ignore[index]


def test_a_foreign_message_is_received_as_it_is() -> None:
    raw = PubsubMessage(data=b"x", message_id="17", attributes={"a": ""}, publish_time={"seconds": 5, "nanos": 10**8})
    got = read_one(ReceivedMessage(ack_id="ack", message=raw), None)
    assert (got.message_id, got.attempt, got.enqueued_at, got.ordering_key) == ("17", None, 5.1, None)


def pushed(message: OutgoingMessage, **beside: Any) -> dict[str, Any]:
    (sent,) = json.loads(as_json(message, Writer().attributes(message)))["messages"]
    stamps = {"messageId": "17", "message_id": "17", "publishTime": "2026-11-21T10:00:00.123456789Z"}
    return {"message": sent | stamps, "subscription": "projects/p/subscriptions/s", **beside}


def test_a_pushed_message_is_read_as_a_pulled_one() -> None:
    sent = OutgoingMessage("id-1", b"\x00\xff", {"color": "red"}, {"v": "1"}, ordering_key="k")
    got = read_pushed(pushed(sent, deliveryAttempt=5), "handle")
    assert (got.message_id, got.body, got.attributes, got.metadata) == (
        "id-1",
        b"\x00\xff",
        {"color": "red"},
        {"v": "1"},
    )
    assert (got.attempt, got.ordering_key, got.lease_until) == (5, "k", None)
    assert got.enqueued_at == pytest.approx(1795255200.123456)


def test_a_pushed_message_may_lack_all_but_its_id() -> None:
    got = read_pushed({"message": {"message_id": "17"}}, "handle")
    assert (got.message_id, got.body, got.attributes, got.attempt, got.enqueued_at) == ("17", b"", {}, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"message": None},
        {"message": {}},
        {"message": {"messageId": 7}},
        {"message": {"messageId": "1", "data": 7}},
        {"message": {"messageId": "1", "data": "no base64!"}},
        {"message": {"messageId": "1", "attributes": [1]}},
    ],
)
def test_what_is_no_pushed_message_is_said_to_be_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_pushed(wrong, "handle")


def test_the_body_of_a_rest_request_is_what_the_service_documents() -> None:
    message = OutgoingMessage("id-1", b"\xff", {"a": "é"}, ordering_key="k")
    (sent,) = json.loads(as_json(message, Writer().attributes(message)))["messages"]
    assert base64.b64decode(sent["data"]) == b"\xff"
    assert sent["orderingKey"] == "k"
    assert sent["attributes"]["a"] == "é"
