# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
import ssl

import pytest
from redis import exceptions

from queuekit.backend import ErrorCode
from queuekit.backends.redis import NotConnectedError, ServerTooOldError
from queuekit.backends.redis._errors import EXCEPTIONS, PREFIXES, classify, shakes

CLASSES = sorted(
    name
    for name, kind in vars(exceptions).items()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
)


@pytest.mark.parametrize("name", CLASSES)
def test_every_exception_of_the_client_is_classified(name: str) -> None:
    assert name in EXCEPTIONS, f"redis-py has a new exception, {name}: say what it means"


@pytest.mark.parametrize("prefix", sorted(PREFIXES))
def test_an_answer_is_known_by_its_first_word(prefix: str) -> None:
    assert classify(exceptions.ResponseError(f"{prefix} and what else the server says")) == PREFIXES[prefix]


@pytest.mark.parametrize("prefix", ["OOM", "READONLY", "NOPERM", "WRONGTYPE", "MISCONF", "NOREPLICAS"])
def test_an_answer_to_a_script_is_known_before_version_7_too(prefix: str) -> None:
    text = f"Error running script (call to f_0123): @user_script:12: @user_script: 12: -{prefix} something"
    assert classify(exceptions.ResponseError(text)) == PREFIXES[prefix]


@pytest.mark.parametrize(
    ("error", "code", "retryable", "sent"),
    [
        (exceptions.ConnectionError("reset"), ErrorCode.UNAVAILABLE, True, "maybe"),
        (exceptions.TimeoutError("no answer"), ErrorCode.UNAVAILABLE, True, "maybe"),
        (exceptions.BusyLoadingError("loading"), ErrorCode.UNAVAILABLE, True, "no"),
        (exceptions.ReadOnlyError("a replica"), ErrorCode.UNAVAILABLE, True, "no"),
        (exceptions.AuthenticationError("who?"), ErrorCode.ACCESS_DENIED, False, "no"),
        (exceptions.NoPermissionError("not you"), ErrorCode.ACCESS_DENIED, False, "no"),
        (exceptions.ConnectionError("max number of clients reached"), ErrorCode.UNAVAILABLE, True, "no"),
        (exceptions.ResponseError("unknown command 'EVALSHA'"), ErrorCode.UNSUPPORTED, False, "no"),
        (exceptions.ResponseError("something else"), ErrorCode.REFUSED, False, "maybe"),
        (ConnectionResetError("reset"), ErrorCode.UNAVAILABLE, True, "maybe"),
        (ServerTooOldError("Redis 5 is too old"), ErrorCode.UNSUPPORTED, False, "no"),
        (ValueError("a bug"), ErrorCode.UNKNOWN, False, "maybe"),
    ],
)
def test_what_matters_about_an_error(error: Exception, code: ErrorCode, retryable: bool, sent: str) -> None:
    meaning = classify(error)
    assert (meaning.code, meaning.retryable, meaning.sent) == (code, retryable, sent)


def refused_certificate(number: int, message: str) -> Exception:
    """As redis-py raises it: the cause stands behind its own error."""
    inner = ssl.SSLCertVerificationError(1, f"certificate verify failed: {message}")
    inner.verify_code, inner.verify_message = number, message
    outer = exceptions.ConnectionError("Error 1 connecting")
    outer.__context__ = inner
    return outer


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (10, "has expired"),
        (18, "ca_file"),
        (19, "ca_file"),
        (20, "ca_file"),
        (62, "host names"),
        (64, "addresses"),
        (99, "quite unknown"),
    ],
)
def test_a_certificate_that_is_refused_is_named_with_its_remedy(number: int, hint: str) -> None:
    error = NotConnectedError("no")
    error.__cause__ = refused_certificate(number, "quite unknown")
    meaning = classify(error)
    assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.REFUSED, False, "no")
    assert meaning.detail.startswith("the server's certificate ")
    assert hint in meaning.detail


def test_a_server_that_answers_without_tls_is_named() -> None:
    error = NotConnectedError("no")
    error.__cause__ = exceptions.ConnectionError("Error 1 connecting")
    error.__cause__.__context__ = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    meaning = classify(error)
    assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.REFUSED, False, "no")
    assert "does not speak TLS" in meaning.detail


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("reset"), True),
        (exceptions.TimeoutError("no answer"), True),
        (NotConnectedError("refused"), True),
        (exceptions.ReadOnlyError("a replica"), True),
        (exceptions.ResponseError("CLUSTERDOWN Hash slot not served"), True),
        (exceptions.ResponseError("MASTERDOWN Link with MASTER is down"), True),
        (exceptions.TryAgainError("Multiple keys request"), False),
        (exceptions.OutOfMemoryError("full"), False),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), False),
    ],
)
def test_what_makes_it_doubtful_where_a_queue_is(error: Exception, expected: bool) -> None:
    assert shakes(error) is expected


def test_a_subclass_that_is_not_in_the_table_means_what_its_parent_means() -> None:
    class NewError(exceptions.BusyLoadingError):
        pass

    assert classify(NewError("loading")) == EXCEPTIONS["BusyLoadingError"]


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (exceptions.ConnectionError("refused"), ErrorCode.UNAVAILABLE),
        (exceptions.TimeoutError("no answer"), ErrorCode.UNAVAILABLE),
        (exceptions.AuthenticationError("WRONGPASS"), ErrorCode.ACCESS_DENIED),
    ],
)
def test_where_no_connection_was_made_nothing_was_sent(cause: Exception, code: ErrorCode) -> None:
    error = NotConnectedError(str(cause))
    error.__cause__ = cause
    assert (classify(error).code, classify(error).sent) == (code, "no")
    assert classify(NotConnectedError("without a cause")).sent == "no"
