# SPDX-License-Identifier: Apache-2.0
"""Messages as SQS carries them: the body as text, and the rest in its ten attributes.

One attribute, ``qk``, holds as JSON what queuekit adds and what has no place elsewhere; the user's attributes stand
beside it as they are, so that any other program reads them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from queuekit.backend import IncomingMessage, OutgoingMessage
from queuekit.backends._packing import dump, load, texts_of
from queuekit.backends.sqs._errors import DamagedAnswerError

PACKED = "qk"

_SLOTS = 7
"""Of ten: one is ours, and two are left to those who trace requests."""

_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\r"))
_NONCHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME = re.compile(r"(?!(?:aws|amazon)\.)(?!qk$)[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII | re.IGNORECASE)
_LONGEST_NAME = 256
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PLAIN_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_GROUP = re.compile(r"(?!qk\.)[\x21-\x7e]{1,128}")
_TYPE_BYTES = len("String")
_NOTHING = "-"
"""What stands for an empty body, which SQS does not take."""

_ID, _META, _ID_NAME = '{"id":"', '","meta":', '"id"'
_NO_ATTRIBUTE: Mapping[str, Any] = {}
# A tuple of known length is made at half of a named tuple's own cost.
_new = tuple.__new__


class Wire(NamedTuple):
    """A message as it is sent.

    Attributes:
        body: The text of the body.
        attributes: Name to text, `PACKED` among them.
    """

    body: str
    attributes: dict[str, str]


class Writer:
    """Writes messages. Most share one mapping of metadata, which is written once.

    Args:
        grouped: Whether an ordering key travels with a message.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, *, grouped: bool) -> None:
        self._grouped = grouped
        self._known: tuple[Mapping[str, str], str] = ({}, "{}")

    def write(self, message: OutgoingMessage) -> Wire:
        """The message on the wire."""
        body, encoding = _text_of(message.body)
        attributes, overflow = _placed(message.attributes) if message.attributes else ({}, {})
        attributes[PACKED] = self._pack(message, encoding, overflow)
        return Wire(body, attributes)

    def size(self, message: OutgoingMessage) -> int:
        """Bytes that the service counts: the body, and of each attribute the name, the type and the value."""
        length, encoding = _length_of(message.body)
        attributes, overflow = _placed(message.attributes) if message.attributes else ({}, {})
        attributes[PACKED] = self._pack(message, encoding, overflow)
        return length + sum(len(name) + _TYPE_BYTES + len(text.encode()) for name, text in attributes.items())

    def _pack(self, message: OutgoingMessage, encoding: str, overflow: Mapping[str, str]) -> str:
        metadata, written = self._known
        if message.metadata is not metadata:
            written = dump(dict(message.metadata))
            self._known = (message.metadata, written)
        message_id = message.message_id
        name = f'"{message_id}"' if _PLAIN_ID.fullmatch(message_id) else dump(message_id)
        parts = [f'{{"id":{name},"meta":{written}']
        if encoding:
            parts.append(f',"enc":"{encoding}"')
        if overflow:
            parts.append(f',"attrs":{dump(overflow)}')
        key = message.ordering_key
        if key is not None and self._grouped and not _GROUP.fullmatch(key):
            parts.append(f',"key":{dump(key)}')
        return "".join(parts) + "}"


def group_of(key: str) -> str:
    """The message group of an ordering key: the key itself where SQS can carry it, else a hash of it."""
    return key if _GROUP.fullmatch(key) else "qk." + _hash(key)


def dedup_of(dedup_id: str) -> str:
    """The deduplication id: the user's where SQS can carry it, else a hash of it."""
    return dedup_id if _GROUP.fullmatch(dedup_id) else "qk." + _hash(dedup_id)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _text_of(body: bytes) -> tuple[str, str]:
    """The body as text, and the name of the encoding that it took; an empty name where it is as it was."""
    if not body:
        return _NOTHING, "empty"
    if _is_fit(body):
        try:
            return body.decode(), ""
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode("ascii"), "base64"


def _is_fit(body: bytes) -> bool:
    """Whether SQS takes every character, if it is text at all. Seven times as quick as a regular expression."""
    controls = len(body) - len(body.translate(None, _CONTROLS))
    return not controls and (body.isascii() or not any(each in body for each in _NONCHARACTERS))


def _length_of(body: bytes) -> tuple[int, str]:
    if body and body.isascii() and _is_fit(body):
        return len(body), ""
    text, encoding = _text_of(body)
    return len(body) if not encoding else len(text), encoding


