# SPDX-License-Identifier: Apache-2.0
"""What is received, and the five ways to settle it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from queuekit._engine import metadata as meta
from queuekit._engine.bridging import Bridge
from queuekit._engine.codec import Codec
from queuekit._engine.control import Control
from queuekit._engine.copies import Copying, step_id
from queuekit._engine.copies import CopyRoute as Route
from queuekit._engine.guard import error_from
from queuekit._engine.held import Held
from queuekit._engine.journal import Journal
from queuekit._portable.letters import Cause, DeadLetterMode, DeadRoute, LetterWriter, is_nowhere
from queuekit._portable.link import seconds, timeout_seconds
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import LeaseLostError, UnavailableError, UnsupportedError, UsageError
from queuekit._values.outcome import Failed, LeaseLost, SettleOutcome, Unknown, Unsupported
from queuekit.backend import Action

T = TypeVar("T", default=bytes)

_UNREAD: Final = object()
# A member looked up on its class costs ten times a global, and this one is looked up per message.
_ACK: Final = Action.ACK


@dataclass(frozen=True, slots=True)
class Desk:
    """What the deliveries of one queue share: where their settlements go.

    Attributes:
        control: Records and sends settlements.
        can: What the backend can do.
        clock: Time.
        journal: Where to count and log.
        writer: Makes dead letters.
        dead_letters: Where dead letters go.
        queue: The queue's redacted URL.
        bridge: What queuekit adds to the queue.
        copies: Sends copies to the queue itself.
        route: The queue for dead letters, where they are copied.
    """

    control: Control
    can: Capabilities
    clock: Clock
    journal: Journal
    writer: LetterWriter
    dead_letters: DeadLetterMode
    queue: str
    bridge: Bridge
    copies: Route
    route: DeadRoute | None = None

    @property
    def nowhere(self) -> bool:
        """Whether it is known that a dead letter has nowhere to go, so that its message is retried."""
        return is_nowhere(self.dead_letters, self.route)

    def ack(self, held: Held) -> None:
        """Done: the message is removed."""
        self.control.record(held, _ACK)

    def retry(self, held: Held, delay_s: float) -> float:
        """Failed: again after the delay, the attempt counted; what comes sooner than asked for is told.

        Returns:
            How long it will wait, as far as everything goes well.
        """
        settles = self.control.settles
        kept_s = self.clock.monotonic() - held.lease.received_at
        plan = self.bridge.retry(
            held.message, delay_s, self.clock.time(), holdable_s=settles.holdable_s(held), kept_s=kept_s
        )
        copying = None if plan.copy is None else Copying(plan.copy, self.copies, "copy.failed")
        if plan.hold_s > 0:
            short = not plan.shortened
            self.control.hold(held, plan.hold_s, Action.RETRY, plan.delay_s, copying, short=short)
        elif copying is not None:
            settles.record_copy(held, copying, Action.RETRY, plan.delay_s)
        else:
            self.control.record(held, Action.RETRY, plan.delay_s)
        if not plan.shortened:
            return plan.delay_s if copying is None and not plan.hold_s else delay_s
        wait_s = plan.hold_s + (plan.delay_s if copying is None else 0.0)
        self.journal.note("retry.shortened", f"{delay_s:g} s to {wait_s:g} s, the longest here")
        return wait_s

    def release(self, held: Held, delay_s: float = 0.0) -> None:
        """Not tried: again after the delay, and the attempt not counted where that can be."""
        self.control.record(held, Action.RELEASE, delay_s)

    def dead(self, held: Held, cause: Cause) -> None:
        """Never again: to the dead-letter queue, or what the user chose instead of one."""
        if self.nowhere:
            delay_s = self.control.settles.dead_retry_s()
            self.control.record(held, Action.RETRY, delay_s)
            self.journal.note("dead_letter.missing", f"{cause.reason}; retried in {delay_s:g} s; name dead_letter=")
        elif self.dead_letters == "discard":
            self.control.record(held, _ACK)
            self.journal.note("dead_letter.discarded", cause.reason)
        else:
            letter = self.writer.write(held.message, cause)
            if self.route is not None:
                letter = letter._replace(dedup_id=step_id(held.message, "dead"))
                copying = Copying(letter, self.route, "dead_letter.failed")
                settles = self.control.settles
                settles.record_copy(held, copying, Action.RETRY, settles.dead_retry_s())
            else:
                self.control.record(held, Action.DEAD, 0.0, letter)
            self.journal.note("delivery.dead", cause.reason)


class Delivery(Generic[T]):
    """One message, leased to you until you settle it.

    Settling records what you decided and returns at once; the engine sends it, in batches. Of `ack`,
    `retry`, `release` and `dead_letter`, call one, once. `settled` waits for the service's answer.

    Concurrency:
        Safe from any thread and any event loop.
    """

    __slots__ = ("_codec", "_desk", "_held", "_payload")

    def __init__(self, held: Held, desk: Desk, codec: Codec[T]) -> None:
        self._held = held
        self._desk = desk
        self._codec = codec
        self._payload: Any = _UNREAD

    @property
    def payload(self) -> T:
        """The message's value, decoded at first use.

        Raises:
            DecodeError: The body is something else. The delivery can still be settled; `dead_letter` keeps
                it with its raw bytes.
        """
        if self._payload is _UNREAD:
            message = self._held.message
            self._payload = self._codec.decode(message.body, message.metadata.get(meta.CONTENT_TYPE))
        payload: T = self._payload
        return payload

    @property
    def body(self) -> bytes:
        """The bytes as they were sent."""
        return self._held.message.body

    @property
    def attributes(self) -> Mapping[str, str]:
        """The strings that travel beside the body."""
        return self._held.message.attributes

    @property
    def message_id(self) -> str:
        """The message's id; the same at every delivery."""
        return self._held.message.message_id

    @property
    def attempt(self) -> int | None:
        """Which attempt this is, from 1; None where the service does not count."""
        message = self._held.message
        if message.attempt is None:
            return None
        return message.attempt + meta.read(message.metadata).base

    @property
    def enqueued_at(self) -> datetime | None:
        """When the service took the message, in UTC; None where it does not say."""
        at = self._held.message.enqueued_at
        return None if at is None else datetime.fromtimestamp(at, UTC)

    @property
    def ordering_key(self) -> str | None:
        """The message's ordering key."""
        return self._held.message.ordering_key

    @property
    def priority(self) -> int:
        """The message's priority, 0 to 9, higher first."""
        return self._held.message.priority

    @property
    def type(self) -> str | None:
        """The message's type, where the sender named one."""
        return self._held.message.metadata.get(meta.TYPE)

    @property
    def content_type(self) -> str | None:
        """What the body is, where the sender said; None for a message that queuekit did not send."""
        return self._held.message.metadata.get(meta.CONTENT_TYPE)

    @property
    def redriven(self) -> int:
        """How often the message came back from a dead-letter queue."""
        return meta.read(self._held.message.metadata).redriven

    @property
    def lease_lost(self) -> bool:
        """Whether the delivery is not ours any more: stop, somebody else may have it."""
        return self._held.lease_lost

    def ack(self) -> None:
        """Done: remove the message.

        Raises:
            AlreadySettledError: It was settled before.
        """
        self._desk.control.record(self._held, _ACK)

    def retry(self, *, delay: timedelta = timedelta(0)) -> None:
        """Failed: deliver it again, and count the attempt.

        Args:
            delay: No earlier than this long from now. Longer than the service can wait is bridged: by a copy
                where the message has no ordering key, else by keeping the lease. Where neither can be it is
                shortened, and counted and logged as ``retry.shortened``.

        Raises:
            AlreadySettledError: It was settled before.
            UsageError: The delay is negative or no timedelta.
        """
        self._desk.retry(self._held, seconds("delay", delay))

    def release(self) -> None:
        """Give it back untried: deliver it again at once, the attempt not counted where that can be.

        Raises:
            AlreadySettledError: It was settled before.
        """
        self._desk.release(self._held)

    def dead_letter(self, reason: str) -> None:
        """Never again: keep it for study in the dead-letter queue.

        Args:
            reason: Why, for whoever studies it.

        Raises:
            AlreadySettledError: It was settled before.
            UsageError: The reason is no text.
        """
        if not isinstance(reason, str) or not reason:
            msg = f"reason must be a text that says why, and is {type(reason).__name__}"
            raise UsageError(msg)
        self._desk.dead(self._held, Cause(reason))

    def extend(self, *, by: timedelta) -> None:
        """Ask the service to leave this delivery with us for longer, counted from now.

        Needed only with ``keep_leases=False``; otherwise the engine extends what is in flight.

        Args:
            by: How long from now. More than the service's longest lease is refused before any I/O.

        Raises:
            UsageError: The length is outside what the service takes.
            LeaseLostError: The delivery is not ours any more. Stop working on it.
            AlreadySettledError: It was settled before.
            UnsupportedError: The service has no lease to extend.
            UnavailableError: The service did not answer. The old lease still runs; calling again is safe.

        Concurrency:
            Of two calls at once, either may reach the service last.
        """
        self._desk.control.leases.extend(self._held, self._checked_lease(by))

    async def aextend(self, *, by: timedelta) -> None:
        """As `extend`, suspending."""
        by_s = self._checked_lease(by)
        await asyncio.get_running_loop().run_in_executor(None, self._desk.control.leases.extend, self._held, by_s)

    def settled(self, *, timeout: timedelta | float | None = None) -> None:
        """Wait until the service has answered the settlement.

        Args:
            timeout: A timedelta or seconds; None waits for as long as it takes.

        Raises:
            UsageError: Nothing was settled yet.
            LeaseLostError: The lease had ended; the message may be delivered again.
            UnavailableError: There was no answer in time, or the answer was lost.
            UnsupportedError: The backend has no such settlement.
            QueueKitError: The service refused.
        """
        if self._held.settlement is None:
            msg = "nothing was settled yet; call ack, retry, release or dead_letter first"
            raise UsageError(msg, queue=self._desk.queue, operation="settle")
        self._raise_for(self._desk.control.settles.wait_for(self._held, timeout_seconds(timeout)))

    async def asettled(self, *, timeout: timedelta | float | None = None) -> None:
        """As `settled`, suspending."""
        await asyncio.get_running_loop().run_in_executor(None, lambda: self.settled(timeout=timeout))

    def __repr__(self) -> str:
        return f"Delivery({self.message_id!r}, attempt={self.attempt}, queue={self._desk.queue!r})"

    def _checked_lease(self, by: timedelta) -> float:
        by_s = seconds("by", by)
        check_extension(self._desk.can, by_s, self._desk.queue)
        return by_s

    def _raise_for(self, outcome: SettleOutcome | None) -> None:
        queue = self._desk.queue
        if outcome is None:
            msg = "the service has not answered the settlement in time; it may still do"
            raise UnavailableError(msg, queue=queue, operation="settle")
        if isinstance(outcome, LeaseLost):
            msg = "the lease had ended before the settlement; the message may be delivered again"
            raise LeaseLostError(msg, queue=queue, operation="settle")
        if isinstance(outcome, Unsupported):
            msg = f"{queue} has no such settlement: {outcome.detail}"
            raise UnsupportedError(msg, queue=queue, operation="settle")
        if isinstance(outcome, Unknown):
            msg = f"the answer to the settlement was lost ({outcome.error.detail}); the message may come again"
            raise UnavailableError(msg, queue=queue, operation="settle") from outcome.error.raw
        if isinstance(outcome, Failed):
            failure = error_from(outcome.error, queue=queue, operation="settle")
            raise failure


def check_extension(can: Capabilities, by_s: float, queue: str) -> None:
    """Refuse an extension that the service does not take, before any I/O.

    Raises:
        UnsupportedError: The service has no lease to extend.
        UsageError: The length is out of range.
    """
    if can.extend == "none":
        msg = f"{queue} has no lease to extend; finish within the time that the service gives"
        raise UnsupportedError(msg, queue=queue, operation="extend")
    if not can.min_lease_s <= by_s <= can.max_lease_s:
        msg = f"by must lie between {can.min_lease_s:g} s and {can.max_lease_s:g} s and is {by_s:g} s"
        raise UsageError(msg, queue=queue, operation="extend")
