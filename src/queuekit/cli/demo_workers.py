# SPDX-License-Identifier: Apache-2.0
"""The demo's worker processes: started, killed, replaced, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

from queuekit.cli.demo_place import VARIABLE, Place

_COMMAND = (sys.executable, "-m", "queuekit.cli", "worker", "queuekit.cli.demo_app:app", "--log-level", "warning")
_STOP_S = 8.0


class Workers:
    """Worker processes of one run; leaving the ``with`` block ends them all.

    Args:
        place: Where they work.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> int:
        """Start one more. Returns its process id."""
        with self._place.log.open("ab") as log:
            started = subprocess.Popen(
                _COMMAND,
                env={**os.environ, VARIABLE: str(self._place.folder)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self._running[started.pid] = started
        return started.pid

    @property
    def pids(self) -> frozenset[int]:
        """The processes that should be alive."""
        return frozenset(self._running)

    def all_up(self) -> bool:
        """Whether every one is about to receive."""
        return all(self._place.mark_up(pid).exists() for pid in self._running)

    def failed(self) -> list[int]:
        """Exit codes of those that ended by themselves."""
        return [each.returncode for each in self._running.values() if each.poll() is not None]

    def kill(self, pid: int) -> None:
        """Kill a worker without a warning."""
        victim = self._running.pop(pid)
        victim.kill()
        _reap(victim)

    def stop(self) -> list[int]:
        """Ask all to drain, and wait. Returns their exit codes; one that does not stop is killed."""
        workers, self._running = list(self._running.values()), {}
        for each in workers:
            each.terminate()
        return [_reap(each) for each in workers]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            for pid in self.pids:
                self.kill(pid)
        self.stop()


def _reap(worker: subprocess.Popen[bytes]) -> int:
    try:
        return worker.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.wait()
    finally:
        if worker.stdin is not None:
            with suppress(OSError):
                worker.stdin.close()
