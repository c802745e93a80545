# SPDX-License-Identifier: Apache-2.0
"""How many requests an endpoint holds at once, with how much of their bodies; and what it tells of the refused."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from queuekit._engine.journal import Journal
from queuekit._values.clock import Clock
from queuekit.push._requests import Refusal

_AGAIN_S = 60.0
_MOST_REASONS = 1000


class Room:
    """Counts what is held.

    Args:
        most: Most requests at once.
        most_bytes: Most bytes of bodies at once.

    Attributes:
        requests: How many requests there are now.

    Concurrency:
        Of one event loop.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self.requests = 0
        self._bytes = 0
        self._emptied: asyncio.Event | None = None

    def enter(self) -> Guest:
        """Let a request in.

        Raises:
            Refusal: There are too many.
        """
        if self.requests >= self._most:
            raise Refusal(429, f"{self._most} requests are being handled; try again", retry_after_s=1)
        self.requests += 1
        return Guest(self)

    def grow(self, count: int) -> None:
        """Hold so many bytes more.

        Raises:
            Refusal: It would be too much.
        """
        if self._bytes + count > self._most_bytes:
            raise Refusal(429, "other requests take up the memory; try again", retry_after_s=1)
        self._bytes += count

    def leave(self, held: int) -> None:
        """A request is over, and with it so many bytes."""
        self.requests -= 1
        self._bytes -= held
        if not self.requests and self._emptied is not None:
            self._emptied.set()

    async def empty(self) -> None:
        """Wait until no request is left."""
        if self.requests:
            self._emptied = asyncio.Event()
            await self._emptied.wait()


class Guest:
    """One request that was let in."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0

    def grow(self, count: int) -> None:
        """Hold so many bytes more. Raises as `Room.grow` does."""
        self._room.grow(count)
        self._held += count

    def leave(self) -> None:
        """The request is over."""
        self._room.leave(self._held)


class Refusals:
    """Tells of refused requests, of each reason once a minute: whoever sends many does not fill the log.

    Args:
        journal: Where to count and log.
        clock: Time.

    Concurrency:
        Of one event loop.
    """

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._told_at: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def note(self, status: int, reason: str) -> None:
        """One request was refused."""
        what = f"{status}: {reason}"
        self._untold[what] += 1
        now = self._clock.monotonic()
        if len(self._told_at) >= _MOST_REASONS:
            self._told_at.clear()
            self._untold = Counter({what: self._untold[what]})
        if now - self._told_at.get(what, -math.inf) >= _AGAIN_S:
            self._told_at[what] = now
            self._journal.note("push.refused", what, count=self._untold.pop(what))
