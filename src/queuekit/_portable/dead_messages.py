# SPDX-License-Identifier: Apache-2.0
"""Dead letters as they are studied and chosen, and what became of those that were sent back or removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from queuekit._engine import metadata as meta
from queuekit._values.url import QueueURL
from queuekit.backend import IncomingMessage, OutgoingMessage, StoredMessage

Buried: TypeAlias = StoredMessage | IncomingMessage
"""A dead letter as a backend shows it."""

_GIVEN_UP = "the service gave it up"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A dead letter as it can be studied.

    Attributes:
        message_id: The message's id; unchanged since it was sent.
        reason: Why it is dead.
        error: The type and text of the last exception, where there was one.
        traceback: The last part of its traceback.
        attempts: How many attempts it had.
        first: When the queue first had it.
        last: When it died.
        source: The queue that it died on, redacted.
        worker: The process that gave it up.
        type: The message's type.
        ordering_key: The message's ordering key.
        body: The user's bytes.
        attributes: The user's attributes.
        trimmed: What had to be left out for size.
    """

    message_id: str
    reason: str
    error: str | None
    traceback: str | None
    attempts: int
    first: datetime | None
    last: datetime | None
    source: str | None
    worker: str | None
    type: str | None
    ordering_key: str | None
    body: bytes
    attributes: Mapping[str, str]
    trimmed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RedriveReport:
    """What a redrive did.

    Attributes:
        moved: The ids that are back in their source queue.
        skipped: The ids that somebody else took, moved or removed meanwhile.
        failed: Id to the reason, for those that the store refused.
    """

    moved: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge of dead letters did.

    Attributes:
        removed: The ids that are gone for good.
        skipped: The ids that somebody else took or removed meanwhile, or had received before.
    """

    removed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant.

    Attributes:
        ids: Only these; None for all.
        where: Only those for which this is true.
        limit: At most so many.
    """

    ids: frozenset[str] | None = None
    where: Callable[[DeadMessage], bool] | None = None
    limit: int | None = None

    def wants(self, stored: Buried) -> bool:
        """Whether this one is meant, if there is room for it."""
        named = self.ids is None or stored.message_id in self.ids
        return named and (self.where is None or self.where(dead_message(stored)))


def revived(stored: Buried) -> OutgoingMessage:
    """The message as it goes back: without its death, with one more redrive, and with fresh attempts."""
    kept = {
        name: text
        for name, text in stored.metadata.items()
        if not name.startswith(meta.DEAD_PREFIX) and name not in {meta.BASE, meta.FIRST, *meta.OF_A_HOP}
    }
    kept[meta.REDRIVEN] = str(meta.read(stored.metadata).redriven + 1)
    # A dead-letter queue that could not take them keeps them here.
    key = stored.ordering_key or stored.metadata.get(meta.DEAD_KEY)
    priority = stored.priority or min(9, meta.read_count(stored.metadata.get(meta.DEAD_PRIORITY, "")))
    return OutgoingMessage(stored.message_id, stored.body, stored.attributes, kept, 0.0, key, None, priority)


def dead_message(stored: Buried) -> DeadMessage:
    """A dead letter as it can be studied; one that the service itself gave up says nothing of why."""
    known = stored.metadata
    moved_by_service = isinstance(stored, IncomingMessage) and stored.died_on is not None
    return DeadMessage(
        message_id=stored.message_id,
        reason=known.get(meta.DEAD_REASON, _GIVEN_UP if moved_by_service else ""),
        error=known.get(meta.DEAD_ERROR),
        traceback=known.get(meta.DEAD_TRACEBACK),
        attempts=meta.read_count(known.get(meta.DEAD_ATTEMPTS, "")),
        first=_instant(known.get(meta.DEAD_FIRST)),
        last=_instant(known.get(meta.DEAD_LAST)),
        source=known.get(meta.DEAD_SOURCE) or _source(stored),
        worker=known.get(meta.DEAD_WORKER),
        type=known.get(meta.TYPE),
        ordering_key=stored.ordering_key or known.get(meta.DEAD_KEY),
        body=stored.body,
        attributes=stored.attributes,
        trimmed=tuple(known.get(meta.TRIMMED, "").split()),
    )


def _source(stored: Buried) -> str | None:
    died_on = stored.died_on if isinstance(stored, IncomingMessage) else None
    return None if died_on is None else str(QueueURL.parse(died_on))


def _instant(text: str | None) -> datetime | None:
    seconds = meta.read_instant(text)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        return None  # at an end of the calendar, in a time zone that reaches beyond it
