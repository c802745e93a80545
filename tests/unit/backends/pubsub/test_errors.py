# SPDX-License-Identifier: Apache-2.0
"""What only Pub/Sub can say."""

from types import SimpleNamespace
from typing import Any

import grpc
from google.api_core import exceptions

from queuekit.backend import ErrorCode
from queuekit.backends.pubsub import DifferentSettingsError, OtherTopicError
from queuekit.backends.pubsub._errors import DamagedAnswerError, classify, of_ack_ids


def error(status: str, text: str = "", **more: Any) -> Exception:
    made: Exception = exceptions.from_grpc_status(grpc.StatusCode[status], text, **more)
    return made


def test_our_own_errors_say_what_they_say() -> None:
    assert classify(DifferentSettingsError("differs")).code is ErrorCode.EXISTS
    assert classify(DifferentSettingsError("differs")).detail == "differs"
    assert classify(OtherTopicError("other")).code is ErrorCode.REFUSED
    damaged = classify(DamagedAnswerError("two ids"))
    assert (damaged.retryable, damaged.sent, damaged.detail) == (True, "maybe", "two ids")


def test_what_became_of_single_leases_is_read_from_the_details() -> None:
    told = {"a": "PERMANENT_FAILURE_INVALID_ACK_ID", "b": "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE", "other": "x"}
    failed = error("FAILED_PRECONDITION", "", details=[SimpleNamespace(metadata=told), "text", SimpleNamespace()])
    assert of_ack_ids(failed) == {"a": told["a"], "b": told["b"]}
    assert of_ack_ids(error("UNAVAILABLE")) == {}
    assert of_ack_ids(ValueError()) == {}
