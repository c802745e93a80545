# SPDX-License-Identifier: Apache-2.0
"""What SQLite's and the operating system's errors mean."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Mapping

from queuekit.backend import ErrorClass, ErrorCode
from queuekit.backends.sqlite._schema import SchemaError

_BUSY = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", sent="no", detail="the database is busy"
)
_FAILING = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the operating system failed the call"
)
_FULL = ErrorClass(
    ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no", detail="the disk or the database is full"
)
_DENIED = ErrorClass(
    ErrorCode.ACCESS_DENIED, scope="queue", sent="no", detail="the database cannot be written; see its permissions"
)
_MISSING = ErrorClass(
    ErrorCode.NOT_FOUND,
    scope="queue",
    sent="no",
    detail="the database cannot be opened; its directory must exist and be open to this user",
)
_UNUSABLE = ErrorClass(
    ErrorCode.REFUSED, scope="queue", detail="the file is damaged or no queuekit database; restore or remove it"
)
_TOO_LARGE = ErrorClass(ErrorCode.TOO_LARGE, sent="no", detail="SQLite cannot hold a value of this length")
_BUG = ErrorClass(ErrorCode.BACKEND_BUG, detail="the backend used SQLite wrongly")
_CLOSED = ErrorClass(ErrorCode.CLOSED, sent="no", detail="the backend is closed")

SQLITE_CODES: Mapping[int, ErrorClass] = {
    sqlite3.SQLITE_ERROR: _UNUSABLE,
    sqlite3.SQLITE_INTERNAL: _BUG,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_ABORT: _FAILING,
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_NOMEM: _FAILING,
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_INTERRUPT: _FAILING,
    sqlite3.SQLITE_IOERR: _FAILING,
    sqlite3.SQLITE_CORRUPT: _UNUSABLE,
    sqlite3.SQLITE_NOTFOUND: _BUG,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CANTOPEN: _MISSING,
    sqlite3.SQLITE_PROTOCOL: _BUSY,
    sqlite3.SQLITE_EMPTY: _BUG,
    sqlite3.SQLITE_SCHEMA: _FAILING,
    sqlite3.SQLITE_TOOBIG: _TOO_LARGE,
    sqlite3.SQLITE_CONSTRAINT: _UNUSABLE,
    sqlite3.SQLITE_MISMATCH: _UNUSABLE,
    sqlite3.SQLITE_MISUSE: _BUG,
    sqlite3.SQLITE_NOLFS: _FULL,
    sqlite3.SQLITE_AUTH: _DENIED,
    sqlite3.SQLITE_FORMAT: _UNUSABLE,
    sqlite3.SQLITE_RANGE: _BUG,
    sqlite3.SQLITE_NOTADB: _UNUSABLE,
}
"""By primary result code; the extended ones hold the primary one in their low byte."""

_WITHOUT_CODE: tuple[tuple[type[sqlite3.Error], ErrorClass], ...] = (
    (sqlite3.DataError, _TOO_LARGE),
    (sqlite3.ProgrammingError, _CLOSED),
    (sqlite3.InterfaceError, _BUG),
    (sqlite3.NotSupportedError, _BUG),
    (sqlite3.InternalError, _BUG),
)

_ERRNOS: Mapping[int, ErrorClass] = {
    errno.ENOENT: _MISSING,
    errno.ENOTDIR: _MISSING,
    errno.EISDIR: _UNUSABLE,
    errno.ENAMETOOLONG: _MISSING,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, SchemaError):
        return ErrorClass(ErrorCode.REFUSED, scope="queue", sent="no", detail=str(error))
    if isinstance(error, sqlite3.Error):
        return _classify_sqlite(error)
    if isinstance(error, TimeoutError):
        return _BUSY
    if isinstance(error, OSError):
        return _ERRNOS.get(error.errno or 0, _FAILING)
    return ErrorClass(ErrorCode.UNKNOWN)


def _classify_sqlite(error: sqlite3.Error) -> ErrorClass:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return SQLITE_CODES.get(code & 0xFF, ErrorClass(ErrorCode.UNKNOWN))
    for kind, meaning in _WITHOUT_CODE:
        if isinstance(error, kind):
            return meaning
    return ErrorClass(ErrorCode.UNKNOWN)
