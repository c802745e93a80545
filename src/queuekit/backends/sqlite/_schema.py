# SPDX-License-Identifier: Apache-2.0
"""The tables, how they come into being, and how an older file becomes a newer one.

Where a message is, at any time, is told by exactly one of four places: a run in ``ready``, a run in
``delayed``, a run in a ``lease``, or none of them, for a message held behind the head of its ordering key. A
*run* is an unbroken range of sequence numbers that share their fate, so that the usual batch costs one row
in such a place and not one for each message.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

APPLICATION_ID = 0x716B6974
"""Marks the file as queuekit's, so that no other application's file is ever taken over."""

SEQUENCE_BITS = 45
"""A message's row id is its queue's id, then this many bits of its number in the queue."""

Migration = Sequence[str]

MIGRATIONS: Sequence[Migration] = (
    (
        # `held` counts every message of the queue, wherever it is. `next` is never used twice.
        f"""CREATE TABLE queue (
            id INTEGER PRIMARY KEY CHECK (id < {1 << (63 - SEQUENCE_BITS)}),
            name TEXT NOT NULL UNIQUE,
            next INTEGER NOT NULL DEFAULT 1 CHECK (next < {1 << SEQUENCE_BITS}),
            held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0)
        )""",
        # The body comes last: reading what stands before it does not read a long body's pages.
        """CREATE TABLE message (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            enqueued REAL NOT NULL,
            priority INTEGER NOT NULL DEFAULT 0,
            due REAL NOT NULL DEFAULT 0,
            findable INTEGER NOT NULL DEFAULT 0,
            key TEXT,
            attributes TEXT NOT NULL,
            metadata TEXT NOT NULL,
            body BLOB NOT NULL
        )""",
        "CREATE INDEX message_key ON message (key) WHERE key IS NOT NULL",
        # Only what is usually looked for by id: delayed messages, to cancel them, and dead letters.
        "CREATE INDEX message_id ON message (id) WHERE findable = 1",
        """CREATE TABLE ready (
            queue INTEGER NOT NULL,
            rank INTEGER NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            PRIMARY KEY (queue, rank, first)
        ) WITHOUT ROWID""",
        """CREATE TABLE delayed (
            first INTEGER PRIMARY KEY,
            last INTEGER NOT NULL,
            queue INTEGER NOT NULL,
            due REAL NOT NULL,
            rank INTEGER NOT NULL,
            attempt INTEGER NOT NULL
        )""",
        "CREATE INDEX delayed_due ON delayed (queue, due)",
        # Extending some of a lease's messages splits it: same id, so the same handles, another end.
        """CREATE TABLE lease (
            id INTEGER NOT NULL,
            until REAL NOT NULL,
            queue INTEGER NOT NULL,
            held INTEGER NOT NULL,
            runs TEXT NOT NULL,
            PRIMARY KEY (id, until)
        ) WITHOUT ROWID""",
        "CREATE INDEX lease_end ON lease (queue, until)",
        """CREATE TABLE dedup (
            queue INTEGER NOT NULL,
            dedup_id TEXT NOT NULL,
            until REAL NOT NULL,
            message_id TEXT NOT NULL,
            PRIMARY KEY (queue, dedup_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX dedup_end ON dedup (queue, until)",
        # The boot whose monotonic clock the leases count on.
        "CREATE TABLE host (boot TEXT NOT NULL)",
        "INSERT INTO host VALUES ('')",
    ),
    (
        # A row is one place for messages: the queue itself (no subscription), or one subscription of it.
        # `received`: somebody receives from it, so that it gets a copy of what is sent. `tidy`: when the first
        # of its messages, in `done` or by `expiry`, has been kept for long enough.
        f"""CREATE TABLE place (
            id INTEGER PRIMARY KEY CHECK (id < {1 << (63 - SEQUENCE_BITS)}),
            name TEXT NOT NULL,
            subscription TEXT NOT NULL DEFAULT '',
            next INTEGER NOT NULL DEFAULT 1 CHECK (next < {1 << SEQUENCE_BITS}),
            held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
            received INTEGER NOT NULL DEFAULT 0,
            done INTEGER NOT NULL DEFAULT 0 CHECK (done >= 0),
            tidy REAL,
            UNIQUE (name, subscription)
        )""",
        "INSERT INTO place (id, name, next, held, received) SELECT id, name, next, held, 1 FROM queue",
        "DROP TABLE queue",
        "ALTER TABLE place RENAME TO queue",
        "CREATE INDEX queue_tidy ON queue (tidy) WHERE tidy IS NOT NULL",
        """CREATE TABLE done (
            seq INTEGER PRIMARY KEY,
            queue INTEGER NOT NULL,
            until REAL NOT NULL,
            at REAL NOT NULL,
            attempt INTEGER NOT NULL,
            id TEXT NOT NULL,
            enqueued REAL NOT NULL,
            priority INTEGER NOT NULL,
            key TEXT,
            attributes TEXT NOT NULL,
            metadata TEXT NOT NULL,
            body BLOB NOT NULL
        )""",
        "CREATE INDEX done_end ON done (queue, until)",
        # How long dead letters are kept, by runs. A run may name messages that are gone.
        """CREATE TABLE expiry (
            queue INTEGER NOT NULL,
            until REAL NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            PRIMARY KEY (queue, until, first)
        ) WITHOUT ROWID""",
        # The dead letters that are there already are kept for the usual time from now on.
        f"""INSERT INTO expiry
            SELECT id, :now + 1209600.0, id << {SEQUENCE_BITS}, (id << {SEQUENCE_BITS}) + next - 1
            FROM queue WHERE substr(name, -5) = '.dead' AND held > 0""",  # noqa: S608 - our own text
        "UPDATE queue SET tidy = (SELECT min(until) FROM expiry WHERE queue = queue.id)",
        # Counts whoever has leased: the first half of the ids of leases, so that none is ever used twice.
        "ALTER TABLE host ADD COLUMN sessions INTEGER NOT NULL DEFAULT 0",
    ),
    (
        # Whether nothing of the place is handed out.
        "ALTER TABLE queue ADD COLUMN paused INTEGER NOT NULL DEFAULT 0",
    ),
)


