# SPDX-License-Identifier: Apache-2.0
"""Messages as the body and the headers of an HTTP request.

The body is the user's bytes. One header, ``qk``, holds as JSON what queuekit adds, and those attributes that cannot
be headers; it goes on in ``qk-1``, ``qk-2`` and so on, as servers take lines of a few kilobytes only. An attribute
that can be a header is ``qk-a-`` and its name. No other header is read as one: anybody on the way may add some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from queuekit.backend import IncomingMessage, OutgoingMessage
from queuekit.backends._packing import dump, join, load, shorter, split, texts_of

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
_DIGITS = 16


def headers_of(message: OutgoingMessage) -> dict[str, str]:
    """The headers that carry a message beside its body."""
    headers: dict[str, str] = {}
    for metadata in shorter(message.metadata):
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
    known = load(join(PACKED, headers.get))
    attributes = {
        name.removeprefix(ATTRIBUTE): value for name, value in headers.items() if name.startswith(ATTRIBUTE)
    }
    attributes.update(texts_of(known.get("attrs")))
    tried = headers.get("x-cloudtasks-taskretrycount", "")
    message_id, task = known.get("id"), headers.get("x-cloudtasks-taskname", "")
    told = isinstance(message_id, str) and _MESSAGE_ID.fullmatch(message_id)
    return IncomingMessage(
        handle,
        str(message_id) if told else task,
        body,
        attributes,
        texts_of(known.get("meta")),
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
    packed = dump({"id": message.message_id, "meta": dict(metadata), **({"attrs": others} if others else {})})
    kind = metadata.get(_CONTENT_TYPE, "")
    return {**({"Content-Type": kind} if _VALUE.fullmatch(kind) else {}), **split(PACKED, packed, _LINE), **plain}
