# SPDX-License-Identifier: Apache-2.0
"""Everything that Google's clients can raise has a meaning: an update of one is a review, not a surprise."""

import inspect
from types import ModuleType
from typing import Any

import google.auth.exceptions as logins
import grpc
import pytest
from google.api_core import exceptions

from queuekit.backend import ErrorCode
from queuekit.backends._google.errors import CALLS, LOGINS
from queuekit.backends.cloudtasks import _errors as cloudtasks
from queuekit.backends.pubsub import _errors as pubsub

OF_ALL = {"GoogleAPICallError", "GoogleAPIError", "ClientError", "Redirection", "ServerError"}
OF_UPLOADS = {
    "MissingStatusHeaderError",
    "ResumableTransferError",
    "TransferStalledError",
    "UnseekableStreamError",
    "UploadCancelledError",
}
BACKENDS = [pytest.param(pubsub, id="pubsub"), pytest.param(cloudtasks, id="cloudtasks")]


@pytest.fixture(params=BACKENDS)
def errors(request: pytest.FixtureRequest) -> Any:
    return request.param


def error(status: str, text: str = "") -> Exception:
    made: Exception = exceptions.from_grpc_status(grpc.StatusCode[status], text)
    return made


def classes_of(module: ModuleType) -> dict[str, Any]:
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__
    }


def test_every_status_of_a_call_is_known(errors: Any) -> None:
    assert set(errors.STATUSES) == {each.name for each in grpc.StatusCode} - {"OK"}
    for status, meaning in errors.STATUSES.items():
        assert errors.classify(error(status)) == meaning


@pytest.mark.parametrize(
    ("status", "code", "retryable", "sent"),
    [
        ("ABORTED", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("ALREADY_EXISTS", ErrorCode.EXISTS, False, "no"),
        ("CANCELLED", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("DATA_LOSS", ErrorCode.UNAVAILABLE, False, "maybe"),
        ("DEADLINE_EXCEEDED", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("FAILED_PRECONDITION", ErrorCode.UNSUPPORTED, False, "no"),
        ("INTERNAL", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("INVALID_ARGUMENT", ErrorCode.REFUSED, False, "no"),
        ("NOT_FOUND", ErrorCode.NOT_FOUND, False, "no"),
        ("OUT_OF_RANGE", ErrorCode.REFUSED, False, "no"),
        ("PERMISSION_DENIED", ErrorCode.ACCESS_DENIED, False, "no"),
        ("RESOURCE_EXHAUSTED", ErrorCode.THROTTLED, True, "no"),
        ("UNAUTHENTICATED", ErrorCode.ACCESS_DENIED, False, "no"),
        ("UNAVAILABLE", ErrorCode.UNAVAILABLE, True, "maybe"),
        ("UNIMPLEMENTED", ErrorCode.UNSUPPORTED, False, "no"),
        ("UNKNOWN", ErrorCode.UNAVAILABLE, True, "maybe"),
    ],
)
def test_what_a_status_means(errors: Any, status: str, code: ErrorCode, retryable: bool, sent: str) -> None:
    what = errors.classify(error(status, "text"))
    assert (what.code, what.retryable, what.sent) == (code, retryable, sent)


def test_every_exception_of_the_credentials_is_known() -> None:
    assert set(classes_of(logins)) - set(LOGINS) == set()


@pytest.mark.parametrize("name", sorted(LOGINS))
def test_without_credentials_nothing_was_sent(errors: Any, name: str) -> None:
    kind = classes_of(logins).get(name) or type(name, (Exception,), {"__module__": logins.__name__})
    what = errors.classify(kind.__new__(kind))
    assert what.sent == "no"
    assert what.code in {ErrorCode.ACCESS_DENIED, ErrorCode.UNAVAILABLE}
    assert what.retryable is (what.code is ErrorCode.UNAVAILABLE)


def test_an_exception_of_the_credentials_that_came_with_an_update_is_one_of_them(errors: Any) -> None:
    new = type("NewError", (logins.GoogleAuthError,), {"__module__": logins.__name__})
    assert errors.classify(new()).code is ErrorCode.ACCESS_DENIED


def test_every_exception_without_a_status_is_known() -> None:
    without = {
        name
        for name, kind in classes_of(exceptions).items()
        if getattr(kind, "grpc_status_code", None) is None and not getattr(kind, "code", None)
    }
    assert without - set(CALLS) - OF_ALL - OF_UPLOADS == set()


@pytest.mark.parametrize(
    "text",
    [
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused (111)",
        "DNS resolution failed for pubsub.googleapis.com:443",
    ],
)
def test_what_never_had_a_connection_sent_nothing(errors: Any, text: str) -> None:
    assert errors.classify(error("UNAVAILABLE", text)).sent == "no"
    assert errors.classify(error("UNAVAILABLE", "Socket closed")).sent == "maybe"


@pytest.mark.parametrize("cause", ["Reauthentication is needed", "HTTPConnectionPool: Max retries exceeded"])
def test_a_call_for_which_the_credentials_gave_no_token_was_not_sent(errors: Any, cause: str) -> None:
    what = errors.classify(error("UNAVAILABLE", f"Getting metadata from plugin failed with error: {cause}"))
    assert (what.code, what.retryable, what.sent) == (ErrorCode.UNAVAILABLE, True, "no")


def test_a_service_that_speaks_of_credentials_may_have_carried_the_call_out(errors: Any) -> None:
    assert errors.classify(error("UNAVAILABLE", "cannot check the credentials now")).sent == "maybe"


def test_other_exceptions(errors: Any) -> None:
    assert errors.classify(ConnectionResetError()).retryable
    assert errors.classify(KeyError()).code is ErrorCode.UNKNOWN
