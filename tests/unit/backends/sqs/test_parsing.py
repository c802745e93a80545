# SPDX-License-Identifier: Apache-2.0
"""Messages are read out of an answer as botocore reads them, and all else is left to it."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.parsers import create_parser

from queuekit._wiring.opening import Opener
from queuekit.backend import QueueURL, SystemClock
from queuekit.backends.sqs._messages import Reader
from queuekit.backends.sqs._parsing import read_messages_by

JSON = "application/x-amz-json-1.0"
TEXT = {"DataType": "String", "StringValue": "grüße"}
PACKED = {"DataType": "String", "StringValue": '{"id":"1","meta":{"type":"Email"}}'}
MESSAGE = {
    "MessageId": "m", "ReceiptHandle": "h", "Body": "hi", "MD5OfBody": "49f68a5c8493ec2c0bf489821c21fc3b",
    "Attributes": {
        "ApproximateReceiveCount": "1", "SentTimestamp": "1500", "ApproximateFirstReceiveTimestamp": "2000",
    },
}  # fmt: skip

READ: list[Callable[..., None]] = []
read_messages_by(lambda _name, handler: READ.append(handler))


def answer(body: Any, *, status: int = 200, kind: str = JSON) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {"headers": {"content-type": kind}, "status_code": status, "body": raw}


def by_botocore(response: dict[str, Any]) -> list[Any]:
    client = boto3.client("sqs", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    shape: Any = client.meta.service_model.operation_model("ReceiveMessage").output_shape
    found: list[Any] = create_parser("json").parse(response, shape)["Messages"]
    return found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"MessageAttributes": {"qk": PACKED, "a": TEXT}},
        {"MessageAttributes": {"n": {"DataType": "Number", "StringValue": "7", "BinaryValue": None}}},
        {"MessageAttributes": {"b": {"DataType": "Binary", "BinaryValue": "AP8=", "StringValue": None}}},
        {"MessageAttributes": None, "Attributes": None, "MD5OfMessageAttributes": None},
        {"Attributes": {"ApproximateReceiveCount": "3", "MessageGroupId": "group"}, "Unknown": [1]},
    ],
)
def test_a_message_is_the_one_that_botocore_reads(more: dict[str, Any]) -> None:
    response, found = answer({"Messages": [MESSAGE, {**MESSAGE, **more}]}), dict[str, Any]()
    expected = by_botocore(response)
    READ[0](response_dict=response, customized_response_dict=found, operation_model=None)
    assert response["body"] == b"{}", "botocore need not read them again"
    for ours, its in zip(found["Messages"], expected, strict=True):
        assert Reader(grouped=True).read(ours, "h", 1.0) == Reader(grouped=True).read(its, "h", 1.0)


@pytest.mark.parametrize(
    "response",
    [
        answer({"__type": "QueueDoesNotExist", "Messages": [MESSAGE]}, status=400),
        answer({"Messages": [MESSAGE]}, kind="text/xml"),
        answer(b"<html>"),
        answer({}),
        answer({"Messages": None}),
        answer([MESSAGE]),
        answer({"Messages": ["no message"]}),
        answer({"Messages": [{**MESSAGE, "MessageAttributes": {"b": {"DataType": "Binary", "BinaryValue": "A"}}}]}),
    ],
)
def test_anything_else_is_left_as_it_was(response: dict[str, Any]) -> None:
    before, found = dict(response), dict[str, Any]()
    READ[0](response_dict=response, customized_response_dict=found)
    assert (response, found) == (before, {})


def test_an_event_that_says_something_else_is_none_of_ours() -> None:
    READ[0](answer="as a later botocore may call it")


@pytest.mark.parametrize("client_of", ["polling", "calling"])
def test_both_clients_read_messages_so(monkeypatch: pytest.MonkeyPatch, client_of: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    def reply(request: Any, **_: Any) -> Any:
        headers: Any = {"content-type": JSON}
        unused: Any = None
        response: Any = AWSResponse(request.url, 200, headers, unused)
        response._content = json.dumps({"Messages": [{**MESSAGE, "Unknown": "botocore leaves it out"}]}).encode()
        return response

    opener = Opener(SystemClock())
    backend: Any = opener.open(QueueURL.parse("sqs://eu-west-1/orders"))
    client = getattr(backend._clients, client_of)()
    client.meta.events.register("before-send.sqs.ReceiveMessage", reply)
    (message,) = client.receive_message(QueueUrl="https://sqs.eu-west-1.amazonaws.com/1/orders")["Messages"]
    backend.close()
    opener.close()
    assert message["Unknown"] == "botocore leaves it out"
