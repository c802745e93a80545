# SPDX-License-Identifier: Apache-2.0
"""What queuekit adds to one queue by copies: longer delays, longer waits, counted attempts. Pure.

Everything here comes down to a copy: made durable first, then the original is acked. A failure between the
two leaves both, and never none. A copy goes to the end of the queue and to every subscription, so there are
none for messages with an ordering key, and none where several subscriptions read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from queuekit._engine import metadata as meta
from queuekit._engine.copies import copy_of
from queuekit._engine.hops import delayed, left_of, onward
from queuekit._engine.waits import possible_retry_s
from queuekit._values.capability import LONGEST_BRIDGED_S, Capabilities, Support
from queuekit.backend import IncomingMessage, OutgoingMessage

_COPY_AGAIN_S = 10.0


class RetryPlan(NamedTuple):
    """How a retry comes about.

    Attributes:
        delay_s: The wait of a RETRY in place: the way itself, or what is done where the copy fails.
        copy: What is sent in the delivery's place; None for a RETRY in place.
        hold_s: How long to keep the lease before anything of that is done.
        shortened: Whether the message comes back sooner than was asked.
    """

    delay_s: float
    copy: OutgoingMessage | None = None
    hold_s: float = 0.0
    shortened: bool = False


class Onward(NamedTuple):
    """What becomes of a message that was received before its delay is over.

    Attributes:
        delay_s: For how long it is given back where there is no copy, or the copy fails.
        copy: The next hop; None where this queue takes no copies.
        left_s: How long it must not reach a handler yet.
    """

    delay_s: float
    copy: OutgoingMessage | None
    left_s: float


class Bridge:
    """Decides for one queue what is done in place, by a copy, by keeping the lease, or less than asked.

    Args:
        can: What the queue can do.
        fits: Whether a message with a delay is small enough for where it waits.

    Attributes:
        counts: Whether attempts are counted by copies, because the service does not count.
    """

    def __init__(self, can: Capabilities, fits: Callable[[OutgoingMessage], bool] = lambda _: True) -> None:
        self._can, self._fits = can, fits
        self.counts: bool = can.counted_attempts is Support.BRIDGED

    def takes_copy(self, ordering_key: str | None) -> bool:
        """Whether a message may be replaced by a copy at the end of the queue."""
        return self._can.own_copies and self._is_unordered(ordering_key)

    def takes_delay(self, delay_s: float, ordering_key: str | None) -> bool:
        """Whether a message can be sent with this delay: by the service, through ``delay_via=``, or by hops."""
        can = self._can
        if delay_s <= can.max_delay_s or (delay_s <= can.via_delay_s and self._is_unordered(ordering_key)):
            return True
        return can.max_delay_s > 0 and delay_s <= LONGEST_BRIDGED_S and self.takes_copy(ordering_key)

    def onward(self, message: IncomingMessage, now: float) -> Onward | None:
        """What to do with a message that must not reach a handler yet; None for one that may."""
        left = left_of(message, now)
        if left is None:
            return None
        longest = self._can.max_retry_delay_s
        if not (self._can.max_delay_s > 0 and self.takes_copy(message.ordering_key)):
            return Onward(min(possible_retry_s(left.seconds, self._can), longest), None, left.seconds)
        # No attempt was made: the copy carries what this one carried.
        copy = copy_of(message, "hop", base=meta.read(message.metadata).base)
        again_s = min(possible_retry_s(min(left.seconds, _COPY_AGAIN_S), self._can), longest)
        return Onward(again_s, onward(copy, left, self._can), left.seconds)

    def release(self, message: IncomingMessage, delay_s: float, now: float) -> OutgoingMessage | None:
        """The copy of a message that was not tried, where each RETRY is one; None where it is given back in place.

        It carries the attempts before this delivery, which the service counts otherwise. It has no dedup id: the
        next delivery may be given back again, and counts as much as this one.
        """
        if not (self._can.retries_by_copy and self.takes_copy(message.ordering_key)):
            return None
        base = meta.read(message.metadata).base + max(0, (message.attempt or 1) - 1)
        copy = delayed(_without_hop(copy_of(message, "release", base=base)), delay_s, self._can, now)
        return copy._replace(dedup_id=None) if self._fits(copy) else None

    def retry(
        self, message: IncomingMessage, delay_s: float, now: float, *, holdable_s: float, kept_s: float = 0.0
    ) -> RetryPlan:
        """How a message is retried after a wait that somebody asked for.

        Args:
            message: As it was received.
            delay_s: The wait.
            now: Seconds since the epoch.
            holdable_s: For how long its lease could be kept.
            kept_s: For how long it has been kept; services count that against the longest wait.
        """
        can, longest = self._can, self._longest_retry_s(kept_s)
        in_place_s = possible_retry_s(delay_s, can)
        by_copy = can.retries_by_copy and self.takes_copy(message.ordering_key)
        if in_place_s <= longest and not (self.counts or by_copy):
            return RetryPlan(in_place_s)
        in_place_s = min(in_place_s, longest)
        if self.takes_copy(message.ordering_key) and (
            delay_s == 0 or self.takes_delay(delay_s, message.ordering_key)
        ):
            waiting = delayed(_failed(message), delay_s, can, now)
            if self._fits(waiting):
                return RetryPlan(in_place_s, waiting)
        copy = _failed(message) if self.counts else None
        hold_s = delay_s if copy is not None else delay_s - longest
        if hold_s <= holdable_s:
            return RetryPlan(longest, copy, hold_s)
        # A copy that cannot wait is held for as long as may be; in place the service can at least wait.
        return RetryPlan(longest, copy, holdable_s if copy is not None else 0.0, shortened=True)

    def _is_unordered(self, ordering_key: str | None) -> bool:
        can = self._can
        return can.ordering == "none" or (can.unordered_copies and ordering_key is None)

    def _longest_retry_s(self, kept_s: float) -> float:
        can = self._can
        if can.max_lease_total_s is None:
            return can.max_retry_delay_s
        # A service that counts in steps rounds what has passed up.
        step = can.retry_delay_resolution_s
        left_s = math.floor((can.max_lease_total_s - kept_s) / step - 1e-9) * step
        return max(0.0, min(can.max_retry_delay_s, left_s if kept_s > 0 else can.max_lease_total_s))


def _failed(message: IncomingMessage) -> OutgoingMessage:
    """A copy that carries the attempt which just failed."""
    base = meta.read(message.metadata).base + (message.attempt or 0)
    return _without_hop(copy_of(message, "retry", base=base))


def _without_hop(copy: OutgoingMessage) -> OutgoingMessage:
    return copy._replace(metadata={name: text for name, text in copy.metadata.items() if name not in meta.OF_A_HOP})
