# SPDX-License-Identifier: Apache-2.0
"""Queues in this process's memory: honest leases, fencing, delays, order and dead letters, and no durability.

This is the reference that the other backends are compared with: every answer is exact.

**What is shared.** The process has one table of spaces, each a set of named queues under one lock, so that
a dead letter moves between two queues in one step. `reset` empties the table in place: backends that are
open go on with empty queues. A queue uses the clock of the backend whose first call made it; a test that
brings a clock of its own resets first, or takes a space of its own.

**After a fork** the child has the queues as they were, under fresh locks: whatever was accepted before is
then in both processes. Nothing is lost when the parent ends, as it does where a daemon is started; a child
that consumes a queue which its parent consumes too delivers the parent's backlog a second time.

**Costs.** A plain message (no delay, no key, priority 0) waits in a deque and is found there in constant
time; everything else that is ready stands in one heap. Of an ordering key only the oldest message stands
there. Lease ends are kept per `receive`, not per message.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TypeVar

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    Action,
    BackendSpec,
    Capabilities,
    Clock,
    Duplicate,
    ErrorClass,
    ErrorCode,
    IncomingMessage,
    InvalidURLError,
    Opening,
    OutgoingMessage,
    QueueStats,
    Range,
    Rejected,
    SendOutcome,
    Settled,
    Settlement,
    SettleOutcome,
    StoredMessage,
    Support,
    Unsupported,
)

T = TypeVar("T")

_DEAD_SUFFIX = ".dead"
_YEAR_S = 365 * 86400.0
_MAX_BATCH = 1000
_SWEEP_AT = 1000  # settled handles that may wait in the table of lease ends before it is swept
_FULL = ErrorClass(ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no")
_NO_DEAD = Unsupported("a dead-letter queue has no dead-letter queue of its own")
_NO_SOURCE = Unsupported("only a queue whose name ends in .dead has a source to redrive to")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """The options of a memory URL.

    Attributes:
        space: Queues of different spaces share nothing, whatever their names.
        dedup_window: How long a dedup id is remembered; 0 switches deduplication off.
        max_messages: Most messages that the queue holds, leased ones included; a send that does not fit is
            refused whole. Dead letters and redriven messages are always taken.
    """

    space: str = ""
    dedup_window: timedelta = field(
        default=timedelta(hours=1), metadata={"range": Range(timedelta(0), timedelta(days=7))}
    )
    max_messages: int | None = field(default=None, metadata={"range": Range(1, 1 << 62)})


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


class _Queue:
    """The messages of one queue. Every method is called under the lock of the space.

    An entry is in ``entries`` until it is removed, and besides in exactly one of: ``fresh`` or ``ranked``
    (ready), ``delayed`` (not due), ``leases`` (leased), or behind the first of its line in ``lines`` (held).
    The first of a line is there too, wherever else it is.
    """

    def __init__(self, clock: Clock, lock: threading.RLock, number: int) -> None:
        self.clock = clock
        self.changed = threading.Condition(lock)
        self.waiting = 0
        self.gone = False
        self.entries: dict[int, _Entry] = {}  # by sequence number, hence in order of sending
        self.fresh: deque[_Entry] = deque()  # plain and never delivered, hence in order of sending
        self.ranked: list[tuple[int, int, _Entry]] = []
        self.delayed: list[tuple[float, int, _Entry]] = []
        self.lines: dict[str, deque[_Entry]] = {}
        self.not_ready = 0
        self.leases: dict[int, _Entry] = {}
        self.lease_ends: list[tuple[float, int, Sequence[int]]] = []
        self.lease_end_numbers = count()
        self.handles_in_ends = 0
        self.dedup: dict[str, str] = {}
        self.dedup_ends: list[tuple[float, str]] = []
        self.last_sequence = 0
        # The random part fences off guesses, the number handles of other queues.
        self.next_handle = (int.from_bytes(clock.token_bytes(8), "big") << 96) + (number << 64) + 1

    def renew_lock(self, lock: threading.RLock) -> None:
        self.changed = threading.Condition(lock)
        self.waiting = 0

    def wake(self) -> None:
        if self.waiting:
            self.changed.notify_all()

    def store(self, messages: Sequence[OutgoingMessage]) -> None:
        now = self.clock.time()
        sequence = self.last_sequence
        self.last_sequence += len(messages)
        entries, fresh = self.entries, self.fresh
        for message in messages:
            sequence += 1
            entries[sequence] = entry = _Entry(sequence, message, now)
            if message.ordering_key is None and not message.delay_s and not message.priority:
                fresh.append(entry)
            else:
                self._place_new(entry, now)
        self.wake()

    def _place_new(self, entry: _Entry, now: float) -> None:
        entry.due_at = now + entry.message.delay_s
        key = entry.message.ordering_key
        if key is not None:
            line = self.lines.setdefault(key, deque())
            line.append(entry)
            if len(line) > 1:
                entry.not_ready = True
                self.not_ready += 1
                return
        self._place(entry, now)

    def _place(self, entry: _Entry, now: float) -> None:
        """Put an entry that is nowhere, or the first of its line, where its due time says."""
        if entry.due_at > now:
            entry.not_ready = True
            self.not_ready += 1
            heappush(self.delayed, (entry.due_at, entry.sequence, entry))
        else:
            heappush(self.ranked, (-entry.message.priority, entry.sequence, entry))

    def _release(self, entry: _Entry, now: float) -> None:
        """Place an entry whose delay is over, or that has become the first of its line."""
        entry.not_ready = False
        self.not_ready -= 1
        self._place(entry, now)

    def unseen(self, batch: Sequence[OutgoingMessage]) -> list[SendOutcome]:
        """One outcome per message: `Duplicate` where the dedup id is known, or stands twice in the batch."""
        now = self.clock.monotonic()
        while self.dedup_ends and self.dedup_ends[0][0] <= now:
            del self.dedup[heappop(self.dedup_ends)[1]]
        seen: dict[str, str] = {}
        outcomes: list[SendOutcome] = []
        for message in batch:
            dedup_id = message.dedup_id
            first = None if dedup_id is None else seen.get(dedup_id, self.dedup.get(dedup_id))
            if first is not None:
                outcomes.append(Duplicate(message.message_id, first))
                continue
            outcomes.append(Accepted(message.message_id))
            if dedup_id is not None:
                seen[dedup_id] = message.message_id
        return outcomes

    def remember(self, messages: Iterable[OutgoingMessage], window_s: float) -> None:
        end = self.clock.monotonic() + window_s
        for message in messages:
            if message.dedup_id is not None:
                self.dedup[message.dedup_id] = message.message_id
                heappush(self.dedup_ends, (end, message.dedup_id))

    def advance(self) -> None:
        """Make ready what has become due, and what was leased for long enough."""
        if self.delayed:
            now = self.clock.time()
            while self.delayed and self.delayed[0][0] <= now:
                self._release(heappop(self.delayed)[2], now)
        if self.lease_ends:
            monotonic = self.clock.monotonic()
            while self.lease_ends and self.lease_ends[0][0] <= monotonic:
                self._end_leases(heappop(self.lease_ends)[2], monotonic)

    def _end_leases(self, handles: Sequence[int], monotonic: float) -> None:
        self.handles_in_ends -= len(handles)
        now = self.clock.time()
        for handle in handles:
            entry = self.leases.get(handle)
            if entry is not None and entry.lease_until <= monotonic:  # else it was settled, or extended
                del self.leases[handle]
                self._place(entry, now)

    def take(self, limit: int, lease_s: float) -> list[IncomingMessage]:
        """Lease up to ``limit`` of the ready messages, best first."""
        self.advance()
        entries = self._next_ready(limit)
        if not entries:
            return []
        lease_until = self.clock.monotonic() + lease_s
        handle = self.next_handle
        self.next_handle += len(entries)
        self._end_together(range(handle, self.next_handle), lease_until)
        leases = self.leases
        taken = []
        for entry in entries:
            attempt = entry.attempt = entry.attempt + 1
            entry.handle = handle
            entry.lease_until = lease_until
            leases[handle] = entry
            message_id, body, attributes, metadata, _, key, _, priority = entry.message
            enqueued_at = entry.enqueued_at
            taken.append(
                IncomingMessage(
                    handle, message_id, body, attributes, metadata, attempt, enqueued_at, lease_until, key, priority
                )
            )
            handle += 1
        return taken

    def _next_ready(self, limit: int) -> list[_Entry]:
        fresh, ranked = self.fresh, self.ranked
        entries: list[_Entry] = []
        while ranked and len(entries) < limit:
            if fresh and ranked[0] > (0, fresh[0].sequence):
                entries.append(fresh.popleft())
            else:
                entries.append(heappop(ranked)[2])
        entries += [fresh.popleft() for _ in range(min(limit - len(entries), len(fresh)))]
        return entries

    def find_unleased(self, wanted: Counter[str]) -> set[int]:
        """The oldest unleased entries with these message ids, as many of each as are wanted."""
        missing, found = wanted.total(), set()
        for sequence, entry in self.entries.items():
            if not missing:
                break
            if wanted[entry.message.message_id] and entry.handle not in self.leases:
                wanted[entry.message.message_id] -= 1
                missing -= 1
                found.add(sequence)
        return found

    def has_ready(self) -> bool:
        self.advance()
        return bool(self.fresh or self.ranked)

    def _end_together(self, handles: Sequence[int], lease_until: float) -> None:
        earliest = not self.lease_ends or lease_until < self.lease_ends[0][0]
        heappush(self.lease_ends, (lease_until, next(self.lease_end_numbers), handles))
        self.handles_in_ends += len(handles)
        if earliest:
            self.wake()  # who waits for messages knows of no end as early as this

    def _sweep_ends(self) -> None:
        """Forget the ends of leases that are no more; else a long lease would keep each settled handle."""
        leases, swept = self.leases, []
        for lease_until, number, handles in self.lease_ends:
            live = [each for each in handles if each in leases and leases[each].lease_until == lease_until]
            if live:
                swept.append((lease_until, number, live))
        heapify(swept)
        self.lease_ends = swept  # type: ignore[assignment]
        self.handles_in_ends = sum(len(handles) for _, _, handles in swept)

    def wait(self, longest_s: float) -> None:
        """Wait for a change, a due time or the end of a lease, but no longer than ``longest_s``."""
        timeout_s = longest_s
        if self.delayed:
            timeout_s = min(timeout_s, self.delayed[0][0] - self.clock.time())
        if self.lease_ends:
            timeout_s = min(timeout_s, self.lease_ends[0][0] - self.clock.monotonic())
        self.waiting += 1
        try:
            self.clock.wait(self.changed, max(0.0, timeout_s))
        finally:
            self.waiting -= 1

    def settle(self, batch: Sequence[Settlement], dead_letters: Callable[[], _Queue]) -> list[SettleOutcome]:
        self.advance()
        leases, entries = self.leases, self.entries
        outcomes: list[SettleOutcome] = []
        extended: dict[float, list[int]] = {}
        for settlement in batch:
            handle = settlement.handle
            # Only an int is looked up: True equals 1, and what has no hash would raise.
            entry = leases.get(handle) if type(handle) is int else None
            if entry is None:
                outcomes.append(LEASE_LOST)
            elif settlement.action is Action.ACK:
                del leases[entry.handle], entries[entry.sequence]
                if entry.message.ordering_key is not None:
                    self._leave_line(entry.message.ordering_key)
                outcomes.append(SETTLED)
            else:
                outcomes.append(self._settle_otherwise(entry, settlement, dead_letters, extended))
        for lease_until, handles in extended.items():
            self._end_together(handles, lease_until)
        if self.handles_in_ends > 2 * len(leases) + _SWEEP_AT:
            self._sweep_ends()
        return outcomes

    def _settle_otherwise(
        self,
        entry: _Entry,
        settlement: Settlement,
        dead_letters: Callable[[], _Queue],
        extended: dict[float, list[int]],
    ) -> SettleOutcome:
        if settlement.action is Action.EXTEND:
            entry.lease_until = self.clock.monotonic() + settlement.lease_s
            extended.setdefault(entry.lease_until, []).append(entry.handle)
            return Settled(lease_until=entry.lease_until)
        del self.leases[entry.handle]
        if settlement.action is Action.DEAD:
            if settlement.dead is not None:
                dead_letters().store((settlement.dead,))
            del self.entries[entry.sequence]
            if entry.message.ordering_key is not None:
                self._leave_line(entry.message.ordering_key)
            return SETTLED
        entry.attempt -= settlement.action is Action.RELEASE
        now = self.clock.time()
        entry.due_at = now + settlement.delay_s
        self._place(entry, now)
        self.wake()
        return Settled(applied_delay_s=settlement.delay_s)

    def _leave_line(self, key: str) -> None:
        """Let the next message of a key come forward; the first has been removed."""
        line = self.lines[key]
        line.popleft()
        if line:
            self._release(line[0], self.clock.time())
            self.wake()
        else:
            del self.lines[key]

    def discard(self, doomed: set[int]) -> None:
        """Remove entries by their sequence numbers; none of them is leased."""
        if not doomed:
            return
        removed = [self.entries.pop(sequence) for sequence in doomed]
        self.not_ready -= sum(entry.not_ready for entry in removed)
        self.fresh = deque(entry for entry in self.fresh if entry.sequence not in doomed)
        self.ranked = [each for each in self.ranked if each[1] not in doomed]
        self.delayed = [each for each in self.delayed if each[1] not in doomed]
        heapify(self.ranked)
        heapify(self.delayed)
        for key in {entry.message.ordering_key for entry in removed if entry.message.ordering_key is not None}:
            self._close_ranks(key, doomed)
        self.wake()

    def _close_ranks(self, key: str, doomed: set[int]) -> None:
        line = self.lines.pop(key)
        left = deque(entry for entry in line if entry.sequence not in doomed)
        if left:
            self.lines[key] = left
            if left[0] is not line[0]:
                self._release(left[0], self.clock.time())

    def look(self, entry: _Entry) -> StoredMessage:
        message = entry.message
        leased = entry.handle in self.leases
        return StoredMessage(
            message.message_id,
            message.body,
            message.attributes,
            message.metadata,
            "leased" if leased else "delayed" if entry.not_ready else "ready",
            entry.attempt,
            entry.enqueued_at,
            entry.due_at,
            message.ordering_key,
            message.priority,
            str(entry.sequence),
        )


class _Space:
    """Queues under one lock, so that a message moves between two of them in one step."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.queues: dict[str, _Queue] = {}

    def queue(self, name: str, clock: Clock) -> _Queue:
        """The queue of that name, made where there is none. Called under the lock."""
        found = self.queues.get(name)
        if found is None:
            found = self.queues[name] = _Queue(clock, self.lock, next(_QUEUE_NUMBERS))
        return found

    def drop(self, *names: str) -> None:
        """Forget queues; who waits in one stops waiting. Called under the lock."""
        for name in names:
            queue = self.queues.pop(name, None)
            if queue is not None:
                queue.gone = True
                queue.wake()


