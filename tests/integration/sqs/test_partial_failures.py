# SPDX-License-Identifier: Apache-2.0
"""Batches of which some entries fail behind a 200: only those are tried again, in order, and none is lost."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import Accepted, Action, ErrorCode, OutgoingMessage, Rejected, Settled, Settlement
from queuekit.testing.emulators import LocalFauxqs

from .conftest import Service


@pytest.fixture
def service(fauxqs: LocalFauxqs) -> Iterator[Service]:
    made = Service(fauxqs)
    yield made
    made.close()


class Refusing:
    """Stands between boto3 and the server: keeps entries back, and tells boto3 that the service refused them."""

    def __init__(
        self, client: Any, operation: str, share: float, *, sender_fault: bool = False, seed: int = 7
    ) -> None:
        self._random, self._share, self._fault = random.Random(seed), share, sender_fault
        self._kept: list[str] = []
        self.refused = 0
        client.meta.events.register(f"before-parameter-build.sqs.{operation}", self._keep)
        client.meta.events.register(f"after-call.sqs.{operation}", self._tell)

    def _keep(self, params: dict[str, Any], **_: Any) -> None:
        entries = params["Entries"]
        chosen = [each for each in entries if self._random.random() < self._share][: len(entries) - 1]
        self._kept = [each["Id"] for each in chosen]
        params["Entries"] = [each for each in entries if each not in chosen]
        self.refused += len(chosen)

    def _tell(self, parsed: dict[str, Any], **_: Any) -> None:
        failed = {"SenderFault": self._fault, "Code": "InvalidMessageContents" if self._fault else "InternalError"}
        parsed.setdefault("Failed", []).extend({"Id": each, **failed} for each in self._kept)


def drained(service: Service, name: str) -> Counter[str]:
    """Every body in a queue, and how often it is there."""
    found: Counter[str] = Counter()
    while messages := service.client.receive_message(QueueUrl=service.address(name), MaxNumberOfMessages=10).get(
        "Messages"
    ):
        found.update(each["Body"] for each in messages)
    return found


def test_what_is_the_sender_s_fault_is_refused_by_name_and_not_tried_again(service: Service) -> None:
    name = service.queue()
    with qk.Producer(service.url(name), payload=str) as producer:
        producer.send("first")
        refusing = Refusing(producer._link.backend._clients.calling(30.0), "SendMessageBatch", 0.3, sender_fault=True)
        outcomes = producer.send_many([f"{number}" for number in range(100)]).outcomes
    refused = {f"{number}" for number, each in enumerate(outcomes) if isinstance(each, Rejected)}
    assert len(refused) == refusing.refused
    assert {each.error.code for each in outcomes if isinstance(each, Rejected)} == {ErrorCode.INVALID_MESSAGE}
    there = drained(service, name)
    assert set(there) == {"first", *(f"{number}" for number in range(100))} - refused
    assert set(there.values()) == {1}


def test_a_refused_message_of_a_key_is_never_overtaken(service: Service) -> None:
    name = service.queue(".fifo")
    sent = [(f"{number % 3}", number) for number in range(60)]
    with qk.Producer(service.url(name), payload=str) as producer:
        producer.send("first", ordering_key="other")
        Refusing(producer._link.backend._clients.calling(30.0), "SendMessageBatch", 0.2)
        given = [qk.Message(f"{key} {number}", ordering_key=key) for key, number in sent]
        assert producer.send_many(given).ok
    arrived: dict[str, list[int]] = {}
    with qk.Consumer(service.url(name, poll="1s"), payload=str) as consumer:
        for _ in range(61):
            delivery = consumer.receive(timeout=60.0)
            assert delivery is not None
            if delivery.payload != "first":
                key, number = delivery.payload.split()
                arrived.setdefault(key, []).append(int(number))
            delivery.ack()
    assert arrived == {f"{key}": [number for number in range(60) if number % 3 == key] for key in range(3)}


def test_of_a_settle_batch_each_entry_has_its_own_outcome(service: Service) -> None:
    backend = service.open(service.queue())
    sent = [OutgoingMessage(f"{number}", b"x") for number in range(10)]
    assert all(isinstance(each, Accepted) for each in backend.send(sent, timeout_s=10.0))
    got = []
    while len(got) < 10:
        got += backend.receive(max_messages=10, wait_s=5.0, lease_s=60.0)
    refusing = Refusing(backend._clients.calling(10.0), "DeleteMessageBatch", 0.5)
    left, rounds = {each.handle for each in got}, 0
    while left:
        batch = [Settlement(handle, Action.ACK) for handle in left]
        outcomes = backend.settle(batch, timeout_s=10.0)
        done = {each.handle for each, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, Settled)}
        assert done
        left -= done
        rounds += 1
    assert rounds > 1
    assert refusing.refused > 0
    assert backend.receive(max_messages=10, wait_s=0.0, lease_s=1.0) == []
