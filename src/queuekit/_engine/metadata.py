# SPDX-License-Identifier: Apache-2.0
"""queuekit's own metadata: what travels beside the body, and how it is read back.

The names follow CloudEvents where it has one. On the wire every value is text; a backend packs the whole
into one native attribute or spreads it, as its service allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

VERSION = "1"
"""Version of this format; a reader accepts unknown names and keeps them."""

V = "v"
TYPE = "type"
CONTENT_TYPE = "datacontenttype"
EXPIRES = "expirytime"
BASE = "base"
FIRST = "first"
REDRIVEN = "redriven"
DEAD_REASON = "dead-reason"
DEAD_ERROR = "dead-error"
DEAD_TRACEBACK = "dead-traceback"
DEAD_ATTEMPTS = "dead-attempts"
DEAD_FIRST = "dead-first"
DEAD_LAST = "dead-last"
DEAD_SOURCE = "dead-source"
DEAD_WORKER = "dead-worker"
DEAD_KEY = "dead-key"
DEAD_PRIORITY = "dead-priority"
DEAD_PREFIX = "dead-"
TRIMMED = "dead-trimmed"

EMPTY: Mapping[str, str] = MappingProxyType({})


class Envelope(NamedTuple):
    """What the engine needs to know of a message's metadata.

    Attributes:
        type: The message's type, where the sender named one.
        content_type: What the body is, where the sender said.
        expires_at: Seconds since the epoch, UTC, after which the message is dropped.
        base: Attempts carried over from earlier copies of this message.
        redriven: How often it came back from a dead-letter queue.
    """

    type: str | None = None
    content_type: str | None = None
    expires_at: float | None = None
    base: int = 0
    redriven: int = 0


_NOTHING = Envelope()


def read(metadata: Mapping[str, str]) -> Envelope:
    """Read metadata that anybody may have written: what is malformed counts as absent."""
    if not metadata:
        return _NOTHING
    get = metadata.get
    expires, base, redriven = get(EXPIRES), get(BASE), get(REDRIVEN)
    return Envelope(
        get(TYPE),
        get(CONTENT_TYPE),
        read_instant(expires) if expires is not None else None,
        read_count(base) if base is not None else 0,
        read_count(redriven) if redriven is not None else 0,
    )


def write_instant(seconds: float) -> str:
    """An instant as RFC 3339 text in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def read_instant(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 text; None for anything else."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant.timestamp() if instant.tzinfo is not None else None


def read_count(text: str) -> int:
    """A count of a few digits; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
