# SPDX-License-Identifier: Apache-2.0
"""Which messages go to a batch handler together, and when. Pure: no clock, no waiting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

J = TypeVar("J")


class BatchLimit(NamedTuple):
    """When a batch is complete.

    Attributes:
        size: Most entries.
        wait_s: How long the first entry waits for others.
    """

    size: int
    wait_s: float


_AT_ONCE = BatchLimit(1, 0.0)


class Gatherer(Generic[J]):
    """Gathers one open batch for each group of messages. Give it the time, carry out what it hands over.

    Args:
        limits: By group. What belongs to no group goes alone and at once.

    Concurrency:
        None of its own; one thread uses it.
    """

    def __init__(self, limits: Mapping[str, BatchLimit]) -> None:
        self._limits = limits
        self._open: dict[str | None, list[J]] = {}
        self._due_at: dict[str | None, float] = {}

    def add(self, job: J, group: str | None, now: float) -> list[J] | None:
        """Take one job; the batch that it completes, if it does."""
        limit = _AT_ONCE if group is None else self._limits[group]
        gathered = self._open.setdefault(group, [])
        gathered.append(job)
        if len(gathered) >= limit.size:
            return self._close(group)
        self._due_at.setdefault(group, now + limit.wait_s)
        return None

    def take_due(self, now: float) -> list[J] | None:
        """A batch whose first entry has waited for long enough, the one that is due first."""
        first = min(self._due_at, key=self._due_at.__getitem__, default=None)
        if not self._due_at or self._due_at[first] > now:
            return None
        return self._close(first)

    def due_at(self) -> float:
        """When `take_due` will have something; infinite while nothing is open."""
        return min(self._due_at.values(), default=math.inf)

    def room(self) -> int:
        """How many more jobs the emptiest batch can take."""
        return max(limit.size - len(self._open.get(group, ())) for group, limit in self._limits.items())

    def size_of(self, group: str | None) -> int:
        """How many jobs a batch of this group holds at most."""
        return _AT_ONCE.size if group is None else self._limits[group].size

    def room_of(self, group: str | None) -> int:
        """How many more jobs the open batch of a group can take."""
        return self.size_of(group) - len(self._open.get(group, ()))

    def drain(self) -> list[list[J]]:
        """Everything that is open, as it stands; the gatherer is empty then."""
        return [self._close(group) for group in list(self._open)]

    def _close(self, group: str | None) -> list[J]:
        self._due_at.pop(group, None)
        return self._open.pop(group)
