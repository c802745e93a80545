# SPDX-License-Identifier: Apache-2.0
"""Which work was done, in a table of any SQLite file: the queues' own, or the application's database.

In the application's own database the mark can be written in the same transaction as the work's effect.
A claim in progress ends by the host's monotonic clock and boot; what is done is remembered by UTC.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from queuekit.backends.sqlite._options import file_of
from queuekit.backends.sqlite._schema import SchemaError, link, use_wal
from queuekit.backends.sqlite._turns import Turns
from queuekit.stores import Claim, ClaimState, Clock, InvalidURLError, QueueURL, StoreSpec

_BUSY_S = 5.0
_SWEPT = 50
# A claim that ran out is remembered for longer, because its owner may still complete it.
_AFTERLIFE_S = 3600.0
_CREATE = (
    """CREATE TABLE IF NOT EXISTS queuekit_idempotency (
        key TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        done INTEGER NOT NULL DEFAULT 0,
        boot TEXT NOT NULL,
        until REAL NOT NULL,
        sweep REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS queuekit_idempotency_sweep ON queuekit_idempotency (sweep)",
)
_PUT = """
    INSERT INTO queuekit_idempotency VALUES (:key, :owner, :fingerprint, 0, :boot, :until, :sweep)
    ON CONFLICT (key) DO UPDATE SET owner = :owner, fingerprint = :fingerprint, done = 0, boot = :boot,
        until = :until, sweep = :sweep
"""
_RENEW = """
    UPDATE queuekit_idempotency SET boot = ?, until = ?, sweep = ? WHERE key = ? AND owner = ? AND done = 0
"""
# What this owner has completed before is left as it is.
_COMPLETE = """
    UPDATE queuekit_idempotency SET
        until = CASE done WHEN 1 THEN until ELSE :until END,
        sweep = CASE done WHEN 1 THEN sweep ELSE :until END,
        done = 1
    WHERE key = :key AND owner = :owner
"""
_FORGET = "DELETE FROM queuekit_idempotency WHERE key = ? AND owner = ? AND done = 0"
# A claim that holds by the monotonic clock stays, wherever the wall clock is set. Where no boot has a name, it may be
# of another one, and only the wall clock tells.
_SWEEP = """
    DELETE FROM queuekit_idempotency WHERE key IN (
        SELECT key FROM queuekit_idempotency
        WHERE sweep <= :utc AND (done = 1 OR boot = '' OR boot <> :boot OR until <= :now)
        ORDER BY sweep LIMIT :limit
    )
"""
_CLAIMED = Claim(ClaimState.CLAIMED)
_DONE = Claim(ClaimState.DONE)
_MISMATCH = Claim(ClaimState.MISMATCH)


