# SPDX-License-Identifier: Apache-2.0
"""Messages as Pub/Sub carries them: the body as it is, the user's attributes beside it.

One attribute, ``qk``, holds as JSON what queuekit adds and what has no place elsewhere. A value has room for 1,024
bytes, so that a longer text goes on in ``qk-1``, ``qk-2`` and so on.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from queuekit.backend import ErrorClass, ErrorCode, IncomingMessage, OutgoingMessage
from queuekit.backends._packing import dump, join, load, shorter, split, texts_of

PACKED = "qk"
_SECOND = f"{PACKED}-1"
MOST_ATTRIBUTES = 100
LONGEST_NAME = 256
LONGEST_VALUE = 1024
LONGEST_KEY = 1024
RESERVED = "goog"

_OURS = re.compile(r"qk(-[0-9]+)?", re.ASCII)
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PLAIN_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_OF_A_COPY = frozenset({"first", "base", "redriven", "dead-reason"})
"""Metadata of what was received before: nobody is there who could be told to leave something out."""

_AROUND = '{"id":"","meta":}'
_HEAD = '{"id":"'
_NONE: Mapping[str, str] = MappingProxyType({})


class Writer:
    """Writes messages. Most share one mapping of metadata, which is written once.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._known: tuple[Mapping[str, str], str] = ({}, "{}")

    def attributes(self, message: OutgoingMessage) -> dict[str, str]:
        """Every attribute that the message is sent with."""
        if not message.attributes:
            packed = self._pack(message, {})
            if len(packed) <= LONGEST_VALUE:
                return {PACKED: packed}
        return self._placed(message)

    def size(self, message: OutgoingMessage) -> int:
        """Bytes of the message in a request, its framing included."""
        packed = 0 if message.attributes else self._packed_length(message)
        if 0 < packed <= LONGEST_VALUE:
            length = _field(_field(len(PACKED)) + _field(packed))
        else:
            length = sum(_field(_text(name) + _text(value)) for name, value in self.attributes(message).items())
        if message.body:
            length += _field(len(message.body))
        if message.ordering_key:
            length += _text(message.ordering_key)
        return _field(length)

    def _packed_length(self, message: OutgoingMessage) -> int:
        """How long `PACKED` will be, where nothing of the user's goes into it; 0 where that must be tried."""
        if not _PLAIN_ID.fullmatch(message.message_id):
            return 0
        return len(_AROUND) + len(message.message_id) + len(self._written(message.metadata))

    def _written(self, metadata: Mapping[str, str]) -> str:
        known, written = self._known
        if metadata is not known:
            written = dump(dict(metadata))
            self._known = (metadata, written)
        return written

    def _placed(self, message: OutgoingMessage) -> dict[str, str]:
        native = {name: text for name, text in message.attributes.items() if fits(name, text)}
        overflow = {name: text for name, text in message.attributes.items() if name not in native}
        chunks: dict[str, str] = {}
        for metadata in shorter(message.metadata):
            chunks = split(PACKED, self._pack(message, overflow, metadata), LONGEST_VALUE)
            while native and len(native) + len(chunks) > MOST_ATTRIBUTES:
                name, text = native.popitem()
                overflow[name] = text
                chunks = split(PACKED, self._pack(message, overflow, metadata), LONGEST_VALUE)
            if len(native) + len(chunks) <= MOST_ATTRIBUTES:
                break
        return native | chunks

    def _pack(
        self, message: OutgoingMessage, overflow: Mapping[str, str], shortened: Mapping[str, str] | None = None
    ) -> str:
        written = self._written(message.metadata if shortened is None else shortened)
        message_id = message.message_id
        name = f'"{message_id}"' if _PLAIN_ID.fullmatch(message_id) else dump(message_id)
        beside = f',"attrs":{dump(overflow)}' if overflow else ""
        return f'{{"id":{name},"meta":{written}{beside}}}'


def as_json(message: OutgoingMessage, attributes: Mapping[str, str]) -> bytes:
    """A message in the form of the service's REST interface."""
    written: dict[str, Any] = {"data": base64.b64encode(message.body).decode("ascii"), "attributes": attributes}
    if message.ordering_key:
        written["orderingKey"] = message.ordering_key
    return dump({"messages": [written]}).encode("ascii")


def fits(name: str, text: str) -> bool:
    """Whether an attribute can be one of Pub/Sub's."""
    return not (
        name.startswith(RESERVED)
        or _OURS.fullmatch(name)
        or len(name.encode()) > LONGEST_NAME
        or len(text.encode()) > LONGEST_VALUE
    )


def unfit(message: OutgoingMessage) -> ErrorClass | None:
    """Why the service does not take the attributes or the key of a message; None where it does.

    The service tells it too, and an emulator does not. A copy of a received message is never refused: what it
    cannot have as an attribute travels with queuekit's own metadata.
    """
    key = message.ordering_key
    if key is not None and not 0 < len(key.encode()) <= LONGEST_KEY:
        return _invalid(f"an ordering key has 1 to {LONGEST_KEY} bytes on Pub/Sub")
    if not message.attributes or not _OF_A_COPY.isdisjoint(message.metadata):
        return None
    if len(message.attributes) > MOST_ATTRIBUTES:
        return _invalid(f"Pub/Sub takes {MOST_ATTRIBUTES} attributes, and there are {len(message.attributes)}")
    for name, text in message.attributes.items():
        if name.startswith(RESERVED):
            return _invalid(f"the attribute {name[:LONGEST_NAME]!r} begins with {RESERVED!r}, which Google keeps")
        if len(name.encode()) > LONGEST_NAME:
            return _invalid(f"the name of an attribute has {LONGEST_NAME} bytes at most, and {name[:40]!r}… more")
        if len(text.encode()) > LONGEST_VALUE:
            return _invalid(f"the value of an attribute has {LONGEST_VALUE} bytes at most, and that of {name!r} more")
    return None


