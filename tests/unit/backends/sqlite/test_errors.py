# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import ErrorCode, OutgoingMessage
from queuekit.backends.sqlite._errors import SQLITE_CODES, classify

_NO_ERRORS = {
    "SQLITE_OK",
    "SQLITE_DENY",
    "SQLITE_IGNORE",
    "SQLITE_NOTICE",
    "SQLITE_WARNING",
    "SQLITE_ROW",
    "SQLITE_DONE",
}
# The authorizer's action codes share the prefix and not the meaning.
_ACTIONS = {"SQLITE_ANALYZE", "SQLITE_ATTACH", "SQLITE_DELETE", "SQLITE_DETACH", "SQLITE_FUNCTION", "SQLITE_INSERT"}
_ACTIONS |= {"SQLITE_PRAGMA", "SQLITE_READ", "SQLITE_RECURSIVE", "SQLITE_REINDEX"}
_ACTIONS |= {"SQLITE_SAVEPOINT", "SQLITE_SELECT", "SQLITE_TRANSACTION", "SQLITE_UPDATE"}


def error_codes() -> list[str]:
    names = [name for name in dir(sqlite3) if name.startswith("SQLITE_") and name.count("_") == 1]
    return sorted(set(names) - _NO_ERRORS - _ACTIONS)


@pytest.mark.parametrize("name", error_codes())
def test_every_result_code_has_a_meaning(name: str) -> None:
    assert getattr(sqlite3, name) in SQLITE_CODES


@pytest.mark.parametrize("kind", [*sqlite3.Error.__subclasses__(), *sqlite3.DatabaseError.__subclasses__()])
def test_every_exception_class_is_classified(kind: type[sqlite3.Error]) -> None:
    if kind in {sqlite3.DatabaseError, sqlite3.OperationalError, sqlite3.IntegrityError}:
        return  # these always carry a code
    assert classify(kind()).code is not ErrorCode.UNKNOWN


@pytest.mark.parametrize(
    ("number", "code", "retryable"),
    [
        (errno.ENOSPC, ErrorCode.QUEUE_FULL, True),
        (errno.EACCES, ErrorCode.ACCESS_DENIED, False),
        (errno.EROFS, ErrorCode.ACCESS_DENIED, False),
        (errno.ENOENT, ErrorCode.NOT_FOUND, False),
        (errno.EMFILE, ErrorCode.UNAVAILABLE, True),
        (errno.EIO, ErrorCode.UNAVAILABLE, True),
    ],
)
def test_the_systems_errors(number: int, code: ErrorCode, retryable: bool) -> None:
    told = classify(OSError(number, "text"))
    assert (told.code, told.retryable) == (code, retryable)


def test_what_is_not_known_is_not_retried() -> None:
    assert (classify(KeyError()).code, classify(KeyError()).retryable) == (ErrorCode.UNKNOWN, False)


def test_a_file_that_is_no_database(open_queue: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database, but long enough to have a header" * 100)
    queue = open_queue()
    with pytest.raises(sqlite3.DatabaseError) as caught:
        queue.probe()
    assert (queue.classify(caught.value).code, queue.classify(caught.value).retryable) == (ErrorCode.REFUSED, False)


def test_a_locked_file_is_unavailable_and_nothing_was_sent(open_queue: Any, tmp_path: Path) -> None:
    queue = open_queue()
    queue.probe()
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            queue.send([OutgoingMessage("m", b"")], timeout_s=0.01)
    told = queue.classify(caught.value)
    assert (told.code, told.retryable, told.sent) == (ErrorCode.UNAVAILABLE, True, "no")
    queue.send([OutgoingMessage("m", b"")], timeout_s=1)
    assert queue.stats().ready == 1


def test_a_file_that_cannot_be_written(open_queue: Any, tmp_path: Path) -> None:
    open_queue().probe()
    reader = sqlite3.connect(f"file:{tmp_path}/jobs.db?mode=ro", uri=True)
    with closing(reader), pytest.raises(sqlite3.OperationalError) as caught:
        reader.execute("DELETE FROM message")
    assert (classify(caught.value).code, classify(caught.value).retryable) == (ErrorCode.ACCESS_DENIED, False)
