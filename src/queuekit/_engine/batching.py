# SPDX-License-Identifier: Apache-2.0
"""Which messages go to the service together. Pure: no I/O, no clock, no waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from queuekit._values.capability import Capabilities
from queuekit.backend import OutgoingMessage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one call to the service takes.

    Attributes:
        count: Most messages.
        size: Most bytes; None where only the count is limited.
        one_key_per_call: Whether all messages of a call must share one ordering key.
        one_per_key: Whether a call may hold only one message of each ordering key, so that a refused
            message cannot be overtaken by its successors.
    """

    count: int
    size: int | None = None
    one_key_per_call: bool = False
    one_per_key: bool = False

    @property
    def by_count_only(self) -> bool:
        """Whether any messages may go together, up to the count."""
        return self.size is None and not (self.one_key_per_call or self.one_per_key)

    @classmethod
    def of(cls, can: Capabilities) -> BatchLimits:
        """The limits of a queue for sends."""
        return cls(
            count=can.max_send_batch,
            size=can.max_send_batch_bytes,
            one_key_per_call=can.one_key_per_send,
            one_per_key=can.ordering != "none" and not (can.atomic_send or can.one_key_per_send),
        )


def split(
    messages: Sequence[OutgoingMessage], limits: BatchLimits, size: Callable[[OutgoingMessage], int]
) -> Iterator[Sequence[int]]:
    """Positions of the messages of each call, in an order that keeps the messages of a key in theirs.

    Every position comes exactly once. Messages must be within the limits one by one.
    """
    if limits.by_count_only:
        for start in range(0, len(messages), limits.count):
            yield range(start, min(start + limits.count, len(messages)))
        return
    waiting = deque(range(len(messages)))
    while waiting:
        chosen, waiting = _fill(waiting, messages, limits, size)
        yield chosen


def _fill(
    waiting: deque[int],
    messages: Sequence[OutgoingMessage],
    limits: BatchLimits,
    size: Callable[[OutgoingMessage], int],
) -> tuple[list[int], deque[int]]:
    """Choose for one call as many as fit; a key that had to wait once waits with all its successors."""
    chosen: list[int] = []
    held_keys: set[str] = set()
    left: deque[int] = deque()
    room = limits.size
    first_key = messages[waiting[0]].ordering_key
    while waiting and len(chosen) < limits.count:
        position = waiting.popleft()
        key = messages[position].ordering_key
        weight = size(messages[position]) if room is not None else 0
        if (
            (key is not None and key in held_keys)
            or (limits.one_key_per_call and key != first_key)
            or (room is not None and weight > room and chosen)
        ):
            left.append(position)
            if key is not None:
                held_keys.add(key)
            continue
        chosen.append(position)
        if limits.one_per_key and key is not None:
            held_keys.add(key)
        if room is not None:
            room -= weight
    left.extend(waiting)
    return chosen, left


@dataclass(slots=True)
class _Open(Generic[T]):
    """A batch that still gathers."""

    items: list[T]
    size: int
    since: float


class SendBatcher(Generic[T]):
    """Gathers messages of many callers into calls. Pure: give it the time, carry out what it hands over.

    With a linger of 0, whatever gathers while the sending threads are busy goes together, and nothing
    waits when one is free. Where a call takes only one message of each key, `TurnBatcher` does this.

    Args:
        limits: Of one call.
        linger_s: How long an open batch may wait for more.
        max_pending: Most messages that may be gathered and not yet handed over; beyond that, `has_room`
            is False and callers must wait.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self, limits: BatchLimits, *, linger_s: float, max_pending: int) -> None:
        self._limits = limits
        self._linger_s = linger_s
        self._max_pending = max_pending
        self._ready: deque[_Open[T]] = deque()
        self._open: dict[str | None, _Open[T]] = {}
        self._pending = 0

    def __len__(self) -> int:
        return self._pending

    def has_room(self) -> bool:
        """Whether one more message may be added now."""
        return self._pending < self._max_pending

    def add(self, item: T, *, size: int, key: str | None, now: float) -> None:
        """Take one message; ``size`` counts only where the limits have one."""
        lane = key if self._limits.one_key_per_call else None
        batch = self._open.get(lane)
        if batch is not None and self._limits.size is not None and batch.size + size > self._limits.size:
            self._finish(lane)
            batch = None
        if batch is None:
            batch = self._open[lane] = _Open([], 0, now)
        batch.items.append(item)
        batch.size += size
        self._pending += 1
        if len(batch.items) >= self._limits.count:
            self._finish(lane)

    def take(self, now: float) -> list[T] | None:
        """The next batch to send now, or None. The oldest goes first, so that no key keeps others waiting."""
        oldest = next(iter(self._open.items()), None)
        if oldest is not None:
            lane, gathering = oldest
            if now - gathering.since >= self._linger_s and not self._ready_since(gathering.since):
                self._finish(lane)
        if not self._ready:
            return None
        batch = self._ready.popleft()
        self._pending -= len(batch.items)
        return batch.items

    def flush(self) -> None:
        """Make every open batch ready, whatever its linger."""
        for lane in list(self._open):
            self._finish(lane)

    def drain(self) -> list[T]:
        """Everything that was not handed over; the batcher is empty then."""
        self.flush()
        left = [item for batch in self._ready for item in batch.items]
        self._ready.clear()
        self._pending = 0
        return left

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out what is not to be sent any more, in order."""
        removed: list[T] = []
        for batch in (*self._ready, *self._open.values()):
            removed += filter(unwanted, batch.items)
            batch.items = [item for item in batch.items if not unwanted(item)]
        self._ready = deque(batch for batch in self._ready if batch.items)
        self._open = {lane: batch for lane, batch in self._open.items() if batch.items}
        self._pending -= len(removed)
        return removed

    def due_at(self) -> float | None:
        """When `take` will have something if nothing is added; None while nothing is pending."""
        if self._ready:
            return -float("inf")
        oldest = next(iter(self._open.values()), None)
        return None if oldest is None else oldest.since + self._linger_s

    def _ready_since(self, instant: float) -> bool:
        """Whether the next ready batch began to gather by then; open batches stand in order of beginning."""
        return bool(self._ready) and self._ready[0].since <= instant

    def _finish(self, lane: str | None) -> None:
        self._ready.append(self._open.pop(lane))
