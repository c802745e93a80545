# SPDX-License-Identifier: Apache-2.0
"""Signs of life of the engine's threads, and the watchdog that looks for them. No thread of its own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

_LOOKS = 3
LOOKS_PER_PATIENCE = 8
"""How often to `Watchdog.look` in the time that it is patient for."""


class Pulse:
    """When one thread was alive, and by when it will be again.

    Concurrency:
        Written by its thread alone, read by any.
    """

    __slots__ = ("beats", "due")

    def __init__(self) -> None:
        self.beats: int = 0
        self.due: float = math.inf

    def beat(self, due: float) -> None:
        """This thread is alive, and is again by ``due``, in monotonic seconds; infinite while it rests."""
        self.beats += 1
        self.due = due


class Watchdog:
    """Finds out that one queue makes no progress.

    A thread is late when its pulse is overdue by more than the patience. It is only believed to be stuck when
    several looks found the same beat overdue: a host that slept, or a clock that jumped, must not end a worker
    whose threads had no chance to run.

    Args:
        patience_s: For how long nothing may happen.
        slots: How many handlers run at once at most, where handlers are watched too; None watches the engine
            alone.

    Concurrency:
        None of its own; call `look` from one thread.
    """

    def __init__(self, *, patience_s: float, slots: int | None) -> None:
        self._patience_s = patience_s
        self._slots = slots
        self._seen: dict[str, tuple[Hashable, float, int]] = {}

    def look(self, now: float, pulses: Mapping[str, Pulse], *, running: int, taken: int) -> str | None:
        """What is stuck, as a sentence fragment; None when all is well.

        Args:
            now: Monotonic seconds.
            pulses: One for each thread, by its name.
            running: How many handlers run.
            taken: How many deliveries were taken so far; as all slots are busy, the next one means that a
                handler ended.
        """
        for name, pulse in pulses.items():
            late = now > pulse.due + self._patience_s
            if self._unchanged(name, pulse.beats if late else None, now, 0.0):
                return f"the {name} thread makes no progress"
        full = self._slots is not None and running >= self._slots
        if self._unchanged("handlers", taken if full else None, now, self._patience_s):
            return "all handlers are busy, and none ends"
        return None

    def _unchanged(self, name: str, sign: Hashable | None, now: float, for_s: float) -> bool:
        """Whether one sign was seen again and again, for that long; None is no sign."""
        if sign is None:
            self._seen.pop(name, None)
            return False
        before, since, looks = self._seen.get(name, (None, now, 0))
        if before != sign:
            since, looks = now, 0
        self._seen[name] = (sign, since, looks + 1)
        return looks + 1 >= _LOOKS and now - since >= for_s