_QUEUE_NUMBERS = count(1)
_SPACES: dict[str, _Space] = {}
_held_for_fork: list[_Space] = []


def reset() -> None:
    """Empty every space: messages, leases and remembered dedup ids are gone, and waiting receives return."""
    for space in list(_SPACES.values()):
        with space.lock:
            space.drop(*space.queues)


def _before_fork() -> None:
    # A fork in the midst of another thread's change would copy half of it.
    for space in list(_SPACES.values()):
        space.lock.acquire()
        _held_for_fork.append(space)


def _after_fork_in_parent() -> None:
    while _held_for_fork:
        _held_for_fork.pop().lock.release()


def _after_fork_in_child() -> None:
    while _held_for_fork:
        space = _held_for_fork.pop()
        space.lock = threading.RLock()
        for queue in space.queues.values():
            queue.renew_lock(space.lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


class MemoryBackend:
    """One queue of one space."""

    def __init__(self, opening: Opening) -> None:
        options: MemoryOptions = opening.options
        self._name = opening.queue
        self._is_dead = self._name.endswith(_DEAD_SUFFIX)
        self._clock = opening.clock
        self._space = _SPACES.setdefault(options.space, _Space())
        self._window_s = options.dedup_window.total_seconds()
        self._max_messages = options.max_messages
        self._sized: tuple[Mapping[str, str], int] = ({}, 0)
        self._interrupts = 0
        self.capabilities = _capabilities(self._window_s)

    def probe(self) -> Capabilities:
        """The same: nothing about memory has to be asked."""
        return self.capabilities

    def size(self, message: OutgoingMessage) -> int:
        """The body, and the names and values of attributes and metadata in UTF-8."""
        metadata, metadata_size = self._sized
        if metadata is not message.metadata:
            metadata_size = _text_size(message.metadata)
            self._sized = (message.metadata, metadata_size)
        return len(message.body) + metadata_size + (_text_size(message.attributes) if message.attributes else 0)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:  # noqa: ARG002
        """Store the batch in one step, or refuse it whole where it does not fit."""
        with self._space.lock:
            queue = self._queue()
            if self._window_s and any(message.dedup_id is not None for message in batch):
                outcomes = queue.unseen(batch)
                new = [each for each, outcome in zip(batch, outcomes, strict=True) if type(outcome) is Accepted]
            else:
                outcomes, new = [], list(batch)
            if self._max_messages is not None and len(queue.entries) + len(new) > self._max_messages:
                return [Rejected(_FULL, message.message_id) for message in batch]
            if outcomes:
                queue.remember(new, self._window_s)
            queue.store(new)
        return outcomes or [Accepted(message.message_id) for message in batch]

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease what is ready, best first; wait for it where nothing is."""
        return self._await(wait_s, lambda queue: queue.take(max_messages, lease_s)) or []

    def wait_for_change(self, timeout_s: float) -> bool:
        """Wait until a message is ready."""
        return self._await(timeout_s, _Queue.has_ready) or False

    def _await(self, wait_s: float, look: Callable[[_Queue], T]) -> T | None:
        """Look until there is something, the time is over, or `interrupt` or `close` was called."""
        with self._space.lock:
            queue, interrupts = self._queue(), self._interrupts
            found = look(queue)
            if found or wait_s <= 0:
                return found
            deadline = self._clock.monotonic() + wait_s
            while not found and (left_s := deadline - self._clock.monotonic()) > 0:
                queue.wait(left_s)
                if queue.gone or self._interrupts != interrupts:
                    return None
                found = look(queue)
            return found

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:  # noqa: ARG002
        """Carry out the batch in one step."""
        if self._is_dead and any(each.action is Action.DEAD for each in batch):
            return self._settle_in_dead_letters(batch)
        with self._space.lock:
            return self._queue().settle(batch, self._dead_letters)

    def _settle_in_dead_letters(self, batch: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        possible = [each for each in batch if each.action is not Action.DEAD]
        with self._space.lock:
            outcomes = iter(self._queue().settle(possible, self._dead_letters))
        return [_NO_DEAD if each.action is Action.DEAD else next(outcomes) for each in batch]

    def classify(self, error: BaseException) -> ErrorClass:
        """Memory raises nothing of its own."""
        return ErrorClass(ErrorCode.UNKNOWN, raw=error)

    def interrupt(self) -> None:
        """End every receive of this backend that is waiting."""
        with self._space.lock:
            self._interrupts += 1
            queue = self._space.queues.get(self._name)
            if queue is not None:
                queue.wake()

    def close(self) -> None:
        """End every receive that is waiting; the queue stays as it is."""
        self.interrupt()

    def create(self) -> None:
        """Make the queue, as its first use would."""
        with self._space.lock:
            self._queue()

    def delete(self) -> None:
        """Remove the queue, its dead-letter queue and the dedup ids that it remembers."""
        with self._space.lock:
            self._space.drop(self._name, self._name + _DEAD_SUFFIX)

    def exists(self) -> bool:
        """Whether the queue has been used since it was last deleted."""
        return self._name in self._space.queues

    def purge(self) -> int:
        """Remove every message that is not leased."""
        with self._space.lock:
            queue = self._queue()
            queue.advance()
            leased = {entry.sequence for entry in queue.leases.values()}
            doomed = set(queue.entries) - leased
            queue.discard(doomed)
            return len(doomed)

    def stats(self) -> QueueStats:
        """Count exactly."""
        with self._space.lock:
            queue = self._space.queues.get(self._name)
            dead = self._space.queues.get(self._name + _DEAD_SUFFIX)
            dead_count = 0 if dead is None else len(dead.entries)
            if queue is None:
                return QueueStats(ready=0, delayed=0, leased=0, dead=dead_count)
            queue.advance()
            leased, delayed = len(queue.leases), queue.not_ready
            ready = len(queue.entries) - leased - delayed
            return QueueStats(ready=ready, delayed=delayed, leased=leased, dead=dead_count)

    def peek(self, *, limit: int, after: str = "") -> Sequence[StoredMessage]:
        """Look at messages in order of sending."""
        with self._space.lock:
            queue = self._space.queues.get(self._name)
            if queue is None:
                return []
            queue.advance()
            sequences = list(queue.entries)
            start = bisect_right(sequences, int(after)) if after else 0
            return [queue.look(queue.entries[each]) for each in sequences[start : start + limit]]

    def cancel(self, message_id: str) -> bool:
        """Remove every message with this id that has never been leased; False where there is none."""
        with self._space.lock:
            queue = self._queue()
            entries = queue.entries.values()
            doomed = {each.sequence for each in entries if not each.handle and each.message.message_id == message_id}
            queue.discard(doomed)
            return bool(doomed)

    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:  # noqa: ARG002
        """Move dead letters back in one step; the source's dedup window and limit do not apply to them."""
        if not self._is_dead:
            return [_NO_SOURCE] * len(batch)
        with self._space.lock:
            queue = self._queue()
            queue.advance()
            doomed = queue.find_unleased(Counter(message.message_id for message in batch))
            found = Counter(queue.entries[each].message.message_id for each in doomed)
            outcomes: list[SettleOutcome] = []
            moved: list[OutgoingMessage] = []
            for message in batch:
                if found[message.message_id]:
                    found[message.message_id] -= 1
                    moved.append(message)
                    outcomes.append(SETTLED)
                else:
                    outcomes.append(LEASE_LOST)
            queue.discard(doomed)
            self._space.queue(self._name.removesuffix(_DEAD_SUFFIX), queue.clock).store(moved)
            return outcomes

    def _queue(self) -> _Queue:
        return self._space.queue(self._name, self._clock)

    def _dead_letters(self) -> _Queue:
        return self._space.queue(self._name + _DEAD_SUFFIX, self._queue().clock)


def _text_size(texts: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in texts.items())


def _capabilities(dedup_window_s: float) -> Capabilities:
    return Capabilities(
        queues="implicit",
        durability="process",
        max_message_bytes=64 << 20,
        max_send_batch=_MAX_BATCH,
        atomic_send=True,
        max_receive=_MAX_BATCH,
        max_settle_batch=_MAX_BATCH,
        mixed_settles=True,
        min_lease_s=0.001,
        max_lease_s=43200.0,
        extend="absolute",
        fencing="strict",
        late_ack_safe=True,
        attempts="exact",
        release_counts=False,
        max_delay_s=_YEAR_S,
        max_retry_delay_s=_YEAR_S,
        ordering="per_key",
        delay_with_ordering=True,
        dedup_window_s=dedup_window_s,
        dead_letters=Support.NATIVE,
        redrive=Support.NATIVE,
        priority_levels=10,
        long_poll=True,
        peek=True,
        purge=True,
        depth="exact",
        cancel=True,
    )


def _open(opening: Opening) -> MemoryBackend:
    url = opening.url
    if url.user is not None or url.password is not None or url.path:
        msg = "a memory URL has a queue and options only; the form is memory://QUEUE"
        raise InvalidURLError(msg)
    return MemoryBackend(opening)


SPEC = BackendSpec(
    open=_open,
    options=MemoryOptions,
    slot="host",
    forms=("memory://QUEUE", "memory://QUEUE?space=NAME"),
)
