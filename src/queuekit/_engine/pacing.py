# SPDX-License-Identifier: Apache-2.0
"""How often one client may try again, however many callers it has. Pure."""

from __future__ import annotations


class RetryPace:
    """A burst of tries, then so many a second: a service that is down is not called without limit.

    Each caller backs off by itself; that bounds one caller, and a thousand of them are still a storm.

    Args:
        burst: How many tries may follow each other at once.
        per_second: How many a second after that.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    __slots__ = ("_burst_s", "_full_at", "_interval_s")

    def __init__(self, *, burst: int = 100, per_second: float = 100.0) -> None:
        self._interval_s = 1.0 / per_second
        self._burst_s = (burst - 1) * self._interval_s
        self._full_at = -float("inf")

    def next_at(self, now: float) -> float:
        """When one more try may begin."""
        return max(now, self._full_at - self._burst_s)

    def take(self, now: float) -> None:
        """One more try begins at `next_at`, and counts."""
        self._full_at = max(self._full_at, now) + self._interval_s
