# SPDX-License-Identifier: Apache-2.0
"""Messages as the body and the headers of an HTTP request.

The body is the user's bytes. One header, ``qk``, holds as JSON what queuekit adds, and those attributes that cannot
be headers; it goes on in ``qk-1``, ``qk-2`` and so on, as servers take lines of a few kilobytes only. An attribute
that can be a header is ``qk-a-`` and its name. No other header is read as one: anybody on the way may add some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from queuekit.backend import IncomingMessage, OutgoingMessage

PACKED = "qk"
ATTRIBUTE = "qk-a-"
MOST_BYTES = 80 * 1024 - 1
"""Of all names and values together; the service takes less than 80 KB."""

_LINE = 4000
# Of metadata only this has a header of its own, so that targets which know nothing of queuekit can read the body.
_CONTENT_TYPE = "datacontenttype"
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,200}", re.ASCII)
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,3998}[\x21-\x7e])?", re.ASCII)
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_LEFT_OUT = ("dead-traceback", "dead-error")
"""In this order, where not everything has room."""
_TRIMMED = "dead-trimmed"
_DIGITS = 16

_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


def headers_of(message: OutgoingMessage) -> dict[str, str]:
    """The headers that carry a message beside its body."""
    headers: dict[str, str] = {}
    for metadata in _shorter(message.metadata):
        headers = _headers(message, metadata)
        if length_of(headers) <= MOST_BYTES:
            break
    return headers


def length_of(headers: Mapping[str, str]) -> int:
    """Bytes that the service counts against its limit on headers."""
    return sum(len(name) + len(value) for name, value in headers.items())


def read(headers: Mapping[str, str], body: bytes, handle: Any) -> IncomingMessage:
    """The message of a request.

    Args:
        headers: By name in lower case.
        body: Its bytes.
        handle: What settles it.
    """
    known = _unpack(headers)
    attributes = {
        name.removeprefix(ATTRIBUTE): value for name, value in headers.items() if name.startswith(ATTRIBUTE)
    }
    attributes.update(_texts(known.get("attrs")))
    tried = headers.get("x-cloudtasks-taskretrycount", "")
    message_id, task = known.get("id"), headers.get("x-cloudtasks-taskname", "")
    told = isinstance(message_id, str) and _MESSAGE_ID.fullmatch(message_id)
    return IncomingMessage(
        handle,
        str(message_id) if told else task,
        body,
        attributes,
        _texts(known.get("meta")),
        int(tried) + 1 if tried.isascii() and tried.isdigit() and len(tried) < _DIGITS else None,
        None,
        None,
        entry_id=task,
    )


def _headers(message: OutgoingMessage, metadata: Mapping[str, str]) -> dict[str, str]:
    plain = {
        ATTRIBUTE + name: text
        for name, text in message.attributes.items()
        if _NAME.fullmatch(name) and _VALUE.fullmatch(text)
    }
    others = {name: text for name, text in message.attributes.items() if ATTRIBUTE + name not in plain}
    packed = _dump({"id": message.message_id, "meta": dict(metadata), **({"attrs": others} if others else {})})
    lines = {
        (f"{PACKED}-{number}" if number else PACKED): packed[start : start + _LINE]
        for number, start in enumerate(range(0, len(packed), _LINE))
    }
    kind = metadata.get(_CONTENT_TYPE, "")
    return {**({"Content-Type": kind} if _VALUE.fullmatch(kind) else {}), **lines, **plain}


def _shorter(metadata: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """The metadata, and what is left of it where it has no room."""
    yield metadata
    left, out = dict(metadata), metadata.get(_TRIMMED, "").split()
    for name in _LEFT_OUT:
        if left.pop(name, None) is not None:
            out.append(name)
            left[_TRIMMED] = " ".join(out)
            yield dict(left)


def _unpack(headers: Mapping[str, str]) -> Mapping[str, Any]:
    text, number = headers.get(PACKED, ""), 1
    while (more := headers.get(f"{PACKED}-{number}")) is not None:
        text, number = text + more, number + 1
    try:
        known = json.loads(text) if text else {}
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}
