# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still until a test moves it."""

from __future__ import annotations

import math
import random
import threading
import time

_TICKS = 1 << 20
_REAL_LIMIT_S = 20.0


class VirtualClock:
    """Time that passes only by `advance`, and chance that repeats from its seed.

    A wait ends when its condition is notified or when `advance` has reached its limit; no real time is
    spent. `advance` jumps: a waiter sees the new time, not the moments between.

    Time moves in steps of 2**-20 s (about a microsecond), and `advance` rounds up to the next step. Both
    scales can then be written exactly as floats, so what was due ``d`` seconds after an instant *is* due
    after ``advance(d)``, never one rounding error later.

    Args:
        seed: Where `random` and `token_bytes` begin.
        start: The wall clock's first reading, in whole seconds since the epoch.

    Concurrency:
        Safe from any thread. `advance` and `jump_wall` take the lock of each condition that they notify:
        never call them under a lock that a waiter needs for going on.

    Examples:
        ```python
        import threading

        from queuekit.testing import VirtualClock

        clock = VirtualClock()
        quiet = threading.Condition()

        def wait() -> None:
            with quiet:
                clock.wait(quiet, 20)

        thread = threading.Thread(target=wait)
        thread.start()
        clock.wait_for_waiters(1)  # it is blocked now
        clock.advance(20)  # and this ends its wait
        thread.join()
        ```
    """

    def __init__(self, seed: int = 0, *, start: int = 1_700_000_000) -> None:
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._arrivals = 0
        self._ticks = 1000 * _TICKS
        self._read = threading.local()
        self._wall_offset = start * _TICKS - self._ticks
        self._random = random.Random(seed)
        self._tokens = random.Random(f"{seed} tokens")
        self._waiters: dict[object, tuple[threading.Condition, float | None]] = {}

    @property
    def random(self) -> random.Random:
        """A source that repeats from the seed."""
        return self._random

    def monotonic(self) -> float:
        """Seconds; begins at 1000."""
        ticks = self._read.ticks = self._ticks
        return ticks / _TICKS

    def time(self) -> float:
        """Seconds since the epoch, as `advance` and `jump_wall` made them."""
        ticks = self._read.ticks = self._ticks
        return (ticks + self._wall_offset) / _TICKS

    def token_bytes(self, count: int) -> bytes:
        """Bytes that repeat from the seed, but never within one clock."""
        with self._lock:
            return self._tokens.randbytes(count)

    def boot_id(self) -> str:
        """The one boot that a virtual host has."""
        return "virtual"

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait until the condition is notified or `advance` reaches the limit; False for the latter.

        The limit counts from when this thread last read the clock: a thread that computed its timeout just
        before an `advance`, and waits just after it, would otherwise wait for time that is over.
        """
        waiter = object()
        with self._lock:
            limit = None if timeout_s is None else getattr(self._read, "ticks", self._ticks) / _TICKS + timeout_s
            late = limit is not None and limit <= self._ticks / _TICKS
            if not late:
                self._waiters[waiter] = (condition, limit)
                self._arrivals += 1
                self._arrived.notify_all()
        try:
            condition.wait(0 if late else None)
        finally:
            with self._lock:
                self._waiters.pop(waiter, None)
        return limit is None or self.monotonic() < limit

    def advance(self, seconds: float) -> None:
        """Move both scales on, and wake every wait whose limit that reaches.

        Raises:
            ValueError: ``seconds`` is negative or not finite; only the wall clock can jump back.
        """
        if not 0 <= seconds < math.inf:
            msg = f"time passes by a finite number of seconds from 0 up, not by {seconds!r}"
            raise ValueError(msg)
        with self._lock:
            self._ticks += math.ceil(seconds * _TICKS)
            now = self._ticks / _TICKS
            reached = [condition for condition, limit in self._waiters.values() if limit is not None and limit <= now]
        _notify(reached)

    def jump_wall(self, seconds: float) -> None:
        """Move the wall clock alone, forward or back, as an administrator does; wakes every wait."""
        with self._lock:
            self._wall_offset += math.ceil(seconds * _TICKS)
            waiting = [condition for condition, _ in self._waiters.values()]
        _notify(waiting)

    def wait_for_waiters(self, count: int = 1) -> None:
        """Return once at least ``count`` threads are blocked in `wait`.

        A thread that was notified counts no more, even before it has run: after a notification this waits
        until the thread has come back.

        Raises:
            TimeoutError: They were not within 20 s of real time.
        """
        deadline = time.monotonic() + _REAL_LIMIT_S
        while True:
            with self._lock:
                arrivals = self._arrivals
                conditions = {id(condition): condition for condition, _ in self._waiters.values()}
            blocked = sum(_blocked(condition) for condition in conditions.values())
            if blocked >= count:
                return
            with self._lock:
                # The limit is real time: it guards against a thread that never comes.
                left_s = deadline - time.monotonic()
                if self._arrivals == arrivals and (left_s <= 0 or not self._arrived.wait(left_s)):
                    msg = f"{blocked} threads wait on the virtual clock, and {count} were expected"
                    raise TimeoutError(msg)


def _blocked(condition: threading.Condition) -> int:
    # Who has registered holds the condition's lock until it is really waiting.
    with condition:
        return len(condition._waiters)  # type: ignore[attr-defined]


def _notify(conditions: list[threading.Condition]) -> None:
    for condition in {id(each): each for each in conditions}.values():
        with condition:
            condition.notify_all()
