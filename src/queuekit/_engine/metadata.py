# SPDX-License-Identifier: Apache-2.0
"""queuekit's own metadata: what travels beside the body, and how it is read back.

The names follow CloudEvents where it has one. On the wire every value is text; a backend packs the whole
into one native attribute or spreads it, as its service allows.
"""

from __future__ import annotations

import math
import re
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
DEDUP = "dedupid"
BASE = "base"
FIRST = "first"
REDRIVEN = "redriven"
MAX_ATTEMPTS = "max-attempts"
RETRY_DELAY = "retry-delay"
HOP = "hop"
HOP_WAIT = "hop-wait"
HOP_LEFT = "hop-left"
DUE = "due"
VIA = "via"
VIA_TO = "via-to"
VIA_KEY = "via-key"
VIA_DEDUP = "via-dedup"
VIA_PRIORITY = "via-priority"
PRIORITY = "priority"
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
OF_A_HOP = frozenset({HOP, HOP_WAIT, HOP_LEFT, DUE})
"""What a message carries while its delay is longer than the service's; a copy for another purpose drops it."""
OF_A_DETOUR = frozenset({VIA_TO, VIA_KEY, VIA_DEDUP, VIA_PRIORITY})
"""What a message carries while it waits in the queue that ``delay_via=`` names; only `VIA`, the count, stays."""
TRIMMED = "dead-trimmed"

_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?", re.ASCII)

EMPTY: Mapping[str, str] = MappingProxyType({})


MOST_ATTEMPTS = 1000
"""The largest number of attempts that a message may ask for itself."""

_LONGEST_DELAY_S = 366 * 86_400.0
_LONGEST_NUMBER = 24


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


class Overrides(NamedTuple):
    """What a sender asked for in place of the handler's retry policy.

    Attributes:
        max_attempts: Most attempts; None leaves it to the policy.
        retry_delay_s: The wait after every failed attempt; None leaves it to the policy.
    """

    max_attempts: int | None
    retry_delay_s: float | None


def read_overrides(metadata: Mapping[str, str]) -> Overrides | None:
    """A message's own retry options, or None; what is malformed counts as absent."""
    if MAX_ATTEMPTS not in metadata and RETRY_DELAY not in metadata:
        return None
    attempts, delay_s = read_count(metadata.get(MAX_ATTEMPTS, "")), _read_delay(metadata.get(RETRY_DELAY, ""))
    known = attempts if 1 <= attempts <= MOST_ATTEMPTS else None
    return None if known is None and delay_s is None else Overrides(known, delay_s)


def _read_delay(text: str) -> float | None:
    try:
        seconds = float(text) if text.isascii() and len(text) <= _LONGEST_NUMBER else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds <= _LONGEST_DELAY_S else None


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


def write_seconds(seconds: float) -> str:
    """A length in seconds, to the millisecond and never shorter than it is."""
    return f"{math.ceil(seconds * 1000 - 1e-6) / 1000:.3f}"


def read_seconds(text: str | None) -> float | None:
    """A length of at most a few hundred years; None for anything else."""
    if text is None or not _SECONDS.fullmatch(text):
        return None
    return float(text)


def read_count(text: str) -> int:
    """A count of a few digits; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
