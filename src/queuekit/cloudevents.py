# SPDX-License-Identifier: Apache-2.0
"""Messages that are CloudEvents 1.0, in binary and in structured mode.

The modes are those of the HTTP binding, with message attributes in the place of headers, because there is no
official binding for most queue services. Whoever reads the attributes as headers has a CloudEvent.

```python
from queuekit import Consumer, Producer
from queuekit.cloudevents import CloudEvent, as_message, read_event

event = CloudEvent(id="7", source="/shop", type="order.placed", data=b'{"item": "tea"}')
with Producer("memory://events") as producer:
    producer.send(as_message(event))
with Consumer("memory://events") as consumer:
    delivery = consumer.receive(timeout=5)
    assert delivery is not None
    assert read_event(delivery.body, delivery.attributes) == event
    delivery.ack()
```
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote, unquote

from queuekit._values.errors import DecodeError, EncodeError
from queuekit._values.message import Message

__all__ = ["CloudEvent", "as_message", "read_event"]

_SPEC = "1.0"
_PREFIX = "ce-"
_CONTENT_TYPE = "content-type"
_STRUCTURED = "application/cloudevents+json"
_REQUIRED = ("id", "source", "type")
_OPTIONAL = ("subject", "dataschema", "datacontenttype")
_EXTENSION = re.compile(r"[a-z0-9]{1,20}")
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_JSON = re.compile(r"[^/;]+/([^;]+\+)?json\s*(;.*)?", re.IGNORECASE)
_TEXT = re.compile(r"text/", re.IGNORECASE)
# Section 3.1.3.2 of the HTTP binding: all printable ASCII but the space, the quote and the percent sign.
_SAFE = "".join(map(chr, range(0x21, 0x7F))).translate({ord('"'): None, ord("%"): None})


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """One event, as version 1.0 of the specification has it.

    Attributes:
        id: Unique among the events of its source.
        source: Where it happened, a URI reference.
        type: What happened.
        data: The payload's bytes; None where there is none.
        datacontenttype: What the data is, as a media type; JSON where it is not said.
        dataschema: A URI of the data's schema.
        subject: What it happened to, within the source.
        time: When; must be aware.
        extensions: Further attributes; names of lower-case letters and digits.

    Raises:
        EncodeError: An attribute is empty, is no text, or has a name that none may have.
    """

    id: str
    source: str
    type: str
    data: bytes | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    subject: str | None = None
    time: datetime | None = None
    extensions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name in (*_REQUIRED, *_OPTIONAL):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (value is None and name in _OPTIONAL):
                msg = f"a CloudEvent's {name} must be a str that is not empty and is {type(value).__name__}"
                raise EncodeError(msg)
        if self.time is not None and (not isinstance(self.time, datetime) or self.time.tzinfo is None):
            msg = "a CloudEvent's time must be an aware datetime; give it a time zone"
            raise EncodeError(msg)
        for name, text in self.extensions.items():
            if not _EXTENSION.fullmatch(name) or name in {*_REQUIRED, *_OPTIONAL, "time", "data", "specversion"}:
                msg = (
                    f"{name!r} cannot be an extension; use up to 20 lower-case letters and digits, and no name of 1.0"
                )
                raise EncodeError(msg)
            if not isinstance(text, str):
                msg = f"the extension {name!r} must be a str and is {type(text).__name__}"
                raise EncodeError(msg)


def as_message(event: CloudEvent, *, mode: Literal["binary", "structured"] = "binary") -> Message[bytes]:
    """The message that carries an event; send it with a producer of bytes.

    Its type is the event's, so that the handler of that type gets it, and its id is the event's where it can
    be one.

    Args:
        event: What to send.
        mode: ``binary``: the data is the body, and attributes ``ce-…`` say the rest; others read the body as
            it is. ``structured``: the body is one JSON document with everything.

    Raises:
        EncodeError: The data is not what its content type says, in structured mode.
    """
    message_id = event.id if _MESSAGE_ID.fullmatch(event.id) else None
    if mode == "structured":
        attributes = {_CONTENT_TYPE: _STRUCTURED}
        return Message(_write_json(event), attributes=attributes, type=event.type, message_id=message_id)
    attributes = {f"{_PREFIX}{name}": quote(text, safe=_SAFE) for name, text in _texts(event).items()}
    if event.datacontenttype is not None:
        del attributes[f"{_PREFIX}datacontenttype"]
        attributes[_CONTENT_TYPE] = event.datacontenttype
    return Message(event.data or b"", attributes=attributes, type=event.type, message_id=message_id)


def read_event(body: bytes, attributes: Mapping[str, str]) -> CloudEvent:
    """The event in a delivery, in either mode; pass `Delivery.body` and `Delivery.attributes`.

    Raises:
        DecodeError: It is no CloudEvent of version 1.
    """
    found = {name.lower(): text for name, text in attributes.items()}
    if f"{_PREFIX}specversion" in found:
        texts = {
            name.removeprefix(_PREFIX): unquote(text) for name, text in found.items() if name.startswith(_PREFIX)
        }
        if _CONTENT_TYPE in found:
            texts["datacontenttype"] = found[_CONTENT_TYPE]
        return _event(texts, body or None)
    return _read_json(body)


def _texts(event: CloudEvent) -> dict[str, str]:
    texts = {"specversion": _SPEC} | {name: getattr(event, name) for name in _REQUIRED}
    texts |= {name: text for name in _OPTIONAL if (text := getattr(event, name)) is not None}
    if event.time is not None:
        texts["time"] = event.time.isoformat().replace("+00:00", "Z")
    return texts | dict(event.extensions)


def _write_json(event: CloudEvent) -> bytes:
    document: dict[str, Any] = dict(_texts(event))
    if event.data is not None:
        document |= _data(event.data, event.datacontenttype)
    return _dump(document)


def _dump(value: Any) -> bytes:
    """A value as JSON.

    Raises:
        ValueError: It is a number that JSON has not, or half of a character.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _data(data: bytes, content_type: str | None) -> dict[str, Any]:
    """Data as the JSON format has it: JSON as itself, text as text, and all else in base64.

    Raises:
        EncodeError: It is not what its content type says.
    """
    try:
        if content_type is None or _JSON.fullmatch(content_type):
            value = json.loads(data)
            _dump(value)
            return {"data": value}
        if _TEXT.match(content_type):
            return {"data": data.decode()}
    except (ValueError, RecursionError) as error:
        msg = f"the data of the CloudEvent is not {content_type or 'JSON'}; set its datacontenttype"
        raise EncodeError(msg) from error
    return {"data_base64": base64.b64encode(data).decode()}