_FOREIGN = "SELECT 1 FROM sqlite_master WHERE substr(tbl_name, 1, 9) <> 'queuekit_' LIMIT 1"
"""Anything of another application. An idempotency store may have been the first to use a file of the queues."""


class SchemaError(Exception):
    """The file is not one that this version of queuekit can use. The message is safe to show."""


def create_file(path: Path, token: str, *, now: float) -> None:
    """Make the database, complete and readable by its owner only, if it does not exist.

    It is made under another name and then linked into place, so that no process ever sees half of it, and so
    that no descriptor of the real file is closed here: closing one would drop the locks that other
    connections of this process hold on it (POSIX locks belong to the process).

    Raises:
        OSError: The directory is missing or cannot be written.
    """
    if path.exists():
        return
    draft = path.with_name(f".{path.name[:100]}.{token}.new")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection, now=now)
        link(draft, path)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def link(draft: Path, path: Path) -> bool:
    """Put a file that is complete in its place, to stay; False where another process was first, with one as good.

    Raises:
        OSError: The directory cannot be written.
    """
    first = True
    try:
        try:
            os.link(draft, path)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                raise
            # A file system without links: an empty file, which `migrate` will fill.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        first = False
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return first


def use_wal(connection: sqlite3.Connection, out_of_time: Callable[[], bool]) -> None:
    """Switch a file that was not made by `create_file` to the write-ahead log.

    Raises:
        SchemaError: The file system cannot hold one.
        sqlite3.OperationalError: Other processes kept the file locked until the time was over.
    """
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return  # asked first, because nobody has to be waited for
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            # The switch does not honour the busy timeout; a plain transaction does, and waits for the others.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or out_of_time():
                raise
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
            continue
        if mode != "wal":
            msg = f"the database is in journal mode {mode!r} and cannot use WAL; put it on a local disk"
            raise SchemaError(msg)
        return


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS, *, now: float) -> None:
    """Bring the tables up to date, one transaction a step; safe with any number of processes at once.

    Args:
        connection: Outside a transaction.
        migrations: From the first version on.
        now: UTC.

    Raises:
        SchemaError: The file belongs to a newer queuekit or to another application.
    """
    while _version(connection, len(migrations)) < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _version(connection, len(migrations))
            if version < len(migrations):
                for statement in migrations[version]:
                    connection.execute(statement, {"now": now})
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, newest: int) -> int:
    owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if owner != APPLICATION_ID and connection.execute(_FOREIGN).fetchone():
        msg = "the file is another application's database; give the queues a file of their own"
        raise SchemaError(msg)
    if version > newest:
        msg = f"the file has schema {version} and this queuekit knows up to {newest}; upgrade queuekit"
        raise SchemaError(msg)
    return version