def _placed(attributes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The user's attributes in slots of their own, and those for which there is none."""
    native: dict[str, str] = {}
    overflow: dict[str, str] = {}
    for name, text in attributes.items():
        fits = len(native) < _SLOTS and len(name) <= _LONGEST_NAME and _NAME.fullmatch(name)
        if fits and text and not _UNFIT.search(text):
            native[name] = text
        else:
            overflow[name] = text
    return native, overflow


def native_attributes(attributes: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Attributes as boto3 takes them."""
    return {name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()}


def md5_of_body(body: str) -> str:
    """The digest that SQS tells of a body."""
    return _md5(body.encode("utf-8", "surrogatepass"))


def _md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def md5_of_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest that SQS tells of attributes, in boto3's form."""
    parts: list[bytes] = []
    for name in sorted(attributes):
        each = attributes[name]
        kind = each["DataType"]
        value = each["BinaryValue"] if kind.startswith("Binary") else each["StringValue"].encode()
        parts += (_head(name, kind), len(value).to_bytes(4, "big"), value)
    return _md5(b"".join(parts))


@lru_cache(64)
def _head(name: str, kind: str) -> bytes:
    """What stands before the value of an attribute; it is the same for every message."""
    counted = [len(raw).to_bytes(4, "big") + raw for raw in (name.encode(), kind.encode())]
    return b"".join(counted) + (b"\x02" if kind.startswith("Binary") else b"\x01")


class _Packed(NamedTuple):
    message_id: str
    metadata: Mapping[str, str]
    encoding: str = ""
    attributes: Mapping[str, str] = {}
    key: str | None = None


class Reader:
    """Reads messages. Most were sent with the same metadata, which is read once, and is one mapping for all of them.

    Args:
        grouped: Whether the group of a message is an ordering key.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, *, grouped: bool) -> None:
        self._grouped = grouped
        self._known: tuple[str, _Packed] | None = None

    def read(self, raw: Mapping[str, Any], handle: Any, lease_until: float | None) -> IncomingMessage:
        """One message as boto3 hands it over.

        Args:
            raw: An entry of ``Messages``.
            handle: What settles it.
            lease_until: When its lease ends; None where that is not told.

        Raises:
            DamagedAnswerError: Its digests say that it is not what the service sent.
        """
        native: Mapping[str, Mapping[str, Any]] = raw.get("MessageAttributes") or {}
        body = raw["Body"].encode("utf-8", "surrogatepass")
        _check(raw, body, native)
        facts: Mapping[str, str] = raw.get("Attributes") or {}
        packed = self._unpack((native.get(PACKED) or _NO_ATTRIBUTE).get("StringValue") or "")
        key = facts.get("MessageGroupId") if self._grouped else None
        if packed is None:
            message_id = raw["MessageId"]
            attributes = {name: _shown(each) for name, each in native.items()}
        else:
            message_id = packed.message_id
            attributes = {name: _shown(each) for name, each in native.items() if name != PACKED}
            attributes.update(packed.attributes)
            key = (packed.key or key) if self._grouped else None
            body = _plain(body, packed.encoding) if packed.encoding else body
        attempt = _whole(facts.get("ApproximateReceiveCount"))
        return IncomingMessage(
            handle,
            message_id,
            body,
            attributes,
            {} if packed is None else packed.metadata,
            attempt,
            _instant(facts.get("SentTimestamp")),
            lease_until,
            key,
            0,
            # The service stamps a message's first delivery and no other.
            _instant(facts.get("ApproximateFirstReceiveTimestamp")) if attempt == 1 else None,
        )

    def _unpack(self, text: str) -> _Packed | None:
        """What queuekit wrote; None for a message that it did not send."""
        start, _, rest = text.partition(_META)
        message_id = start[len(_ID) :]
        alike = start.startswith(_ID) and _PLAIN_ID.fullmatch(message_id)
        known = self._known
        if alike and known is not None and rest == known[0]:
            return _new(_Packed, (message_id, *known[1][1:]))
        packed = _parsed(text)
        # Of two equal names in JSON the later one counts, also where it is spelled with escapes.
        if alike and packed is not None and _ID_NAME not in rest and "\\" not in rest:
            self._known = (rest, packed)
        return packed


def _check(raw: Mapping[str, Any], body: bytes, native: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold a received message against the digests that came with it.

    Raises:
        DamagedAnswerError: They differ.
    """
    told = raw.get("MD5OfBody")
    told_of_attributes = raw.get("MD5OfMessageAttributes")
    if (told and told != _md5(body)) or (
        told_of_attributes and native and told_of_attributes != md5_of_attributes(native)
    ):
        msg = "a message arrived damaged: its MD5 is not the one that the service told"
        raise DamagedAnswerError(msg)


def _parsed(text: str) -> _Packed | None:
    known = load(text)
    message_id, key, encoding = known.get("id"), known.get("key"), known.get("enc", "")
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        return None
    return _Packed(
        message_id,
        texts_of(known.get("meta")),
        encoding if isinstance(encoding, str) else "",
        texts_of(known.get("attrs")),
        key if isinstance(key, str) else None,
    )


def _plain(body: bytes, encoding: str) -> bytes:
    if encoding == "empty":
        return b""
    if encoding == "base64":
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error:
            return body  # somebody else changed it; what is there is better than nothing
    return body


def _shown(attribute: Mapping[str, Any]) -> str:
    """A native attribute as text; binary ones, which queuekit never sends, in base64."""
    binary = attribute.get("BinaryValue")
    if binary is not None:
        return base64.b64encode(binary).decode("ascii")
    text: str = attribute.get("StringValue") or ""
    return text


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _instant(text: str | None) -> float | None:
    millis = _whole(text)
    return None if millis is None else millis / 1000
