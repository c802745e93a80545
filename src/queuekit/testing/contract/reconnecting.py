# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""FLT: a service that goes away and comes back, and a queue that does not."""

from __future__ import annotations

import itertools
import threading
from collections import Counter

import pytest

from queuekit._portable.worker import ExitCode
from queuekit._values.errors import (
    AccessDeniedError,
    LeaseLostError,
    QueueKitError,
    QueueNotFoundError,
    RefusedError,
    UnavailableError,
)
from queuekit._values.message import Message
from queuekit.backend import Accepted, Admin, ErrorClass, Unknown
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.twins import TWINS
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import (
    FaultyOpener,
    access_denied,
    as_is,
    not_found,
    raise_before,
    refused,
    throttle,
    unavailable,
)

_FATAL: tuple[tuple[ErrorClass, type[QueueKitError], ExitCode], ...] = (
    (access_denied(), AccessDeniedError, ExitCode.FAILED),
    (not_found(), QueueNotFoundError, ExitCode.QUEUE_GONE),
    (refused(), RefusedError, ExitCode.FAILED),
)


class Reconnect(Group):
    """An outage is over when it is over; what cannot be healed ends the consumer, and says why."""

    @requires("durable")
    def test_FLT_02_broker_restart_during_produce(self, harness: Harness, face: Face) -> None:
        """While a flood is sent the server restarts: nothing that was accepted is lost, and nothing arrives that was
        not sent."""
        restart, queue = harness.hook("restart"), Queue(harness)
        producer, accepted, unknown = face.producer(queue), set[bytes](), set[bytes]()
        begun, restarted = threading.Event(), threading.Event()

        def send_all() -> None:
            numbers = itertools.count()
            while len(accepted) < harness.flood or not restarted.is_set():
                part = [b"%d" % next(numbers) for _ in range(200)]
                for payload, outcome in zip(part, face.send_many(producer, part), strict=True):
                    (accepted if isinstance(outcome, Accepted) else unknown).add(payload)
                begun.set()

        sending = harness.start(send_all)
        assert begun.wait(REAL_LIMIT_S)
        restart()
        restarted.set()
        sending.result("the flood")
        arrived = Counter(each.body for each in queue.take_up_to(2 * len(accepted | unknown)))
        assert accepted - set(arrived) == set(), "an accepted message is lost"
        assert set(arrived) - accepted - unknown == set(), "a message arrived that was not sent"

    @requires("durable")
    def test_FLT_03_broker_restart_during_consume(self, harness: Harness, face: Face) -> None:
        """A consumer lives on over a restart: no message is lost, and only what was unsettled may come again."""
        restart, queue = harness.hook("restart"), Queue(harness)
        payloads = [b"%02d" % index for index in range(40)]
        queue.put(*payloads)
        consumer = face.consumer(queue)
        seen, settled = Counter[bytes](), set[bytes]()
        held = [face.next(consumer) for _ in range(20)]
        for delivery in held[:10]:
            delivery.ack()
        for delivery in held[:10]:
            face.settled(delivery)
            settled.add(delivery.body)
        restart()
        late = held[10:]
        while len(settled) < len(payloads):
            for delivery in late:
                seen[delivery.body] += 1
                assert delivery.body not in settled, "it was settled, and came again"
                delivery.ack()
                try:
                    face.settled(delivery)
                except (LeaseLostError, UnavailableError):
                    continue
                settled.add(delivery.body)
            if len(settled) < len(payloads):
                late = [face.next(consumer)]
        face.close(consumer)
        queue.expect_nothing("all were settled")

    def test_FLT_11_queue_deleted_while_consuming(self, harness: Harness, face: Face) -> None:
        """A queue that is deleted under a consumer: where queues are declared, that surfaces, and a new consumer
        goes on once there is one again; where they are implicit, it is made again, and possible loss is reported."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        queue.put(b"before")
        consumer = face.consumer(queue, opener=opener)
        delivery = face.next(consumer)
        if harness.capabilities.queues == "declared":
            opener.script.always("receive", raise_before(not_found()))
            with pytest.raises(QueueNotFoundError):
                face.next(consumer)
            opener.script.always("receive", None)
            delivery.ack()
            face.settled(delivery)
            queue.put(b"after")
            assert face.next(face.consumer(queue, opener=opener)).body == b"after"
            return
        backend = queue.again().backend
        if not isinstance(backend, Admin):
            face.close(consumer)
            TWINS["admin"](harness)
            return
        waiting = face.receiving(consumer)
        harness.until_blocked(3)
        backend.delete()
        delivery.ack()
        with pytest.raises(LeaseLostError):
            face.settled(delivery)
        queue.put(b"after")
        after = waiting.result("the next delivery")
        assert after is not None
        assert after.body == b"after"
        assert consumer.counts().get("queue.recreated") == 1

    def test_FLT_12_transient_receive_error_does_not_end_consumer(self, harness: Harness, face: Face) -> None:
        """Errors between polls are logged once per outage, and the iteration goes on."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        outage = raise_before(unavailable())
        opener.script.on("receive", outage, throttle(0.1), outage, as_is, outage)
        queue.put(b"1", b"2", b"3")
        consumer = face.consumer(queue, opener=opener, prefetch=0)
        iterating = harness.start(lambda: face.iterate(consumer))

        def all_acked() -> bool:
            return sum(len(each.batch) for each in opener.script.answered("settle")) == 3

        harness.until(all_acked, within_s=60.0, what="all three are acked")
        face.close(consumer)
        assert iterating.result("the iteration") == [b"1", b"2", b"3"]
        assert consumer.counts()["receive.failed"] == consumer.counts()["receive.resumed"] == 2

    def test_FLT_13_fatal_receive_error_ends_consumer(self, harness: Harness, face: Face) -> None:
        """What no other try can mend ends a consumer, an iteration and a worker with the error that says so."""
        for what, error, code in _FATAL:
            queue, opener = Queue(harness), FaultyOpener(harness.opener)
            queue.put(b"x")
            opener.script.always("receive", raise_before(what))
            consumer = face.consumer(queue, opener=opener)
            with pytest.raises(error):
                face.next(consumer)
            with pytest.raises(error) as again:
                face.iterate(consumer)
            assert not again.value.retryable
            assert len(opener.script.calls("receive")) == 1, "it is not tried again"
            work = Work(face, queue, lambda _body: None, opener=opener)
            work.await_true(work.ended, "the worker ends")
            assert work.stop() is code
            assert queue.take()[0].body == b"x", "the message is not touched"

    @requires("durable")
    def test_FLT_15_publisher_confirms_after_reconnect(self, harness: Harness, face: Face) -> None:
        """After a restart each confirmation still belongs to its own message."""
        restart, queue = harness.hook("restart"), Queue(harness)
        producer, confirmed = face.producer(queue), list[str]()
        for round_ in range(3):
            batch = [Message(b"x", message_id=f"{round_}-{index}") for index in range(10)]
            for sent, outcome in zip(batch, face.send_many(producer, batch), strict=True):
                assert isinstance(outcome, Accepted | Unknown)
                assert outcome.message_id == sent.message_id
                confirmed += [outcome.message_id] if isinstance(outcome, Accepted) else []
            restart()
        arrived = Counter(each.message_id for each in queue.take_up_to(60))
        assert [each for each in confirmed if not arrived[each]] == []
        assert len(confirmed) >= 20, "the producer did not heal"
