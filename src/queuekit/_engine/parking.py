# SPDX-License-Identifier: Apache-2.0
"""Deliveries whose settlement waits for its time, because the service cannot wait that long itself. Pure."""

from __future__ import annotations

import heapq
from itertools import count
from typing import NamedTuple

from queuekit._engine.copies import Copying
from queuekit._engine.held import PARKED, Held, weights


class Parked(NamedTuple):
    """One delivery and what is done at its time.

    Attributes:
        held: The delivery; its recorded settlement is what is sent then.
        copying: The copy that goes first, if any.
        short: Whether its settlement, sent before its time, comes to less than was asked for.
    """

    held: Held
    copying: Copying | None
    short: bool


class Parking:
    """A bounded number of deliveries, by the time at which their settlement goes.

    They are in flight meanwhile, and what is in flight is bounded too: they may take up half of that, so
    that messages which wait never keep out all that could be worked.

    Args:
        most: Most deliveries.
        most_bytes: Most bytes of them.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._heap: list[tuple[float, int, Parked]] = []
        self._order = count()

    def has_room(self, held: Held) -> bool:
        """Whether another delivery may wait here."""
        parked = [each[2].held for each in self._heap]
        return len(parked) < self._most and sum(weights([*parked, held])) <= self._most_bytes

    def add(self, parked: Parked, until: float) -> None:
        """Keep one until that time."""
        heapq.heappush(self._heap, (until, next(self._order), parked))

    def due_at(self) -> float | None:
        """When `take` will have something; None while nothing waits."""
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> list[Parked]:
        """Those whose time has come, but for those whose lease was lost meanwhile."""
        due: list[Parked] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return [each for each in due if each.held.state is PARKED]

    def empty(self) -> list[Parked]:
        """Take out everything, before its time."""
        left = [each for _, _, each in self._heap if each.held.state is PARKED]
        self._heap.clear()
        return left
