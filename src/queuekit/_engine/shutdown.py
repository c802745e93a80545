# SPDX-License-Identifier: Apache-2.0
"""The order in which a consumer or a worker stops. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Step(Enum):
    """What to do next while stopping."""

    AWAIT_POLL = "await_poll"
    """Let the poll in flight end; what it brings is released."""
    RELEASE_WAITING = "release_waiting"
    """Give back what nobody has begun."""
    AWAIT_RUNNING = "await_running"
    """Let handlers finish, their leases kept."""
    CANCEL_RUNNING = "cancel_running"
    """The time is over: cancel or flag the handlers, and release their deliveries."""
    FLUSH = "flush"
    """Send every settlement that is recorded."""
    CLOSE = "close"
    """Nothing is left, or no time is."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is still open.

    Attributes:
        polling: Whether a poll is in flight.
        waiting: Deliveries that nobody has begun.
        running: Deliveries with a handler.
        unsent: Settlements without an outcome.
    """

    polling: bool
    waiting: int
    running: int
    unsent: int


class ShutdownPlan:
    """Decides the next step from what is still open, inside one deadline.

    What has not begun is released at once, before anything is waited for: it is another consumer's now.

    Args:
        now: When stopping begins, in monotonic seconds.
        drain_s: How long running handlers may go on.
        flush_s: How long after that settlements may still be sent.
    """

    def __init__(self, *, now: float, drain_s: float, flush_s: float) -> None:
        self.drain_until = now + drain_s
        self.close_at = self.drain_until + flush_s

    def hurry(self, now: float) -> None:
        """A second request to stop: handlers get no more time, settlements keep theirs."""
        flush_s = self.close_at - self.drain_until
        self.drain_until = min(self.drain_until, now)
        self.close_at = min(self.close_at, now + flush_s)

    def next(self, now: float, standing: Standing) -> Step:
        """The step to take now; ask again after it, or when something changes."""
        if standing.waiting:
            return Step.RELEASE_WAITING
        if now >= self.close_at:
            return Step.CLOSE
        if standing.running:
            return Step.AWAIT_RUNNING if now < self.drain_until else Step.CANCEL_RUNNING
        if standing.polling:
            return Step.AWAIT_POLL
        return Step.FLUSH if standing.unsent else Step.CLOSE
