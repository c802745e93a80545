# SPDX-License-Identifier: Apache-2.0
"""What the exceptions of Google's client mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from queuekit.backend import ErrorClass, ErrorCode

NOT_FOUND = ErrorClass(ErrorCode.NOT_FOUND, scope="queue", sent="no", detail="the queue does not exist")
NO_PERMISSION = ErrorClass(
    ErrorCode.ACCESS_DENIED,
    scope="queue",
    sent="no",
    detail="the credentials do not allow this call on the queue, or not to act as its service account; see the cause",
)
_NO_LOGIN = ErrorClass(
    ErrorCode.ACCESS_DENIED, scope="connection", sent="no", detail="the service did not accept the credentials"
)
_NO_CREDENTIALS = ErrorClass(
    ErrorCode.ACCESS_DENIED,
    scope="connection",
    sent="no",
    detail="there are no usable credentials; see the cause, and Google's guide to application default credentials",
)
_CREDENTIALS_LATE = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="the source of the credentials did not answer",
)
_DOWN = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the service failed; see the cause"
)
_LOST = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the connection to the service was lost"
)
_UNREACHED = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    scope="connection",
    sent="no",
    detail="no connection to the service could be made",
)
_SILENT = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the service did not answer in time"
)
_BUSY = ErrorClass(
    ErrorCode.THROTTLED, retryable=True, scope="queue", sent="no", detail="the service asks for fewer calls"
)
_INVALID = ErrorClass(
    ErrorCode.REFUSED, scope="queue", sent="no", detail="the service refused a value of the call; see the cause"
)
_CANNOT = ErrorClass(
    ErrorCode.UNSUPPORTED, scope="queue", sent="no", detail="the service cannot do this with the queue; see the cause"
)
_EXISTS = ErrorClass(ErrorCode.EXISTS, scope="queue", sent="no", detail="it exists already")
_TOO_LARGE = ErrorClass(ErrorCode.TOO_LARGE, sent="no", detail="the task is larger than the queue takes")
_REFUSED = ErrorClass(
    ErrorCode.INVALID_MESSAGE, sent="no", detail="the service refused the task as it is; see the cause"
)
_OURS = ErrorClass(ErrorCode.BACKEND_BUG, sent="no", detail="the backend used Google's client wrongly; report it")

STATUSES: Mapping[str, ErrorClass] = {
    "ABORTED": replace(_DOWN, detail="the service gave the call up; see the cause"),
    "ALREADY_EXISTS": _EXISTS,
    "CANCELLED": _LOST,
    "DATA_LOSS": ErrorClass(ErrorCode.UNAVAILABLE, scope="queue", detail="the service lost data; see the cause"),
    "DEADLINE_EXCEEDED": _SILENT,
    "FAILED_PRECONDITION": _CANNOT,
    "INTERNAL": _DOWN,
    "INVALID_ARGUMENT": _INVALID,
    "NOT_FOUND": NOT_FOUND,
    "OUT_OF_RANGE": _INVALID,
    "PERMISSION_DENIED": NO_PERMISSION,
    "RESOURCE_EXHAUSTED": _BUSY,
    "UNAUTHENTICATED": _NO_LOGIN,
    "UNAVAILABLE": _DOWN,
    "UNIMPLEMENTED": _CANNOT,
    "UNKNOWN": _DOWN,
}
"""By the status of the gRPC call: all that there are but OK."""

CALLS: Mapping[str, ErrorClass] = {
    "AsyncRestUnsupportedParameterError": _OURS,
    "DuplicateCredentialArgs": _OURS,
    "RetryError": _SILENT,
}
"""By the name of the class in `google.api_core.exceptions`, where it stands for no status of a call."""

_LATE_LOGINS = frozenset({"TimeoutError", "TransportError"})
_UNCONNECTED = ("failed to connect", "connection refused", "name resolution", "dns resolution", "no route to host")
_NO_QUEUE = ("queue does not exist", "queue no longer exists")
_AUTH, _API = "google.auth.exceptions", "google.api_core.exceptions"


class DifferentSettingsError(Exception):
    """The queue exists, with other settings than those that it should be made with."""


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, DifferentSettingsError):
        return replace(_EXISTS, detail=str(error))
    status = status_of(error)
    if status:
        return _of_status(status, str(error).lower())
    for kind in type(error).__mro__:
        if kind.__module__ == _AUTH:
            return _CREDENTIALS_LATE if kind.__name__ in _LATE_LOGINS else _NO_CREDENTIALS
        if kind.__module__ == _API and kind.__name__ in CALLS:
            return CALLS[kind.__name__]
    return _LOST if isinstance(error, OSError) else ErrorClass(ErrorCode.UNKNOWN)


def of_task(error: Exception) -> ErrorClass:
    """What it means that a task could not be created, for that task alone where it can be told."""
    if status_of(error) in {"INVALID_ARGUMENT", "OUT_OF_RANGE"}:
        return replace(_TOO_LARGE if "too large" in str(error).lower() else _REFUSED, raw=error)
    return replace(classify(error), raw=error)


def status_of(error: BaseException) -> str:
    """The name of the status that a call ended with; empty where the error is none of a call."""
    status = getattr(error, "grpc_status_code", None)
    name = getattr(status, "name", "")
    return name if isinstance(name, str) else ""


def _of_status(status: str, text: str) -> ErrorClass:
    known = STATUSES.get(status, _DOWN)
    if known is _DOWN and any(each in text for each in _UNCONNECTED):
        return _UNREACHED
    if status == "UNAVAILABLE" and "credentials" in text:
        return _CREDENTIALS_LATE
    # A task for a queue that is not there is refused as a precondition that does not hold.
    return NOT_FOUND if known is _CANNOT and any(each in text for each in _NO_QUEUE) else known
