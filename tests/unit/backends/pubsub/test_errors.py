# SPDX-License-Identifier: Apache-2.0
"""Everything that Google's clients can say has a meaning: an update of one is a review, not a surprise."""

import inspect
from types import SimpleNamespace
from typing import Any

import google.auth.exceptions as auth_exceptions
import grpc
import pytest
from google.api_core import exceptions

from queuekit.backend import ErrorCode
from queuekit.backends.pubsub import DifferentSettingsError, OtherTopicError
from queuekit.backends.pubsub._errors import CALLS, LOGINS, STATUSES, DamagedAnswerError, classify, of_ack_ids

_ABSTRACT = {"GoogleAPICallError", "GoogleAPIError", "ClientError", "Redirection", "ServerError"}
_OF_UPLOADS = {"MissingStatusHeaderError", "ResumableTransferError", "TransferStalledError", "UnseekableStreamError"}


def error(status: str, text: str = "", **more: Any) -> Exception:
    made: Exception = exceptions.from_grpc_status(grpc.StatusCode[status], text, **more)
    return made


def test_every_status_of_grpc_is_known() -> None:
    assert set(STATUSES) == {each.name for each in grpc.StatusCode} - {"OK"}


def test_every_exception_of_googles_login_is_known() -> None:
    known = {
        name
        for name, kind in vars(auth_exceptions).items()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == auth_exceptions.__name__
    }
    assert known - set(LOGINS) - {"InvalidInput"} == set()


@pytest.mark.parametrize("name", sorted(LOGINS))
def test_a_failed_login_sent_nothing(name: str) -> None:
    kind = getattr(auth_exceptions, name, None)
    if kind is None:  # of another version
        kind = type(name, (Exception,), {"__module__": auth_exceptions.__name__})
    what = classify(kind("x"))
    assert what.sent == "no"
    assert what.code in {ErrorCode.ACCESS_DENIED, ErrorCode.UNAVAILABLE}
    assert what.retryable is (what.code is ErrorCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("status", "code", "retryable", "sent"),
    [
        ("ABORTED", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("ALREADY_EXISTS", ErrorCode.EXISTS, False, "no"),
        ("CANCELLED", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("DEADLINE_EXCEEDED", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("FAILED_PRECONDITION", ErrorCode.UNSUPPORTED, False, "no"),
        ("INTERNAL", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("INVALID_ARGUMENT", ErrorCode.REFUSED, False, "no"),
        ("NOT_FOUND", ErrorCode.NOT_FOUND, False, "no"),
        ("PERMISSION_DENIED", ErrorCode.ACCESS_DENIED, False, "no"),
        ("RESOURCE_EXHAUSTED", ErrorCode.THROTTLED, True, "no"),
        ("UNAUTHENTICATED", ErrorCode.ACCESS_DENIED, False, "no"),
        ("UNAVAILABLE", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("UNKNOWN", ErrorCode.UNAVAILABLE, True, "maybe"),
    ],
)
def test_what_a_status_means(status: str, code: ErrorCode, retryable: bool, sent: str) -> None:
    what = classify(error(status, "text"))
    assert (what.code, what.retryable, what.sent) == (code, retryable, sent)


@pytest.mark.parametrize(
    "text",
    [
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused (111)",
        "DNS resolution failed for pubsub.googleapis.com:443",
    ],
)
def test_what_never_had_a_connection_sent_nothing(text: str) -> None:
    assert classify(error("UNAVAILABLE", text)).sent == "no"
    assert classify(error("UNAVAILABLE", "Socket closed")).sent == "maybe"


def test_credentials_that_could_not_be_had_in_time_are_asked_for_again() -> None:
    what = classify(error("UNAVAILABLE", "Getting metadata from plugin failed with error: credentials"))
    assert (what.code, what.retryable, what.sent) == (ErrorCode.UNAVAILABLE, True, "no")


def test_every_exception_without_a_status_is_known() -> None:
    without = {
        name
        for name, kind in vars(exceptions).items()
        if inspect.isclass(kind)
        and issubclass(kind, exceptions.GoogleAPIError)
        and getattr(kind, "grpc_status_code", None) is None
        and not getattr(kind, "code", None)
    }
    assert without - set(CALLS) - _ABSTRACT - _OF_UPLOADS - {"UploadCancelledError"} == set()


def test_our_own_errors_say_what_they_say() -> None:
    assert classify(DifferentSettingsError("differs")).code is ErrorCode.EXISTS
    assert classify(DifferentSettingsError("differs")).detail == "differs"
    assert classify(OtherTopicError("other")).code is ErrorCode.REFUSED
    damaged = classify(DamagedAnswerError("two ids"))
    assert (damaged.retryable, damaged.sent, damaged.detail) == (True, "maybe", "two ids")
    assert classify(ConnectionResetError()).retryable
    assert classify(ValueError()).code is ErrorCode.UNKNOWN


def test_what_became_of_single_leases_is_read_from_the_details() -> None:
    told = {"a": "PERMANENT_FAILURE_INVALID_ACK_ID", "b": "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE", "other": "x"}
    failed = error("FAILED_PRECONDITION", "", details=[SimpleNamespace(metadata=told), "text", SimpleNamespace()])
    assert of_ack_ids(failed) == {"a": told["a"], "b": told["b"]}
    assert of_ack_ids(error("UNAVAILABLE")) == {}
    assert of_ack_ids(ValueError()) == {}
