# SPDX-License-Identifier: Apache-2.0
"""Where messages wait that a queue itself cannot delay for so long: in another queue, or as scheduled requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from queuekit._engine import metadata as meta
from queuekit._engine.batching import BatchLimits, split
from queuekit._engine.copies import step_id
from queuekit._engine.guard import Guard
from queuekit._engine.hops import delayed
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.outcome import Accepted, Duplicate, ErrorClass, Rejected, SendOutcome
from queuekit.backend import (
    Backend,
    Foreseeing,
    HttpPublishable,
    HttpSchedulable,
    IncomingMessage,
    OutgoingMessage,
    ScheduledRequest,
)

_HIGHEST_PRIORITY = 9


class Detour(Protocol):
    """The way of a message that waits elsewhere. It takes complete messages, as they would go to their queue."""

    def excess(self, message: OutgoingMessage) -> tuple[int, int] | None:
        """Bytes and limit of a message that is too large to wait there; None for one that fits."""
        ...

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> list[SendOutcome]:
        """Have each wait there for as long as its delay says; one outcome each."""
        ...


class QueueDetour:
    """Through a queue that keeps delays: a forwarder brings what is due to its own queue.

    Args:
        guard: The way to the queue that keeps delays.
        backend: Its backend.
        can: Says what it can do.
        clock: Time.
        target: The queue that the messages are for, as they name it.
    """

    def __init__(
        self, guard: Guard, backend: Backend, can: Callable[[], Capabilities], clock: Clock, *, target: str
    ) -> None:
        self._guard, self._backend, self._can, self._clock = guard, backend, can, clock
        self._target = target

    def excess(self, message: OutgoingMessage) -> tuple[int, int] | None:
        """Bytes and limit of a message that is too large to wait there; None for one that fits."""
        can = self._can()
        size = self._backend.size(self._wrapped(message, can))
        return (size, can.max_message_bytes) if size > can.max_message_bytes else None

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> list[SendOutcome]:
        """Send each, in calls that are within that queue's limits."""
        can = self._can()
        wrapped = [self._wrapped(each, can) for each in batch]
        calls = list(split(wrapped, BatchLimits.of(can), self._backend.size))
        outcomes: dict[int, SendOutcome] = {}
        for positions in calls:
            sent = self._guard.send([wrapped[each] for each in positions], timeout_s=timeout_s / len(calls))
            outcomes.update(
                (at, on_the_way(outcome, self._guard)) for at, outcome in zip(positions, sent, strict=True)
            )
        return [outcomes[position] for position in range(len(batch))]

    def _wrapped(self, message: OutgoingMessage, can: Capabilities) -> OutgoingMessage:
        """The message as it waits: what orders, deduplicates and ranks it counts for its own queue, not for this."""
        noted = (
            (meta.VIA_KEY, message.ordering_key),
            (meta.VIA_DEDUP, message.dedup_id),
            (meta.VIA_PRIORITY, str(message.priority) if message.priority else None),
        )
        metadata = {**message.metadata, meta.VIA_TO: self._target}
        metadata.update((name, value) for name, value in noted if value is not None)
        waiting = message._replace(metadata=metadata, ordering_key=None, dedup_id=None, priority=0)
        return delayed(waiting, message.delay_s, can, self._clock.time())


class HttpDetour:
    """Through a service that makes requests at their time: each message is one request to its own queue.

    Args:
        guard: The way to that service.
        scheduler: Its backend.
        can: Says what it can do.
        clock: Time.
        target: The backend of the queue that the messages are for.
    """

    def __init__(
        self,
        guard: Guard,
        scheduler: HttpSchedulable,
        can: Callable[[], Capabilities],
        clock: Clock,
        *,
        target: HttpPublishable,
    ) -> None:
        self._guard, self._scheduler, self._can, self._clock = guard, scheduler, can, clock
        self._target = target

    def excess(self, message: OutgoingMessage) -> tuple[int, int] | None:
        """Bytes and limit of a message whose request is too large; None for one that fits."""
        request = self._target.as_http(message._replace(delay_s=0.0))
        size, limit = self._scheduler.size_http(request, self._target.http_auth), self._can().max_message_bytes
        return (size, limit) if size > limit else None

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> list[SendOutcome]:
        """Schedule one request for each, in calls that are within that service's limit."""
        most = self._can().max_send_batch
        starts = range(0, len(batch), most)
        return [
            outcome
            for start in starts
            for outcome in self._schedule(batch[start : start + most], timeout_s / len(starts))
        ]

    def _schedule(self, batch: Sequence[OutgoingMessage], timeout_s: float) -> list[SendOutcome]:
        now, auth = self._clock.time(), self._target.http_auth
        requests = [
            ScheduledRequest(
                each.message_id, self._target.as_http(each._replace(delay_s=0.0)), now + each.delay_s, auth
            )
            for each in batch
        ]
        outcomes = self._guard.send_by(lambda: self._scheduler.schedule_http(requests, timeout_s=timeout_s), batch)
        return [on_the_way(outcome, self._guard) for outcome in outcomes]


