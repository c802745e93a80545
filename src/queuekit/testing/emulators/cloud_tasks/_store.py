# SPDX-License-Identifier: Apache-2.0
"""Where the state outlives the emulator: nowhere, or in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from queuekit.testing.emulators.cloud_tasks._attempts import Entry
from queuekit.testing.emulators.cloud_tasks._messages import Queue, Task

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY, queue TEXT NOT NULL, named INTEGER NOT NULL, created REAL NOT NULL,
    data BLOB NOT NULL, body BLOB NOT NULL, executions INTEGER NOT NULL, previous INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, queue TEXT NOT NULL, until REAL NOT NULL);
CREATE INDEX IF NOT EXISTS tasks_by_queue ON tasks (queue);
"""


class Store(Protocol):
    """Takes every change; what was taken is there after `commit`."""

    def put_queue(self, queue: Any) -> None:
        """A queue is new or has other settings."""
        ...

    def drop_queue(self, name: str) -> None:
        """A queue and all that belongs to it is gone."""
        ...

    def put_task(self, queue: str, entry: Entry) -> None:
        """A task is new."""
        ...

    def put_attempt(self, entry: Entry) -> None:
        """All but the body of a task has changed."""
        ...

    def drop_task(self, entry: Entry) -> None:
        """A task is gone."""
        ...

    def put_name(self, queue: str, name: str, until: float) -> None:
        """A name cannot be used before then; the queue is empty for that of a queue."""
        ...

    def drop_name(self, name: str) -> None:
        """A name can be used again."""
        ...

    def commit(self) -> None:
        """Make sure that what was told so far outlives this process."""
        ...

    def close(self) -> None:
        """Nothing comes after this."""
        ...


class Forgetful:
    """State that ends with the emulator."""

    def put_queue(self, queue: Any) -> None:
        """Nothing."""

    def drop_queue(self, name: str) -> None:
        """Nothing."""

    def put_task(self, queue: str, entry: Entry) -> None:
        """Nothing."""

    def put_attempt(self, entry: Entry) -> None:
        """Nothing."""

    def drop_task(self, entry: Entry) -> None:
        """Nothing."""

    def put_name(self, queue: str, name: str, until: float) -> None:
        """Nothing."""

    def drop_name(self, name: str) -> None:
        """Nothing."""

    def commit(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class SQLiteStore:
    """State in a file. It outlives a killed emulator, but not a lost power supply: the disk is not waited for.

    Args:
        path: The file; made where there is none.

    Concurrency:
        One thread at a time; one emulator at a time, which the file's lock sees to.

    Raises:
        RuntimeError: The file is another emulator's at the moment, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            msg = (
                f"the file {str(path)!r} cannot be used ({error}); it must be no other's, nor another emulator's now"
            )
            raise RuntimeError(msg) from error

    def put_queue(self, queue: Any) -> None:
        """A queue is new or has other settings."""
        self._connection.execute(
            "INSERT OR REPLACE INTO queues VALUES (?, ?)", (queue.name, queue.SerializeToString())
        )

    def drop_queue(self, name: str) -> None:
        """A queue and all that belongs to it is gone."""
        self._connection.execute("DELETE FROM queues WHERE name = ?", (name,))
        self._connection.execute("DELETE FROM tasks WHERE queue = ?", (name,))
        self._connection.execute("DELETE FROM names WHERE queue = ?", (name,))

    def put_task(self, queue: str, entry: Entry) -> None:
        """A task is new."""
        self._connection.execute(
            "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(entry.number, queue, entry.named, entry.created, entry.task.SerializeToString(), entry.body),
                *(entry.executions, entry.previous, entry.reason),
            ),
        )

    def put_attempt(self, entry: Entry) -> None:
        """All but the body of a task has changed."""
        self._connection.execute(
            "UPDATE tasks SET data = ?, executions = ?, previous = ?, reason = ? WHERE number = ?",
            (entry.task.SerializeToString(), entry.executions, entry.previous, entry.reason, entry.number),
        )

    def drop_task(self, entry: Entry) -> None:
        """A task is gone."""
        self._connection.execute("DELETE FROM tasks WHERE number = ?", (entry.number,))

    def put_name(self, queue: str, name: str, until: float) -> None:
        """A name cannot be used before then; the queue is empty for that of a queue."""
        self._connection.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", (name, queue, until))

    def drop_name(self, name: str) -> None:
        """A name can be used again."""
        self._connection.execute("DELETE FROM names WHERE name = ?", (name,))

    def commit(self) -> None:
        """Make sure that what was told so far outlives this process."""
        if self._connection.in_transaction:
            self._connection.commit()

    def close(self) -> None:
        """Nothing comes after this."""
        self._connection.commit()
        self._connection.close()

    def queues(self) -> list[Any]:
        """Those that are kept."""
        return [Queue.FromString(data) for (data,) in self._connection.execute("SELECT data FROM queues")]

    def names(self) -> list[tuple[str, str, float]]:
        """Queue, name and time of the names that cannot be used, in the order of their times."""
        return list(self._connection.execute("SELECT queue, name, until FROM names ORDER BY until"))

    def tasks(self) -> Iterator[tuple[str, Entry]]:
        """Tasks with their queue, the oldest first. An attempt that was on its way is over, and has counted."""
        rows = self._connection.execute(
            "SELECT queue, data, body, number, created, named, executions, previous, reason FROM tasks ORDER BY 4"
        )
        for queue, data, body, number, created, named, *rest in rows:
            yield queue, Entry(Task.FromString(data), body, number, created, bool(named), *rest)


def _open(path: Path) -> sqlite3.Connection:
    # The bodies of tasks are for their owner alone; SQLite gives its other files the same mode.
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=1)
    try:
        # Another emulator on the same file would dispatch every task a second time.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in {0, _VERSION}:
            msg = f"the file {str(path)!r} is of another version ({version}); delete it to begin anew"
            raise RuntimeError(msg)
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()
    except BaseException:  # nobody else has it to close
        connection.close()
        raise
    return connection
