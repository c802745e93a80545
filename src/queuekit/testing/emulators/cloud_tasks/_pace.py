# SPDX-License-Identifier: Apache-2.0
"""How fast a queue dispatches: a token bucket, slower for a while where the targets ask for it."""

from __future__ import annotations

_SLOWEST = 1 / 64
_SPEED_UP = 0.1
_ENOUGH = 1 - 1e-6  # a token that is short by a rounding error is one
_LEAST_BURST = 10


def burst_of(rate: float) -> int:
    """The size of the bucket: as documented at least a second's worth, and never less than ten."""
    return max(_LEAST_BURST, -int(-rate // 1))


class Pace:
    """A bucket of tokens, one for each dispatch.

    429 and 503 halve the rate, down to 1/64 of what is configured or 1/s; success brings a tenth back. Either counts
    once a second at most. The service documents that it slows down, but not by how much.

    Args:
        rate: Tokens a second.
        now: The bucket is full then.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._burst = float(burst_of(rate))
        self._tokens = self._burst
        self._filled = now
        self._share = 1.0
        self._changed = float("-inf")

    def configure(self, rate: float, now: float) -> None:
        """Go on at another rate, with the tokens there are."""
        self._fill(now)
        self._rate, self._burst = rate, float(burst_of(rate))  # what no longer fits goes when it is filled next

    @property
    def rate(self) -> float:
        """Tokens a second, as of now."""
        return max(self._rate * self._share, min(self._rate, 1.0))

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._fill(now)
        if self._tokens < _ENOUGH:
            return False
        self._tokens -= 1
        return True

    def ready_at(self, now: float) -> float:
        """When there is a token."""
        self._fill(now)
        return now if self._tokens >= _ENOUGH else now + (1 - self._tokens) / self.rate

    def slow_down(self, now: float) -> None:
        """A target has too much to do."""
        self._change(max(_SLOWEST, self._share / 2), now)

    def speed_up(self, now: float) -> None:
        """A target was content."""
        self._change(min(1.0, self._share + _SPEED_UP), now)

    def _change(self, share: float, now: float) -> None:
        if now - self._changed < 1:
            return  # answers to what was dispatched at the former rate say nothing new
        self._fill(now)
        if share < self._share:
            self._tokens = min(self._tokens, self._burst * share)
        self._share, self._changed = share, now

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled) * self.rate)
        self._filled = now