def _invalid(detail: str) -> ErrorClass:
    return ErrorClass(ErrorCode.INVALID_MESSAGE, sent="no", detail=detail)


def _text(text: str) -> int:
    return _field(len(text) if text.isascii() else len(text.encode()))


def _field(length: int) -> int:
    """Bytes of a field of this length: its number, its length, itself."""
    if length < 128:  # as most are, and this is asked several times for each message
        return 2 + length
    return 3 + length if length < 16_384 else 1 - (-length.bit_length() // 7) + length


class _Packed(NamedTuple):
    message_id: str
    metadata: dict[str, str]
    attributes: dict[str, str]


def read(found: Iterable[Any], handle_of: Callable[[str], Any], lease_until: float | None) -> list[IncomingMessage]:
    """The messages of a pull; the hottest loop of the backend.

    Args:
        found: Each a ``ReceivedMessage``, without the wrapper of Google's client.
        handle_of: What settles a delivery, from its ``ack_id``.
        lease_until: When their leases end.
    """
    messages: list[IncomingMessage] = []
    append, new, make = messages.append, tuple.__new__, IncomingMessage
    # Neighbours share all of `PACKED` but their ids, and so a mapping, which nobody can change.
    begin, tail, metadata = len(_HEAD), _tail(_NONE), _NONE
    for raw in found:
        message = raw.message
        attributes = message.attributes
        alone, packed = len(attributes) == 1, attributes.get(PACKED, "")
        message_id = packed[begin : -len(tail)] if packed.endswith(tail) else ""
        if _PLAIN_ID.fullmatch(message_id) and packed.startswith(_HEAD) and (alone or _SECOND not in attributes):
            others = _NONE if alone else _others(attributes)
        else:
            message_id, others, found_beside = _read_attributes(message.message_id, dict(attributes))
            if found_beside != metadata:
                metadata = MappingProxyType(found_beside)
                tail = _tail(metadata)
        stamp = message.publish_time
        sent_at = stamp.seconds + stamp.nanos / 1e9
        # A tuple of known length is made at a third of a constructor's cost.
        delivery = (
            handle_of(raw.ack_id), message_id, message.data, others, metadata, raw.delivery_attempt or None, sent_at,
            lease_until, message.ordering_key or None, 0, None, None, None,
        )  # fmt: skip
        append(new(make, delivery))
    return messages


def read_pushed(pushed: Mapping[str, Any], handle: Any) -> IncomingMessage:
    """One message as the service pushes it, wrapped.

    Args:
        pushed: The decoded JSON of the request.
        handle: What settles it.

    Raises:
        ValueError: It is not one.
    """
    message = pushed.get("message")
    if not isinstance(message, Mapping):
        msg = "a pushed message of Pub/Sub is a JSON object with 'message' and 'subscription'"
        raise ValueError(msg)  # noqa: TRY004 - what arrived is wrong, not what was called
    message_id = message.get("messageId") or message.get("message_id")
    data, attributes = message.get("data") or "", message.get("attributes") or {}
    if not (isinstance(message_id, str) and isinstance(data, str) and isinstance(attributes, Mapping)):
        msg = "a pushed message of Pub/Sub has a text for 'messageId' and for 'data', and an object for 'attributes'"
        raise ValueError(msg)  # noqa: TRY004 - as above
    stamp, key, attempt = message.get("publishTime"), message.get("orderingKey"), pushed.get("deliveryAttempt")
    known_id, others, metadata = _read_attributes(message_id, texts_of(attributes))
    return IncomingMessage(
        handle,
        known_id,
        base64.b64decode(data, validate=True),
        others,
        metadata,
        (attempt if isinstance(attempt, int) else 0) or None,
        _instant(stamp),
        None,
        (key if isinstance(key, str) else "") or None,
    )


def _read_attributes(own_id: str, attributes: dict[str, str]) -> tuple[str, dict[str, str], dict[str, str]]:
    """A message's id, the user's attributes, and queuekit's metadata."""
    packed = _unpack(attributes) if PACKED in attributes else None
    if packed is None:
        return own_id, attributes, {}
    return packed.message_id, _others(attributes) | packed.attributes, packed.metadata


def _others(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in attributes.items() if not _OURS.fullmatch(name)}


def _tail(metadata: Mapping[str, str]) -> str:
    """How `PACKED` goes on behind a plain id, where nothing of the user's stands in it."""
    return f'","meta":{dump(dict(metadata))}}}'


def _unpack(attributes: Mapping[str, str]) -> _Packed | None:
    """What queuekit wrote; None for a message that it did not send."""
    known = load(join(PACKED, attributes.get))
    message_id = known.get("id")
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        return None
    return _Packed(message_id, texts_of(known.get("meta")), texts_of(known.get("attrs")))


def _instant(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except ValueError:
        return None
