# SPDX-License-Identifier: Apache-2.0
"""Which settlements go to the service together, and which are tried again. Pure."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from itertools import count, islice

from queuekit._engine.held import Held, Trouble
from queuekit._values.outcome import (
    LEASE_LOST,
    ErrorClass,
    ErrorCode,
    LeaseLost,
    Settled,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit.backend import Action, Settlement

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_MOST_DOUBLINGS = 10


class Settler:
    """Gathers recorded settlements into batches.

    A batch goes when it is full, when the oldest entry has waited for the linger, or when `flush` says so.

    Args:
        batch: Most settlements of one call.
        linger_s: How long a settlement may wait for others.
        late_ack: Whether an ACK is worth sending after its lease has ended.
        kept: Whether the leases of entries that wait for another try are extended meanwhile.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self, *, batch: int, linger_s: float, late_ack: bool, kept: bool = False) -> None:
        self._batch = batch
        self._linger_s = linger_s
        self._late_ack = late_ack
        self._kept = kept
        self._fresh: deque[Held] = deque()
        self._since: float | None = None
        self._first_end = math.inf
        self._again: list[tuple[float, int, Held]] = []
        self._order = count()
        self._flushing = False
        self.sending: int = 0

    def add(self, held: Held) -> bool:
        """Take one recorded settlement; True when the sending thread should look now."""
        self._fresh.append(held)
        gathered = len(self._fresh)
        until = held.lease.until
        if until < self._first_end:
            self._first_end = until
            return True
        return gathered == 1 or gathered == self._batch

    def flush(self) -> bool:
        """Let what is gathered go at once; True when there is something."""
        self._flushing = bool(self._fresh)
        return self._flushing

    def idle(self) -> bool:
        """Whether nothing is gathered, waiting to be tried again, or being sent."""
        return not (self._fresh or self._again or self.sending)

    def due_at(self, now: float) -> float | None:
        """When `take` will have something; None while there is nothing."""
        due = self._again[0][0] if self._again else None
        if not self._fresh:
            return due
        if self._flushing or len(self._fresh) >= self._batch:
            return now
        if self._since is None:
            self._since = now
        # Half of what is left of a lease is for lingering, at most; the other half is for the call.
        fresh_due = min(self._since + self._linger_s, max(self._since, (self._since + self._first_end) / 2))
        return fresh_due if due is None else min(due, fresh_due)

    def take(self, now: float) -> list[Held]:
        """The next batch, those that are tried again first. Counts as being sent until `settled`."""
        batch: list[Held] = []
        while self._again and self._again[0][0] <= now and len(batch) < self._batch:
            batch.append(heapq.heappop(self._again)[2])
        room = self._batch - len(batch)
        if room >= len(self._fresh):
            batch.extend(self._fresh)
            self._fresh.clear()
        else:
            batch.extend(islice(self._fresh, room))
            for _ in range(room):
                self._fresh.popleft()
        self._since = now if self._fresh else None
        self._first_end = min((held.lease.until for held in self._fresh), default=math.inf)
        self._flushing = self._flushing and bool(self._fresh)
        self.sending += len(batch)
        return batch

    def judge(self, held: Held, outcome: SettleOutcome, now: float) -> SettleOutcome | None:
        """What an answer means: the final outcome, or None when the entry is tried again.

        A failed entry is tried again while its lease lasts; then it is lost, and the message comes back.
        """
        if isinstance(outcome, (Settled, Unsupported)):
            return outcome
        if isinstance(outcome, LeaseLost):
            # An earlier try whose answer was lost may have settled it: nobody knows.
            return Unknown(_EARLIER_UNKNOWN) if held.trouble and held.trouble.unknown else outcome
        trouble = held.trouble = held.trouble or Trouble()
        trouble.unknown |= isinstance(outcome, Unknown)
        if not outcome.error.retryable:
            return outcome
        wait_s = min(_FIRST_WAIT_S * 2.0 ** min(trouble.tries, _MOST_DOUBLINGS), _LONGEST_WAIT_S)
        due = now + max(wait_s, outcome.error.retry_after_s or 0.0)
        trouble.tries += 1
        # A lease that is kept is longer by then; if it is not, `late` finds that out.
        if now >= held.lease.until or (due >= held.lease.until and not self._kept):
            return outcome if trouble.unknown else LEASE_LOST
        heapq.heappush(self._again, (due, next(self._order), held))
        return None

    def settled(self, count: int) -> None:
        """A batch of this many entries has its answer."""
        self.sending -= count

    def late(self, batch: Iterable[Held], now: float) -> list[Held]:
        """Those whose lease has ended by our own clock, so that nothing is to be sent for them.

        A late ACK of finished work can lose nothing, so it is sent where the backend takes it safely.
        """
        ended = [held for held in batch if held.lease.until <= now]
        return [held for held in ended if not (self._late_ack and _settlement(held).action is Action.ACK)]


_EARLIER_UNKNOWN = ErrorClass(ErrorCode.UNAVAILABLE, detail="an earlier try had no answer and may have settled it")


def settlements(batch: Iterable[Held]) -> list[Settlement]:
    """The entries that carry out what was recorded."""
    return [_settlement(held) if held.settlement is None else held.settlement for held in batch]


def group_by_call(batch: list[Held]) -> list[list[Held]]:
    """Parts of one action and one delay each, for backends that do not mix."""
    groups: dict[tuple[Action, float], list[Held]] = {}
    group: list[Held] = []
    action: Action | None = None
    delay_s = 0.0
    for held in batch:
        settlement = _settlement(held)
        # Neighbours are mostly settled alike, and to look for their group costs more than the rest.
        if settlement.action is not action or settlement.delay_s != delay_s:
            action, delay_s = settlement.action, settlement.delay_s
            group = groups.setdefault((action, delay_s), [])
        group.append(held)
    return list(groups.values())


def _settlement(held: Held) -> Settlement:
    if held.settlement is None:
        msg = "a delivery without a recorded settlement reached the settler"
        raise RuntimeError(msg)
    return held.settlement
