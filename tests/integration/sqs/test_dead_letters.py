# SPDX-License-Identifier: Apache-2.0
"""Dead letters on SQS, of ours and of the service's own, in a queue that others share."""

import json
from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import Accepted, Action, OutgoingMessage, QueueURL, Settlement


def arn(service: Any, name: str) -> str:
    told = service.client.get_queue_attributes(QueueUrl=service.address(name), AttributeNames=["QueueArn"])
    return str(told["Attributes"]["QueueArn"])


def with_dead_letters_in(service: Any, dead: str, suffix: str, receives: int = 100) -> str:
    policy = json.dumps({"deadLetterTargetArn": arn(service, dead), "maxReceiveCount": receives})
    name: str = service.queue(suffix, RedrivePolicy=policy, VisibilityTimeout="1")
    return name


def bury(service: Any, name: str, dead: str, *bodies: bytes, key: str | None) -> None:
    source = str(QueueURL.parse(service.url(name)))
    for body in bodies:
        metadata = {"dead-reason": f"broken {body.decode()}", "dead-source": source, "dead-attempts": "5"}
        letter = OutgoingMessage(f"id-{body.decode()}", body, {"a": "1"}, metadata, ordering_key=key)
        assert isinstance(service.open(dead).send([letter], timeout_s=10.0)[0], Accepted)


@pytest.mark.parametrize("suffix", ["", ".fifo"], ids=["standard", "fifo"])
def test_letters_of_a_shared_queue_go_back_to_the_queue_that_they_died_on(service: Any, suffix: str) -> None:
    dead, key = service.queue(suffix), "k" if suffix else None
    one, other = (with_dead_letters_in(service, dead, suffix) for _ in range(2))
    bury(service, one, dead, b"1", b"2", key=key)
    bury(service, other, dead, b"3", key=f"{key}2" if key else None)
    with qk.DeadLetters(service.url(one, poll="1s")) as letters:
        assert letters.queue.split("?")[0].endswith(f"/{dead}")
        report = letters.redrive()
        assert (sorted(report.moved), report.failed) == (["id-1", "id-2"], ())
    with qk.DeadLetters(service.url(other, poll="1s")) as letters:
        (left,) = letters.letters()
        assert (left.body, left.reason) == (b"3", "broken 3")
        assert letters.purge(message_ids=["id-3"], limit=1).removed == ("id-3",)
    backend, bodies = service.open(one), list[bytes]()
    while len(bodies) < 2:
        for back in backend.receive(max_messages=1, wait_s=1.0, lease_s=30.0):
            assert (back.attempt, back.metadata["redriven"], back.ordering_key) == (1, "1", key)
            assert [name for name in back.metadata if name.startswith("dead")] == []
            bodies.append(back.body)
            backend.settle([Settlement(back.handle, Action.ACK)], timeout_s=10.0)
    assert bodies == [b"1", b"2"] if suffix else sorted(bodies) == [b"1", b"2"], "a group keeps its order"
    assert service.open(dead).receive(max_messages=1, wait_s=0.0, lease_s=1.0) == []


def test_what_the_service_moved_aside_goes_back_with_fresh_attempts(service: Any) -> None:
    dead = service.queue()
    name = with_dead_letters_in(service, dead, "", receives=1)
    backend = service.open(name)
    backend.send([OutgoingMessage("m", b"x", {"a": "1"}, {"base": "3"})], timeout_s=10.0)
    (got,) = backend.receive(max_messages=1, wait_s=1.0, lease_s=30.0)
    backend.settle([Settlement(got.handle, Action.RETRY)], timeout_s=10.0)
    # The second receive is one too many: the service moves the message in place of handing it out.
    assert backend.receive(max_messages=1, wait_s=1.0, lease_s=30.0) == []
    with qk.DeadLetters(service.url(name, poll="1s")) as letters:
        assert letters.redrive(limit=1).moved == ("m",)
    (back,) = backend.receive(max_messages=1, wait_s=5.0, lease_s=30.0)
    assert (back.attempt, dict(back.attributes), dict(back.metadata)) == (1, {"a": "1"}, {"redriven": "1"})


def test_a_queue_without_one_for_dead_letters_says_so(service: Any) -> None:
    with (
        qk.DeadLetters(service.url(service.queue(), poll="1s")) as letters,
        pytest.raises(qk.UnsupportedError, match="dead_letter="),
    ):
        letters.redrive()
