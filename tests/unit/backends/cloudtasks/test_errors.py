# SPDX-License-Identifier: Apache-2.0
"""Everything that Google's client can raise has a meaning: an update of it is a review, not a surprise."""

import inspect
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.auth import exceptions as logins

from queuekit.backend import ErrorCode
from queuekit.backends.cloudtasks import DifferentSettingsError
from queuekit.backends.cloudtasks._errors import CALLS, STATUSES, classify, of_task

UNAVAILABLE, DENIED = ErrorCode.UNAVAILABLE, ErrorCode.ACCESS_DENIED


def raised(status: str, message: str = "no") -> Any:
    code = grpc.StatusCode[status]
    kind: Any = exceptions.exception_class_for_grpc_status(code)
    error = kind(message)
    error.grpc_status_code = code
    return error


def test_every_status_of_a_call_is_known() -> None:
    assert {each.name for each in grpc.StatusCode} - {"OK"} == set(STATUSES)
    for status, meaning in STATUSES.items():
        assert classify(raised(status)) == meaning


def test_every_exception_of_the_client_stands_for_a_status_or_is_known() -> None:
    others = {
        name
        for name, kind in vars(exceptions).items()
        if inspect.isclass(kind)
        and issubclass(kind, Exception)
        and kind.__module__ == exceptions.__name__
        and not issubclass(kind, exceptions.GoogleAPICallError)
    }
    assert others - {"GoogleAPIError"} == set(CALLS)


def test_every_exception_of_the_credentials_is_a_denial_or_a_delay() -> None:
    for kind in vars(logins).values():
        if inspect.isclass(kind) and issubclass(kind, logins.GoogleAuthError) and kind.__module__ == logins.__name__:
            error = kind.__new__(kind)
            assert classify(error).code in {UNAVAILABLE, DENIED}, kind


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        ("FAILED_PRECONDITION", "Queue does not exist.", ErrorCode.NOT_FOUND),
        ("FAILED_PRECONDITION", "The queue no longer exists, though a queue", ErrorCode.NOT_FOUND),
        ("FAILED_PRECONDITION", "The queue cannot be created because", ErrorCode.UNSUPPORTED),
        ("NOT_FOUND", "Queue does not exist. If you just", ErrorCode.NOT_FOUND),
        ("UNAVAILABLE", "failed to connect to all addresses", UNAVAILABLE),
    ],
)
def test_a_status_means_more_with_its_message(status: str, message: str, code: ErrorCode) -> None:
    assert classify(raised(status, message)).code is code


def test_a_call_that_was_not_connected_was_not_sent() -> None:
    assert classify(raised("UNAVAILABLE", "failed to connect to all addresses")).sent == "no"
    assert classify(raised("UNAVAILABLE", "Socket closed")).sent == "maybe"


@pytest.mark.parametrize(
    ("status", "message", "code", "sent"),
    [
        ("INVALID_ARGUMENT", "Task size too large", ErrorCode.TOO_LARGE, "no"),
        ("INVALID_ARGUMENT", "HttpRequest.url", ErrorCode.INVALID_MESSAGE, "no"),
        ("RESOURCE_EXHAUSTED", "quota", ErrorCode.THROTTLED, "no"),
        ("DEADLINE_EXCEEDED", "late", UNAVAILABLE, "maybe"),
    ],
)
def test_what_is_wrong_with_one_task_is_said_of_that_task(
    status: str, message: str, code: ErrorCode, sent: str
) -> None:
    error = raised(status, message)
    what = of_task(error)
    assert (what.code, what.sent, what.raw) == (code, sent, error)


def test_other_exceptions() -> None:
    assert classify(DifferentSettingsError("differs in rate")).detail == "differs in rate"
    assert classify(ConnectionResetError()).code is UNAVAILABLE
    assert classify(KeyError()).code is ErrorCode.UNKNOWN
