# SPDX-License-Identifier: Apache-2.0
"""Bodies, texts, attribute names and sizes that have broken queues before; every row must survive."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

BODIES: Mapping[str, bytes] = {
    "every byte": bytes(range(256)),
    "every byte backwards": bytes(reversed(range(256))),
    "not utf-8": b"\xff\xfe\x00\x80\xc3(",
    "zeros": bytes(64),
    "line ends": b"\r\n\n\r\x0b\x0c",
    "pickle head": b"\x80\x04\x95",
    "gzip head": b"\x1f\x8b\x08\x00",
    "noise": bytes((index * index * 31 + 7 * index) % 251 for index in range(4096)),
}

LOOKS_LIKE_BASE64 = (b"AAAA", b"eyJ9", b"aGVsbG8=", b"aGVsbG8", b"====", b"QUJD\n", b"_-_-")

LOOKS_LIKE_OURS = (
    b'{"qk":1}',
    b'{"qk":{"v":1,"id":"other"}}',
    b'{"specversion":"1.0","id":"x","source":"y","type":"z","data":"w"}',
    b"qk:1:base64:AAAA",
)
"""Bodies that imitate queuekit's metadata or an envelope of another library."""

TEXTS: Mapping[str, str] = {
    "C0 controls": "".join(map(chr, range(0x20))),
    "delete and C1 controls": "".join(map(chr, range(0x7F, 0xA0))),
    "noncharacters": "a\ufffeb\uffffc\U0001ffff",
    "astral": "\U0001f9ff\U00010348\U0010fffd",
    "byte order mark": "\ufefftext",
    "line ends": "one\r\ntwo\nthree\rfour\u2028five\u2029",
    "combining": "e\u0301 \u00e9 \u1e9b\u0323",
    "right to left": "\u202eabc\u202c \u05e9\u05dc\u05d5\u05dd",
    "markup": '<a href="x">&amp;</a><![CDATA[]]>',
    "spaces": "  both ends\t",
}
"""Texts that XML, JSON or a database column has changed or refused somewhere."""

ATTRIBUTES: Mapping[str, str] = {
    "plain": "value",
    "empty": "",
    "blank": " ",
    "both-ends": "  spaces  ",
    "quotes": "\"'`\u201c\u201d",
    "colon": "a: b: c",
    "equals": "a=b;c=d",
    "comma": "a, b,, c",
    "percent": "100%25 %zz %",
    "plus": "a+b c",
    "backslash": "C:\\path\\n",
    "braces": "{name} ${name} %(name)s",
    "unicode": "gr\u00fc\u00dfe \u65e5\u672c\u8a9e",
    "astral": "\U0001f9ff\U00010348",
    "combining": "e\u0301",
    "right-to-left": "\u202eabc\u202c",
    "number": "007",
    "true": "True",
    "null": "null",
    "json": '{"a": [1, null]}',
    "base64": "AAAA",
    "markup": "<b>&amp;</b>",
    "encoded-already": "=?utf-8?q?caf=C3=A9?=",
    "name.with.dots": "value",
    "name_with_underscores": "value",
    "content-length": "0",
}
"""Attributes, name to value, that must arrive unchanged, each beside all the others."""

CONTROLS = ("\r", "\n", "\r\nInjected: 1", "\x00", "\x1f", "\x7f", "\t", "\x85")
"""What no attribute may hold; `TAB` is here because services trim it."""

LONE_SURROGATES = ("\ud800", "a\udfffb", "\udc80")

RESERVED_NAMES = ("qk", "qk-id", "QK-Id", "qk.base", "qk-anything")

PROVIDER_NAMES = ("googclient_x", "AWS.trace", "Amazon.x", "Nats-Msg-Id")
"""Names that some service keeps for itself: a backend escapes them or refuses them, and never drops one."""


class Color(enum.Enum):
    """A member of a typed payload."""

    RED = "red"


@dataclass(frozen=True)
class Order:
    """A payload with every type that JSON lacks."""

    name: str
    color: Color
    at: datetime
    day: date
    wait: timedelta
    price: Decimal
    ident: UUID
    tags: tuple[str, ...] = ()
    note: str | None = None
    count: int = 2**70
    nested: Mapping[str, list[int]] = field(default_factory=dict)


def typed_payloads() -> Iterator[tuple[Any, Any]]:
    """A payload type and a value of it."""
    yield bytes, bytes(range(256))
    yield bytes, b""
    yield str, "gr\u00fc\u00dfe \U0001f9ff\r\n\u2028"
    yield str, ""
    yield int, -(2**70)
    yield float, 0.1
    yield bool, True
    yield type(None), None
    yield Decimal, Decimal("0.10")
    yield datetime, datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    yield list[int | None], [1, None]
    yield (
        Order,
        Order(
            name="\u65e5\u672c",
            color=Color.RED,
            at=datetime(2030, 1, 2, tzinfo=UTC),
            day=date(2030, 1, 2),
            wait=timedelta(days=1, microseconds=1),
            price=Decimal("12.30"),
            ident=UUID(int=7),
            tags=("a", ""),
            nested={"x": [1, 2]},
        ),
    )


@dataclass(frozen=True)
class Golden:
    """Metadata as a released version wrote it, and what it means.

    Attributes:
        metadata: Name to text, as on the wire.
        type: The message's type.
        attempt: What the first delivery counts.
        redriven: How often it came back.
    """

    metadata: dict[str, str]
    type: str | None = None
    attempt: int = 1
    redriven: int = 0


GOLDEN_METADATA = (
    Golden({}),
    Golden({"v": "1", "datacontenttype": "application/json"}),
    Golden({"v": "1", "datacontenttype": "application/json", "type": "order.placed"}, type="order.placed"),
    Golden({"v": "1", "datacontenttype": "application/json", "base": "4"}, attempt=5),
    Golden(
        {
            "v": "1",
            "datacontenttype": "application/json",
            "redriven": "2",
            "expirytime": "2999-01-01T00:00:00.000000Z",
        },
        redriven=2,
    ),
    Golden({"v": "2", "datacontenttype": "application/json", "not-yet-invented": "kept"}),
)
"""Rows are added with each release and never changed."""
