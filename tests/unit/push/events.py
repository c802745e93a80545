# SPDX-License-Identifier: Apache-2.0
"""Events as AWS Lambda makes them of SQS messages, in the form that its Developer Guide documents."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from queuekit.backend import OutgoingMessage
from queuekit.backends.sqs._messages import Writer, group_of

STANDARD: Mapping[str, Any] = {
    "Records": [
        {
            "messageId": "6c8e0b5e-0001-4b1e-9a70-3f1d2c9b7a01",
            "receiptHandle": "AQEBreceipt+one==",
            "body": "a message",
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1700000049183",
                "SenderId": "AIDAEXAMPLESENDER0001",
                "ApproximateFirstReceiveTimestamp": "1700000049185",
            },
            "messageAttributes": {
                "myAttribute": {
                    "stringValue": "myValue",
                    "stringListValues": [],
                    "binaryListValues": [],
                    "dataType": "String",
                }
            },
            "md5OfBody": "70645f4a342b238e21cb034ffde4279b",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
            "awsRegion": "us-east-2",
        },
        {
            "messageId": "6c8e0b5e-0002-4b1e-9a70-3f1d2c9b7a02",
            "receiptHandle": "AQEBreceipt+two==",
            "body": "a message",
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1700000050636",
                "SenderId": "AIDAEXAMPLESENDER0001",
                "ApproximateFirstReceiveTimestamp": "1700000050649",
            },
            "messageAttributes": {},
            "md5OfBody": "70645f4a342b238e21cb034ffde4279b",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
            "awsRegion": "us-east-2",
        },
    ]
}
"""Of a standard queue, every field that the guide shows."""

FIFO: Mapping[str, Any] = {
    "Records": [
        {
            "messageId": "6c8e0b5e-0003-4b1e-9a70-3f1d2c9b7a03",
            "receiptHandle": "AQEBreceipt+three==",
            "body": "a message",
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1700000000774",
                "SequenceNumber": "18849496460467696128",
                "MessageGroupId": "1",
                "SenderId": "AIDAEXAMPLESENDER0002",
                "MessageDeduplicationId": "1",
                "ApproximateFirstReceiveTimestamp": "1700000000774",
            },
            "messageAttributes": {},
            "md5OfBody": "70645f4a342b238e21cb034ffde4279b",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:fifo.fifo",
            "awsRegion": "us-east-2",
        }
    ]
}
"""Of a FIFO queue."""


class Context:
    """Lambda's context, as far as anybody looks at it."""

    def __init__(self, clock: Any = None, left_s: float = 900.0, account: str = "123456789012") -> None:
        self._clock = clock
        self._end = left_s if clock is None else clock.monotonic() + left_s
        self.invoked_function_arn = f"arn:aws:lambda:us-east-2:{account}:function:shop"

    def get_remaining_time_in_millis(self) -> int:
        left_s = self._end if self._clock is None else self._end - self._clock.monotonic()
        return int(left_s * 1000)


def changed(event: Mapping[str, Any], position: int = 0, **fields: Any) -> dict[str, Any]:
    """An event with other fields in one of its records."""
    made: dict[str, Any] = copy.deepcopy(dict(event))
    made["Records"][position].update(fields)
    return made


def record(
    body: str,
    *,
    number: int = 0,
    queue: str = "orders",
    group: str | None = None,
    attempt: int = 1,
    attributes: Mapping[str, str | bytes] | None = None,
) -> dict[str, Any]:
    """A record of a message that anybody sent."""
    facts = {"ApproximateReceiveCount": str(attempt), "SentTimestamp": "1700000000000"}
    if group is not None:
        facts["MessageGroupId"] = group
    return {
        "messageId": f"id-{number}",
        "receiptHandle": f"handle-{number}",
        "body": body,
        "attributes": facts,
        "messageAttributes": {name: attribute(value) for name, value in (attributes or {}).items()},
        "md5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-2:123456789012:{queue}",
        "awsRegion": "us-east-2",
    }


def attribute(value: str | bytes) -> dict[str, Any]:
    """A native attribute in Lambda's form."""
    empty: dict[str, Any] = {"stringListValues": [], "binaryListValues": []}
    if isinstance(value, str):
        return {"stringValue": value, **empty, "dataType": "String"}
    return {"binaryValue": base64.b64encode(value).decode(), **empty, "dataType": "Binary"}


def ours(message: OutgoingMessage, *, queue: str = "orders", number: int = 0, attempt: int = 1) -> dict[str, Any]:
    """A record of a message that queuekit sent."""
    wire = Writer(grouped=queue.endswith(".fifo")).write(message)
    group = None if message.ordering_key is None else group_of(message.ordering_key)
    return record(
        wire.body, number=number, queue=queue, group=group, attempt=attempt, attributes=dict(wire.attributes)
    )


def event(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An event of these records."""
    return {"Records": list(records)}


def failed(answer: Mapping[str, Any]) -> list[str]:
    """The ids in an answer, whose form must be exactly Lambda's."""
    assert list(answer) == ["batchItemFailures"]
    assert all(list(each) == ["itemIdentifier"] for each in answer["batchItemFailures"])
    return [each["itemIdentifier"] for each in answer["batchItemFailures"]]
