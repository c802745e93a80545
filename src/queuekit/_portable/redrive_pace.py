# SPDX-License-Identifier: Apache-2.0
"""How fast dead letters go back: what would go too fast waits, and whoever closes wakes it."""

from __future__ import annotations

import math
import threading

from queuekit._engine.rate import Rate, TokenBucket
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError


class Pace:
    """Makes redrives wait for their rate.

    Args:
        clock: Time.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closing = threading.Condition()
        self._closed = False

    def bucket(self, rate: Rate | None) -> TokenBucket | None:
        """What to take from; None is without limit."""
        return None if rate is None else TokenBucket(rate, self._clock.monotonic())

    def take(self, bucket: TokenBucket | None, most: int, *, within_s: float = math.inf) -> int:
        """How many may go now, waiting for one; 0 where there was none in time.

        Raises:
            ClosedError: `close` was called.
        """
        until = self._clock.monotonic() + within_s
        with self._closing:
            while not self._closed:
                now = self._clock.monotonic()
                taken = most if bucket is None else bucket.take(most, now)
                if taken or bucket is None or now >= until:
                    return taken
                self._clock.wait(self._closing, min(bucket.wait_s(now), until - now))
        msg = "the dead letters were closed during a redrive; what was moved stays moved, and another run goes on"
        raise ClosedError(msg, operation="redrive")

    def used(self, bucket: TokenBucket | None, count: int, *, of: int) -> None:
        """Of so many that were taken, so many went; the others may go next."""
        if bucket is not None:
            bucket.settle(count, self._clock.monotonic(), of=of)

    def close(self) -> None:
        """Wake whoever waits. Idempotent."""
        with self._closing:
            self._closed = True
            self._closing.notify_all()
