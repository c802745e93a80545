# SPDX-License-Identifier: Apache-2.0
"""What redis-py's exceptions and the server's answers mean."""

from __future__ import annotations

import re
import ssl
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
_CLUSTER_DOWN = replace(_NOT_READY, detail="the cluster is not whole, so that it takes no commands now")
_NO_WRITES = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="the server takes no writes: its own safeguards stop them; see its log",
)
_REPLICA = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="the server is a replica, which takes no writes; name the primary, or let Sentinels find it by a "
    "redis+sentinel URL",
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
    detail="the server belongs to a cluster, and the queue is on another of its nodes; use a redis+cluster URL",
)
_NO_CLUSTER = ErrorClass(
    ErrorCode.REFUSED,
    scope="connection",
    sent="no",
    detail="the server belongs to no cluster; use a redis URL, or rediss with TLS",
)
_NO_CERTIFICATE = ErrorClass(ErrorCode.REFUSED, scope="connection", sent="no")
_NO_TLS = ErrorClass(
    ErrorCode.REFUSED,
    scope="connection",
    sent="no",
    detail="the server does not speak TLS on this port; name the port that does, or use a URL without TLS",
)
_FOREIGN = ErrorClass(
    ErrorCode.REFUSED,
    scope="queue",
    detail="another program uses the queue's keys, which begin with 'qk:'; use another database or queue name",
)
_REFUSED = ErrorClass(ErrorCode.REFUSED, scope="queue", detail="the server refused the command; see the cause")
_NO_SUCH_COMMAND = ErrorClass(
    ErrorCode.UNSUPPORTED,
    scope="connection",
    sent="no",
    detail="the server lacks a command; Redis 6.2 or later, or Valkey, is needed, and no Sentinel",
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
    "ClusterDownError": _CLUSTER_DOWN,
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
    "MasterDownError": _REPLICA,
    "MaxConnectionsError": _CROWDED,
    "ModuleError": _REFUSED,
    "MovedError": _ELSEWHERE,
    "NoPermissionError": _NOT_ALLOWED,
    "NoScriptError": _NOT_READY,
    "NoSuchFieldsetError": _BUG,
    "OutOfMemoryError": _NO_MEMORY,
    "PubSubError": _BUG,
    "ReadOnlyError": _REPLICA,
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
    "CLUSTERDOWN": _CLUSTER_DOWN,
    "CROSSSLOT": _BUG,
    "EXECABORT": _BUG,
    "LOADING": _NOT_READY,
    "MASTERDOWN": _REPLICA,
    "MISCONF": _NO_WRITES,
    "MOVED": _ELSEWHERE,
    "NOAUTH": _DENIED,
    "NOPERM": _NOT_ALLOWED,
    "NOREPLICAS": _NO_WRITES,
    "NOSCRIPT": _NOT_READY,
    "OOM": _NO_MEMORY,
    "READONLY": _REPLICA,
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
_NOT_CLUSTERED = "cluster support disabled"
_NOT_TLS = "WRONG_VERSION_NUMBER"

_CERTIFICATES = {
    9: "is not valid yet; look at the clocks of both hosts",
    10: "has expired; the server needs a new one",
    18: "is signed by itself; name it by the option 'ca_file' if it is the right one",
    19: "is signed by an authority that is not trusted here; name that by the option 'ca_file'",
    20: "is signed by an authority that is not trusted here; name that by the option 'ca_file'",
    62: "is for other host names; use one of those in the URL",
    64: "is for other addresses; use one of those, or a name that it holds, in the URL",
}
"""By OpenSSL's number for what is wrong with a certificate."""


class NotConnectedError(exceptions.ConnectionError):
    """No connection could be made, so that nothing was sent. Why, is its cause."""


class ServerTooOldError(Exception):
    """The server is of a version that lacks what queues need."""


class NotPrimaryError(Exception):
    """The server is a replica."""


class NoNodeError(Exception):
    """No node of the cluster has the queue's slot."""


class UnknownServiceError(Exception):
    """The Sentinels know no service of this name, or are no Sentinels."""


class UnreadableFileError(Exception):
    """A file that the URL names cannot be read."""


_OURS: Mapping[type[Exception], ErrorClass] = {
    ServerTooOldError: ErrorClass(ErrorCode.UNSUPPORTED, scope="connection", sent="no"),
    NotPrimaryError: _REPLICA,
    NoNodeError: replace(_NOT_READY, detail="no node of the cluster has the queue's slot now"),
    UnknownServiceError: ErrorClass(ErrorCode.REFUSED, scope="connection", sent="no"),
    UnreadableFileError: ErrorClass(ErrorCode.REFUSED, scope="connection", sent="no"),
}


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, NotConnectedError):
        cause = error.__cause__
        meaning = _UNREACHED if cause is None else _by_handshake(cause) or classify(cause)
        return replace(meaning, sent="no")
    for ours, meaning in _OURS.items():
        if isinstance(error, ours):
            return meaning if meaning.detail else replace(meaning, detail=str(error))
    return _by_client(error)


def _by_client(error: BaseException) -> ErrorClass:
    if _TOO_MANY in str(error):
        return _CROWDED
    if isinstance(error, exceptions.ResponseError) and (answer := _by_answer(str(error))):
        return answer
    for kind in type(error).__mro__:
        if kind.__module__ == exceptions.__name__ and kind.__name__ in EXCEPTIONS:
            return EXCEPTIONS[kind.__name__]
    return _UNREACHED if isinstance(error, OSError) else ErrorClass(ErrorCode.UNKNOWN)


def shakes(error: BaseException) -> bool:
    """Whether an error makes it doubtful that the queue is on the server that was asked."""
    return isinstance(error, NotConnectedError) or classify(error) in {_UNREACHED, _SILENT, _REPLICA, _CLUSTER_DOWN}


def is_unknown_command(error: BaseException | None) -> bool:
    """Whether a server answered that it has no such command."""
    return isinstance(error, exceptions.ResponseError) and _UNKNOWN_COMMAND.search(str(error)) is not None


def _by_handshake(error: BaseException) -> ErrorClass | None:
    """What went wrong with TLS, from the error that redis-py hides behind its own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLCertVerificationError):
            wrong = _CERTIFICATES.get(inner.verify_code, f"cannot be trusted: {inner.verify_message}")
            return replace(_NO_CERTIFICATE, detail=f"the server's certificate {wrong}")
        if isinstance(inner, ssl.SSLError) and _NOT_TLS in str(inner):
            return _NO_TLS
        inner = inner.__cause__ or inner.__context__
    return None


def _by_answer(text: str) -> ErrorClass | None:
    word = _WORD.search(text)
    if word is not None:
        return PREFIXES[word[1]]
    if _NOT_CLUSTERED in text:
        return _NO_CLUSTER
    return _NO_SUCH_COMMAND if _UNKNOWN_COMMAND.search(text) else None
