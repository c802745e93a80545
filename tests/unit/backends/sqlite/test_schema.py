# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import ErrorCode, OutgoingMessage
from queuekit.backends.sqlite import SchemaError
from queuekit.backends.sqlite._idempotency import SQLiteIdempotency
from queuekit.backends.sqlite._schema import MIGRATIONS, create_file, migrate
from queuekit.testing.clock import VirtualClock


@pytest.fixture
def made(tmp_path: Path) -> Path:
    create_file(tmp_path / "jobs.db", "abc", now=0.0)
    return tmp_path / "jobs.db"


def test_a_newer_schema_is_refused_with_the_remedy(open_queue: Any, made: Path) -> None:
    with closing(sqlite3.connect(made)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaError) as caught:
        open_queue().send([OutgoingMessage("m", b"")], timeout_s=1)
    told = open_queue().classify(caught.value)
    assert (told.code, told.retryable, told.sent) == (ErrorCode.REFUSED, False, "no")
    assert "upgrade queuekit" in told.detail


def test_another_applications_file_is_left_alone(open_queue: Any, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("CREATE TABLE customer (id)")
    before = (tmp_path / "jobs.db").read_bytes()
    with pytest.raises(SchemaError, match="another application"):
        open_queue().probe()
    assert (tmp_path / "jobs.db").read_bytes() == before


def test_a_file_that_an_idempotency_store_used_first_is_no_other_applications(
    open_queue: Any, clock: VirtualClock, tmp_path: Path
) -> None:
    store = SQLiteIdempotency(tmp_path / "jobs.db", clock)
    store.claim("key", owner="me", lease_s=5, fingerprint="f")
    open_queue().send([OutgoingMessage("m", b"")], timeout_s=1)
    assert store.complete("key", owner="me", keep_s=60)
    assert open_queue().stats().ready == 1
    store.close()


def test_an_empty_file_becomes_a_database(open_queue: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").touch()
    open_queue().send([OutgoingMessage("m", b"")], timeout_s=1)
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.row("R30", backend="sqlite", case="a migration fails midway")
@pytest.mark.parametrize("stop", range(20))
def test_an_interrupted_migration_leaves_the_old_state(made: Path, stop: int) -> None:
    statements = [f"CREATE TABLE later{index} (x)" for index in range(20)]
    statements.insert(stop, "SELECT no_such_column")
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        before = list(connection.execute("SELECT sql FROM sqlite_master"))
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, (*MIGRATIONS, statements), now=0.0)
        assert list(connection.execute("SELECT sql FROM sqlite_master")) == before
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_a_migration_goes_on_from_where_the_file_is(made: Path) -> None:
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        migrate(connection, (*MIGRATIONS, ["CREATE TABLE later (x)"]), now=0.0)
        migrate(connection, (*MIGRATIONS, ["CREATE TABLE later (x)"]), now=0.0)
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (0,)


def test_making_the_file_leaves_nothing_else(made: Path) -> None:
    create_file(made, "again", now=0.0)
    assert [each.name for each in made.parent.iterdir()] == ["jobs.db"]


def test_a_missing_directory_is_an_error_and_is_not_made(open_queue: Any, tmp_path: Path) -> None:
    queue = open_queue(file="nowhere/jobs.db")
    with pytest.raises(FileNotFoundError) as caught:
        queue.probe()
    assert queue.classify(caught.value).code is ErrorCode.NOT_FOUND
    assert not (tmp_path / "nowhere").exists()


def test_a_file_system_without_links(open_queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    queue = open_queue()
    queue.send([OutgoingMessage("m", b"")], timeout_s=1)
    assert queue.stats().ready == 1
    assert stat.S_IMODE((tmp_path / "jobs.db").stat().st_mode) == 0o600
