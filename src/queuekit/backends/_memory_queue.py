# SPDX-License-Identifier: Apache-2.0
"""One queue in memory: which messages are ready, not ready and leased, and in what order they come.

A plain message (no delay, no key, priority 0) waits in a deque and is found there in constant time;
everything else that is ready stands in the heap of its priority. Of an ordering key only the oldest message
stands there. Lease ends are kept per `take`, not per message.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush, nsmallest
from itertools import count
from math import inf
from typing import Literal, NamedTuple

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    Action,
    Clock,
    Duplicate,
    IncomingMessage,
    OutgoingMessage,
    SendOutcome,
    Settled,
    Settlement,
    SettleOutcome,
    StoredMessage,
    Unsupported,
)

PRIORITIES = 10
_FORGET_AT_ONCE = 500  # messages that were kept for long enough
_TRIM_AT_ONCE = 20  # of the messages that are done, where the limit was larger before
_LEASED_S = 60.0  # until a dead letter that somebody has leased is looked at again
_SWEEP_AT = 1000  # settled handles that may stand in the table of lease ends before it is swept
_NO_LETTER = Unsupported("a DEAD settlement that holds no dead letter")


class _Entry:
    """One message in a queue, from its sending to its removal."""

    __slots__ = ("attempt", "due_at", "enqueued_at", "handle", "lease_until", "message", "not_ready", "sequence")

    def __init__(self, sequence: int, message: OutgoingMessage, now: float) -> None:
        self.sequence = sequence
        self.message = message
        self.enqueued_at = self.due_at = now
        self.attempt = self.handle = 0  # a handle of 0: never leased
        self.lease_until = 0.0
        self.not_ready = False  # not due, or behind another message of its key; never while leased


class Retention(NamedTuple):
    """What a backend's options say.

    Attributes:
        done_s: How long messages are kept when they are done; None keeps none.
        done_max: The most of them in one queue.
        dead_letter_s: How long dead letters are kept.
    """

    done_s: float | None
    done_max: int
    dead_letter_s: float


class MemoryQueue:
    """The messages of one queue, or of one subscription of it.

    An entry is in ``entries`` until it is removed, and besides in exactly one of: ``fresh`` or ``ranked``
    (ready), ``delayed`` (not due), ``leases`` (leased), or behind the first of its line in ``lines`` (held).
    The first of a line is there too, wherever else it is.

    Args:
        clock: Time, and the random part of handles.
        lock: The lock of the space.
        number: Different for each queue of the process.

    Concurrency:
        Every method is called under ``lock``; only `wait` gives it up meanwhile.
    """

    def __init__(self, clock: Clock, lock: threading.RLock, number: int) -> None:
        self.clock = clock
        self.gone = False
        self.entries: dict[int, _Entry] = {}  # by sequence number, hence in order of sending
        self.leases: dict[int, _Entry] = {}
        self.not_ready = 0
        self.received = False
        """Whether somebody receives, so that the queue gets what is sent."""
        self.paused = False
        """Whether nothing is handed out."""
        self.done: dict[int, tuple[_Entry, float]] = {}  # with the time of the ack
        self._done_ends: list[tuple[float, int]] = []
        self._letter_ends: list[tuple[float, int]] = []
        self._changed = threading.Condition(lock)
        self._waiting = 0
        self._fresh: deque[_Entry] = deque()  # plain and never leased, hence in order of sending
        self._ranked: list[list[tuple[int, _Entry]]] = [[] for _ in range(PRIORITIES)]
        self._delayed: list[tuple[float, int, _Entry]] = []
        self._lines: dict[str, deque[_Entry]] = {}
        self._lease_ends: list[tuple[float, int, Sequence[int]]] = []
        self._lease_end_numbers = count()
        self._handles_in_ends = 0
        self._dedup: dict[str, str] = {}
        self._dedup_ends: list[tuple[float, str]] = []
        self._last_sequence = 0
        # The random part fences off guesses, the number handles of other queues.
        self._next_handle = (int.from_bytes(clock.token_bytes(8), "big") << 96) + (number << 64) + 1

    def renew_lock(self, lock: threading.RLock) -> None:
        """Go on in the child of a fork, where no other thread lives."""
        self._changed = threading.Condition(lock)
        self._waiting = 0

    def store(self, messages: Sequence[OutgoingMessage]) -> None:
        """Append messages, and wake who waits for them."""
        now = self.clock.time()
        sequence = self._last_sequence
        self._last_sequence += len(messages)
        entries, fresh = self.entries, self._fresh
        for message in messages:
            sequence += 1
            entries[sequence] = entry = _Entry(sequence, message, now)
            if message.ordering_key is None and not message.delay_s and not message.priority:
                fresh.append(entry)
            else:
                self._place(entry, now)
        self.wake()

    def store_letters(self, letters: Sequence[OutgoingMessage], keep_s: float) -> None:
        """Append dead letters, which are kept for a time only."""
        first, until = self._last_sequence + 1, self.clock.time() + keep_s
        self.store(letters)
        if len(self._letter_ends) > 2 * len(self.entries) + _SWEEP_AT:
            self._letter_ends = [each for each in self._letter_ends if each[1] in self.entries]
            heapify(self._letter_ends)
        for sequence in range(first, self._last_sequence + 1):
            heappush(self._letter_ends, (until, sequence))

    def _place(self, entry: _Entry, now: float) -> None:
        message = entry.message
        if message.ordering_key is not None:
            line = self._lines.setdefault(message.ordering_key, deque())
            line.append(entry)
            if len(line) > 1:
                entry.due_at = now + message.delay_s
                entry.not_ready = True
                self.not_ready += 1
                return
        self._delay(entry, message.delay_s, now)

    def _delay(self, entry: _Entry, delay_s: float, now: float) -> None:
        entry.due_at = now + delay_s
        if delay_s > 0:
            entry.not_ready = True
            self.not_ready += 1
            heappush(self._delayed, (entry.due_at, entry.sequence, entry))
        else:
            self._rank(entry)

    def _rank(self, entry: _Entry) -> None:
        heappush(self._ranked[entry.message.priority], (entry.sequence, entry))

    def _make_ready(self, entry: _Entry) -> None:
        entry.not_ready = False
        self.not_ready -= 1
        self._rank(entry)

    def without_duplicates(self, batch: Sequence[OutgoingMessage]) -> list[SendOutcome]:
        """One outcome per message: `Duplicate` where the dedup id is known, or stands twice in the batch."""
        now = self.clock.monotonic()
        while self._dedup_ends and self._dedup_ends[0][0] <= now:
            del self._dedup[heappop(self._dedup_ends)[1]]
        seen: dict[str, str] = {}
        outcomes: list[SendOutcome] = []
        for message in batch:
            dedup_id = message.dedup_id
            first = None if dedup_id is None else seen.get(dedup_id, self._dedup.get(dedup_id))
            if first is not None:
                outcomes.append(Duplicate(message.message_id, first))
                continue
            outcomes.append(Accepted(message.message_id))
            if dedup_id is not None:
                seen[dedup_id] = message.message_id
        return outcomes

    def remember(self, messages: Iterable[OutgoingMessage], window_s: float) -> None:
        """Keep the dedup ids of messages that were new."""
        end = self.clock.monotonic() + window_s
        for message in messages:
            if message.dedup_id is not None:
                self._dedup[message.dedup_id] = message.message_id
                heappush(self._dedup_ends, (end, message.dedup_id))

    def advance(self) -> None:
        """Make ready what has become due, and what was leased for long enough."""
        if self._delayed:
            now = self.clock.time()
            while self._delayed and self._delayed[0][0] <= now:
                self._make_ready(heappop(self._delayed)[2])
        if self._lease_ends:
            monotonic = self.clock.monotonic()
            while self._lease_ends and self._lease_ends[0][0] <= monotonic:
                self._end_leases(heappop(self._lease_ends)[2], monotonic)
        if self._done_ends or self._letter_ends:
            self.tidy()

    def tidy(self, limit: float = _FORGET_AT_ONCE) -> None:
        """Forget up to ``limit`` messages that were kept for long enough."""
        now = self.clock.time()
        while limit > 0 and self._done_ends and self._done_ends[0][0] <= now:
            del self.done[heappop(self._done_ends)[1]]
            limit -= 1
        due: list[int] = []
        while len(due) < limit and self._letter_ends and self._letter_ends[0][0] <= now:
            due.append(heappop(self._letter_ends)[1])
        for sequence in due:
            if sequence in self.entries and self.entries[sequence].handle in self.leases:
                heappush(self._letter_ends, (now + _LEASED_S, sequence))
        self.discard(each for each in due if each in self.entries and self.entries[each].handle not in self.leases)

    def _end_leases(self, handles: Sequence[int], monotonic: float) -> None:
        self._handles_in_ends -= len(handles)
        for handle in handles:
            entry = self.leases.get(handle)
            if entry is not None and entry.lease_until <= monotonic:  # else it was settled, or extended
                del self.leases[handle]
                self._rank(entry)

    def _end_together(self, handles: Sequence[int], lease_until: float) -> None:
        earliest = not self._lease_ends or lease_until < self._lease_ends[0][0]
        heappush(self._lease_ends, (lease_until, next(self._lease_end_numbers), handles))
        self._handles_in_ends += len(handles)
        if earliest:
            self.wake()  # who waits for messages knows of no end as early as this

    def _sweep_lease_ends(self) -> None:
        """Forget settled leases, once they are many: until a long lease ends, its handles would stay."""
        leases = self.leases
        if self._handles_in_ends <= 2 * len(leases) + _SWEEP_AT:
            return
        swept: list[tuple[float, int, Sequence[int]]] = []
        for lease_until, number, handles in self._lease_ends:
            live = [each for each in handles if each in leases and leases[each].lease_until == lease_until]
            if live:
                swept.append((lease_until, number, live))
        heapify(swept)
        self._lease_ends = swept
        self._handles_in_ends = sum(len(handles) for _, _, handles in swept)

    def wait(self, longest_s: float) -> None:
        """Wait for a change, a due time or the end of a lease, but no longer than ``longest_s``."""
        timeout_s = longest_s
        if self._delayed:
            timeout_s = min(timeout_s, self._delayed[0][0] - self.clock.time())
        if self._lease_ends:
            timeout_s = min(timeout_s, self._lease_ends[0][0] - self.clock.monotonic())
        self._waiting += 1
        try:
            self.clock.wait(self._changed, max(0.0, timeout_s))
        finally:
            self._waiting -= 1

    def wake(self) -> None:
        """Let everyone who waits look again."""
        if self._waiting:
            self._changed.notify_all()

    def has_ready(self) -> bool:
        """Whether `take` would find something."""
        self.advance()
        return not self.paused and bool(self._fresh or any(self._ranked))

    def take(self, limit: int, lease_s: float, *, weighted: bool = False) -> list[IncomingMessage]:
        """Lease up to ``limit`` of the ready messages, best first.

        Args:
            limit: At most this many.
            lease_s: From now.
            weighted: Draw a priority for each, by its weight, instead of taking the highest there is.
        """
        self.advance()
        if self.paused:
            return []
        entries = self._draw_ready(limit) if weighted else self._next_ready(limit)
        if not entries:
            return []
        lease_until = self.clock.monotonic() + lease_s
        handle = self._next_handle
        self._next_handle += len(entries)
        self._end_together(range(handle, self._next_handle), lease_until)
        leases = self.leases
        taken: list[IncomingMessage] = []
        new, make = tuple.__new__, IncomingMessage
        for entry in entries:
            attempt = entry.attempt = entry.attempt + 1
            entry.handle = handle
            entry.lease_until = lease_until
            leases[handle] = entry
            message_id, body, attributes, metadata, _, key, _, priority = entry.message
            at = entry.enqueued_at
            fields = (
                handle, message_id, body, attributes, metadata, attempt, at, lease_until, key, priority,
                None, None, None,
            )  # fmt: skip
            taken.append(new(make, fields))  # at half of a named tuple's own cost
            handle += 1
        return taken

    def _next_ready(self, limit: int) -> list[_Entry]:
        entries: list[_Entry] = []
        for priority in range(PRIORITIES - 1, 0, -1):
            if heap := self._ranked[priority]:
                entries += [heappop(heap)[1] for _ in range(min(limit - len(entries), len(heap)))]
        return entries + self._next_lowest(limit - len(entries))

    def _next_lowest(self, limit: int) -> list[_Entry]:
        fresh, ranked = self._fresh, self._ranked[0]
        entries: list[_Entry] = []
        while ranked and len(entries) < limit:
            if fresh and ranked[0][0] > fresh[0].sequence:
                entries.append(fresh.popleft())
            else:
                entries.append(heappop(ranked)[1])
        entries += [fresh.popleft() for _ in range(min(limit - len(entries), len(fresh)))]
        return entries

    def _draw_ready(self, limit: int) -> list[_Entry]:
        there = [len(heap) for heap in self._ranked]
        there[0] += len(self._fresh)
        present = [each for each in range(PRIORITIES - 1, -1, -1) if there[each]]
        if not present:
            return []
        drawn = Counter(self.clock.random.choices(present, [each + 1 for each in present], k=limit))
        shares = {each: min(drawn[each], there[each]) for each in present}
        left = limit - sum(shares.values())  # a priority with fewer messages than its share leaves room
        entries: list[_Entry] = []
        for priority in present:
            more = min(left, there[priority] - shares[priority])
            left -= more
            count = shares[priority] + more
            if priority:
                entries += [heappop(self._ranked[priority])[1] for _ in range(count)]
            else:
                entries += self._next_lowest(count)
        return entries

    def settle(
        self, batch: Sequence[Settlement], dead_letters: Callable[[], MemoryQueue], retention: Retention
    ) -> list[SettleOutcome]:
        """Settle what is still leased. ``dead_letters`` gives the queue for dead letters, and makes it."""
        self.advance()
        monotonic = self.clock.monotonic()
        extended: dict[float, list[int]] = {}
        outcomes: list[SettleOutcome] = []
        keeping = retention.done_s is not None
        leases, ack, remove = self.leases, Action.ACK, self._remove_leased
        for settlement in batch:
            handle, action, delay_s, lease_s, dead = settlement
            # Only an int is looked up: True equals 1, and what has no hash would raise.
            entry = leases.get(handle) if type(handle) is int else None
            if entry is None:
                outcomes.append(LEASE_LOST)
            elif action is ack:
                remove(entry)
                if keeping:
                    self._keep(entry, retention)
                outcomes.append(SETTLED)
            elif action is Action.EXTEND:
                entry.lease_until = monotonic + lease_s
                extended.setdefault(entry.lease_until, []).append(entry.handle)
                outcomes.append(Settled(lease_until=entry.lease_until))
            elif action is Action.DEAD:
                outcomes.append(self._bury(entry, dead, dead_letters, retention))
            else:
                outcomes.append(self._give_back(entry, delay_s, counted=action is Action.RETRY))
        for lease_until, handles in extended.items():
            self._end_together(handles, lease_until)
        self._sweep_lease_ends()
        return outcomes

    def _remove_leased(self, entry: _Entry) -> None:
        del self.leases[entry.handle], self.entries[entry.sequence]
        key = entry.message.ordering_key
        if key is not None:
            line = self._lines[key]
            line.popleft()
            self._come_forward(key, line)

    def _keep(self, entry: _Entry, retention: Retention) -> None:
        now = self.clock.time()
        self.done[entry.sequence] = (entry, now)
        heappush(self._done_ends, (now + (retention.done_s or 0.0), entry.sequence))
        for _ in range(min(len(self.done) - retention.done_max, _TRIM_AT_ONCE)):
            del self.done[heappop(self._done_ends)[1]]

    def _come_forward(self, key: str, line: deque[_Entry]) -> None:
        """Let the message that is now the first of its line be delivered, when it is due."""
        if not line:
            del self._lines[key]
            return
        first = line[0]
        # Without a delay it is due, even where the wall clock was set back since it was sent.
        if first.message.delay_s and first.due_at > self.clock.time():
            heappush(self._delayed, (first.due_at, first.sequence, first))
        else:
            self._make_ready(first)
        self.wake()

    def _bury(
        self,
        entry: _Entry,
        letter: OutgoingMessage | None,
        dead_letters: Callable[[], MemoryQueue],
        retention: Retention,
    ) -> SettleOutcome:
        if letter is None:
            return _NO_LETTER
        dead_letters().store_letters((letter,), retention.dead_letter_s)
        self._remove_leased(entry)
        return SETTLED

    def _give_back(self, entry: _Entry, delay_s: float, *, counted: bool) -> SettleOutcome:
        del self.leases[entry.handle]
        if not counted:
            entry.attempt -= 1
        self._delay(entry, delay_s, self.clock.time())
        self.wake()
        return Settled(applied_delay_s=delay_s)

    def find_unleased(self, wanted: Counter[str]) -> list[int]:
        """The sequence numbers of the oldest unleased messages with these ids, as many of each as wanted."""
        missing, found = wanted.total(), []
        wanted = wanted.copy()
        for sequence, entry in self.entries.items():
            if not missing:
                break
            if wanted[entry.message.message_id] and entry.handle not in self.leases:
                wanted[entry.message.message_id] -= 1
                missing -= 1
                found.append(sequence)
        return found

    def find_untried(self, message_id: str) -> list[int]:
        """The sequence numbers of the messages with this id of which no attempt counts; a lease is one."""
        entries = self.entries.values()
        return [each.sequence for each in entries if not each.attempt and each.message.message_id == message_id]

    def discard(self, sequences: Iterable[int]) -> int:
        """Remove messages of which none is leased, and say how many they were."""
        doomed = set(sequences)
        if not doomed:
            return 0
        removed = [self.entries.pop(each) for each in doomed]
        self.not_ready -= sum(entry.not_ready for entry in removed)
        self._fresh = deque(each for each in self._fresh if each.sequence not in doomed)
        self._ranked = [[each for each in heap if each[0] not in doomed] for heap in self._ranked]
        self._delayed = [each for each in self._delayed if each[1] not in doomed]
        for heap in self._ranked:
            heapify(heap)
        heapify(self._delayed)
        for key in {each.message.ordering_key for each in removed}:
            if key is not None:
                self._close_ranks(key, doomed)
        return len(removed)

    def _close_ranks(self, key: str, doomed: set[int]) -> None:
        line = self._lines[key]
        left = self._lines[key] = deque(each for each in line if each.sequence not in doomed)
        if line[0].sequence in doomed:
            self._come_forward(key, left)

    def look(self, limit: int, after: int) -> list[StoredMessage]:
        """Up to ``limit`` messages in order of sending, from behind the sequence number ``after``."""
        self.advance()
        sequences = list(self.entries)
        start = bisect_right(sequences, after)
        return [self._stored(self.entries[each]) for each in sequences[start : start + limit]]

    def look_at_done(self, limit: int, after: int) -> list[StoredMessage]:
        """The same, of the messages that are done and kept."""
        self.tidy(inf)
        sequences = nsmallest(limit, (each for each in self.done if each > after))
        return [
            self._stored(entry)._replace(state="done", due_at=entry.enqueued_at, done_at=at)
            for entry, at in (self.done[each] for each in sequences)
        ]

    def _stored(self, entry: _Entry) -> StoredMessage:
        message_id, body, attributes, metadata, _, key, _, priority = entry.message
        leased = entry.handle in self.leases
        state: Literal["ready", "delayed", "leased"] = (
            "leased" if leased else "delayed" if entry.not_ready else "ready"
        )
        at, due_at, cursor = entry.enqueued_at, entry.due_at, str(entry.sequence)
        return StoredMessage(
            message_id, body, attributes, metadata, state, entry.attempt, at, due_at, key, priority, cursor
        )
