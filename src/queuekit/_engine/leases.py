# SPDX-License-Identifier: Apache-2.0
"""When to extend which leases. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from queuekit._engine.held import RECORDED, WAITING, Held, Lease
from queuekit._values.clock import Random

_RENEW_AT = 0.5
_JITTER = 0.1
_TOGETHER = 0.1
STARTS_WITHIN_LEASES = 3.0
"""What waits is kept while it will probably be taken within so many leases."""
_SOONEST_S = 0.02


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

    Nothing per message happens until half of a lease has passed, and most messages are settled by then:
    those that came together share one `Lease`, and get one of their own when something is decided. A
    beat looks at everything in flight, which flow control bounds, and takes along what is due a little
    later, so that beats are at least a tenth of a lease apart.

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
        self._next_at = math.inf
        self.in_flight: set[Held] = set()

    def first_lease(self, until: float, received_at: float, now: float) -> Lease:
        """The lease of deliveries that just arrived."""
        left_s = until - now
        if not self._keep:
            renew_at = until
        elif left_s < self.lease_s * (1 - _RENEW_AT):
            renew_at = now  # shorter than was asked for: the service may cap it, so ask at once
        else:
            renew_at = now + self._rest_s(left_s, self._random.uniform(1 - _JITTER, 1 + _JITTER))
        return Lease(until, received_at, renew_at)

    def track(self, group: Iterable[Held], leases: Iterable[Lease]) -> None:
        """Keep deliveries that just arrived; ``leases`` are all that they have."""
        self.in_flight.update(group)
        self._next_at = min(self._next_at, *(lease.renew_at for lease in leases))

    def extended(self, held: Held, until: float, now: float) -> None:
        """The service gave this one a new end of lease."""
        renew_at = until if held.lease.abandoned else now + max(self._rest_s(until - now), _SOONEST_S)
        self._renew(held, held.lease._replace(until=until, renew_at=renew_at))

    def failed(self, group: Iterable[Held], now: float) -> None:
        """The service could not be asked; ask again soon, as often as fits before the end."""
        for held in group:
            left_s = held.lease.until - now
            self._renew(held, held.lease._replace(renew_at=now + max(left_s / 4, min(left_s, _SOONEST_S))))

    def abandon(self, held: Held) -> None:
        """Watch this lease to its end, and extend it no more."""
        self._renew(held, held.lease._replace(renew_at=held.lease.until, abandoned=True))

    def forget(self, group: Iterable[Held]) -> None:
        """These are settled or lost."""
        self.in_flight.difference_update(group)

    def holdable_s(self, held: Held, now: float) -> float:
        """For how long the lease of a delivery could be kept from now on, extensions included."""
        if not self._keep or held.lease.abandoned:
            return 0.0
        return max(0.0, self._max_total_s - (now - held.lease.received_at) - self.lease_s)

    def watch(self, group: Iterable[Held]) -> bool:
        """The settlements of these wait for another try; whether a beat is due earlier than before."""
        first = min((held.lease.renew_at for held in group), default=math.inf)
        earlier = first < self._next_at
        self._next_at = min(self._next_at, first)
        return earlier

    def next_at(self) -> float | None:
        """When `beat` has something to do; None while nothing is tracked."""
        return None if self._next_at == math.inf else self._next_at

    def beat(self, now: float, starts_in_s: Callable[[Held], float]) -> Beat:
        """Decide for everything that is due now or within a tenth of a lease.

        Args:
            now: Monotonic seconds.
            starts_in_s: How long until a waiting delivery is probably taken.
        """
        beat = Beat()
        soon = now + self.lease_s * _TOGETHER if self._keep else now
        for held in self.in_flight:
            if _is_kept(held) and held.lease.renew_at <= soon:
                self._decide(held, now, starts_in_s, beat)
        self._next_at = min((held.lease.renew_at for held in self.in_flight if _is_kept(held)), default=math.inf)
        return beat

    def _rest_s(self, left_s: float, spread: float = 1.0) -> float:
        """How long to leave a lease alone; one longer than ours must not be cut short by extending it."""
        return left_s - min(left_s, self.lease_s) * _RENEW_AT * spread

    def _renew(self, held: Held, lease: Lease) -> None:
        held.lease = lease
        self._next_at = min(self._next_at, lease.renew_at)

    def _decide(self, held: Held, now: float, starts_in_s: Callable[[Held], float], beat: Beat) -> None:
        lease = held.lease
        renew_at = lease.until
        if now >= lease.until:
            renew_at = math.inf
            beat.lost.append(held)
        elif lease.abandoned or not self._keep:
            pass
        elif now - lease.received_at + self.lease_s > self._max_total_s:
            if lease.renew_at != lease.until:
                beat.at_limit.append(held)
        elif held.state is WAITING and starts_in_s(held) > STARTS_WITHIN_LEASES * self.lease_s:
            renew_at = math.inf
            beat.release.append(held)
        else:
            # Until the answer is here it is not due again; the answer sets the next time.
            renew_at = math.inf
            beat.extend.append(held)
        held.lease = lease._replace(renew_at=renew_at)


def _is_kept(held: Held) -> bool:
    """Whether its lease matters: nobody has settled it, or its settlement failed and is tried again."""
    return held.state < RECORDED or (held.state is RECORDED and held.trouble is not None)
