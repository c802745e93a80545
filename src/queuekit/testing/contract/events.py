# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""ENC-21: CloudEvents, against the reference library."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from queuekit.cloudevents import CloudEvent, as_message, read_event
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue

Mode = Literal["binary", "structured"]

_AT = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
_EVENTS = {
    "json": CloudEvent(
        id="7",
        source="/shop",
        type="order.placed",
        data='{"item":"grün","n":1}'.encode(),
        datacontenttype="application/json",
        dataschema="https://example.com/s",
        subject='café "50 %"',
        time=_AT,
        extensions={"partitionkey": "ada", "x1": "a b"},
    ),
    "text": CloudEvent(
        id="8", source="urn:x", type="t", data="grün".encode(), datacontenttype="text/plain", time=_AT
    ),
    "binary": CloudEvent(
        id="9", source="urn:x", type="t", data=bytes(range(256)), datacontenttype="image/png", time=_AT
    ),
    "empty": CloudEvent(id="10", source="urn:x", type="t", time=_AT),
}


class Events(Group):
    """An event is the same on both sides, whichever library and mode wrote it."""

    @pytest.mark.parametrize("name", _EVENTS)
    @pytest.mark.parametrize("mode", ["binary", "structured"])
    def test_ENC_21_cloudevents_modes(self, harness: Harness, face: Face, mode: Mode, name: str) -> None:
        """The reference library reads what we send, and we read what it writes, in both modes."""
        from cloudevents.core.bindings import http
        from cloudevents.core.formats.json import JSONFormat

        event, queue = _EVENTS[name], Queue(harness)
        face.send(face.producer(queue.name), as_message(event, mode=mode))
        (got,) = queue.take(1)
        queue.ack(got)
        assert read_event(got.body, got.attributes) == event
        theirs = http.from_http(http.HTTPMessage(dict(got.attributes), got.body), JSONFormat())
        assert _plain(theirs.get_attributes()) == _attributes(event)
        written = (http.to_binary if mode == "binary" else http.to_structured)(theirs, JSONFormat())
        queue.put(written.body, attributes=written.headers)
        (back,) = queue.take(1)
        assert _same(read_event(back.body, back.attributes), event)


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _attributes(event: CloudEvent) -> dict[str, Any]:
    names = ("id", "source", "type", "datacontenttype", "dataschema", "subject", "time")
    known = {name: value for name in names if (value := getattr(event, name)) is not None}
    return {"specversion": "1.0"} | known | dict(event.extensions)


def _same(one: CloudEvent, other: CloudEvent) -> bool:
    """Whether two events say the same; JSON may be spaced in another way."""
    import json

    if other.datacontenttype == "application/json":
        return _attributes(one) == _attributes(other) and json.loads(one.data or b"") == json.loads(other.data or b"")
    return one == other
