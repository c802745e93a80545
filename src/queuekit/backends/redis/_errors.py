# SPDX-License-Identifier: Apache-2.0
"""What redis-py's exceptions and the server's answers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from redis import exceptions

from queuekit.backend import ErrorClass, ErrorCode

_UNREACHED = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the connection to the server was lost"
)
_SILENT = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the server did not answer in time"
)
_NOT_READY = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="the server cannot take commands now: it is starting, busy, or its cluster is changing",
)
_NO_WRITES = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="the server takes no writes: it is a replica, or its own safeguards stop them; see its log",
)
_CROWDED = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", sent="no", detail="too many connections are open"
)
_NO_MEMORY = ErrorClass(
    ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no", detail="the server's maxmemory is reached"
)
_DENIED = ErrorClass(ErrorCode.ACCESS_DENIED, scope="connection", sent="no", detail="the server refused the login")
_NOT_ALLOWED = ErrorClass(
    ErrorCode.ACCESS_DENIED,
    scope="queue",
    sent="no",
    detail="the user may not run this command on the queue's keys, which begin with 'qk:'",
)
_ELSEWHERE = ErrorClass(
    ErrorCode.REFUSED,
    scope="connection",
    sent="no",
    detail="the server belongs to a cluster, and the queue is on another of its nodes; name that node",
)
_FOREIGN = ErrorClass(
    ErrorCode.REFUSED,
    scope="queue",
    detail="another program uses the queue's keys, which begin with 'qk:'; use another database or queue name",
)
_REFUSED = ErrorClass(ErrorCode.REFUSED, scope="queue", detail="the server refused the command; see the cause")
_NO_SUCH_COMMAND = ErrorClass(
    ErrorCode.UNSUPPORTED, scope="connection", sent="no", detail="the server lacks a command; 6.2 or later is needed"
)
_BUG = ErrorClass(ErrorCode.BACKEND_BUG, detail="the backend used the client wrongly")

EXCEPTIONS: Mapping[str, ErrorClass] = {
    "AskError": _NOT_READY,
    "AuthenticationError": _DENIED,
    "AuthenticationWrongNumberOfArgsError": _DENIED,
    "AuthorizationError": _DENIED,
    "BusyLoadingError": _NOT_READY,
    "ChildDeadlockedError": _UNREACHED,
    "ClusterCrossSlotError": _BUG,
    "ClusterDownError": _NOT_READY,
    "ClusterError": _NOT_READY,
    "ConnectionError": _UNREACHED,
    "CrossSlotTransactionError": _BUG,
    "DataError": _BUG,
    "ExecAbortError": _BUG,
    "ExternalAuthProviderError": _DENIED,
    "IncorrectPolicyType": _BUG,
    "InvalidPipelineStack": _BUG,
    "InvalidResponse": _UNREACHED,
    "LockError": _BUG,
    "LockNotOwnedError": _BUG,
    "MasterDownError": _NO_WRITES,
    "MaxConnectionsError": _CROWDED,
    "ModuleError": _REFUSED,
    "MovedError": _ELSEWHERE,
    "NoPermissionError": _NOT_ALLOWED,
    "NoScriptError": _NOT_READY,
    "NoSuchFieldsetError": _BUG,
    "OutOfMemoryError": _NO_MEMORY,
    "PubSubError": _BUG,
    "ReadOnlyError": _NO_WRITES,
    "RedisClusterException": _NOT_READY,
    "RedisError": _REFUSED,
    "ResponseError": _REFUSED,
    "SlotNotCoveredError": _NOT_READY,
    "TimeoutError": _SILENT,
    "TryAgainError": _NOT_READY,
    "WatchError": _BUG,
}
"""By the name of the class in `redis.exceptions`: which there are depends on the version of redis-py."""

PREFIXES: Mapping[str, ErrorClass] = {
    "ASK": _NOT_READY,
    "BUSY": _NOT_READY,
    "CLUSTERDOWN": _NOT_READY,
    "CROSSSLOT": _BUG,
    "EXECABORT": _BUG,
    "LOADING": _NOT_READY,
    "MASTERDOWN": _NO_WRITES,
    "MISCONF": _NO_WRITES,
    "MOVED": _ELSEWHERE,
    "NOAUTH": _DENIED,
    "NOPERM": _NOT_ALLOWED,
    "NOREPLICAS": _NO_WRITES,
    "NOSCRIPT": _NOT_READY,
    "OOM": _NO_MEMORY,
    "READONLY": _NO_WRITES,
    "TRYAGAIN": _NOT_READY,
    "UNBLOCKED": _NOT_READY,
    "UNKILLABLE": _NOT_READY,
    "WRONGPASS": _DENIED,
    "WRONGTYPE": _FOREIGN,
}
"""By the first word of the server's answer. Before version 7 the answer to a script holds it further inside."""

_WORD = re.compile(rf"(?:^|[\s-])({'|'.join(PREFIXES)})\b")
_UNKNOWN_COMMAND = re.compile(r"unknown (?:redis )?command", re.IGNORECASE)
_TOO_MANY = "max number of clients"


class NotConnectedError(exceptions.ConnectionError):
    """No connection could be made, so that nothing was sent. Why, is its cause."""


class ServerTooOldError(Exception):
    """The server is of a version that lacks what queues need."""


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, NotConnectedError):
        cause = error.__cause__
        meaning = _UNREACHED if cause is None else classify(cause)
        return replace(meaning, sent="no")
    if isinstance(error, ServerTooOldError):
        return ErrorClass(ErrorCode.UNSUPPORTED, scope="connection", sent="no", detail=str(error))
    if _TOO_MANY in str(error):
        return _CROWDED
    if isinstance(error, exceptions.ResponseError) and (meaning_of := _by_answer(str(error))):
        return meaning_of
    for kind in type(error).__mro__:
        if kind.__module__ == exceptions.__name__ and kind.__name__ in EXCEPTIONS:
            return EXCEPTIONS[kind.__name__]
    if isinstance(error, OSError):
        return _UNREACHED
    return ErrorClass(ErrorCode.UNKNOWN)


def _by_answer(text: str) -> ErrorClass | None:
    word = _WORD.search(text)
    if word is not None:
        return PREFIXES[word[1]]
    return _NO_SUCH_COMMAND if _UNKNOWN_COMMAND.search(text) else None
