# SPDX-License-Identifier: Apache-2.0
"""Copies of received messages: how one is made and sent, and when it counts as being there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from queuekit._engine import metadata as meta
from queuekit._engine.batching import BatchLimits, split
from queuekit._engine.guard import Guard
from queuekit._engine.hops import hop_number
from queuekit._values.capability import Capabilities
from queuekit._values.outcome import Accepted, Duplicate, ErrorClass, ErrorCode, NotAttempted, Rejected, SendOutcome
from queuekit.backend import IncomingMessage, OutgoingMessage

_COPY_S = 5.0
_NO_ATTEMPTS = frozenset({"hop", "forward"})
_TAKEN_FOR_ANOTHER = ErrorClass(
    ErrorCode.REFUSED, sent="no", detail="the copy was taken for a duplicate of another message"
)
NOWHERE: Final = ErrorClass(
    ErrorCode.NOT_FOUND, sent="no", detail="the service names no queue for dead letters; name one with dead_letter="
)
"""Of a dead letter for which there is no queue."""


class CopyRoute(Protocol):
    """Where copies go."""

    def copy(self, copies: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send complete messages to their destination; one outcome each. Does not wait between tries."""
        ...


class Copying(NamedTuple):
    """A copy that stands in for a delivery, which is acked once the copy is confirmed.

    Attributes:
        message: The complete copy.
        route: Where it goes.
        failed: What to count where it is not confirmed.
    """

    message: OutgoingMessage
    route: CopyRoute
    failed: str

    def counted_as(self, outcome: SendOutcome) -> str:
        """The name under which an outcome that confirms nothing is counted."""
        nowhere = isinstance(outcome, NotAttempted) and outcome.error is NOWHERE
        return "dead_letter.missing" if nowhere else self.failed


def copy_of(message: IncomingMessage, purpose: str, *, base: int) -> OutgoingMessage:
    """A message as it is sent once more: the same but for the attempts that it carries, and due at once.

    Args:
        message: What was received.
        purpose: Which step it is, such as ``retry``.
        base: Attempts that the copy carries.
    """
    metadata = {name: text for name, text in message.metadata.items() if name != meta.BASE}
    metadata[meta.V] = meta.VERSION
    if base:
        metadata[meta.BASE] = str(base)
    if meta.FIRST not in metadata and message.enqueued_at is not None:
        metadata[meta.FIRST] = meta.write_instant(message.enqueued_at)
    return OutgoingMessage(
        message.message_id,
        message.body,
        message.attributes,
        metadata,
        0.0,
        message.ordering_key,
        step_id(message, purpose),
        message.priority,
    )


def step_id(message: IncomingMessage, purpose: str) -> str:
    """The dedup id of one copy step: the same when the step is repeated, another for every new step.

    A hop is known by its number alone: a delivery that the hop did not survive was no attempt; and so is what is
    forwarded. Ids are the user's to choose and may stand on two messages, so what the service says of this one
    goes in too. Where that alone tells this message from every copy of it, a delivery whose copy was confirmed, but
    not the end of the message itself, does not make another: the message would go on twice.
    """
    known = meta.read(message.metadata)
    is_known = message.entry_id is not None
    attempts = known.base + (0 if is_known or purpose in _NO_ATTEMPTS else message.attempt or 0)
    step: tuple[object, ...] = (
        *(message.message_id, purpose, attempts, hop_number(message.metadata), known.redriven, message.enqueued_at),
        *((message.entry_id,) if is_known else ()),
    )
    return "qk-" + hashlib.sha256(repr(step).encode() + message.body).hexdigest()[:40]


class CopySender:
    """Sends copies to one queue, in calls that are within its limits.

    Args:
        guard: The way to the queue.
        can: What it can do: options that it has not are left out.
        size: Bytes that the service counts.

    Concurrency:
        Safe from any thread. Never waits for another try: the settle thread must not sleep.
    """

    def __init__(self, guard: Guard, can: Capabilities, size: Callable[[OutgoingMessage], int]) -> None:
        self._guard, self._can, self._size = guard, can, size
        self._limits = BatchLimits.of(can)

    def copy(self, copies: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send the copies; one outcome each."""
        prepared = [self._prepared(each) for each in copies]
        outcomes: dict[int, SendOutcome] = {}
        for positions in split(prepared, self._limits, self._size):
            sent = self._guard.send([prepared[each] for each in positions], timeout_s=_COPY_S)
            outcomes.update(
                (each, _own(prepared[each], outcome)) for each, outcome in zip(positions, sent, strict=True)
            )
        return [outcomes[position] for position in range(len(prepared))]

    def _prepared(self, copy: OutgoingMessage) -> OutgoingMessage:
        """The copy without the options that this queue has not; what it was sent with stays readable."""
        can, metadata = self._can, dict(copy.metadata)
        takes_key = can.ordering != "none" or can.fair_keys
        if copy.ordering_key is not None and not takes_key:
            metadata[meta.DEAD_KEY] = copy.ordering_key
        if copy.priority and not can.priority_levels:
            metadata[meta.DEAD_PRIORITY] = str(copy.priority)
        return copy._replace(
            metadata=metadata,
            dedup_id=copy.dedup_id if can.dedup_window_s > 0 else None,
            ordering_key=copy.ordering_key if takes_key else None,
            priority=copy.priority if can.priority_levels else 0,
        )


def _own(copy: OutgoingMessage, outcome: SendOutcome) -> SendOutcome:
    """A duplicate of something else than this very step is no confirmation: the copy is not there."""
    if isinstance(outcome, Duplicate) and copy.dedup_id is None:
        return Rejected(_TAKEN_FOR_ANOTHER, copy.message_id)
    return outcome


def is_confirmed(outcome: SendOutcome) -> bool:
    """Whether the destination has a copy: it took it, or had it already under the id of this very step."""
    return isinstance(outcome, (Accepted, Duplicate))


def detail_of(outcome: SendOutcome) -> str:
    """Why a copy is not confirmed, safe to log."""
    return "" if isinstance(outcome, (Accepted, Duplicate)) else outcome.error.detail or outcome.error.code.value
