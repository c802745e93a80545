# SPDX-License-Identifier: Apache-2.0
"""The real time, which can be moved ahead: what is due tomorrow is dispatched now."""

from __future__ import annotations

import math
import threading

from queuekit._values.clock import Random, SystemClock


class RunningClock:
    """A clock that runs as the real one does, and jumps ahead by `advance`.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._real = SystemClock()
        self._ahead_s = 0.0
        self._lock = threading.Lock()
        self._waiting: list[threading.Condition] = []

    @property
    def random(self) -> Random:
        """The operating system's source."""
        return self._real.random

    def monotonic(self) -> float:
        """Seconds, those it jumped over included."""
        return self._real.monotonic() + self._ahead_s

    def time(self) -> float:
        """Seconds since the epoch, those it jumped over included."""
        return self._real.time() + self._ahead_s

    def token_bytes(self, count: int) -> bytes:
        """Random bytes of the operating system."""
        return self._real.token_bytes(count)

    def boot_id(self) -> str:
        """The host's."""
        return self._real.boot_id()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on the condition; a jump wakes as a notification does."""
        with self._lock:
            self._waiting.append(condition)
        try:
            return condition.wait(timeout_s)
        finally:
            with self._lock:
                self._waiting.remove(condition)

    def advance(self, seconds: float) -> None:
        """Move on.

        Raises:
            ValueError: By a negative or endless time.
        """
        if not 0 <= seconds < math.inf:
            msg = f"time passes by a finite number of seconds from 0 up, not by {seconds!r}"
            raise ValueError(msg)
        with self._lock:
            self._ahead_s += seconds
            waiting = list(self._waiting)
        for condition in waiting:
            with condition:
                condition.notify_all()
