# SPDX-License-Identifier: Apache-2.0
"""What the exceptions of Google's clients mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from queuekit.backend import ErrorClass, ErrorCode

PERMANENT = "PERMANENT_"
TRANSIENT = "TRANSIENT_"
LEASE_IS_OVER = "PERMANENT_FAILURE_INVALID_ACK_ID"

NOT_FOUND = ErrorClass(
    ErrorCode.NOT_FOUND, scope="queue", sent="no", detail="the topic or the subscription does not exist"
)
NO_PERMISSION = ErrorClass(
    ErrorCode.ACCESS_DENIED, scope="queue", sent="no", detail="the credentials do not allow this call on the queue"
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
_OURS = ErrorClass(ErrorCode.BACKEND_BUG, sent="no", detail="the backend used Google's client wrongly; report it")

STATUSES: Mapping[str, ErrorClass] = {
    "ABORTED": replace(_DOWN, detail="the service gave the call up; see the cause"),
    "ALREADY_EXISTS": ErrorClass(ErrorCode.EXISTS, scope="queue", sent="no", detail="it exists already"),
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
_AUTH, _API = "google.auth.exceptions", "google.api_core.exceptions"


class DamagedAnswerError(Exception):
    """What arrived is no answer to what was asked."""


class DifferentSettingsError(Exception):
    """The topic or the subscription exists, with other settings than those that it should be made with."""


class OtherTopicError(Exception):
    """The subscription is one of another topic than the URL names."""


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, DamagedAnswerError):
        return replace(_DOWN, detail=str(error))
    if isinstance(error, DifferentSettingsError):
        return replace(STATUSES["ALREADY_EXISTS"], detail=str(error))
    if isinstance(error, OtherTopicError):
        return ErrorClass(ErrorCode.REFUSED, scope="queue", sent="no", detail=str(error))
    status = status_of(error)
    if status:
        return _of_status(status, str(error))
    for kind in type(error).__mro__:
        known = LOGINS if kind.__module__ == _AUTH else CALLS if kind.__module__ == _API else {}
        if kind.__name__ in known:
            return known[kind.__name__]
    return _LOST if isinstance(error, OSError) else ErrorClass(ErrorCode.UNKNOWN)


def status_of(error: BaseException) -> str:
    """The name of the status that a call ended with; empty where the error is none of a call."""
    status = getattr(error, "grpc_status_code", None)
    name = getattr(status, "name", "")
    return name if isinstance(name, str) else ""


def _of_status(status: str, text: str) -> ErrorClass:
    known = STATUSES.get(status, _DOWN)
    if known is _DOWN and any(each in text.lower() for each in _UNCONNECTED):
        return _UNREACHED
    if status == "UNAVAILABLE" and "credentials" in text.lower():
        return _CREDENTIALS_LATE
    return known


def of_ack_ids(error: BaseException) -> Mapping[str, str]:
    """What the service says of single leases that a call could not settle: the id of the lease to what happened.

    Empty where the call failed as a whole.
    """
    details: Any = getattr(error, "details", None)
    told = [getattr(each, "metadata", None) or {} for each in details] if isinstance(details, (list, tuple)) else []
    return {
        ack_id: what
        for metadata in told
        for ack_id, what in dict(metadata).items()
        if what.startswith((PERMANENT, TRANSIENT))
    }
