# SPDX-License-Identifier: Apache-2.0
"""Counters that balance, and lengths of time in three numbers each. A few additions per batch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from queuekit._values.outcome import (
    Accepted,
    AllAccepted,
    Duplicate,
    LeaseLost,
    NotAttempted,
    Rejected,
    SendOutcome,
    Settled,
    SettleOutcome,
    Unknown,
)

_SEND_NAMES: Mapping[type, str] = {
    Accepted: "accepted",
    Duplicate: "duplicate",
    Rejected: "rejected",
    Unknown: "unknown",
    NotAttempted: "not_attempted",
}
_SETTLE_NAMES: Mapping[type, str] = {Settled: "settled", LeaseLost: "lost", Unknown: "unconfirmed"}

SENT = ("sent", *_SEND_NAMES.values(), "pending")
"""The names of `SendTally.counts`: ``sent`` is the sum of the others."""
RECEIVED = ("received", *_SETTLE_NAMES.values(), "failed", "in_flight")
"""The names of `ReceiveTally.counts`: ``received`` is the sum of the others."""


class SendTally:
    """Counts messages to send and what became of them.

    Concurrency:
        Safe from any thread.
    """

    __slots__ = ("_answers", "_lock", "_sent")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent = 0
        self._answers: Counter[type] = Counter()

    def given(self, count: int = 1) -> None:
        """So many messages are to be sent."""
        with self._lock:
            self._sent += count

    def answered(self, outcomes: Sequence[SendOutcome]) -> None:
        """These are the outcomes of messages that were given before."""
        with self._lock:
            if type(outcomes) is AllAccepted:
                self._answers[Accepted] += len(outcomes)
            else:
                self._answers.update(map(type, outcomes))

    def counts(self) -> dict[str, int]:
        """The names of `SENT`, each with how many messages."""
        with self._lock:
            found = {name: self._answers[kind] for kind, name in _SEND_NAMES.items()}
            sent = self._sent
        return {"sent": sent} | found | {"pending": sent - sum(found.values())}


@dataclass(frozen=True, slots=True)
class Timing:
    """Lengths of time, in three numbers.

    Attributes:
        count: How many were measured.
        total: Their sum.
        longest: The longest of them.
    """

    count: int = 0
    total: timedelta = timedelta(0)
    longest: timedelta = timedelta(0)

    @property
    def mean(self) -> timedelta:
        """The average; zero where nothing was measured."""
        return self.total / self.count if self.count else timedelta(0)

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.count + other.count, self.total + other.total, max(self.longest, other.longest))


class Stopwatch:
    """Sums up lengths of time.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    __slots__ = ("_count", "_longest_s", "_total_s")

    def __init__(self) -> None:
        self._count = 0
        self._total_s = self._longest_s = 0.0

    def add(self, length_s: float) -> None:
        """One more; what a stepped clock makes negative counts as nothing."""
        self._count += 1
        if length_s > 0:
            self._total_s += length_s
            self._longest_s = max(self._longest_s, length_s)

    def add_all(self, lengths_s: Sequence[float]) -> None:
        """Many more at once."""
        self._count += len(lengths_s)
        if min(lengths_s, default=0.0) < 0:
            lengths_s = [each for each in lengths_s if each > 0]
        self._total_s += sum(lengths_s)
        self._longest_s = max(self._longest_s, max(lengths_s, default=0.0))

    def read(self) -> Timing:
        """What was summed up so far."""
        return Timing(self._count, timedelta(seconds=self._total_s), timedelta(seconds=self._longest_s))


_QUICK_S = 50e-6
_LONGEST_COUNTED_S = 1e-3
_REMEMBERED = 64


class Handling:
    """How long handlers take, and whether they are quick now: shorter than most waits for I/O.

    Attributes:
        add: Called with the length of each, in seconds; it is counted by `sum_up`.
        quick: Whether they are, averaged over some sixty of them.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    __slots__ = ("_fresh", "_lengths", "_usual_s", "add", "quick")

    def __init__(self) -> None:
        self._lengths = Stopwatch()
        self._fresh: list[float] = []
        # The list's own method, because it runs for every message.
        self.add: Callable[[float], None] = self._fresh.append
        self._usual_s = _LONGEST_COUNTED_S
        self.quick: bool = False

    def sum_up(self) -> None:
        """Count what was added."""
        fresh = self._fresh.copy()
        self._fresh.clear()
        self._lengths.add_all(fresh)
        # One of no length says nothing about the pace: its clock stands still, or is coarse. How much longer
        # than a millisecond one is says little: a thread may lose the interpreter at any time.
        if fresh and not 0 < min(fresh) <= max(fresh) <= _LONGEST_COUNTED_S:
            fresh = [min(each, _LONGEST_COUNTED_S) for each in fresh if each > 0]
        if fresh:
            weight = min(1.0, len(fresh) / _REMEMBERED)
            self._usual_s += (sum(fresh) / len(fresh) - self._usual_s) * weight
            self.quick = self._usual_s < _QUICK_S

    def read(self) -> Timing:
        """What was counted so far."""
        self.sum_up()
        return self._lengths.read()


class ReceiveTally:
    """Counts deliveries and what became of them, how long they had been in the queue and with handlers.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    __slots__ = ("_answers", "age", "handling", "received")

    def __init__(self) -> None:
        self.received: int = 0
        self._answers: Counter[type] = Counter()
        self.age: Stopwatch = Stopwatch()
        self.handling: Handling = Handling()

    def answered(self, outcomes: Sequence[SettleOutcome]) -> None:
        """These are the final outcomes of deliveries, which are in flight no more."""
        self._answers.update(map(type, outcomes))

    def settled(self, count: int) -> None:
        """So many deliveries were settled as they should."""
        self._answers[Settled] += count

    def lost(self, count: int) -> None:
        """The leases of so many deliveries ended before a settlement was recorded."""
        self._answers[LeaseLost] += count

    def counts(self, in_flight: int) -> dict[str, int]:
        """The names of `RECEIVED`, each with how many deliveries."""
        found = {name: self._answers[kind] for kind, name in _SETTLE_NAMES.items()}
        failed = self._answers.total() - sum(found.values())
        return {"received": self.received} | found | {"failed": failed, "in_flight": in_flight}


def read_only(*parts: Mapping[str, int]) -> Mapping[str, int]:
    """One mapping that nobody can change, of counts that are added up by name."""
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    return MappingProxyType(dict(whole))


def summed(timings: Iterable[Mapping[str, Timing]]) -> dict[str, Timing]:
    """Timings added up by name."""
    whole: dict[str, Timing] = {}
    for each in timings:
        for name, timing in each.items():
            whole[name] = whole.get(name, Timing()) + timing
    return whole
