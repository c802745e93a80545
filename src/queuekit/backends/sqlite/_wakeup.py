# SPDX-License-Identifier: Apache-2.0
"""Waking consumers that wait, in this process and in others, without busy polling.

Each process that waits binds a datagram socket in a directory beside the database. Whoever commits a change
sends the queue's name to every socket there; a full or dead one costs a sender nothing. Whatever goes
unsaid (no Unix sockets, another user's process, a lost datagram) is noticed through ``PRAGMA
data_version``, four times a second.
"""

from __future__ import annotations

import os
import selectors
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from queuekit.backend import Clock

NET_S = 0.25
_LONGEST_ADDRESS = 100
_DATAGRAM = 2048
_TICK_S = 0.1


class Signal:
    """Tells the threads that wait for one queue that they should look again."""

    def __init__(self) -> None:
        self.count = 0
        self._condition = threading.Condition()

    def set(self) -> None:
        """Wake every waiter."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait(self, clock: Clock, seen: int, until: float) -> None:
        """Wait until `count` is no longer ``seen``, or the monotonic clock has reached ``until``."""
        with self._condition:
            while self.count == seen and (left := until - clock.monotonic()) > 0:
                clock.wait(self._condition, left)


class Directory:
    """Where the sockets of the waiting processes are, and how to reach them."""

    def __init__(self, database: Path, clock: Clock) -> None:
        self._path = database.with_name(database.name + "-wake")
        self._name = str(self._path)
        self._clock = clock
        self._lock = threading.Lock()
        self._listed: tuple[float, list[str]] = (0.0, [])
        self._sender: socket.socket | None = None
        self._handle: int | None = None

    def bind(self, name: str) -> socket.socket | None:
        """A socket that receives what others send; None where there can be none."""
        if not hasattr(socket, "AF_UNIX") or not self._make():
            return None
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            receiver.setblocking(False)
            # Under another name first, so that nobody finds it before its mode is right.
            receiver.bind(self._address("." + name))
            (self._path / ("." + name)).chmod(0o600)
            (self._path / ("." + name)).rename(self._path / name)
        except OSError:  # an address that is too long, a file system without sockets: the net catches it
            receiver.close()
            return None
        return receiver

    def poke(self, payload: bytes, but: str) -> None:
        """Send ``payload`` to every process that waits, but for the one called ``but``. Never blocks or fails."""
        for name in self._names():
            if name == but:
                continue
            try:
                self._socket().sendto(payload, self._address(name))
            except ConnectionRefusedError:  # its process is dead
                self.remove(name)
            except OSError:  # full, so it was poked before; or gone
                continue

    def remove(self, name: str) -> None:
        """Remove a socket's file."""
        with suppress(OSError):
            (self._path / name).unlink()

    def close(self) -> None:
        """Close what was opened for sending."""
        if self._sender is not None:
            self._sender.close()
        if self._handle is not None:
            os.close(self._handle)
        self._sender = self._handle = None

    def _make(self) -> bool:
        try:
            with suppress(FileExistsError):
                self._path.mkdir(mode=0o700)
                self._path.chmod(0o700)
            found = self._path.lstat()
        except OSError:
            return False
        private = not stat.S_IMODE(found.st_mode) & 0o077
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and private

    def _names(self) -> list[str]:
        try:
            changed = os.stat(self._name).st_mtime  # noqa: PTH116 - once a commit, and twice as fast
            if changed == self._listed[0]:
                return self._listed[1]
            names = [each.name for each in self._path.iterdir() if not each.name.startswith(".")]
        except OSError:
            return []
        # Two changes within one tick of the file system's clock have the same time.
        settled = changed < self._clock.time() - _TICK_S
        self._listed = (changed if settled else 0.0, names)
        return names

    def _socket(self) -> socket.socket:
        with self._lock:
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
            return self._sender

    def _address(self, name: str) -> str:
        path = str(self._path / name)
        if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
            return path
        # Socket addresses are short. Linux offers a short name for any open directory.
        with self._lock:
            if self._handle is None:
                self._handle = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return f"/proc/self/fd/{self._handle}/{name}"


class Listener:
    """The one thread of a process that listens for other processes; it sleeps while nobody waits.

    Args:
        directory: Where to bind.
        name: The socket's name.
        clock: For the time between two looks.
        connect: Opens a connection of the listener's own.
        wake: Called with the name of a changed queue, or with None when any may have changed.
    """

    def __init__(
        self,
        directory: Directory,
        name: str,
        clock: Clock,
        connect: Callable[[], sqlite3.Connection],
        wake: Callable[[str | None], None],
    ) -> None:
        self._directory = directory
        self._name = name
        self._clock = clock
        self._connect = connect
        self._wake = wake
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._bell, self._ringer = socket.socketpair()
        self._receiver = directory.bind(name)
        self._connection: sqlite3.Connection | None = None
        self._version = -1
        self._thread = threading.Thread(target=self._run, name="queuekit-sqlite-wakeup", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.notify()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread and remove the socket."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._ringer.send(b"\0")
        self._thread.join()
        for each in (self._bell, self._ringer, self._receiver, self._connection):
            if each is not None:
                each.close()
        self._directory.remove(self._name)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            if self._receiver is not None:
                selector.register(self._receiver, selectors.EVENT_READ)
            next_look = self._clock.monotonic()
            while self._wanted():
                selector.select(max(next_look - self._clock.monotonic(), 0.0))
                if self._receiver is not None:
                    self._drain(self._receiver)
                if self._clock.monotonic() >= next_look:
                    self._look()
                    next_look = self._clock.monotonic() + NET_S

    def _wanted(self) -> bool:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return not self._closed

    def _drain(self, receiver: socket.socket) -> None:
        names: set[str] = set()
        with suppress(BlockingIOError):
            while True:
                names.add(receiver.recv(_DATAGRAM).decode(errors="replace"))
        for name in names:
            self._wake(name)

    def _look(self) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        except (sqlite3.Error, OSError):
            version = -1  # whoever waits looks, and meets the error in its own call
            self._connection = None
        if version == self._version and version >= 0:
            return
        self._version = version
        self._wake(None)
