# SPDX-License-Identifier: Apache-2.0
"""Everything that boto3 and the service can say has a meaning: an update of either is a review, not a surprise."""

import inspect
from typing import Any

import botocore.session
import pytest
from botocore import exceptions

from queuekit.backend import ErrorCode
from queuekit.backends.sqs import DamagedAnswerError
from queuekit.backends.sqs._errors import CODES, EXCEPTIONS, classify, of_entry, plain_code

_WARNINGS = {"ImminentRemovalWarning", "UnsupportedTLSVersionWarning"}


def answer(code: str, *, query: str = "", status: int = 400, message: str = "") -> exceptions.ClientError:
    error: dict[str, str] = {"Code": code, "Message": message}
    if query:
        error["QueryErrorCode"] = query
    response: Any = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(response, "SendMessageBatch")


def test_every_exception_of_botocore_is_known() -> None:
    known = {
        name
        for name, kind in vars(exceptions).items()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
    }
    assert known - set(EXCEPTIONS) - _WARNINGS == {"ClientError"}


def test_every_error_of_the_service_is_known() -> None:
    model = botocore.session.get_session().get_service_model("sqs")
    assert {shape.name for shape in model.error_shapes} - set(CODES) == set()


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_means_the_same_with_its_prefixes_and_as_the_new_name(code: str) -> None:
    expected = classify(answer(code))
    for prefix in ("AWS.SimpleQueueService.", "com.amazonaws.sqs#"):
        assert classify(answer(prefix + code)) == expected
    assert classify(answer("SomethingOld", query=code)) == expected
    assert plain_code("AWS.SimpleQueueService." + code) == code


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (500, ErrorCode.UNAVAILABLE, True),
        (503, ErrorCode.UNAVAILABLE, True),
        (429, ErrorCode.THROTTLED, True),
        (403, ErrorCode.ACCESS_DENIED, False),
        (400, ErrorCode.UNKNOWN, False),
    ],
)
def test_an_unknown_code_goes_by_its_status(status: int, code: ErrorCode, retryable: bool) -> None:
    what = classify(answer("NobodyKnows", status=status))
    assert (what.code, what.retryable) == (code, retryable)


def test_what_cannot_have_been_sent_is_told_apart_from_what_may_have_been() -> None:
    refused = classify(exceptions.EndpointConnectionError(endpoint_url="http://x"))
    lost = classify(exceptions.ReadTimeoutError(endpoint_url="http://x"))
    assert (refused.sent, refused.retryable) == ("no", True)
    assert (lost.sent, lost.retryable) == ("maybe", True)
    assert classify(exceptions.NoCredentialsError()).retryable is False
    assert classify(DamagedAnswerError("x")).retryable is True
    assert classify(ValueError()).code is ErrorCode.UNKNOWN


def test_a_second_purge_within_a_minute_is_told_by_name_with_its_remedy() -> None:
    what = classify(answer("AWS.SimpleQueueService.PurgeQueueInProgress", status=403))
    assert (what.code, what.retry_after_s) == (ErrorCode.THROTTLED, 60.0)
    assert "60 s" in what.detail


@pytest.mark.parametrize(
    ("entry", "code", "retryable"),
    [
        ({"Code": "InternalError", "SenderFault": False}, ErrorCode.UNAVAILABLE, True),
        ({"Code": "Odd", "SenderFault": False}, ErrorCode.UNAVAILABLE, True),
        ({"Code": "Odd", "SenderFault": True}, ErrorCode.REFUSED, False),
        ({"Code": "InvalidMessageContents", "SenderFault": True}, ErrorCode.INVALID_MESSAGE, False),
        ({"Code": "ReceiptHandleIsInvalid", "SenderFault": True}, ErrorCode.LEASE_LOST, False),
        (
            {
                "Code": "InvalidParameterValue",
                "Message": "Reason: The receipt handle has expired.",
                "SenderFault": True,
            },
            ErrorCode.LEASE_LOST,
            False,
        ),
        (
            {
                "Code": "InvalidParameterValue",
                "Message": "Total VisibilityTimeout is beyond the limit",
                "SenderFault": True,
            },
            ErrorCode.REFUSED,
            False,
        ),
        (
            {
                "Code": "InvalidParameterValue",
                "Message": "Message must be shorter than 1024 bytes.",
                "SenderFault": True,
            },
            ErrorCode.TOO_LARGE,
            False,
        ),
    ],
)
def test_a_refused_entry_means_what_its_code_says_or_whose_fault_it_is(
    entry: dict[str, Any], code: ErrorCode, retryable: bool
) -> None:
    what = of_entry(entry)
    assert (what.code, what.retryable, what.scope) == (code, retryable, "entry")
