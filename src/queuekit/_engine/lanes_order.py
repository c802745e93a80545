# SPDX-License-Identifier: Apache-2.0
"""Priorities over several queues: which lane a message goes to, and which lane is asked first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

PRIORITIES = 10
STARVED_AFTER = 20
"""After so many polls that did not reach it, a lane is asked first: it gets at least one poll in twenty-one."""


def lane_of(priority: int, lanes: int) -> int:
    """The lane of a priority, 0 the highest; the ten priorities are spread evenly."""
    return lanes - 1 - priority * lanes // PRIORITIES


def least_priority(lane: int, lanes: int) -> int:
    """The lowest priority that goes to a lane; that of messages in it which name none."""
    return -(-(lanes - 1 - lane) * PRIORITIES // lanes)


class LaneOrder:
    """Decides poll by poll in which order the lanes are asked.

    Strict: the highest first, and any that starves before it. Weighted: over many polls each lane is first
    as often as its weight says, and never in long runs.

    Args:
        lanes: How many.
        weights: One per lane, or none for strict order.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self, lanes: int, weights: Sequence[int]) -> None:
        self._lanes = range(lanes)
        self._weights = tuple(weights)
        self._credit = [0] * lanes
        self._unasked = [0] * lanes

    def next(self) -> list[int]:
        """The lanes in the order of the next poll."""
        first = self._by_weight() if self._weights else self._starving()
        return [first, *(lane for lane in self._lanes if lane != first)]

    def asked(self, lanes: Sequence[int]) -> None:
        """A poll asked these."""
        for lane in self._lanes:
            self._unasked[lane] = 0 if lane in lanes else self._unasked[lane] + 1

    def _starving(self) -> int:
        worst = max(self._lanes, key=lambda lane: self._unasked[lane])
        return worst if self._unasked[worst] >= STARVED_AFTER else 0

    def _by_weight(self) -> int:
        for lane, weight in enumerate(self._weights):
            self._credit[lane] += weight
        first = max(self._lanes, key=lambda lane: self._credit[lane])
        self._credit[first] -= sum(self._weights)
        return first
