# SPDX-License-Identifier: Apache-2.0
"""What only Cloud Tasks can say."""

from typing import Any

import grpc
import pytest
from google.api_core import exceptions

from queuekit.backend import ErrorCode
from queuekit.backends.cloudtasks import DifferentSettingsError
from queuekit.backends.cloudtasks._errors import classify, of_task

UNAVAILABLE = ErrorCode.UNAVAILABLE


def raised(status: str, message: str = "no") -> Any:
    code = grpc.StatusCode[status]
    kind: Any = exceptions.exception_class_for_grpc_status(code)
    error = kind(message)
    error.grpc_status_code = code
    return error


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


def test_what_differs_is_said() -> None:
    what = classify(DifferentSettingsError("differs in rate"))
    assert (what.code, what.detail) == (ErrorCode.EXISTS, "differs in rate")
