# SPDX-License-Identifier: Apache-2.0
"""Gathering messages where a call may hold only one of each ordering key. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from queuekit._engine.batching import BatchLimits

T = TypeVar("T")


@dataclass(slots=True)
class _Turn(Generic[T]):
    """One message that may go in the next call."""

    item: T
    size: int
    key: str | None
    since: float
    waited: bool = False


class TurnBatcher(Generic[T]):
    """As `SendBatcher`, for services whose batches are neither atomic nor of one key.

    There a refused message must not be overtaken by its successors in the same call, so each key has one turn
    at a time, and messages of other keys fill the call. The next message of a key gets its turn when a call was
    taken that holds the one before it: the caller asks again only when it has the answers.

    Args:
        limits: Of one call.
        linger_s: How long the first message of a call may wait for more.
        max_pending: Most messages that may be gathered and not yet handed over.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self, limits: BatchLimits, *, linger_s: float, max_pending: int) -> None:
        self._limits = limits
        self._linger_s = linger_s
        self._max_pending = max_pending
        self._turns: deque[_Turn[T]] = deque()
        self._behind: dict[str, deque[_Turn[T]]] = {}
        self._size = 0
        self._pending = 0
        self._waited = 0
        self._flushing = False

    def __len__(self) -> int:
        return self._pending

    def has_room(self) -> bool:
        """Whether one more message may be added now."""
        return self._pending < self._max_pending

    def add(self, item: T, *, size: int, key: str | None, now: float) -> None:
        """Take one message; ``size`` counts only where the limits have one."""
        self._pending += 1
        turn = _Turn(item, size, key, now)
        if key is not None and key in self._behind:
            self._behind[key].append(turn)
            return
        if key is not None:
            self._behind[key] = deque()
        self._join(turn)

    def take(self, now: float) -> list[T] | None:
        """The next call to make now, or None."""
        due = self.due_at()
        if due is None or due > now:
            return None
        room = self._limits.size
        taken: list[_Turn[T]] = []
        while self._turns and len(taken) < self._limits.count:
            size = self._turns[0].size
            if room is not None and taken and size > room:
                break
            room = None if room is None else room - size
            taken.append(self._leave())
        for turn in taken:
            self._next_turn(turn.key)
        self._pending -= len(taken)
        self._flushing = self._flushing and self._pending > 0
        return [turn.item for turn in taken]

    def flush(self) -> None:
        """Let everything that is here go, whatever its linger."""
        self._flushing = self._pending > 0

    def drain(self) -> list[T]:
        """Everything that was not handed over; the batcher is empty then."""
        return self.remove(lambda _: True)

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out what is not to be sent any more, in order."""
        everything = [turn for first in self._turns for turn in (first, *self._behind.get(first.key or "", ()))]
        self._turns.clear()
        self._behind.clear()
        self._size = self._pending = self._waited = 0
        removed = []
        for turn in everything:
            if unwanted(turn.item):
                removed.append(turn.item)
            else:
                self.add(turn.item, size=turn.size, key=turn.key, now=turn.since)
        return removed

    def due_at(self) -> float | None:
        """When `take` will have something if nothing is added; None while nothing is pending."""
        if not self._turns:
            return None
        full = len(self._turns) >= self._limits.count
        over = self._limits.size is not None and self._size >= self._limits.size
        # What waited for its turn has waited long enough.
        if full or over or self._flushing or self._waited:
            return -float("inf")
        return self._turns[0].since + self._linger_s

    def _join(self, turn: _Turn[T]) -> None:
        self._turns.append(turn)
        self._size += turn.size
        self._waited += turn.waited

    def _leave(self) -> _Turn[T]:
        turn = self._turns.popleft()
        self._size -= turn.size
        self._waited -= turn.waited
        return turn

    def _next_turn(self, key: str | None) -> None:
        if key is None:
            return
        behind = self._behind[key]
        if behind:
            turn = behind.popleft()
            turn.waited = True
            self._join(turn)
        else:
            del self._behind[key]
