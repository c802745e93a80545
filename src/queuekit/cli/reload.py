# SPDX-License-Identifier: Apache-2.0
"""``queuekit worker --reload``: run the worker in a child process, and start it anew when a file changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from queuekit.cli.showing import say

_LOOK_EVERY_S = 0.5
_IGNORED = frozenset({"__pycache__", "node_modules", "site-packages"})


def run_with_reload(arguments: Sequence[str], *, folder: Path) -> int:
    """Run ``queuekit worker`` with these arguments until it is told to stop. Returns the last child's exit code.

    A change of a Python file below the folder stops the child as SIGTERM does, so that it drains, and starts
    another. A child that ends by itself, as one with a syntax error does, waits for the next change.
    """
    supervisor = _Supervisor([sys.executable, "-m", "queuekit.cli", "worker", *arguments], folder)
    before = {each: signal.signal(each, supervisor.stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        return supervisor.run()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Supervisor:
    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command, self._folder = command, folder
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._told: subprocess.Popen[bytes] | None = None

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Pass a request to stop on to the child; a second one too, which cuts its drain short."""
        self._stopping.set()
        if self._child is not None and self._child.poll() is None:
            self._told = self._child
            self._child.send_signal(number)

    def run(self) -> int:
        code = 0
        while not self._stopping.is_set():
            seen = _stamps(self._folder)
            # A session of its own: a Ctrl-C of the terminal comes to it through us, and so only once.
            self._child = subprocess.Popen(self._command, cwd=self._folder, start_new_session=True)
            if self._stopping.is_set() and self._told is not self._child:
                self._child.terminate()  # the request came while there was nobody to pass it to
            changed = self._await_change(seen)
            if changed is not None:
                say(f"queuekit: {changed} changed; starting the worker anew")
                self._child.terminate()
            code = self._child.wait()
        return code

    def _await_change(self, seen: dict[str, int]) -> str | None:
        """The file that changed; None when the worker is to stop."""
        told = False
        while not self._stopping.wait(_LOOK_EVERY_S):
            changed = next((name for name, _ in seen.items() ^ _stamps(self._folder).items()), None)
            if changed is not None:
                return changed
            if self._child is not None and self._child.poll() is not None and not told:
                told = True
                say(f"queuekit: the worker ended with {self._child.returncode}; waiting for a change")
        return None


def _stamps(folder: Path) -> dict[str, int]:
    """Python files to the time of their last change."""
    return dict(_walk(str(folder)))


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # removed meanwhile, or not ours to read
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _IGNORED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif entry.name.endswith(".py") and (stamp := _stamp(entry)) is not None:
            yield entry.path, stamp


def _stamp(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_mtime_ns
    except OSError:
        return None
