# SPDX-License-Identifier: Apache-2.0
"""What the exceptions of Google's clients mean, whatever the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from queuekit.backend import ErrorClass, ErrorCode

DOWN = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, scope="connection", detail="the service failed; see the cause"
)
EXISTS = ErrorClass(ErrorCode.EXISTS, scope="queue", sent="no", detail="it exists already")
CANNOT = ErrorClass(
    ErrorCode.UNSUPPORTED, scope="queue", sent="no", detail="the service cannot do this with the queue; see the cause"
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
_OURS = ErrorClass(ErrorCode.BACKEND_BUG, sent="no", detail="the backend used Google's client wrongly; report it")

LOGINS: Mapping[str, ErrorClass] = {
    "ClientCertError": _NO_CREDENTIALS,
    "DefaultCredentialsError": _NO_CREDENTIALS,
    "GoogleAuthError": _NO_CREDENTIALS,
    "InvalidOperation": _NO_CREDENTIALS,
    "InvalidResource": _NO_CREDENTIALS,
    "InvalidType": _NO_CREDENTIALS,
    "InvalidValue": _NO_CREDENTIALS,
    "MalformedError": _NO_CREDENTIALS,
    "MutualTLSChannelError": _NO_CREDENTIALS,
    "OAuthError": _NO_CREDENTIALS,
    "OSError": _NO_CREDENTIALS,
    "ReauthFailError": _NO_CREDENTIALS,
    "ReauthSamlChallengeFailError": _NO_CREDENTIALS,
    "RefreshError": _NO_CREDENTIALS,
    "ResponseError": _NO_CREDENTIALS,
    "TimeoutError": _CREDENTIALS_LATE,
    "TransportError": _CREDENTIALS_LATE,
    "UserAccessTokenError": _NO_CREDENTIALS,
}
"""By the name of the class in `google.auth.exceptions`."""

CALLS: Mapping[str, ErrorClass] = {
    "AsyncRestUnsupportedParameterError": _OURS,
    "DuplicateCredentialArgs": _OURS,
    "RetryError": _SILENT,
}
"""By the name of the class in `google.api_core.exceptions`, where it stands for no status of a call."""

_UNCONNECTED = ("failed to connect", "connection refused", "name resolution", "dns resolution", "no route to host")
_UNSIGNED = "getting metadata from plugin failed"
"""gRPC's own words where the credentials gave no token for a call, which is not sent then."""
_AUTH, _API = "google.auth.exceptions", "google.api_core.exceptions"


def statuses(*, not_found: ErrorClass, no_permission: ErrorClass) -> Mapping[str, ErrorClass]:
    """By the status of the gRPC call: all that there are but OK.

    Args:
        not_found: That what the call is about does not exist.
        no_permission: That the credentials do not allow the call.
    """
    return {
        "ABORTED": replace(DOWN, detail="the service gave the call up; see the cause"),
        "ALREADY_EXISTS": EXISTS,
        "CANCELLED": _LOST,
        "DATA_LOSS": ErrorClass(ErrorCode.UNAVAILABLE, scope="queue", detail="the service lost data; see the cause"),
        "DEADLINE_EXCEEDED": _SILENT,
        "FAILED_PRECONDITION": CANNOT,
        "INTERNAL": DOWN,
        "INVALID_ARGUMENT": _INVALID,
        "NOT_FOUND": not_found,
        "OUT_OF_RANGE": _INVALID,
        "PERMISSION_DENIED": no_permission,
        "RESOURCE_EXHAUSTED": _BUSY,
        "UNAUTHENTICATED": _NO_LOGIN,
        "UNAVAILABLE": DOWN,
        "UNIMPLEMENTED": CANNOT,
        "UNKNOWN": DOWN,
    }


def classify(error: BaseException, known: Mapping[str, ErrorClass]) -> ErrorClass:
    """See `Backend.classify`.

    Args:
        error: The exception.
        known: A service's `statuses`.
    """
    status = status_of(error)
    if status:
        return _of_status(status, str(error).lower(), known)
    for kind in type(error).__mro__:
        table = LOGINS if kind.__module__ == _AUTH else CALLS if kind.__module__ == _API else {}
        if kind.__name__ in table:
            return table[kind.__name__]
    return _LOST if isinstance(error, OSError) else ErrorClass(ErrorCode.UNKNOWN)


def status_of(error: BaseException) -> str:
    """The name of the status that a call ended with; empty where the error is none of a call."""
    status = getattr(error, "grpc_status_code", None)
    name = getattr(status, "name", "")
    return name if isinstance(name, str) else ""


class UnlessStatus:
    """Leaves a ``with`` block without an exception where a call in it ended with a status that is no failure there.

    Args:
        status: The name of the status.
    """

    def __init__(self, status: str) -> None:
        self._status = status

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Whether it is the status."""
        return error is not None and status_of(error) == self._status


def _of_status(status: str, text: str, known: Mapping[str, ErrorClass]) -> ErrorClass:
    what = known.get(status, DOWN)
    if what is DOWN and any(each in text for each in _UNCONNECTED):
        return _UNREACHED
    if status == "UNAVAILABLE" and _UNSIGNED in text:
        return _CREDENTIALS_LATE
    return what
