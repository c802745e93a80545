# SPDX-License-Identifier: Apache-2.0
"""What crosses the backend interface: messages, settlements, counts.

What is made per message is a named tuple: immutable, at a quarter of the cost of a frozen dataclass (docs/adr/0002).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

Handle: TypeAlias = Hashable
"""Opaque: made by `Backend.receive`, given back to `Backend.settle`, never shown or compared with an id."""


class OutgoingMessage(NamedTuple):
    """One message on its way to the service.

    Attributes:
        message_id: The message's id; printable ASCII, kept over copies, dead letters and redrives.
        body: The user's bytes, unchanged.
        attributes: The user's attributes. Names are unique whatever their case.
        metadata: queuekit's own, name to text. Often one shared mapping for many messages; never changed.
            A backend stores it beside the attributes so that neither can be taken for the other.
        delay_s: Deliver no earlier than this many seconds from now; 0 is at once.
        ordering_key: See `Capabilities.ordering`.
        dedup_id: See `Capabilities.dedup_window_s`.
        priority: 0 to 9, higher first.
    """

    message_id: str
    body: bytes
    attributes: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}
    delay_s: float = 0.0
    ordering_key: str | None = None
    dedup_id: str | None = None
    priority: int = 0


class IncomingMessage(NamedTuple):
    """One delivery as the service made it.

    Attributes:
        handle: What `Backend.settle` needs to settle this delivery.
        message_id: As sent; the service's own id for a message that queuekit did not send.
        body: As sent.
        attributes: As sent.
        metadata: As sent; empty for a message that queuekit did not send.
        attempt: How often the service has delivered this message, from 1; None where it does not say.
        enqueued_at: When the service took it, in seconds since the epoch, UTC; None where it does not say.
        lease_until: When the lease ends, on the Clock's monotonic scale; None where the lease is bound to
            the connection. On the safe side: the clock is read before the request, or on the service.
        ordering_key: As sent.
        priority: As sent.
        received_at: When the service made this delivery, by the clock of ``enqueued_at``; None for this host's.
        died_on: URL of the queue from which the service itself moved it here, as a dead letter; None where it did
            not, or does not say.
        entry_id: The service's own id for this message, equal in all its deliveries, where ``enqueued_at`` does not
            tell it from another one with the same ``message_id``; None where it does.
    """

    handle: Handle
    message_id: str
    body: bytes
    attributes: Mapping[str, str]
    metadata: Mapping[str, str]
    attempt: int | None
    enqueued_at: float | None
    lease_until: float | None
    ordering_key: str | None = None
    priority: int = 0
    received_at: float | None = None
    died_on: str | None = None
    entry_id: str | None = None


class StoredMessage(NamedTuple):
    """A message as `Peekable.peek` sees it, without leasing it.

    Attributes:
        message_id: As sent.
        body: As sent.
        attributes: As sent.
        metadata: As sent.
        state: ``ready``, ``delayed`` (not due yet, or held behind its ordering key), ``leased``, or ``done``
            where it was acknowledged and is kept to be looked at.
        attempt: Deliveries so far; 0 before the first.
        enqueued_at: When the service took it, in seconds since the epoch, UTC.
        due_at: When it may be delivered, in seconds since the epoch, UTC.
        ordering_key: As sent.
        priority: As sent.
        cursor: Pass it as ``after`` to go on behind this message.
        done_at: When it was acknowledged, in seconds since the epoch, UTC; None while it is not done.
    """

    message_id: str
    body: bytes
    attributes: Mapping[str, str]
    metadata: Mapping[str, str]
    state: Literal["ready", "delayed", "leased", "done"]
    attempt: int
    enqueued_at: float
    due_at: float
    ordering_key: str | None
    priority: int
    cursor: str
    done_at: float | None = None


class Action(Enum):
    """The five things that can be done with a delivery."""

    ACK = "ack"
    """Done: remove it."""
    RETRY = "retry"
    """Failed: deliver it again after ``delay_s``, and count the attempt."""
    RELEASE = "release"
    """Not tried: deliver it again after ``delay_s``, and do not count the attempt where that can be."""
    EXTEND = "extend"
    """Keep it: the lease ends ``lease_s`` from now, whatever was left of the old one."""
    DEAD = "dead"
    """Store ``dead`` in the queue's own dead-letter queue and remove the original, in one step."""


class Settlement(NamedTuple):
    """One entry of a settle batch.

    Attributes:
        handle: From the `IncomingMessage`.
        action: What to do.
        delay_s: For RETRY and RELEASE.
        lease_s: For EXTEND.
        dead: For DEAD, the complete dead letter as the engine built it.
    """

    handle: Handle
    action: Action
    delay_s: float = 0.0
    lease_s: float = 0.0
    dead: OutgoingMessage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How many messages a queue holds. A number that the service does not tell is None, never 0.

    Attributes:
        ready: Could be received now.
        delayed: Not due yet, or held behind their ordering key.
        leased: With a consumer now.
        dead: In the queue's own dead-letter queue.
        done: Acknowledged, and kept to be looked at.
    """

    ready: int | None = None
    delayed: int | None = None
    leased: int | None = None
    dead: int | None = None
    done: int | None = None
