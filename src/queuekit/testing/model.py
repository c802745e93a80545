# SPDX-License-Identifier: Apache-2.0
"""A queue that is too slow and too simple to be wrong: one table, searched for every question.

It says what a backend may answer. On a virtual clock every moment is known, and there is one right answer;
on a real clock a call happened somewhere between its begin and its end, and what that leaves open is open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from queuekit._values.capability import Capabilities
from queuekit._values.outcome import Accepted, Duplicate, LeaseLost, SendOutcome, Settled, SettleOutcome
from queuekit.backend import Action, Handle, IncomingMessage, OutgoingMessage, QueueStats, Settlement, StoredMessage


class Span(NamedTuple):
    """When something happens: no earlier, and no later.

    Attributes:
        first: The earliest moment.
        last: The latest moment.
    """

    first: float
    last: float

    def plus(self, seconds: float, slack_s: float = 0.0) -> Span:
        """So much later, or up to ``slack_s`` later still."""
        return Span(self.first + seconds, self.last + seconds + slack_s)


_CLOCK_STEP_S = 0.001
_LONG_AGO = Span(-math.inf, -math.inf)


@dataclass(slots=True, eq=False)
class Tracked:
    """One message in the model, from its sending to its end.

    Attributes:
        message: As it was sent.
        due: When it is first due, or due again.
        attempt: Deliveries that count.
        handle: Of the latest delivery; None when it was given back.
        until: When that delivery's lease ends.
        touched: Whether it was ever delivered.
        vague: Whether a stale holder was allowed to do something, so that nothing about it is sure.
    """

    message: OutgoingMessage
    due: Span
    attempt: int = 0
    handle: Handle | None = None
    until: Span = _LONG_AGO
    touched: bool = False
    vague: bool = False

    def surely_leased(self, now: Span) -> bool:
        """Whether somebody has it, for sure. A lease is over when the time is at its end."""
        return self.handle is not None and now.last < self.until.first

    def maybe_leased(self, now: Span) -> bool:
        """Whether somebody may have it."""
        return self.handle is not None and now.first < self.until.last


@dataclass(slots=True)
class Model:
    """What one queue holds.

    Attributes:
        can: What the backend declares.
        tolerance_s: How late the service may be.
        held: What was accepted and is not finished, in order of sending.
        handles: Every handle that was ever given out, to its message.
        dedup: Dedup ids to when they are forgotten.
        ended: How many messages were acked, buried, purged or cancelled.
    """

    can: Capabilities
    tolerance_s: float = 0.0
    held: dict[str, Tracked] = field(default_factory=dict)
    handles: dict[Handle, Tracked] = field(default_factory=dict)
    dedup: dict[str, Span] = field(default_factory=dict)
    ended: int = 0

    def send(self, batch: Sequence[OutgoingMessage], outcomes: Sequence[SendOutcome], now: Span) -> None:
        """A batch was sent, and this was answered."""
        for message, outcome in zip(batch, outcomes, strict=True):
            end = self.dedup.get(message.dedup_id or "", _LONG_AGO)
            assert isinstance(outcome, (Accepted, Duplicate)), f"a send was answered by {outcome}"
            assert outcome.message_id == message.message_id, f"{message.message_id} was answered by {outcome}"
            if isinstance(outcome, Duplicate):
                assert now.first < end.last, "a message with a new dedup id was taken for a duplicate"
                continue
            assert now.last >= end.first, "a duplicate inside the window was accepted"
            if message.dedup_id is not None:
                self.dedup[message.dedup_id] = now.plus(self.can.dedup_window_s)
            self.store(message, now)

    def store(self, message: OutgoingMessage, now: Span) -> None:
        """A message is in the queue, behind all others."""
        self.held[message.message_id] = Tracked(message, self._due(message.delay_s, self.can.delay_resolution_s, now))

    def _due(self, delay_s: float, resolution_s: float, now: Span) -> Span:
        # Without a delay nothing has to be rounded; a service on another clock may still be late.
        exact = now.first == now.last
        return now.plus(delay_s, 0.0 if exact or not delay_s else resolution_s + self.tolerance_s)

    def receive(self, got: Sequence[IncomingMessage], *, limit: int, lease_s: float, now: Span) -> None:
        """A receive answered this."""
        if now.first == now.last:
            ready = [each.message.message_id for each in self.ready(now)]
            assert [each.message_id for each in got] == ready[:limit], f"these are ready: {ready}"
        assert len(got) <= limit
        for each in got:
            tracked = self.held.get(each.message_id) or self._risen(each)
            assert tracked is not None, f"{each.message_id} was never sent, or is finished (I2)"
            if not tracked.vague:
                self._check_delivery(tracked, each, now)
            self._check_identity(tracked, each)
            assert each.handle not in self.handles, "two deliveries have one handle (K5)"
            self.handles[each.handle] = tracked
            tracked.handle, tracked.touched = each.handle, True
            tracked.until = now.plus(lease_s, 0.0 if now.first == now.last else self.tolerance_s)
            if each.lease_until is not None:
                assert each.lease_until <= now.last + lease_s, "lease_until is later than the lease can be"

    def _risen(self, got: IncomingMessage) -> Tracked | None:
        """A finished message that comes once more, where the service may do that."""
        if not self.can.redelivers_unasked:
            return None
        known = next((each for each in self.handles.values() if each.message.message_id == got.message_id), None)
        if known is not None:
            known.vague = True
            self.held[got.message_id] = known
        return known

    def _check_delivery(self, tracked: Tracked, got: IncomingMessage, now: Span) -> None:
        name = got.message_id
        assert now.last >= tracked.due.first, f"{name} came before it was due (I4)"
        if tracked.surely_leased(now) and self.can.redelivers_unasked:
            tracked.vague = True
        assert tracked.vague or not tracked.surely_leased(now), f"{name} has two holders (I3)"
        before = tracked.attempt
        tracked.attempt += 1
        if self.can.attempts == "exact":
            assert got.attempt == tracked.attempt, f"attempt {got.attempt} of {name} is number {tracked.attempt} (I5)"
        elif self.can.attempts == "approximate" and got.attempt is not None:
            assert got.attempt > before or not tracked.touched, f"the attempt of {name} fell (I5)"
            tracked.attempt = got.attempt
        for other in self._before(tracked):
            if self.exclusive_keys or not (tracked.touched or other.touched):
                msg = f"{name} overtook {other.message.message_id} of its key (I6)"
                assert other.vague, msg

    def _check_identity(self, tracked: Tracked, got: IncomingMessage) -> None:
        sent = tracked.message
        assert got.body == sent.body, "the body changed (I9)"
        assert got.attributes == sent.attributes, "the attributes changed (I9)"
        assert dict(got.metadata) == dict(sent.metadata), "the metadata changed (I9)"
        assert got.ordering_key == sent.ordering_key, "the ordering key changed (I9)"
        assert got.priority == sent.priority, "the priority changed (I9)"

    @property
    def exclusive_keys(self) -> bool:
        """Whether only the first message of a key can be with anybody."""
        return self.can.one_in_flight_per_key

    def _before(self, tracked: Tracked) -> Iterable[Tracked]:
        key = tracked.message.ordering_key
        if key is None or self.can.ordering == "none":
            return
        for other in self.held.values():
            if other is tracked:
                return
            if other.message.ordering_key == key or self.can.ordering == "global":
                yield other

    def ready(self, now: Span) -> list[Tracked]:
        """What could be received now, best first; what is not sure is not among them."""
        found = [each for each in self.held.values() if self.state(each, now) == "ready" and not each.vague]
        return sorted(found, key=lambda each: -each.message.priority if self.can.priority_levels else 0)

    def state(self, tracked: Tracked, now: Span) -> str:
        """``leased``, ``delayed`` or ``ready``, as `Peekable.peek` names them; the surest guess on a real clock."""
        if tracked.maybe_leased(now):
            return "leased"
        behind = self.exclusive_keys and next(iter(self._before(tracked)), None) is not None
        return "delayed" if behind or now.first < tracked.due.last else "ready"

    def settle(self, entry: Settlement, outcome: SettleOutcome, now: Span) -> Tracked | None:
        """A settlement was answered; returns the message where it left the queue."""
        tracked = self.handles[entry.handle]
        current = tracked.handle == entry.handle and self.held.get(tracked.message.message_id) is tracked
        assert isinstance(outcome, (Settled, LeaseLost)), f"{entry.action} was answered by {outcome}"
        if isinstance(outcome, LeaseLost):
            assert tracked.vague or not (current and tracked.surely_leased(now)), "a live handle was refused (I7)"
            if current:
                tracked.handle = None
            return None
        if not (current and tracked.maybe_leased(now)):
            stale = f"{entry.action.value} by a stale handle was done (I7)"
            assert tracked.vague or self.can.fencing != "strict", stale
            tracked.vague = True
            return None
        return self._apply(tracked, entry, outcome, now)

    def _apply(self, tracked: Tracked, entry: Settlement, outcome: Settled, now: Span) -> Tracked | None:
        exact = now.first == now.last
        if entry.action is Action.EXTEND:
            tracked.until = now.plus(entry.lease_s, 0.0 if exact else self.tolerance_s)
            if outcome.lease_until is not None:
                assert outcome.lease_until <= now.last + entry.lease_s, "lease_until is later than the lease can be"
            return None
        if entry.action in {Action.ACK, Action.DEAD}:
            self.remove(tracked)
            return tracked
        applied_s = entry.delay_s if outcome.applied_delay_s is None else outcome.applied_delay_s
        assert applied_s >= entry.delay_s, "a shorter delay was applied than was asked for"
        tracked.handle = None
        tracked.due = self._due(applied_s, self.can.retry_delay_resolution_s, now)
        if entry.action is Action.RELEASE and not self.can.release_counts:
            tracked.attempt -= 1
        return None

    def remove(self, tracked: Tracked) -> None:
        """A message has left the queue."""
        del self.held[tracked.message.message_id]
        self.ended += 1

    def check_stats(self, stats: QueueStats, dead: int, now: Span) -> None:
        """The queue was counted, and this was answered (I8)."""
        if self.can.depth != "exact" or any(each.vague for each in self.held.values()):
            return
        found = (stats.ready, stats.delayed, stats.leased)
        if now.first == now.last:
            states = [self.state(each, now) for each in self.held.values()]
            expected = tuple(states.count(name) for name in ("ready", "delayed", "leased"))
            assert found == expected, f"(ready, delayed, leased) is {found} and should be {expected} (I8)"
        assert sum(number or 0 for number in found) == len(self.held), f"{len(self.held)} are held, not {found} (I8)"
        assert stats.dead in {None, dead}, f"{dead} are dead, not {stats.dead} (I8)"

    def check_peek(self, seen: Sequence[StoredMessage], now: Span, epoch: float) -> None:
        """Everything was looked at, and this was answered: the same messages, in order of sending (I8).

        ``epoch`` is what the wall clock shows at 0 of the monotonic one.
        """
        if now.first != now.last or self.can.attempts != "exact":
            return
        expected = [(name, self.state(each, now), each.attempt) for name, each in self.held.items()]
        assert [(each.message_id, each.state, each.attempt) for each in seen] == expected
        for each, tracked in zip(seen, self.held.values(), strict=True):
            off_s = abs(each.due_at - epoch - tracked.due.first)
            assert off_s < _CLOCK_STEP_S or tracked.due.first <= now.first, "due_at is not when it is due"
