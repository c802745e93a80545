# SPDX-License-Identifier: Apache-2.0
"""What AWS Lambda does for a mapped queue: it polls, calls the function, and deletes by the answer."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

Function = Callable[[Mapping[str, Any], Any], Any]

ACCOUNT = "123456789012"
REGION = "us-east-1"


class Context:
    """What Lambda hands over beside the event.

    Args:
        left_s: How much time a function has for each.
    """

    invoked_function_arn: str = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:shop"

    def __init__(self, left_s: float = 900.0) -> None:
        self._left_s = left_s

    def get_remaining_time_in_millis(self) -> int:
        """As at the beginning: nobody asks twice for one event."""
        return int(self._left_s * 1000)


class Mapped:
    """An event source mapping of one queue.

    Args:
        client: boto3's.
        queue: The queue's name.
        function: What is mapped to it.
        reports: Whether `ReportBatchItemFailures` is on.
        batch: Most messages of an event; filled by several polls, as Lambda does within a batching window.
        context: What the function is called with beside an event.

    Attributes:
        events: The events so far.
        errors: What the function raised.
    """

    def __init__(
        self,
        client: Any,
        queue: str,
        function: Function,
        *,
        reports: bool = True,
        batch: int = 10,
        context: Context | None = None,
    ) -> None:
        self._client, self._function, self._reports, self._batch = client, function, reports, batch
        self._context = context or Context()
        self._answers: list[bool] = []
        self._url = client.get_queue_url(QueueName=queue)["QueueUrl"]
        self._arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
        self.events: list[Mapping[str, Any]] = []
        self.errors: list[Exception] = []

    def turn(self, *, wait_s: int = 0) -> int:
        """Make one event of what is there, and settle it; how many messages it had."""
        found: list[Any] = []
        while len(found) < self._batch and (polled := self._poll(0 if found else wait_s)):
            found += polled
        if not found:
            return 0
        event = {"Records": [self._record(each) for each in found]}
        self.events.append(event)
        done = self._done(event)
        self._answers += [each["MessageId"] in done for each in found]
        gone = [each for each in found if each["MessageId"] in done]
        for start in range(0, len(gone), 10):
            entries = [
                {"Id": str(at), "ReceiptHandle": each["ReceiptHandle"]}
                for at, each in enumerate(gone[start : start + 10])
            ]
            assert not self._client.delete_message_batch(QueueUrl=self._url, Entries=entries).get("Failed")
        return len(found)

    def take_answers(self) -> list[bool]:
        """Whether each message was done, of the turns since this was last asked."""
        answers, self._answers = self._answers, []
        return answers

    def left(self) -> tuple[int, int, int]:
        """Ready, in flight, delayed."""
        names = ("", "NotVisible", "Delayed")
        told = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        ready, hidden, delayed = (int(told[f"ApproximateNumberOfMessages{each}"]) for each in names)
        return ready, hidden, delayed

    def _poll(self, wait_s: int) -> list[Any]:
        answer = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=min(10, self._batch),
            WaitTimeSeconds=wait_s,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        found: list[Any] = answer.get("Messages", [])
        return found

    def _record(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "messageId": raw["MessageId"],
            "receiptHandle": raw["ReceiptHandle"],
            "body": raw["Body"],
            "attributes": dict(raw["Attributes"]),
            "messageAttributes": {name: _attribute(each) for name, each in raw.get("MessageAttributes", {}).items()},
            "md5OfBody": raw["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._arn,
            "awsRegion": REGION,
        }

    def _done(self, event: Mapping[str, Any]) -> set[str]:
        """The ids that Lambda deletes, by the rules that its guide names."""
        known = {each["messageId"] for each in event["Records"]}
        try:
            answer = self._function(event, self._context)
        except Exception as error:  # noqa: BLE001 - whatever it is, Lambda keeps everything
            self.errors.append(error)
            return set()
        if not self._reports or not answer:
            return known
        listed = answer.get("batchItemFailures", "no such key")
        if listed is None or listed == []:
            return known
        ids = [each.get("itemIdentifier") for each in listed] if isinstance(listed, list) else [None]
        return set() if not all(ids) or not set(ids) <= known else known - set(ids)


def _attribute(raw: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"stringListValues": [], "binaryListValues": [], "dataType": raw["DataType"]}
    if "BinaryValue" in raw:
        return made | {"binaryValue": base64.b64encode(raw["BinaryValue"]).decode()}
    return made | {"stringValue": raw["StringValue"]}