class DetouringGuard(Guard):
    """A guard of a queue some of whose messages wait elsewhere: those with a delay beyond the queue's own.

    Args:
        backend: The queue's backend.
        queue: Its redacted URL.
        detour: Where such messages wait.
        longest_s: Says what the queue's own longest delay is.
    """

    __slots__ = ("_detour", "_longest_s")

    def __init__(self, backend: Backend, queue: str, detour: Detour, longest_s: Callable[[], float]) -> None:
        super().__init__(backend, queue)
        self._detour, self._longest_s = detour, longest_s

    def excess(self, message: OutgoingMessage) -> tuple[int, int] | None:
        """Bytes and limit of a message that is too large for where it waits for its time; None for one that fits."""
        return self._detour.excess(message) if message.delay_s > self._longest_s() else None

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """One outcome per message, whichever way it goes."""
        longest_s = self._longest_s()
        delayed_at = [position for position, message in enumerate(batch) if message.delay_s > longest_s]
        if not delayed_at:
            return super().send(batch, timeout_s=timeout_s)
        outcomes: dict[int, SendOutcome] = {
            position: Rejected(error, batch[position].message_id)
            for position in delayed_at
            if (error := self._refusal(batch[position])) is not None
        }
        far = [position for position in delayed_at if position not in outcomes]
        near = [position for position, message in enumerate(batch) if message.delay_s <= longest_s]
        each_s = timeout_s / 2 if near else timeout_s
        if near:
            outcomes.update(zip(near, super().send([batch[each] for each in near], timeout_s=each_s), strict=True))
        if far:
            sent = self._detour.send([batch[each] for each in far], timeout_s=each_s)
            outcomes.update(zip(far, sent, strict=True))
        return [outcomes[position] for position in range(len(batch))]

    def _refusal(self, message: OutgoingMessage) -> ErrorClass | None:
        """Why its own queue will not take a message when its time has come."""
        backend = self._backend
        return backend.refusal(message._replace(delay_s=0.0)) if isinstance(backend, Foreseeing) else None


def on_the_way(outcome: SendOutcome, guard: Guard) -> SendOutcome:
    """The same outcome, saying where it came about."""
    if isinstance(outcome, (Accepted, Duplicate)):
        return outcome
    error: ErrorClass = outcome.error
    raw = type(error.raw).__name__ if error.raw is not None else error.code.value
    return replace(outcome, error=replace(error, detail=f"on the way through {guard.queue}: {error.detail or raw}"))


def arrived(message: IncomingMessage) -> OutgoingMessage:
    """A message that has waited in the queue of a detour, as it goes to its own queue: as it was sent, due at once.

    Its dedup id is the sender's, or one that is the same at every delivery of what waited, so that a queue that
    knows those takes it once.
    """
    known = message.metadata
    left_behind = meta.OF_A_DETOUR | meta.OF_A_HOP
    metadata = {name: text for name, text in known.items() if name not in left_behind}
    metadata[meta.VIA] = str(meta.read_count(known.get(meta.VIA, "")) + 1)
    if meta.FIRST not in metadata and message.enqueued_at is not None:
        metadata[meta.FIRST] = meta.write_instant(message.enqueued_at)
    return OutgoingMessage(
        message.message_id,
        message.body,
        message.attributes,
        metadata,
        0.0,
        known.get(meta.VIA_KEY),
        known.get(meta.VIA_DEDUP) or step_id(message, "forward"),
        min(meta.read_count(known.get(meta.VIA_PRIORITY, "")), _HIGHEST_PRIORITY),
    )
