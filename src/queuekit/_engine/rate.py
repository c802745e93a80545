# SPDX-License-Identifier: Apache-2.0
"""How many messages a worker may take in a stretch of time. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from queuekit._values.errors import UsageError

_BURST_S = 0.1
# What rounding may take from a token that is whole.
_WHOLE = 1e-9


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many messages in a stretch of time, for one queue of one worker.

    In any stretch as long as ``per``, a worker begins at most ``limit + burst`` messages; in a long one, ``limit``
    for each ``per``.

    Attributes:
        limit: How many messages, at least 1.
        per: In how long.
        burst: How many may begin at once after a quiet time. None is what comes in a tenth of a second, at
            least 1, so that what is behind the handlers sees an even flow.

    Raises:
        UsageError: A number is no whole number of at least 1, or ``per`` is no positive length.

    Examples:
        ```python
        from datetime import timedelta

        Rate(100, per=timedelta(minutes=1))
        ```
    """

    limit: int
    per: timedelta = timedelta(seconds=1)
    burst: int | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "burst"):
            value = getattr(self, name)
            if (value is not None or name == "limit") and (type(value) is not int or value < 1):
                msg = f"{name} of a Rate must be a whole number of at least 1 and is {value!r}"
                raise UsageError(msg)
        if not isinstance(self.per, timedelta) or self.per <= timedelta(0):
            msg = f"per of a Rate must be a timedelta above 0 and is {self.per!r}"
            raise UsageError(msg)

    @property
    def per_second(self) -> float:
        """How many messages in a second."""
        return self.limit / self.per.total_seconds()

    @property
    def most_at_once(self) -> int:
        """``burst``, or what stands for it."""
        return self.burst if self.burst is not None else max(1, math.floor(self.per_second * _BURST_S))


class TokenBucket:
    """Hands out the messages that a `Rate` allows.

    Tokens are taken before a poll, and settled after it: those of messages that came are used, the rest is
    back, poll by poll. While some are out, the bucket fills only up to what is left of the burst; else a poll that
    waited for long could bring a burst and leave another one ready.

    Args:
        rate: What is allowed.
        now: When it begins, in monotonic seconds; full.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    __slots__ = ("_at", "_burst", "_level", "_out", "_per_second")

    def __init__(self, rate: Rate, now: float) -> None:
        self._per_second = rate.per_second
        self._burst = rate.most_at_once
        self._level = float(self._burst)
        self._out = 0
        self._at = now

    def has(self, count: int, now: float) -> bool:
        """Whether so many could be taken."""
        self._fill(now)
        return math.floor(self._level + _WHOLE) >= count

    def take(self, most: int, now: float) -> int:
        """Take up to ``most`` tokens; how many there were. Each lot is to be settled."""
        self._fill(now)
        taken = min(most, math.floor(self._level + _WHOLE))
        self._level -= taken
        self._out += taken
        return taken

    def settle(self, used: int, now: float, *, of: int) -> None:
        """Of a lot that was taken, so many were used; the others are back."""
        self._fill(now)
        self._level += max(0, of - used)
        self._out -= of

    def wait_s(self, now: float) -> float:
        """How long until there is a whole token; 0 where there is one."""
        self._fill(now)
        return max(0.0, (1 - self._level) / self._per_second)

    def _fill(self, now: float) -> None:
        gained = max(0.0, now - self._at) * self._per_second
        self._level = max(self._level, min(self._level + gained, self._burst - self._out))
        self._at = now
