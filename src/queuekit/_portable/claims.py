# SPDX-License-Identifier: Apache-2.0
"""Keeping the claims of handlers that run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from queuekit._portable.context import Current
from queuekit._values.clock import Clock


class Run(NamedTuple):
    """One run of a handler under its key."""

    key: str
    owner: str
    delivery: Current


class ClaimKeeper:
    """Renews the claims of handlers that run, three times in a lease, on one thread that ends when idle.

    Args:
        renew: Renews one claim; False to renew it no more.
        lease_s: The length of a claim.
        clock: Time.
    """

    def __init__(self, renew: Callable[[Run], bool], lease_s: float, clock: Clock) -> None:
        self._renew, self._every_s, self._clock = renew, lease_s / 3, clock
        self._lock = threading.Lock()
        self._closing = threading.Condition(self._lock)
        self._runs: dict[str, Run] = {}
        self._thread: threading.Thread | None = None

    def keeping(self, run: Run) -> _Keeping:
        """A context in which the run's claim is renewed."""
        return _Keeping(self, run)

    def add(self, run: Run) -> None:
        """Renew this claim from now on."""
        with self._lock:
            self._runs[run.owner] = run
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="queuekit-claims", daemon=True)
                self._thread.start()

    def remove(self, run: Run) -> None:
        """Renew it no more."""
        with self._lock:
            self._runs.pop(run.owner, None)

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._runs.clear()
            thread, self._thread = self._thread, None
            self._closing.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._every_s)

    def _work(self) -> None:
        mine = threading.current_thread()
        while True:
            with self._lock:
                if self._thread is mine:  # else it was closed before this thread came here
                    self._clock.wait(self._closing, self._every_s)
                runs = list(self._runs.values())
                if not runs or self._thread is not mine:
                    if self._thread is mine:
                        self._thread = None
                    return
            for run in runs:
                if not self._renew(run):
                    self.remove(run)


class _Keeping:
    __slots__ = ("_keeper", "_run")

    def __init__(self, keeper: ClaimKeeper, run: Run) -> None:
        self._keeper, self._run = keeper, run

    def __enter__(self) -> None:
        self._keeper.add(self._run)

    def __exit__(self, *_: object) -> None:
        self._keeper.remove(self._run)
