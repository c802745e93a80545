# SPDX-License-Identifier: Apache-2.0
"""Time and chance. Nothing else in queuekit reads a clock or draws a random number."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from random import Random, SystemRandom
from time import monotonic as _monotonic
from time import time as _time
from typing import TYPE_CHECKING, Protocol

__all__ = ["Clock", "Random", "SystemClock"]


class Clock(Protocol):
    """The one source of time and randomness, so that a virtual one can replay a whole run.

    Concurrency:
        Safe from any thread.
    """

    @property
    def random(self) -> Random:
        """The source that jitter is drawn from."""
        ...

    def monotonic(self) -> float:
        """Seconds on a scale that never steps; leases, budgets and waits are measured on it.

        On the real clock the processes of one host share the scale until the host restarts.
        """
        ...

    def time(self) -> float:
        """Seconds since the epoch, UTC. Due times and stamps that others read are on this scale."""
        ...

    def token_bytes(self, count: int) -> bytes:
        """Random bytes for ids and fencing tokens; different in every process, also after a fork."""
        ...

    def boot_id(self) -> str:
        """Names the run of the host that `monotonic` counts from; empty where the OS has no such name."""
        ...

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on a condition whose lock the caller holds, as ``condition.wait`` does.

        A virtual clock also wakes the waiter when its time has moved past the limit. A waiter may be
        woken early: look again at what was waited for.
        """
        ...


class SystemClock:
    """The real time, and the operating system's randomness."""

    __slots__ = ("_random",)

    def __init__(self) -> None:
        self._random = SystemRandom()

    @property
    def random(self) -> Random:
        """The operating system's source; it has no state, so a fork cannot repeat it."""
        return self._random

    if TYPE_CHECKING:

        @staticmethod
        def monotonic() -> float:
            """Seconds since a point of no meaning."""
            ...

        @staticmethod
        def time() -> float:
            """Seconds since the epoch, UTC."""
            ...

    else:
        # The functions themselves, because the clock is read for every message.
        monotonic = staticmethod(_monotonic)
        time = staticmethod(_time)

    def token_bytes(self, count: int) -> bytes:
        """Random bytes of the operating system."""
        return os.urandom(count)

    def boot_id(self) -> str:
        """The kernel's own name for this boot (Linux); empty elsewhere."""
        return _boot_id()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on the condition for at most ``timeout_s`` seconds."""
        return condition.wait(timeout_s)


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
