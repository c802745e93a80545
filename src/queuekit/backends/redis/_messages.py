# SPDX-License-Identifier: Apache-2.0
"""How a message is written: one entry of a stream, whose one field is the header and whose value is the body.

The header is the message's id, a line feed, and what else there is as a JSON array: attributes, metadata, ordering
key and priority. Neighbours mostly have the same text there, which is written and read once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from queuekit.backend import IncomingMessage, OutgoingMessage, StoredMessage

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_EMPTY: Mapping[str, str] = MappingProxyType({})
_CACHED_BYTES = 4096


class Rest(NamedTuple):
    """What stands in a header behind the id."""

    attributes: Mapping[str, str] = _EMPTY
    metadata: Mapping[str, str] = _EMPTY
    key: str | None = None
    priority: int = 0


_NOTHING = Rest()


def is_plain(message: OutgoingMessage) -> bool:
    """Whether a message has neither delay, nor key, nor dedup id, nor priority."""
    return not (message[4] or message[7]) and message[5] is None and message[6] is None


def write_rest(message: OutgoingMessage) -> str:
    """The part of the header behind the id."""
    _, _, attributes, metadata, _, key, _, priority = message
    if not (attributes or metadata or priority) and key is None:
        return "\n"
    return "\n" + _ENCODE([dict(attributes), dict(metadata), key, priority])


class PlainWriter:
    """Writes plain messages. Neighbours and successors mostly share their mappings, and so one text."""

    def __init__(self) -> None:
        # One value, so that another thread sees all of it or nothing; it holds what is compared by identity.
        self._known: tuple[Any, Any, str] = (_EMPTY, _EMPTY, "\n")

    def write(self, batch: Sequence[OutgoingMessage]) -> list[str | bytes]:
        """Header and body of each message of a batch."""
        parts: list[str | bytes] = []
        attributes, metadata, rest = known = self._known
        for message in batch:
            if message[3] is not metadata or (message[2] is not attributes and (message[2] or attributes)):
                attributes, metadata = message[2], message[3]
                rest = write_rest(message)
                known = (attributes, metadata, rest)
            parts += (message[0] + rest, message[1])
        self._known = known
        return parts


def write_any(message: OutgoingMessage) -> tuple[str | bytes, ...]:
    """Header, body, delay, priority and key of one message, as the scripts take them."""
    key = b"" if message.ordering_key is None else b"=" + message.ordering_key.encode("utf-8", "surrogatepass")
    header = message.message_id + write_rest(message)
    return (header, message.body, str(to_us(message.delay_s)), str(message.priority), key)


def to_us(seconds: float) -> int:
    """A length in whole microseconds, never shorter than it is."""
    return -int(-seconds * 1e6 // 1)


def _read_rest(text: bytes) -> Rest:
    if not text:
        return _NOTHING
    return _read_short(text) if len(text) <= _CACHED_BYTES else _parse(text)


@lru_cache(maxsize=512)
def _read_short(text: bytes) -> Rest:
    # Many messages share one text, and so they share mappings, which nobody can change.
    return _parse(text)


def _parse(text: bytes) -> Rest:
    attributes, metadata, key, priority = json.loads(text)
    return Rest(MappingProxyType(attributes), MappingProxyType(metadata), key, priority)


def split_header(entry_id: bytes, header: bytes) -> tuple[str, Rest]:
    """The id of a message, and the rest of its header; for an entry that is not ours, the entry's own id."""
    message_id, separator, text = header.partition(b"\n")
    if not separator:
        return entry_id.decode("ascii"), _NOTHING
    return message_id.decode("ascii", "replace"), _read_rest(text)


def order_of(entry_id: bytes) -> tuple[int, int]:
    """What ids are compared by."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number)


def sent_at(entry_id: bytes) -> float:
    """When the server took an entry, in seconds since the epoch."""
    return int(entry_id[: entry_id.index(b"-")]) / 1000


def read_run(
    entries: Iterable[tuple[bytes, Sequence[bytes]]], token: str, lease_until: float
) -> list[IncomingMessage]:
    """The deliveries of a run; the hottest loop of the backend."""
    messages: list[IncomingMessage] = []
    append, new, make = messages.append, tuple.__new__, IncomingMessage
    tail, (attributes, metadata, key, priority) = b"\n", _NOTHING
    end, stamp, at = -1, b"", 0.0
    for entry_id, (header, body) in entries:
        if header.endswith(tail) and header.find(b"\n", 0, end) < 0:  # nearly always: neighbours share it
            name = header[:end].decode("ascii", "replace")
        else:
            name, (attributes, metadata, key, priority) = split_header(entry_id, header)
            tail = b"\n" + header.partition(b"\n")[2]
            end = -len(tail)
        if not entry_id.startswith(stamp) or not stamp:
            stamp, _, _ = entry_id.partition(b"-")
            at = int(stamp) / 1000
            stamp += b"-"
        # A tuple of known length is made at a third of a constructor's cost.
        delivery = (
            (token, entry_id), name, body, attributes, metadata, 1, at, lease_until, key, priority, None, None, None,
        )  # fmt: skip
        append(new(make, delivery))
    return messages


def read_taken(taken: Sequence[Any], token: str, lease_until: float) -> list[IncomingMessage]:
    """The deliveries of messages that have records of their own."""
    messages: list[IncomingMessage] = []
    for at in range(0, len(taken), 4):
        entry_id, header, body, attempt = taken[at : at + 4]
        message_id, (attributes, metadata, key, priority) = split_header(entry_id, header)
        messages.append(
            IncomingMessage(
                handle=(token, entry_id),
                message_id=message_id,
                body=body,
                attributes=attributes,
                metadata=metadata,
                attempt=attempt,
                enqueued_at=sent_at(entry_id),
                lease_until=lease_until,
                ordering_key=key,
                priority=priority,
            )
        )
    return messages


def read_done(found: Sequence[Any]) -> StoredMessage:
    """A message as `peek_done.lua` shows it."""
    entry_id, header, body, attempt, done_us = found
    stored = read_stored((entry_id, header, body, b"done", attempt, 0))
    return stored._replace(done_at=int(done_us) / 1e6)


def read_stored(found: Sequence[Any]) -> StoredMessage:
    """A message as `peek.lua` shows it."""
    entry_id, header, body, state, attempt, due_us = found
    message_id, (attributes, metadata, key, priority) = split_header(entry_id, header)
    at = sent_at(entry_id)
    return StoredMessage(
        message_id=message_id,
        body=body,
        attributes=attributes,
        metadata=metadata,
        state=state.decode("ascii"),
        attempt=attempt,
        enqueued_at=at,
        due_at=due_us / 1e6 or at,
        ordering_key=key,
        priority=priority,
        cursor=entry_id.decode("ascii"),
    )
