# SPDX-License-Identifier: Apache-2.0
"""How soon what waits will be taken, as far as the past can tell. Pure."""

from __future__ import annotations

from collections import deque


class Prospects:
    """The rate at which deliveries were taken lately.

    Whoever is to say what will be taken within a stretch of time must have looked at one as long: handlers that
    all take a while, or child processes that all start anew, take nothing for a moment, and go on then.

    Args:
        now: Monotonic seconds.
        within_s: How far back to look.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    __slots__ = ("_looks", "_within_s")

    def __init__(self, now: float, within_s: float) -> None:
        self._within_s = within_s
        self._looks = deque([(now, 0)])

    def look(self, now: float, taken: int) -> float:
        """How many a second were taken, up to now; as many as nothing where none was for all that time.

        Args:
            now: Monotonic seconds.
            taken: How many were taken since the beginning.
        """
        looks = self._looks
        looks.append((now, taken))
        while looks[1][0] <= now - self._within_s:
            looks.popleft()
        since, before = looks[0]
        return (taken - before) / max(min(now - since, self._within_s), 1e-9)
