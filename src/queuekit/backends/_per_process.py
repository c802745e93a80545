# SPDX-License-Identifier: Apache-2.0
"""What a process may not share with those that it forks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST_LEFT = 8
"""Beyond those that were renewed last, none is kept open: a line may be dead for hours."""


class PerProcess(Generic[T]):
    """Clients and their connections: made by the first call of each process, and anew where they are given up.

    A forked process has the sockets of its parent, and two that talk over one of them read each other's answers. So
    what the parent made is neither used nor closed in the child.

    Args:
        make: Makes it.
        close: Gives its resources back.

    Concurrency:
        Safe from any thread, and after a fork, one during a call too.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], None]) -> None:
        self._make = make
        self._close = close
        self._locks: dict[int, threading.Lock] = {}
        # With the process that it belongs to, in one attribute: nobody reads the one without the other.
        self._held: tuple[int, T] | None = None
        self._left: list[tuple[int, T]] = []

    def get(self) -> T:
        """That of this process.

        Raises:
            Exception: Whatever ``make`` raises; the next call tries again.
        """
        held, process = self._held, os.getpid()
        if held is not None and held[0] == process:
            return held[1]
        with self._lock(process):
            held = self._held
            if held is None or held[0] != process:
                held = self._held = (process, self._make())
            return held[1]

    def renew(self, silent: T) -> None:
        """Nothing comes back by this any more: the next call makes another. What is under way by it goes on."""
        process = os.getpid()
        with self._lock(process):
            held = self._held
            if held is None or held[1] is not silent:
                return
            self._held = None
            self._left.append(held)
            ended, self._left = self._left[:-_MOST_LEFT], self._left[-_MOST_LEFT:]
        self._close_those(ended, process)

    def close(self) -> None:
        """Close what this process made. Idempotent."""
        process = os.getpid()
        with self._lock(process):
            ended = [*self._left, *([] if self._held is None else [self._held])]
            self._held, self._left = None, []
        self._close_those(ended, process)

    def _close_those(self, ended: list[tuple[int, T]], process: int) -> None:
        for owner, each in ended:
            if owner == process:
                self._close(each)

    def _lock(self, process: int) -> threading.Lock:
        # One that a thread of the parent held during the fork is never released in the child.
        return self._locks.setdefault(process, threading.Lock())
