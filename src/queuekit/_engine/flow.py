# SPDX-License-Identifier: Apache-2.0
"""How many messages to ask for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from queuekit._values.capability import Capabilities

_AHEAD_S = 0.2


def most_ahead(can: Capabilities) -> int:
    """Most deliveries that are fetched ahead where the pace decides and nobody said otherwise.

    Where giving one back costs it an attempt, what waits at a stop has its price: then it is one call's worth.
    """
    return can.max_receive if can.release_counts else 2 * can.max_receive


class Flow:
    """Bounds what is in flight, by count and by bytes, and decides the size of each poll.

    Unless a number was asked for, what is fetched ahead follows the pace at which deliveries are taken: a
    fifth of a second's worth. Fast handlers then never wait for a poll, and slow ones leave the messages to
    other workers.

    Args:
        batch: Most messages of one poll.
        prefetch: Most deliveries that may wait beyond those that somebody is waiting for.
        by_pace: Whether fewer wait where they are taken slowly.
        max_in_flight: Most deliveries leased and unsettled.
        max_bytes: Most bytes of them; one delivery is always allowed.
    """

    __slots__ = (
        "_batch",
        "_by_pace",
        "_full_at",
        "_full_prefetch",
        "_largest",
        "_limit",
        "_max_bytes",
        "_max_in_flight",
        "_pace",
        "_polled_at",
        "_prefetch",
        "_taken_before",
        "_tightened_at",
        "bytes",
        "count",
        "refill_at",
        "removed",
        "running",
        "taken",
    )

    def __init__(
        self, *, batch: int, prefetch: int, max_in_flight: int, max_bytes: int, by_pace: bool = False
    ) -> None:
        self._batch = batch
        self._by_pace = by_pace
        self._pace = 0.0
        self._polled_at: float | None = None
        self._full_prefetch = self._limit = prefetch
        self._set_prefetch()
        self._tightened_at = -float("inf")
        self._max_in_flight = max_in_flight
        self._max_bytes = self._full_at = max_bytes
        self._largest = 1
        self.count: int = 0
        self.bytes: int = 0
        self.removed: int = 0
        self.running: int = 0
        self.taken: int = 0
        self._taken_before = 0

    def want(self, *, demand: int, waiting: int, coming: int = 0) -> int:
        """How many to poll for now; 0 means not to poll.

        With nobody waiting, a poll refills what was prefetched once half of it is used, and only if
        something was taken since the last one: what nobody takes must not be leased again and again.
        Beside another poll, one must have room for as many as a poll can bring.

        Args:
            demand: How many takers wait.
            waiting: How many deliveries wait for a taker.
            coming: How many the polls in flight asked for.
        """
        if self.is_full:
            return 0
        if not coming and demand <= waiting and (not self.taken or waiting > self.refill_at):
            return 0
        room = self._max_in_flight - self.count
        by_bytes = max(1, (self._max_bytes - self.bytes) // self._largest)
        want = min(demand + self._prefetch - waiting - coming, room - coming, self._batch, by_bytes - coming)
        return max(0, want) if not coming or want >= self._batch else 0

    @property
    def is_full(self) -> bool:
        """Whether as much is in flight as may be."""
        return self.count >= self._max_in_flight or bool(self.count and self.bytes >= self._full_at)

    @property
    def taken_in_all(self) -> int:
        """How many deliveries were taken since the beginning; ``taken`` counts from the last poll."""
        return self._taken_before + self.taken

    def polled(self, now: float, *, coming: int = 0) -> None:
        """A poll begins, beside others that asked for so many."""
        if coming and not self.taken:
            return  # the pace is measured from poll to poll, and two that begin together tell nothing about it
        if self._by_pace and self._polled_at is not None:
            pace = self.taken / max(now - self._polled_at, 1e-6)
            self._pace = (self._pace + pace) / 2
        self._polled_at = now
        self._taken_before += self.taken
        self.taken = 0
        self._set_prefetch()

    def rest(self) -> None:
        """Nobody wants more for now: what was taken so far is no reason to fetch ahead."""
        self._taken_before += self.taken
        self.taken = 0

    def admits(self, size: int) -> bool:
        """Whether a delivery of that many bytes may stay; otherwise it must be released."""
        admitted = not self.count or (self.count < self._max_in_flight and self.bytes + size <= self._max_bytes)
        if not admitted:
            # To poll again before something else is settled would bring the same one, to be released again.
            self._full_at = min(self._full_at, self.bytes)
        return admitted

    def admits_all(self, count: int, size: int) -> bool:
        """Whether that many deliveries, of so many bytes together, may stay."""
        return self.count + count <= self._max_in_flight and self.bytes + size <= self._max_bytes

    def add(self, sizes: Sequence[int]) -> None:
        """Deliveries are in flight."""
        self.count += len(sizes)
        self.bytes += sum(sizes)
        self._largest = max((self._largest, *sizes))

    def remove(self, count: int, size: int) -> None:
        """Deliveries are settled or lost."""
        self.count -= count
        self.bytes -= size
        self.removed += count
        if self.bytes < self._full_at or not self.count:
            self._full_at = self._max_bytes

    def tighten(self, now: float) -> None:
        """Waiting deliveries had to be released: fetch less ahead."""
        self._limit = self._prefetch // 2
        self._tightened_at = now
        self._set_prefetch()

    def relax(self, now: float, after_s: float) -> None:
        """Fetch ahead as before, once nothing had to be released for that long."""
        if now - self._tightened_at >= after_s:
            self._limit = self._full_prefetch
            self._set_prefetch()

    def _set_prefetch(self) -> None:
        self._prefetch = min(self._limit, int(self._pace * _AHEAD_S)) if self._by_pace else self._limit
        # The number of waiting deliveries at which it is time to poll again.
        self.refill_at: int = self._prefetch // 2
