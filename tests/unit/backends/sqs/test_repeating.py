# SPDX-License-Identifier: Apache-2.0
"""A receive from a FIFO queue whose answer was lost is asked for again, and by the same id."""

import os
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from queuekit._wiring.opening import Opener
from queuekit.backend import QueueURL
from queuekit.backends.sqs import SqsBackend
from queuekit.backends.sqs._repeating import LostAnswers
from queuekit.testing.clock import VirtualClock

ASKED = {"wait_s": 0.0, "lease_s": 60.0}


class Answers:
    """Answers receives, or raises what it is told to; keeps what was asked."""

    def __init__(self) -> None:
        self.next: list[Any] = []
        self.asked: list[dict[str, Any]] = []

    def __call__(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        if operation == "GetQueueUrl":
            return {"QueueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"}
        self.asked.append(asked)
        answer = self.next.pop(0) if self.next else {}
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def ids(self) -> list[str | None]:
        return [each.get("ReceiveRequestAttemptId") for each in self.asked]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers()
    # Where botocore would make its request: what is lost on the way to a service can be said here alone.
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", lambda _, *asked: made(*asked))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return made


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def opened(clock: VirtualClock, queue: str) -> Iterator[SqsBackend]:
    opener = Opener(clock)
    made: Any = opener.open(QueueURL.parse(f"sqs://eu-west-1/{queue}"))
    yield made
    made.close()
    opener.close()


@pytest.fixture
def fifo(clock: VirtualClock, answers: Answers) -> Iterator[SqsBackend]:
    yield from opened(clock, "orders.fifo")


def silent() -> ReadTimeoutError:
    return ReadTimeoutError(endpoint_url="https://sqs")


def test_each_receive_has_an_id_of_its_own_and_a_lost_one_is_asked_for_by_the_same(
    fifo: SqsBackend, answers: Answers, clock: VirtualClock
) -> None:
    raw = {"MessageId": "m", "ReceiptHandle": "r", "Body": "x", "Attributes": {"MessageGroupId": "k"}}
    answers.next = [{}, silent(), EndpointConnectionError(endpoint_url="https://sqs"), {"Messages": [raw]}, {}]
    fifo.receive(max_messages=10, **ASKED)
    for error in (ReadTimeoutError, EndpointConnectionError):
        with pytest.raises(error):
            fifo.receive(max_messages=10, **ASKED)
        clock.advance(4.0)
    (message,) = fifo.receive(max_messages=10, **ASKED)
    assert message.lease_until == clock.monotonic() + 60.0, "asking again begins the lease anew"
    fifo.receive(max_messages=10, **ASKED)
    first, lost, again, answered, last = answers.ids
    assert lost == again == answered
    assert len({first, lost, last}) == 3
    assert None not in answers.ids


def test_a_standard_queue_knows_no_such_ids(clock: VirtualClock, answers: Answers) -> None:
    for standard in opened(clock, "orders"):
        standard.receive(max_messages=10, **ASKED)
    assert answers.ids == [None]


def numbered() -> Any:
    numbers = count()
    return lambda: f"id-{next(numbers)}"


@pytest.mark.parametrize(
    ("most", "lease_s", "later_s", "again"),
    [(10, 60, 59.9, True), (10, 60, 60.0, False), (9, 60, 1.0, False), (10, 61, 1.0, False)],
)
def test_only_the_same_is_asked_for_again_and_only_while_its_leases_last(
    most: int, lease_s: int, later_s: float, again: bool
) -> None:
    make, lost = numbered(), LostAnswers()
    ask = lost.ask(10, 60, 100.0, make)
    lost.lost(ask, 100.0)
    assert (lost.ask(most, lease_s, 100.0 + later_s, make) == ask) is again
    assert lost.ask(10, 60, 160.0, make) != ask, "once, and not for ever"


def test_an_id_is_given_up_when_the_service_has_forgotten_it() -> None:
    make, lost = numbered(), LostAnswers()
    ask, now = lost.ask(10, 60, 0.0, make), 0.0
    while now < 299.0:
        lost.lost(ask, now)
        now += 50.0
        if now < 300.0:
            assert lost.ask(10, 60, now, make) == ask
    assert lost.ask(10, 60, 300.0, make) != ask


def test_polls_that_fail_at_once_are_each_asked_for_again_once() -> None:
    make, lost = numbered(), LostAnswers()
    asks = [lost.ask(10, 60, 0.0, make) for _ in range(4)]
    for each in asks:
        lost.lost(each, 0.0)
    assert {lost.ask(10, 60, 1.0, make).attempt_id for _ in range(5)} == {f"id-{n}" for n in range(5)}


def test_of_two_processes_only_the_first_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    make, lost = numbered(), LostAnswers()
    ask = lost.ask(10, 60, 0.0, make)
    lost.lost(ask, 0.0)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert lost.ask(10, 60, 1.0, make) != ask
