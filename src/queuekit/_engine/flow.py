# SPDX-License-Identifier: Apache-2.0
"""How many messages to ask for. Pure."""

from __future__ import annotations


class Flow:
    """Bounds what is in flight, by count and by bytes, and decides the size of each poll.

    Args:
        batch: Most messages of one poll.
        prefetch: How many may wait beyond those that somebody is waiting for.
        max_in_flight: Most deliveries leased and unsettled.
        max_bytes: Most bytes of them; one delivery is always allowed.
    """

    __slots__ = (
        "_batch",
        "_full_prefetch",
        "_largest",
        "_max_bytes",
        "_max_in_flight",
        "_prefetch",
        "_tightened_at",
        "bytes",
        "count",
        "taken",
    )

    def __init__(self, *, batch: int, prefetch: int, max_in_flight: int, max_bytes: int) -> None:
        self._batch = batch
        self._prefetch = self._full_prefetch = prefetch
        self._tightened_at = -float("inf")
        self._max_in_flight = max_in_flight
        self._max_bytes = max_bytes
        self._largest = 1
        self.count = 0
        self.bytes = 0
        self.taken = 0

    def want(self, *, demand: int, waiting: int) -> int:
        """How many to poll for now; 0 means not to poll.

        With nobody waiting, a poll refills what was prefetched once half of it is used, and only if
        something was taken since the last one: what nobody takes must not be leased again and again.

        Args:
            demand: How many takers wait.
            waiting: How many deliveries wait for a taker.
        """
        room = self._max_in_flight - self.count
        if room <= 0 or (self.count and self.bytes >= self._max_bytes):
            return 0
        if demand <= waiting and (not self.taken or waiting > self.refill_at):
            return 0
        by_bytes = max(1, (self._max_bytes - self.bytes) // self._largest)
        return max(0, min(demand + self._prefetch - waiting, room, self._batch, by_bytes))

    @property
    def refill_at(self) -> int:
        """The number of waiting deliveries at which it is time to poll again."""
        return self._prefetch // 2

    def polled(self) -> None:
        """A poll begins."""
        self.taken = 0

    def admits(self, size: int) -> bool:
        """Whether a delivery of that many bytes may stay; otherwise it must be released."""
        return not self.count or (self.count < self._max_in_flight and self.bytes + size <= self._max_bytes)

    def add(self, size: int) -> None:
        """A delivery is in flight."""
        self.count += 1
        self.bytes += size
        self._largest = max(self._largest, size)

    def remove(self, count: int, size: int) -> None:
        """Deliveries are settled or lost."""
        self.count -= count
        self.bytes -= size

    def tighten(self, now: float) -> None:
        """Waiting deliveries had to be released: fetch less ahead."""
        self._prefetch //= 2
        self._tightened_at = now

    def relax(self, now: float, after_s: float) -> None:
        """Fetch ahead as before, once nothing had to be released for that long."""
        if now - self._tightened_at >= after_s:
            self._prefetch = self._full_prefetch