class _Here:
    """What belongs to one process; a forked child starts with a fresh one."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        # The queues' turns, if the file is theirs; beside an application's database nothing is made.
        self.turns = Turns(path, make=False)
        self.connection: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class SQLiteIdempotency:
    """Keys in one file, shared by every process of the host that opens it.

    Args:
        path: The file; made, readable by its owner only, where there is none.
        clock: Time.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        # Keyed by process: a connection must not be used, nor even closed, in a child that inherited it.
        self._processes: dict[int, _Here] = {}

    def claim(self, key: str, *, owner: str, lease_s: float, fingerprint: str) -> Claim:
        """See `IdempotencyStore.claim`."""
        boot = self._clock.boot_id()
        with self._writing() as connection:
            now, utc = self._clock.monotonic(), self._clock.time()
            connection.execute(_SWEEP, {"utc": utc, "now": now, "boot": boot, "limit": _SWEPT})
            row = connection.execute(
                "SELECT owner, fingerprint, done, boot, until FROM queuekit_idempotency WHERE key = ?", (key,)
            ).fetchone()
            answer = self._judge(row, owner, fingerprint, boot)
            if answer.state is ClaimState.CLAIMED:
                values = {"key": key, "owner": owner, "fingerprint": fingerprint, "boot": boot}
                times = {"until": now + lease_s, "sweep": utc + lease_s + _AFTERLIFE_S}
                connection.execute(_PUT, values | times)
            return answer

    def _judge(self, row: tuple[str, str, int, str, float] | None, owner: str, fingerprint: str, boot: str) -> Claim:
        if row is None:
            return _CLAIMED
        old_owner, old_fingerprint, done, old_boot, until = row
        left_s = until - (self._clock.time() if done else self._clock.monotonic())
        if left_s <= 0 or not (done or old_boot == boot):
            return _CLAIMED
        if old_fingerprint != fingerprint:
            return _MISMATCH
        if done:
            return _DONE
        return _CLAIMED if old_owner == owner else Claim(ClaimState.BUSY, left_s)

    def renew(self, key: str, *, owner: str, lease_s: float) -> bool:
        """See `IdempotencyStore.renew`."""
        until, sweep = self._clock.monotonic() + lease_s, self._clock.time() + lease_s + _AFTERLIFE_S
        with self._writing() as connection:
            return connection.execute(_RENEW, (self._clock.boot_id(), until, sweep, key, owner)).rowcount == 1

    def complete(self, key: str, *, owner: str, keep_s: float) -> bool:
        """See `IdempotencyStore.complete`."""
        with self._writing() as connection:
            return self.complete_in(connection, key, owner=owner, keep_s=keep_s)

    def complete_in(self, connection: object, key: str, *, owner: str, keep_s: float) -> bool:
        """See `Transactional.complete_in`; takes a `sqlite3.Connection` to the store's own file.

        Raises:
            TypeError: It is something else.
        """
        if not isinstance(connection, sqlite3.Connection):
            msg = f"expected a sqlite3.Connection to {self._path.name} and got {type(connection).__name__}"
            raise TypeError(msg)
        values = {"key": key, "owner": owner, "until": self._clock.time() + keep_s}
        return connection.execute(_COMPLETE, values).rowcount == 1

    def forget(self, key: str, *, owner: str) -> bool:
        """See `IdempotencyStore.forget`."""
        with self._writing() as connection:
            return connection.execute(_FORGET, (key, owner)).rowcount == 1

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        here = self._here()
        with here.lock:
            here.close()
            here.turns.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction. Threads wait for each other, and processes by the turns of the file's queues."""
        here = self._here()
        with here.lock:
            connection = self._connection(here)
            with here.turns.taken(_BUSY_S):
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    def _here(self) -> _Here:
        process = os.getpid()
        here = self._processes.get(process)
        return here if here is not None else self._processes.setdefault(process, _Here(self._path))

    def _connection(self, here: _Here) -> sqlite3.Connection:
        if here.connection is not None and here.file != _identify(self._path):
            here.close()  # the file was removed or replaced: nobody else would see what is written to the old one
        if here.connection is None:
            here.connection = self._open()
            here.file = _identify(self._path)
        return here.connection

    def _open(self) -> sqlite3.Connection:
        created = self._create()
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            if created:  # the mode of a file that is there already is its owner's choice
                until = self._clock.monotonic() + _BUSY_S
                with suppress(SchemaError):  # a file system without it: slower, and as good
                    use_wal(connection, lambda: self._clock.monotonic() >= until)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")  # others may be making the same tables
            for statement in _CREATE:
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> bool:
        """Make the file, readable by its owner only; False where there is one.

        Under another name first: closing the real file would drop the locks that other connections of this
        process may have on it by then.
        """
        if self._path.exists():
            return False
        draft = self._path.with_name(f".{self._path.name[:100]}.{self._clock.token_bytes(6).hex()}.new")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            return link(draft, self._path)
        finally:
            draft.unlink()


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _open(url: QueueURL, clock: Clock) -> SQLiteIdempotency:
    if url.options:
        msg = f"a sqlite store's URL takes no options, and has {', '.join(sorted(url.options))}; leave them out"
        raise InvalidURLError(msg)
    return SQLiteIdempotency(file_of(url), clock)


STORE = StoreSpec(open=_open, forms=("sqlite:///FILE",))
