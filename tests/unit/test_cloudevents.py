# SPDX-License-Identifier: Apache-2.0
"""CloudEvents: what cannot be one, and what is read from strangers."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit import DecodeError, EncodeError
from queuekit.cloudevents import CloudEvent, as_message, read_event

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


def event(**changes: Any) -> CloudEvent:
    return CloudEvent(**{"id": "1", "source": "/s", "type": "t", **changes})


MODES = st.sampled_from(["binary", "structured"])


@given(TEXTS, TEXTS, st.one_of(st.none(), TEXTS), st.binary(min_size=1), MODES)
def test_every_event_comes_back(id_: str, source: str, subject: str | None, data: bytes, mode: Any) -> None:
    sent = CloudEvent(
        id=id_, source=source, type=id_, subject=subject, data=data, datacontenttype="application/octet-stream"
    )
    message = as_message(sent, mode=mode)
    assert read_event(message.payload, message.attributes) == sent


def test_the_message_has_the_events_type_and_its_id_where_it_can_be_one() -> None:
    assert (as_message(event()).type, as_message(event()).message_id) == ("t", "1")
    assert as_message(event(id="grün und blau")).message_id is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ""}, "id must be a str that is not empty"),
        ({"source": None}, "source must be a str that is not empty and is NoneType"),
        ({"subject": ""}, "subject must be a str"),
        ({"time": datetime.fromisoformat("2026-01-01")}, "time must be an aware datetime"),
        ({"extensions": {"No-Good": "x"}}, "'No-Good' cannot be an extension"),
        ({"extensions": {"data": "x"}}, "'data' cannot be an extension"),
        ({"extensions": {"n": 1}}, "the extension 'n' must be a str"),
    ],
)
def test_what_cannot_be_an_event_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EncodeError, match=said):
        event(**changes)


def test_data_that_is_not_what_it_says_cannot_be_structured() -> None:
    for content_type in (None, "application/json", "text/plain"):
        wrong = event(data=b"\xff{", datacontenttype=content_type)
        with pytest.raises(EncodeError, match="set its datacontenttype"):
            as_message(wrong, mode="structured")
        assert read_event(as_message(wrong).payload, as_message(wrong).attributes) == wrong


GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        json.dumps({**GOOD, "specversion": "0.3"}).encode(),
        json.dumps({**GOOD, "id": ""}).encode(),
        json.dumps({**GOOD, "id": None}).encode(),
        json.dumps({**GOOD, "time": "yesterday"}).encode(),
        json.dumps({**GOOD, "time": "2026-01-01T00:00:00"}).encode(),
        json.dumps({**GOOD, "data_base64": "!"}).encode(),
        json.dumps({**GOOD, "data_base64": 7}).encode(),
        json.dumps({**GOOD, "Bad Name": "x"}).encode(),
    ],
)
def test_what_is_no_event_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(DecodeError, match=r"no CloudEvent|no base64"):
        read_event(body, {})


def test_attributes_of_any_case_and_values_of_any_json_type_are_read() -> None:
    headers = {"CE-SpecVersion": "1.0", "Ce-Id": "1", "ce-Source": "/s%20x", "ce-type": "t", "Content-Type": "a/b"}
    assert read_event(b"x", headers) == event(source="/s x", data=b"x", datacontenttype="a/b")
    structured = json.dumps({**GOOD, "count": 3, "flag": True, "subject": None, "data": {"a": [1]}}).encode()
    assert read_event(structured, {}) == event(data=b'{"a":[1]}', extensions={"count": "3", "flag": "true"})


@pytest.mark.parametrize("data", [b"NaN", b"[1e999]", b'"\\ud800"', b"[" * 100_000])
def test_data_that_json_cannot_tell_is_refused_by_who_sends_it(data: bytes) -> None:
    event = CloudEvent(id="1", source="/s", type="t", data=data)
    with pytest.raises(EncodeError, match="data of the CloudEvent is not JSON"):
        as_message(event, mode="structured")


@pytest.mark.parametrize("data", [b"NaN", b'"\\ud800"', b"[" * 100_000])
def test_a_hostile_document_is_no_event(data: bytes) -> None:
    body = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":' + data + b"}"
    with pytest.raises(DecodeError):
        read_event(body, {})
