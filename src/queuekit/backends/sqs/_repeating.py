# SPDX-License-Identifier: Apache-2.0
"""Receives from a FIFO queue whose answer was lost: asked again by the same id, the service gives it once more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

_KNOWN_S: Final = 300.0
"""For so long the service knows an id."""


class Ask(NamedTuple):
    """One receive, as often as it is asked for.

    Attributes:
        attempt_id: What the service knows it by.
        most: How many messages it asks for.
        lease_s: For how long.
        first_at: When it was first asked for, in monotonic seconds.
    """

    attempt_id: str
    most: int
    lease_s: int
    first_at: float


class LostAnswers:
    """Receives that failed, so that the service may have handed out messages which nobody has.

    They and everything behind them in their groups are with nobody until their leases end. The next receive that
    asks for as much goes by the id of one of those, and gets what that one should have had.

    Concurrency:
        Safe from any thread, and after a fork: of two processes only one may ask again.
    """

    def __init__(self) -> None:
        self._fresh()

    def _fresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._lost: list[tuple[float, Ask]] = []

    def ask(self, most: int, lease_s: int, now: float, make_id: Callable[[], str]) -> Ask:
        """The receive to make now: one whose answer was lost, or a fresh one.

        Args:
            most: How many messages are wanted.
            lease_s: For how long.
            now: Monotonic seconds.
            make_id: Makes an id that is nobody else's.
        """
        if self._pid != os.getpid():
            self._fresh()
        with self._lock:
            self._lost = [each for each in self._lost if now < each[0]]
            for each in self._lost:
                if (each[1].most, each[1].lease_s) == (most, lease_s):
                    self._lost.remove(each)
                    return each[1]
        return Ask(make_id(), most, lease_s, now)

    def lost(self, ask: Ask, asked_at: float) -> None:
        """It failed, and whether the service did anything is not known.

        Args:
            ask: From `ask`.
            asked_at: When it was asked for this time, in monotonic seconds.
        """
        # Once their leases are over, its messages may be with somebody else.
        until = min(asked_at + ask.lease_s, ask.first_at + _KNOWN_S)
        with self._lock:
            self._lost.append((until, ask))
