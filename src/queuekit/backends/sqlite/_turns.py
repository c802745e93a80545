# SPDX-License-Identifier: Apache-2.0
"""Turn-taking among the processes that write to one file.

SQLite's own wait for a lock sleeps and looks again, so that whoever has just written mostly writes again, while
others wait for a second and more. Here a process waits in the kernel instead, on two lock files beside the
database: ``-turn`` is held by who writes, ``-next`` by who comes after. Who has written must come to ``-next``
like everybody else, and so nobody is overtaken for long.

The two decide about fairness only. SQLite's lock still decides who writes, and whoever gets no turn in time,
because its holder is stopped or hangs, goes on to SQLite's lock without one.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PATIENCE_S = 1.0
"""Longest wait for a turn: far longer than eight busy processes need, and short beside a call's own limit."""

_LOOK_EVERY = 8
_OPEN: weakref.WeakSet[Turns] = weakref.WeakSet()
"""What a forked child must close: with an inherited file it would hold the turn of a parent that was killed."""


class Turns:
    """The turns of one process at one file.

    Args:
        database: Beside which the two files are.
        make: Whether they are made where there are none. Else there are turns from when others have made them.

    Concurrency:
        `taken` is entered by one thread at a time, and `close` by none meanwhile.
    """

    def __init__(self, database: Path, *, make: bool = True) -> None:
        self._paths = [database.with_name(database.name + suffix) for suffix in ("-turn", "-next")]
        self._create = os.O_CREAT if make else 0
        self._files: list[int] = []
        self._waiter: _Waiter | None = None
        self._possible = sys.platform != "win32"
        self._others = False
        self._count = 0

    @contextmanager
    def taken(self, timeout_s: float) -> Iterator[None]:
        """Hold a turn, or go on without one after ``timeout_s``, or after `PATIENCE_S` where that is shorter."""
        try:
            self._take(timeout_s)
            yield
        finally:
            # Also without a turn, which costs nothing: who is interrupted may have one and not know it.
            if self._files:
                fcntl.flock(self._files[0], fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files; a later turn opens them again. Idempotent."""
        if self._waiter is not None:
            self._waiter.close()  # which closes the files, as soon as it can
        else:
            self._close_files()
        self._files, self._waiter = [], None

    def close_in_child(self) -> None:
        """Let go of what a fork inherited; the parent's turn stays as it is."""
        self._close_files()
        self._files, self._waiter, self._possible = [], None, False

    def _close_files(self) -> None:
        for each in self._files:
            os.close(each)

    def _take(self, timeout_s: float) -> bool:
        if not self._possible or not (self._files or self._open()):
            return False
        if self._waiter is not None and self._waiter.waiting:
            return False  # an earlier writer gave up, and the turn has not come since: its holder hangs
        try:
            if self._take_at_once():
                return True
        except OSError:  # a file system without such locks
            self._possible = False
            return False
        if self._waiter is None:
            waiter = _Waiter(*self._files)
            try:
                waiter.start()
            except RuntimeError:  # there are too many threads, or the interpreter is about to end
                return False
            self._waiter = waiter
        return self._waiter.get(min(timeout_s, PATIENCE_S))

    def _take_at_once(self) -> bool:
        """Take the turn if nobody else is there. While others were met lately, nobody is overtaken for it."""
        self._count += 1
        if not self._others and self._count % _LOOK_EVERY:  # alone, as far as we know: half the cost
            self._others = not _try(self._files[0])
            return not self._others
        turn, following = self._files
        self._others = True
        try:
            if _try(following):
                self._others = not _try(turn)
        finally:
            fcntl.flock(following, fcntl.LOCK_UN)
        return not self._others

    def _open(self) -> bool:
        # A link is not followed, and what somebody else has put there must not make us wait.
        flags = os.O_RDWR | self._create | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        _OPEN.add(self)
        try:
            for path in self._paths:
                if path.exists() and path.stat().st_size:
                    # Not ours. Closing a database that this process uses would drop the locks it has there.
                    raise FileExistsError(path)
                self._files.append(os.open(path, flags, 0o600))
                found = os.fstat(self._files[-1])
                if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o600:
                    os.fchmod(self._files[-1], 0o600)  # the umask took our own right to it
        except OSError as error:
            self.close()
            self._possible = isinstance(error, FileNotFoundError)  # the folder or the file may come yet
            return False
        return True


class _Waiter(threading.Thread):
    """Waits for turns on behalf of writers: a wait in the kernel cannot be given a time limit, one for a thread can.

    Args:
        turn: The file of who writes; closed by the thread at its end.
        following: The file of who comes next, likewise.
    """

    def __init__(self, turn: int, following: int) -> None:
        super().__init__(name="queuekit-sqlite-turns", daemon=True)
        self._turn = turn
        self._following = following
        self._changed = threading.Condition()
        self._wanted = self._granted = self._closed = False
        self.waiting = False
        """Whether there is no answer yet to a wait, even one that was given up."""

    def get(self, timeout_s: float) -> bool:
        """Wait for a turn. The one that comes after the time is over is given back."""
        with self._changed:
            self.waiting = self._wanted = True
            self._granted = False
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: not self.waiting, max(timeout_s, 0.0))
            finally:
                self._wanted = False  # also when interrupted: a turn that comes then is given back
            return self._granted

    def close(self) -> None:
        """End the thread. One that hangs with a holder that hangs is left behind after `PATIENCE_S`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.join(PATIENCE_S)

    def run(self) -> None:
        """Wait whenever somebody asks."""
        try:
            while self._asked():
                self._answer(taken=self._wait())
        finally:
            os.close(self._turn)
            os.close(self._following)

    def _asked(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self._closed)
            return not self._closed

    def _wait(self) -> bool:
        try:
            fcntl.flock(self._following, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._turn, fcntl.LOCK_EX)
            finally:
                fcntl.flock(self._following, fcntl.LOCK_UN)
        except OSError:  # the system has no more locks: go on without
            return False
        return True

    def _answer(self, *, taken: bool) -> None:
        with self._changed:
            self.waiting = False
            self._granted = taken and self._wanted
            if taken and not self._granted:
                fcntl.flock(self._turn, fcntl.LOCK_UN)
            self._changed.notify_all()


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close_in_child() -> None:
    for each in list(_OPEN):
        each.close_in_child()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
