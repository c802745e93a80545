# SPDX-License-Identifier: Apache-2.0
"""One database file: its connections, its transactions, and who is told of a change.

All backends of one owner that point to the same file share one `Database`. Writers of one process wait for
each other on a lock, processes take turns (`_turns`), and SQLite's own lock has the last word.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from queuekit.backend import Clock, SystemClock
from queuekit.backends.sqlite import _places, _schema
from queuekit.backends.sqlite._options import SQLiteOptions
from queuekit.backends.sqlite._turns import Turns
from queuekit.backends.sqlite._wakeup import Directory, Listener, Signal

MAX_LEASE_S = 43_200.0
_PAGE = 4096
_NO_LIMIT = 1 << 30
_LEASE_BITS = 32
_NO_WAIT_S = 0.1
"""Less than this is not taken off the time for the rest, because another busy timeout costs a statement."""
_PRAGMAS = (
    # What was deleted stays in free pages of a file that only its owner can read; wiping it costs a fifth.
    "PRAGMA secure_delete = OFF",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -8000",
    "PRAGMA wal_autocheckpoint = 1000",
    # A log that a long reader made grow is cut back to this at the next checkpoint.
    "PRAGMA journal_size_limit = 16777216",
    # macOS answers a plain fsync before the disk has the data.
    "PRAGMA fullfsync = ON",
)


class _Connection(sqlite3.Connection):
    """Remembers its busy timeout, so that it is set only when it changes."""

    busy_ms = -1

    def wait_for_others(self, timeout_s: float) -> None:
        """Let SQLite wait this long for other processes."""
        busy_ms = max(int(timeout_s * 1000), 0)
        if busy_ms != self.busy_ms:
            self.execute(f"PRAGMA busy_timeout = {busy_ms}")
            self.busy_ms = busy_ms


class _Here:
    """What belongs to one process; a forked child starts with a fresh one."""

    def __init__(self, database: Path, clock: Clock) -> None:
        self.lock = threading.Lock()
        self.writing = threading.Lock()
        self.turns = Turns(database)
        self.idle: list[_Connection] = []
        self.file: tuple[int, int] | None = None
        self.generation = 0
        self.disk_full = False
        self.boot: str | None = None
        self.lease_ids: Iterator[int] = iter(())
        self.signals: dict[str, Signal] = {}
        self.directory = Directory(database, clock)
        self.listener: Listener | None = None
        self.name = ""


class Database:
    """One file, opened at first use, again in a child after a fork, and again after `close`.

    Concurrency:
        Safe from any thread; a connection is used by one at a time.
    """

    def __init__(self, path: Path, options: SQLiteOptions, clock: Clock) -> None:
        self.path = path
        self._file = str(path)
        self._options = options
        self._clock = clock
        # Keyed by process: connections must not be used, nor even closed, in a child that inherited them.
        self._processes: dict[int, _Here] = {}
        self._users = 0
        self._users_lock = threading.Lock()

    def retain(self) -> None:
        """Count one more backend."""
        with self._users_lock:
            self._users += 1

    def release(self) -> None:
        """Count one backend less, and close when it was the last."""
        with self._users_lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.close()

    def close(self) -> None:
        """Close every idle connection and end the listener. Idempotent; a later use opens again."""
        here = self._here()
        with here.writing, here.lock:
            listener, here.listener = here.listener, None
            if listener is not None:
                listener.close()
            here.directory.close()
            here.turns.close()
            _forget(here)

    @contextmanager
    def writing(self, timeout_s: float, *, growing: bool = False) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end, rolled back by an exception.

        Args:
            timeout_s: Longest wait for other writers.
            growing: Whether it may use no more than the file's largest size. Others get a reserve, because
                a full queue must still drain.

        Raises:
            TimeoutError: Other threads of this process wrote all the time.
            sqlite3.Error: SQLite's own; also when other processes wrote all the time.
            OSError: The file cannot be made.
            SchemaError: The file cannot be used.
        """
        here = self._here()
        began = self._clock.monotonic()
        if not here.writing.acquire(timeout=max(timeout_s, 0.0)):
            msg = "other threads kept the database busy"
            raise TimeoutError(msg)
        try:
            left_s = self._left_s(timeout_s, began)
            with here.turns.taken(left_s), self._connection(here, self._left_s(timeout_s, began)) as connection:
                if self._options.max_size is not None:
                    pages = self._options.max_size // _PAGE if growing else _NO_LIMIT
                    connection.execute(f"PRAGMA max_page_count = {pages}")
                if here.disk_full:
                    here.disk_full = not _begin_log_anew(connection)
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            if full and not (growing and self._options.max_size):
                here.disk_full = True
            raise
        finally:
            here.writing.release()

    @contextmanager
    def reading(self, timeout_s: float, *, once: bool = False) -> Iterator[sqlite3.Connection]:
        """One read transaction: everything read in it is of one moment.

        Args:
            timeout_s: Longest wait for a lock; there is hardly ever one.
            once: Only one statement will be read, which needs no transaction around it.

        Raises:
            sqlite3.Error: SQLite's own.
            OSError: The file cannot be made.
            SchemaError: The file cannot be used.
        """
        with self._connection(self._here(), timeout_s) as connection:
            if once:
                yield connection
                return
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def next_lease(self, connection: sqlite3.Connection) -> int:
        """The id of a new lease, which nobody ever had in this file. Called in a write transaction.

        Whatever the clock, for two virtual ones with one seed draw the same numbers. Half of it counts who
        leases from the file, so that only the first lease of a process writes to it.
        """
        here = self._here()
        lease = next(here.lease_ids, None)
        if lease is None:
            update = "UPDATE host SET sessions = sessions + 1 RETURNING sessions"
            session = connection.execute(update).fetchone()[0]
            here.lease_ids = iter(range(session << _LEASE_BITS, (session + 1) << _LEASE_BITS))
            lease = next(here.lease_ids)
        return lease

    def signal(self, queue: str) -> Signal:
        """What the waiters for a queue in this process wait on."""
        return self._here().signals.setdefault(queue, Signal())

    def changed(self, *queues: str) -> None:
        """Wake whoever waits for these queues, here and in other processes. Call it after the commit."""
        here = self._here()
        for queue in queues:
            if (signal := here.signals.get(queue)) is not None:
                signal.set()
            here.directory.poke(queue.encode(), but=here.name)

    def listening(self) -> AbstractContextManager[None]:
        """While entered, changes by other processes reach the signals of this one."""
        if not isinstance(self._clock, SystemClock):
            return nullcontext()  # other processes do not share a virtual clock's time
        here = self._here()
        with here.lock:
            if self._users <= 0:
                return nullcontext()  # closed meanwhile: there must be no new thread
            if here.listener is None:
                here.name = f"{os.getpid()}-{self._clock.token_bytes(6).hex()}"
                here.listener = Listener(here.directory, here.name, self._clock, self._connect, self._wake)
            return here.listener

    def _left_s(self, timeout_s: float, began: float) -> float:
        waited_s = self._clock.monotonic() - began
        return timeout_s if waited_s < _NO_WAIT_S else timeout_s - waited_s

    def _here(self) -> _Here:
        process = os.getpid()
        here = self._processes.get(process)
        return here if here is not None else self._processes.setdefault(process, _Here(self.path, self._clock))

    def _wake(self, queue: str | None) -> None:
        signals = self._here().signals
        for name in list(signals) if queue is None else [queue]:
            if (signal := signals.get(name)) is not None:
                signal.set()

    @contextmanager
    def _connection(self, here: _Here, timeout_s: float) -> Iterator[sqlite3.Connection]:
        connection, generation = self._check_out(here, timeout_s)
        try:
            connection.wait_for_others(timeout_s)
            if here.boot != self._clock.boot_id():
                self._end_foreign_leases(connection)
                here.boot = self._clock.boot_id()
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            here.lease_ids = iter(())  # the count that they come from may be rolled back with the rest
            raise
        finally:
            with here.lock:
                if generation == here.generation and self._users > 0:
                    here.idle.append(connection)
                else:
                    connection.close()

    def _check_out(self, here: _Here, timeout_s: float) -> tuple[_Connection, int]:
        with here.lock:
            if here.file is not None and here.file != self._identify():
                # The file was removed or replaced: what is written to the old one would be lost.
                _forget(here)
            if here.idle:
                return here.idle.pop(), here.generation
            if here.file is None:
                self._prepare(timeout_s)
                here.file = self._identify()
            return self._connect(), here.generation

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._file)  # noqa: PTH116 - once a transaction, and twice as fast
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def _prepare(self, timeout_s: float) -> None:
        _schema.create_file(self.path, self._clock.token_bytes(6).hex(), now=self._clock.time())
        until = self._clock.monotonic() + timeout_s
        connection = self._connect()
        try:
            connection.wait_for_others(timeout_s)
            _schema.migrate(connection, now=self._clock.time())
            _schema.use_wal(connection, lambda: self._clock.monotonic() >= until)
        finally:
            connection.close()

    def _connect(self) -> _Connection:
        # As a URI, because only so SQLite can be told not to make a missing file; `as_uri` quotes every character.
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            connection.execute(f"PRAGMA synchronous = {self._options.durability}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _end_foreign_leases(self, connection: sqlite3.Connection) -> None:
        """End the leases that count on the clock of another boot of the host."""
        if not self._find_foreign_leases(connection):
            return  # asked first, because whoever only looks must not wait for a writer
        connection.execute("BEGIN IMMEDIATE")
        if where := self._find_foreign_leases(connection):
            _places.end_leases(connection, where, ())
            connection.execute("UPDATE host SET boot = ?", (self._clock.boot_id(),))
        connection.execute("COMMIT")

    def _find_foreign_leases(self, connection: sqlite3.Connection) -> str:
        """Which leases are not of this boot, as a condition; empty where there can be none."""
        boot = self._clock.boot_id()
        if connection.execute("SELECT boot FROM host").fetchone()[0] != boot:
            return "TRUE"
        # Without a boot's name, a lease that ends later than any can is one from before.
        foreign = f"until > {self._clock.monotonic() + MAX_LEASE_S!r}"
        if not boot and connection.execute(f"SELECT 1 FROM lease WHERE {foreign} LIMIT 1").fetchone():  # noqa: S608 - a number
            return foreign
        return ""


def _begin_log_anew(connection: sqlite3.Connection) -> bool:
    """After a full disk, have the log used from its start, so that draining needs no more room; whether it was.

    By itself SQLite does so at a thousand pages, and until then would fill what has just become free.
    """
    try:
        busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError:
        return False  # still no room; what is to be written now may need less
    return not busy and bool(frames == moved)


def _forget(here: _Here) -> None:
    for connection in here.idle:
        connection.close()
    here.idle.clear()
    here.file = here.boot = None
    here.lease_ids = iter(())
    here.generation += 1
