# SPDX-License-Identifier: Apache-2.0
"""Lambda's events, read."""

from typing import Any

import pytest

from queuekit import QueueURL, UsageError
from queuekit.push._sqs_event import Source, account_of, records

from .events import FIFO, STANDARD, changed, event, record

SOURCE = Source("us-east-2", "123456789012", "orders")


def test_a_record_is_a_message_as_sqs_itself_answers() -> None:
    first, second = records(STANDARD)
    assert first.item_id == STANDARD["Records"][0]["messageId"]
    assert first.source == Source("us-east-2", "123456789012", "my-queue")
    assert first.group is None
    assert first.pushed["Body"] == "a message"
    assert first.pushed["Attributes"]["ApproximateReceiveCount"] == "1"
    assert first.pushed["MessageAttributes"] == {"myAttribute": {"DataType": "String", "StringValue": "myValue"}}
    assert second.pushed["MessageAttributes"] == {}


def test_a_fifo_record_has_its_group() -> None:
    (only,) = records(FIFO)
    assert (only.group, only.source.name) == ("1", "fifo.fifo")


def test_binary_attributes_are_bytes() -> None:
    (only,) = records(event([record("x", attributes={"picture": b"\x00\xff"})]))
    assert only.pushed["MessageAttributes"] == {"picture": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}}


NOT_EVENTS: list[Any] = [None, {}, [], "Records", {"Records": None}, {"Records": {}}, {"detail": {}}]


@pytest.mark.parametrize("given", NOT_EVENTS)
def test_what_is_no_event_of_records_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="no list of Records"):
        records(given)


@pytest.mark.parametrize("source", ["aws:sns", "aws:kinesis", None])
def test_records_of_other_services_are_refused(source: str | None) -> None:
    with pytest.raises(UsageError, match="aws:sqs"):
        records(changed(STANDARD, eventSource=source))


@pytest.mark.parametrize("field", ["messageId", "receiptHandle", "body", "eventSourceARN"])
@pytest.mark.parametrize("value", [None, 7])
def test_a_record_that_could_not_be_answered_for_fails_the_whole_event(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=field):
        records(changed(STANDARD, **{field: value}))


def test_an_empty_id_is_none() -> None:
    with pytest.raises(UsageError, match="messageId"):
        records(changed(STANDARD, messageId=""))


@pytest.mark.parametrize("arn", ["", "arn:aws:sns:us-east-2:123456789012:x", "arn:aws:sqs:us-east-2:123456789012:"])
def test_an_arn_of_something_else_is_refused(arn: str) -> None:
    with pytest.raises(UsageError, match="no SQS queue"):
        records(changed(STANDARD, eventSourceARN=arn))


@pytest.mark.parametrize(
    ("url", "own", "is_it"),
    [
        ("sqs://us-east-2/orders", None, True),
        ("sqs://us-east-2/orders", "123456789012", True),
        ("sqs://us-east-2/orders", "999999999999", False),
        ("sqs://123456789012@us-east-2/orders", "999999999999", True),
        ("sqs://999999999999@us-east-2/orders", "123456789012", False),
        ("sqs://us-east-1/orders", None, False),
        ("sqs://us-east-2/orders.fifo", None, False),
        ("sqs://us-east-2/orders?endpoint=http://localhost:1", None, True),
        ("memory://orders", None, False),
        ("nats://us-east-2/orders", None, False),
    ],
)
def test_a_url_means_a_queue_of_its_region_account_and_name(url: str, own: str | None, is_it: bool) -> None:
    assert SOURCE.is_behind(QueueURL.parse(url), own) is is_it


def test_a_queue_has_a_url_of_its_own() -> None:
    assert SOURCE.url.reveal() == "sqs://123456789012@us-east-2/orders"


@pytest.mark.parametrize(
    ("arn", "account"),
    [("arn:aws:lambda:us-east-2:123456789012:function:f", "123456789012"), ("", None), (None, None), (7, None)],
)
def test_the_account_of_a_function_stands_in_its_arn(arn: Any, account: str | None) -> None:
    assert account_of(arn) == account
