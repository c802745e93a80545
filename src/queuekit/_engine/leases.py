# SPDX-License-Identifier: Apache-2.0
"""When to extend which leases. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from queuekit._engine.held import Held, State
from queuekit._values.clock import Random

_RENEW_AT = 0.5
_JITTER = 0.1
_STARTS_WITHIN_LEASES = 3.0


@dataclass(slots=True)
class Beat:
    """What to do now.

    Attributes:
        extend: Ask the service for another lease of these.
        release: Give these back; nobody will take them soon enough.
        lost: The leases of these have ended.
        at_limit: These have been kept for as long as may be; they are ours until their lease ends.
    """

    extend: list[Held] = field(default_factory=list)
    release: list[Held] = field(default_factory=list)
    lost: list[Held] = field(default_factory=list)
    at_limit: list[Held] = field(default_factory=list)


class LeaseKeeper:
    """Keeps the leases of what is in flight, waiting and running deliveries alike.

    Deliveries of one poll share one end of lease, so they are kept as one group: nothing per message
    happens until half of the lease has passed, and most messages are settled by then.

    Args:
        lease_s: The length to ask for.
        max_total_s: How long a delivery may be kept in all, from its receipt.
        keep: Whether to extend at all; otherwise leases are only watched.
        random: For the jitter that keeps many consumers from beating together.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self, *, lease_s: float, max_total_s: float, keep: bool, random: Random) -> None:
        self.lease_s = lease_s
        self._max_total_s = max_total_s
        self._keep = keep
        self._random = random
        self._groups: list[tuple[float, int, Sequence[Held]]] = []
        self._order = count()

    def track(self, group: Sequence[Held], now: float) -> None:
        """Keep deliveries whose leases end together."""
        if not group:
            return
        until = group[0].lease_until
        left_s = until - now
        short = left_s < self.lease_s * (1 - _RENEW_AT)
        at = (
            now if short and self._keep else now + left_s * _RENEW_AT * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        )
        self._push(at if self._keep else until, group)

    def next_at(self) -> float | None:
        """When `beat` has something to do; None while nothing is tracked."""
        return self._groups[0][0] if self._groups else None

    def beat(self, now: float, starts_in_s: Callable[[Held], float]) -> Beat:
        """Decide for every group that is due.

        Args:
            now: Monotonic seconds.
            starts_in_s: How long until a waiting delivery is probably taken.
        """
        beat = Beat()
        while self._groups and self._groups[0][0] <= now:
            for held in heapq.heappop(self._groups)[2]:
                if held.state <= State.RUNNING:
                    self._decide(held, now, starts_in_s, beat)
        return beat

    def extended(self, group: Sequence[Held], now: float) -> None:
        """The service gave these a new end of lease, set in each; keep them on."""
        by_end: dict[float, list[Held]] = {}
        for held in group:
            by_end.setdefault(held.lease_until, []).append(held)
        for part in by_end.values():
            self.track(part, now)

    def failed(self, group: Sequence[Held], now: float) -> None:
        """The service could not be asked; ask again soon, as often as fits before the end."""
        for held in group:
            left_s = held.lease_until - now
            self._push(now + max(left_s / 4, min(left_s, 0.05)), [held])

    def _decide(self, held: Held, now: float, starts_in_s: Callable[[Held], float], beat: Beat) -> None:
        if now >= held.lease_until:
            beat.lost.append(held)
        elif not self._keep:
            self._push(held.lease_until, [held])
        elif now - held.received_at + self.lease_s > self._max_total_s:
            beat.at_limit.append(held)
            self._push(held.lease_until, [held])
        elif held.state is State.WAITING and starts_in_s(held) > _STARTS_WITHIN_LEASES * self.lease_s:
            beat.release.append(held)
        else:
            beat.extend.append(held)

    def _push(self, at: float, group: Sequence[Held]) -> None:
        heapq.heappush(self._groups, (at, next(self._order), group))
