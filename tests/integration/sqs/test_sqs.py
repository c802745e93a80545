# SPDX-License-Identifier: Apache-2.0
"""What the contract cannot say of SQS: what is on the wire, what each call costs, and what boto3 is told."""

import json
import threading
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import Accepted, OutgoingMessage


def test_messages_go_through_a_producer_an_app_and_a_consumer(service: Any) -> None:
    name = service.queue()
    app, seen, done = qk.App(service.server.url + "&poll=1s"), list[str](), threading.Event()

    @app.handler(name, concurrency=10)
    def handle(text: str) -> None:
        seen.append(text)
        if len(seen) == 30:
            done.set()
            app.stop()

    with qk.Producer(service.url(name), payload=str) as producer:
        assert producer.send_many([f"{number}" for number in range(30)]).ok
    app.run(signals=False)
    assert done.is_set()
    assert sorted(seen, key=int) == [f"{number}" for number in range(30)]
    with qk.Consumer(service.url(name, poll="1s"), payload=str) as consumer:
        assert consumer.receive(timeout=1.0) is None, "all were acked"


def test_another_program_reads_the_body_and_the_attributes_as_they_are(service: Any) -> None:
    name = service.queue()
    with qk.Producer(service.url(name), payload=dict[str, int]) as producer:
        sent = producer.send({"number": 7}, attributes={"tenant": "ada", "a:b": "x"})
    answer = service.client.receive_message(QueueUrl=service.address(name), MessageAttributeNames=["All"])
    (message,) = answer["Messages"]
    native = message["MessageAttributes"]
    assert message["Body"] == '{"number":7}'
    assert native["tenant"] == {"DataType": "String", "StringValue": "ada"}
    assert json.loads(native["qk"]["StringValue"])["id"] == sent.message_id
    assert message["MessageId"] == sent.provider_id


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b"plain", "grüße\t\r\n".encode(), b"\x1b[1m", b"\xef\xbf\xbe"])
def test_every_body_arrives_as_it_was_sent(service: Any, body: bytes) -> None:
    backend = service.open(service.queue())
    (outcome,) = backend.send([OutgoingMessage("one", body)], timeout_s=10.0)
    assert isinstance(outcome, Accepted)
    (got,) = backend.receive(max_messages=1, wait_s=20.0, lease_s=30.0)
    assert (got.message_id, got.body) == ("one", body)


def test_attributes_beyond_their_slots_and_of_odd_names_travel_packed(service: Any) -> None:
    name = service.queue()
    attributes = {f"a{number}": f"{number}" for number in range(12)} | {"AWS.x": "1", "grün": "2", "empty": ""}
    with qk.Producer(service.url(name)) as producer:
        producer.send(b"x", attributes=attributes)
    with qk.Consumer(service.url(name, poll="1s")) as consumer:
        got = consumer.receive(timeout=60.0)
        assert got is not None
        assert got.attributes == attributes
        got.ack()


def test_a_message_has_ten_attributes_at_most_and_two_are_left_to_tracing(service: Any) -> None:
    name = service.queue()
    with qk.Producer(service.url(name)) as producer:
        producer.send(b"x", attributes={f"a{number}": "1" for number in range(12)})
    answer = service.client.receive_message(QueueUrl=service.address(name), MessageAttributeNames=["All"])
    assert len(answer["Messages"][0]["MessageAttributes"]) == 8


def test_a_lease_that_is_kept_outlasts_the_first_one(service: Any) -> None:
    name = service.queue()
    with qk.Producer(service.url(name)) as producer:
        producer.send(b"x")
    with qk.Consumer(service.url(name, poll="1s"), lease=timedelta(seconds=2)) as consumer:
        got = consumer.receive(timeout=60.0)
        assert got is not None
        assert consumer.receive(timeout=3.0) is None, "it is kept"
        got.ack()
        got.settled(timeout=60.0)


@pytest.mark.parametrize(("lease_s", "longest_s"), [(60.0, 20), (30.0, 15), (5.0, 2), (2.0, 1)])
def test_a_poll_takes_no_more_than_half_of_the_lease_that_it_asks_for(
    service: Any, lease_s: float, longest_s: int
) -> None:
    """What comes at its end would be taken for lost otherwise, as a lease is counted from before the poll."""
    backend, asked = service.open(service.queue()), list[int]()
    backend.send([OutgoingMessage("1", b"x")], timeout_s=10.0)
    backend._clients.polling().meta.events.register(
        "before-parameter-build.sqs.ReceiveMessage", lambda params, **_: asked.append(params["WaitTimeSeconds"])
    )
    assert len(backend.receive(max_messages=1, wait_s=20.0, lease_s=lease_s)) == 1
    assert asked == [longest_s]
