# SPDX-License-Identifier: Apache-2.0
"""How long the leases are that a pull brings, and what is asked of the service to make them as long as was wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from queuekit.backend import Clock
from queuekit.backends.pubsub._errors import LEASE_IS_OVER, of_ack_ids

_BELIEVED_S = 60.0
"""How long a subscription is taken at its word: somebody may change its deadline."""
_REFUSED_S = 600.0
"""How long one is not asked again that did not answer."""
_LEAST_S = 10.0
"""Of every subscription's deadline."""
_QUICK = 0.1
"""Part of a lease that a pull may take, for its leases to count from when it began."""


class Leased(NamedTuple):
    """When the leases of a pull end, on the monotonic scale.

    Attributes:
        until: Of all.
        sooner: Of those that end sooner, by their ``ack_id``.
    """

    until: float
    sooner: Mapping[str, float]


class Leases:
    """Makes the leases of what a pull brought as long as they were asked for.

    A message is leased for the subscription's own ack deadline. Where that is what was asked for, a pull that was
    quick needs no second call: its leases began after it did. Where it waited for a while, nobody knows when they
    began, and where it is another length, it must be told.

    Args:
        clock: Time.
        change: Changes the deadlines of leases to so many seconds.
        deadline: Asks the subscription for its own deadline, in seconds.

    Concurrency:
        Safe from any thread.
    """

    def __init__(
        self, clock: Clock, *, change: Callable[[Sequence[str], int], None], deadline: Callable[[], int]
    ) -> None:
        self._clock, self._change, self._deadline = clock, change, deadline
        self._known: tuple[int, float] = (0, -math.inf)

    def learn(self, deadline_s: int) -> None:
        """The subscription has just told its own deadline."""
        self._known = (deadline_s, self._clock.monotonic() + _BELIEVED_S)

    def make(self, ack_ids: Sequence[str], seconds: int, begun_at: float) -> Leased:
        """Make leases that long, at least from now on.

        Where the service does not, they end as the subscription's own do, counted from when the pull began.

        Args:
            ack_ids: What the pull brought.
            seconds: How long they are to be.
            begun_at: When the pull began.
        """
        now = self._clock.monotonic()
        own_s, believed_until = self._known
        quick, fresh = now - begun_at <= seconds * _QUICK, now < believed_until
        if quick and fresh and own_s == seconds:
            return Leased(begun_at + seconds, {})
        leased = self._lengthen(ack_ids, seconds, now, begun_at + min(seconds, own_s or _LEAST_S))
        if quick and not fresh:
            self._ask()
        return leased

    def _lengthen(self, ack_ids: Sequence[str], seconds: int, now: float, least_until: float) -> Leased:
        try:
            self._change(ack_ids, seconds)
        except Exception as error:  # noqa: BLE001 - the messages are leased, if only for as long as the service likes
            told = of_ack_ids(error)
            if not told:
                return Leased(least_until, {})
            return Leased(
                now + seconds,
                {ack_id: now if what == LEASE_IS_OVER else least_until for ack_id, what in told.items()},
            )
        return Leased(now + seconds, {})

    def _ask(self) -> None:
        """Find out whether the next pull needs no second call. Once in a while, and only where many come."""
        try:
            self.learn(self._deadline())
        except Exception:  # noqa: BLE001 - without the permission to look, each pull goes on needing its second call
            self._known = (0, self._clock.monotonic() + _REFUSED_S)
