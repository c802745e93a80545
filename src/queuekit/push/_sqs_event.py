# SPDX-License-Identifier: Apache-2.0
"""The event that AWS Lambda makes of SQS messages, read. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from queuekit._values.errors import UsageError
from queuekit._values.url import Host, QueueURL

_SOURCE = "aws:sqs"
_ARN_PARTS = 6


class Source(NamedTuple):
    """The queue that a record came from.

    Attributes:
        region: AWS's name of the region.
        account: The account that owns the queue, 12 digits.
        name: The queue's name.
    """

    region: str
    account: str
    name: str

    @property
    def url(self) -> QueueURL:
        """The queue's URL, its account included."""
        return QueueURL(scheme="sqs", hosts=(Host(self.region),), user=self.account, path=f"/{self.name}")

    def is_behind(self, url: QueueURL, own_account: str | None) -> bool:
        """Whether a URL means this queue.

        Args:
            url: A whole one.
            own_account: The account that a URL without one means; None where that is not known.
        """
        if url.scheme != "sqs" or url.path != f"/{self.name}":
            return False
        account = url.user or own_account or self.account
        return [each.name for each in url.hosts] == [self.region] and account == self.account


class Record(NamedTuple):
    """One message of an event.

    Attributes:
        item_id: What Lambda knows it by.
        source: Where it came from.
        group: Its message group, if any.
        pushed: The message as SQS's own API would answer it.
    """

    item_id: str
    source: Source
    group: str | None
    pushed: Mapping[str, Any]


def records(event: object) -> list[Record]:
    """The messages of an event, in order.

    Raises:
        UsageError: It is no event of SQS messages. Lambda then keeps all of them.
    """
    found = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(found, list):
        msg = "this is no event of an SQS event source: it has no list of Records; map the function to a queue"
        raise UsageError(msg, operation="receive")
    return [_record(each) for each in found]


def _record(raw: object) -> Record:
    known = raw if isinstance(raw, Mapping) else {}
    if known.get("eventSource") != _SOURCE:
        msg = f"a record comes from {str(known.get('eventSource'))[:40]!r}, not from {_SOURCE!r}; map queues alone"
        raise UsageError(msg, operation="receive")
    texts = [known.get(name) for name in ("messageId", "receiptHandle", "body", "eventSourceARN")]
    if not all(isinstance(each, str) for each in texts) or not texts[0]:
        # Without an id it could neither be reported nor be told from one that was done.
        msg = "a record has no messageId, receiptHandle, body or eventSourceARN"
        raise UsageError(msg, operation="receive")
    facts = known.get("attributes") or {}
    pushed = {
        "MessageId": known["messageId"],
        "ReceiptHandle": known["receiptHandle"],
        "Body": known["body"],
        "MD5OfBody": known.get("md5OfBody"),
        "MD5OfMessageAttributes": known.get("md5OfMessageAttributes"),
        "Attributes": facts,
        "MessageAttributes": {
            name: _attribute(each) for name, each in (known.get("messageAttributes") or {}).items()
        },
    }
    return Record(known["messageId"], _source(known["eventSourceARN"]), facts.get("MessageGroupId"), pushed)


def _attribute(raw: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(raw.get("dataType", "String"))
    if kind.startswith("Binary"):
        return {"DataType": kind, "BinaryValue": base64.b64decode(raw.get("binaryValue") or "")}
    return {"DataType": kind, "StringValue": raw.get("stringValue") or ""}


def _source(arn: str) -> Source:
    parts = arn.split(":")
    if len(parts) != _ARN_PARTS or parts[2] != "sqs" or not parts[5]:
        msg = f"eventSourceARN names no SQS queue: {arn[:100]!r}"
        raise UsageError(msg, operation="receive")
    return Source(parts[3], parts[4], parts[5])


def account_of(function_arn: object) -> str | None:
    """The account of a function by its ARN; None where it does not tell."""
    parts = function_arn.split(":") if isinstance(function_arn, str) else []
    return parts[4] if len(parts) >= _ARN_PARTS and parts[4] else None