def _read_json(body: bytes) -> CloudEvent:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        msg = "the message is no CloudEvent: it has no ce- attributes, and its body is no JSON"
        raise DecodeError(msg) from error
    if not isinstance(document, dict):
        msg = "the message is no CloudEvent: its body is no JSON object"
        raise DecodeError(msg)
    try:
        data = _data_of(document)
    except ValueError as error:
        msg = "the CloudEvent's data cannot be told in JSON and UTF-8"
        raise DecodeError(msg) from error
    # An attribute that is null counts as absent; numbers and booleans have one canonical text.
    texts = {name: _canonical(value) for name, value in document.items() if value is not None}
    return _event(texts, data)


def _data_of(document: dict[str, Any]) -> bytes | None:
    value, encoded = document.pop("data", None), document.pop("data_base64", None)
    if encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            msg = "the CloudEvent's data_base64 is no base64"
            raise DecodeError(msg) from error
    if value is None:
        return None
    content_type = document.get("datacontenttype")
    if isinstance(value, str) and isinstance(content_type, str) and not _JSON.fullmatch(content_type):
        return value.encode()
    return _dump(value)


def _canonical(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _event(texts: Mapping[str, str], data: bytes | None) -> CloudEvent:
    left = dict(texts)
    version = left.pop("specversion", None)
    if version != _SPEC:
        msg = f"the message is no CloudEvent of version {_SPEC}: its specversion is {version!r}"
        raise DecodeError(msg)
    known: dict[str, Any] = {name: left.pop(name, None) for name in (*_REQUIRED, *_OPTIONAL)}
    try:
        at = left.pop("time", None)
        known["time"] = None if at is None else datetime.fromisoformat(at)
        return CloudEvent(**known, data=data, extensions=MappingProxyType(left))
    except (EncodeError, ValueError) as error:
        msg = f"the message is no CloudEvent: {error}"
        raise DecodeError(msg) from error
