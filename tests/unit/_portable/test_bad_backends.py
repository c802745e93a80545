# SPDX-License-Identifier: Apache-2.0
"""Consumers over a backend that breaks its contract: nothing is lost, bounds hold, and counts add up."""

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, answer_twice, hang, pretend_settled, too_many

from .calls import Call

LEASE = timedelta(seconds=10)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def consumer(clock: VirtualClock, script: Script) -> Iterator[qk.Consumer[bytes]]:
    opener = FaultyOpener(Opener(clock), script)
    made = qk.Consumer("memory://q", _opener=opener, lease=LEASE, max_in_flight=2, prefetch=0, poll_wait=LEASE)
    yield made
    Call(made.close, clock).result()


def send(clock: VirtualClock, *bodies: bytes) -> None:
    with qk.Producer("memory://q", clock=clock) as producer:
        producer.send_many(bodies).raise_for_failures()


def receive(consumer: qk.Consumer[bytes], clock: VirtualClock) -> qk.Delivery[bytes]:
    found = Call(lambda: consumer.receive(timeout=60), clock).result()
    assert found is not None
    return found


def expect_balance(consumer: qk.Consumer[bytes]) -> None:
    counts = consumer.counts()
    parts = ("settled", "lost", "unconfirmed", "failed", "in_flight")
    assert counts["received"] == sum(counts[each] for each in parts), counts


def test_more_than_was_asked_for_is_given_back_beyond_the_bound(
    consumer: qk.Consumer[bytes], clock: VirtualClock, script: Script
) -> None:
    bodies = [b"%d" % index for index in range(8)]
    send(clock, *bodies)
    script.always("receive", too_many)
    seen: Counter[bytes] = Counter()
    while sum(seen.values()) < len(bodies):
        delivery = receive(consumer, clock)
        assert consumer.counts()["in_flight"] <= 4, "twice what may be is what one poll brought, and no more follows"
        seen[delivery.body] += 1
        delivery.ack()
        Call(delivery.settled, clock).result()
    assert seen == Counter(bodies)
    expect_balance(consumer)


def test_a_delivery_that_comes_twice_is_two_and_only_one_of_them_settles(
    consumer: qk.Consumer[bytes], clock: VirtualClock, script: Script
) -> None:
    send(clock, b"x")
    script.on("receive", answer_twice({0}))
    first, second = receive(consumer, clock), receive(consumer, clock)
    assert first.message_id == second.message_id
    first.ack()
    Call(first.settled, clock).result()
    second.retry()
    with pytest.raises(qk.LeaseLostError):
        Call(second.settled, clock).result()
    assert Call(lambda: consumer.receive(timeout=1), clock).result() is None
    assert (consumer.counts()["settled"], consumer.counts()["lost"]) == (1, 1)
    expect_balance(consumer)


def test_a_settlement_that_was_only_claimed_loses_nothing(
    consumer: qk.Consumer[bytes], clock: VirtualClock, script: Script
) -> None:
    send(clock, b"x")
    delivery = receive(consumer, clock)
    script.on("settle", pretend_settled)
    delivery.ack()
    Call(delivery.settled, clock).result()
    clock.advance(LEASE.total_seconds())
    assert receive(consumer, clock).attempt == 2
    expect_balance(consumer)


def test_a_poll_that_hangs_is_interrupted_by_close(
    consumer: qk.Consumer[bytes], clock: VirtualClock, script: Script
) -> None:
    reached = threading.Event()
    script.on("receive", hang(reached))
    waiting = Call(consumer.receive, clock)
    assert reached.wait(10)
    Call(consumer.close, clock).result()
    with pytest.raises(qk.ClosedError):
        waiting.result()
