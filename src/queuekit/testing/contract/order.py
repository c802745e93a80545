# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""ORD: what ordering keys promise, and what a queue without them does not."""

from __future__ import annotations

import dataclasses
import threading
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

from queuekit._portable.context import current
from queuekit._portable.retry import RetryPolicy
from queuekit._portable.worker import ExitCode
from queuekit._values.errors import InvalidMessageError, RefusedError, UnsupportedError
from queuekit._values.message import Message
from queuekit.backend import (
    Accepted,
    Admin,
    ErrorCode,
    IncomingMessage,
    NotAttempted,
    OutgoingMessage,
    Rejected,
    Settled,
)
from queuekit.testing.contract.dead_letter import dead_letter_argument
from queuekit.testing.contract.elsewhere import Log
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import FaultyOpener, as_is, edit_answer, fail_entries, refused

_LONG: dict[str, Any] = {"lease": timedelta(hours=1)}
_SETTLES_S = 0.02  # real time in which a handler that may not begin would begin


class Order(Group):
    """Messages of one ordering key are handled in the order of sending, one at a time."""

    @requires("ordering")
    def test_ORD_01_order_within_key(self, harness: Harness, face: Face) -> None:
        """One consumer receives the messages of each key in the order in which they were sent."""
        queue, keys = Queue(harness), ("a", "b", "c")
        for number in range(5):
            for key in keys:
                queue.put(b"%s %d" % (key.encode(), number), ordering_key=key)
        consumer, got = face.consumer(queue), list[bytes]()
        while len(got) < 15:
            delivery = face.next(consumer)
            got.append(delivery.body)
            delivery.ack()
        for key in keys:
            assert _of_key(got, key) == [b"%s %d" % (key.encode(), number) for number in range(5)]

    @requires("ordering")
    def test_ORD_02_order_within_key_many_consumers(self, harness: Harness, face: Face) -> None:
        """Several consumers at once, in several processes where that can be, keep each key's order among them,
        and no two of them hold messages of one key at the same time."""
        if not harness.one_process:
            face = face.in_real_time()
        queue, log = Queue(face.harness), Log(harness.directory / f"ORD-02-{face.awaits}.log")
        keys = ("a", "b", "c", "d")
        for number in range(8):
            for key in keys:
                queue.put(b"%s %d" % (key.encode(), number), ordering_key=key)
        consumers = [face.consumer(queue) for _ in range(2)]
        running: list[Any] = [face.harness.start(partial(face.work_off, one, log)) for one in consumers]
        if not harness.one_process:
            running.append(face.harness.consume_elsewhere(queue.name, log.path))
        face.harness.until(lambda: log.count("end") == 32, within_s=_limit(harness), what="all are handled")
        for one in consumers:
            face.close(one)
        for each in running:
            each.result("a consumer")
        for key in keys:
            expected = [f"{what} {key} {number}" for number in range(8) for what in ("begin", "end")]
            assert [line for line in log.lines() if line.split()[1] == key] == expected

    @requires("per_key")
    def test_ORD_03_keys_do_not_block_each_other(self, harness: Harness, face: Face) -> None:
        """While the first message of one key is held, and while it waits for its retry, other keys flow."""
        queue, delay = Queue(harness), harness.min_delay_s
        queue.put(b"stuck 1", b"stuck 2", ordering_key="stuck")
        consumer = face.consumer(queue)
        held = face.next(consumer)
        queue.put(b"flows 1", b"flows 2", ordering_key="flows")
        for expected in (b"flows 1", b"flows 2"):
            delivery = face.next(consumer)
            assert delivery.body == expected
            delivery.ack()
        if queue.capabilities.max_retry_delay_s:
            held.retry(delay=timedelta(seconds=100 * delay))
            face.settled(held)
            queue.put(b"flows 3", ordering_key="flows")
            assert face.next(consumer, within_s=delay).body == b"flows 3"
        assert face.receive_now(consumer) is None, "the other key is still stuck"

    @requires("ordering")
    def test_ORD_04_at_most_one_in_flight_per_key(self, harness: Harness, face: Face) -> None:
        """A worker with slots to spare runs no two handlers of one key at the same time."""
        queue, gate, ends = Queue(harness), threading.Event(), list[bytes]()
        queue.put(b"a 1", b"a 2", b"a 3", ordering_key="a")
        queue.put(b"b 1", b"b 2", b"b 3", ordering_key="b")
        keys = 2 if queue.capabilities.ordering == "per_key" else 1
        work = Work(face, queue, ends.append, gate=gate, concurrency=6, prefetch=10, **_LONG)
        work.await_begun(keys)
        threading.Event().wait(_SETTLES_S)
        assert sorted(work.begun) == [b"a 1", b"b 1"][:keys]
        gate.set()
        work.await_begun(6, within_s=60.0)
        assert work.stop() is ExitCode.DRAINED
        for seen in (work.begun, ends):
            assert _of_key(seen, "a") == [b"a 1", b"a 2", b"a 3"]
            assert _of_key(seen, "b") == [b"b 1", b"b 2", b"b 3"]

    @requires("ordering")
    def test_ORD_05_retry_in_order_blocks_key(self, harness: Harness, face: Face) -> None:
        """A retried message is seen again before those of its key that came after it."""
        queue = Queue(harness)
        queue.put(b"1", b"2", ordering_key="k")
        (first,) = queue.take()
        assert isinstance(queue.retry(first), Settled)
        (again,) = queue.take()
        assert again.body == b"1"
        if queue.capabilities.max_retry_delay_s:
            assert isinstance(queue.retry(again, harness.min_delay_s), Settled)
            queue.expect_nothing("the first of the key waits for its retry")
            harness.pass_time(harness.min_delay_s)
            (again,) = queue.take(within_s=harness.tolerance_s)
            assert again.body == b"1"
        queue.ack(again)
        (second,) = queue.take()
        assert second.body == b"2"
        queue.ack(second)
        worked = Queue(harness)
        worked.put(b"1", b"2", b"3", ordering_key="k")
        work = Work(face, worked, _failing_once(b"1"), retry=RetryPolicy(wait=wait_none()), concurrency=4, **_LONG)
        work.await_begun(4, within_s=60.0)
        assert work.stop() is ExitCode.DRAINED
        assert work.begun == [b"1", b"1", b"2", b"3"]

    @requires("ordering", "retry_delay")
    def test_ORD_06_failure_releases_rest_of_key(self, harness: Harness, face: Face) -> None:
        """While a failed message waits for its retry, the rest of its key is with nobody, and costs no attempt."""
        queue, delay = Queue(harness), 4 * harness.min_delay_s
        queue.put(b"1", b"2", b"3", ordering_key="k")
        attempts = list[tuple[bytes, int | None]]()

        def fail_at_first(body: bytes) -> None:
            attempts.append((body, current().attempt))
            if len(attempts) == 1:
                raise ValueError(body)

        policy = RetryPolicy(wait=wait_fixed(delay))
        work = Work(face, queue, fail_at_first, retry=policy, concurrency=4, prefetch=10, **_LONG)
        work.await_begun(1)
        backend = queue.backend
        if isinstance(backend, Admin) and queue.capabilities.depth == "exact":
            work.await_true(lambda: not backend.stats().leased, "nothing of the key is leased", within_s=delay / 2)
        queue.again().expect_nothing("the first of the key waits for its retry")
        work.await_begun(4, within_s=2 * delay)
        assert work.stop() is ExitCode.DRAINED
        assert [body for body, _ in attempts] == [b"1", b"1", b"2", b"3"]
        if queue.capabilities.attempts == "exact" and not queue.capabilities.release_counts:
            assert [attempt for _, attempt in attempts] == [1, 2, 1, 1]

    @requires("ordering", "dead_letters")
    def test_ORD_07_first_message_fails_then_rest_ok(self, harness: Harness, face: Face) -> None:
        """A first message that fails for good is dead alone: the rest of its key is handled, once each, in order."""
        queue, policy = Queue(harness), RetryPolicy(max_attempts=1)
        queue.put(b"1", b"2", b"3", ordering_key="k")
        extra = dead_letter_argument(harness, queue)
        work = Work(face, queue, _failing_once(b"1"), retry=policy, concurrency=4, **extra, **_LONG)
        work.await_begun(3, within_s=60.0)
        assert work.stop() is ExitCode.DRAINED
        assert work.begun == [b"1", b"2", b"3"]
        assert queue.dead().take()[0].body == b"1"
        queue.expect_nothing("the others were acked")

    @requires("ordering")
    def test_ORD_08_send_order_with_chunking(self, harness: Harness, face: Face) -> None:
        """The order of sending holds across the calls that a large send is split into, and in `send_soon`."""
        queue = Queue(harness)
        producer = face.producer(queue, opener=FaultyOpener(harness.opener, max_send_batch=3))
        first, second = ([(key, number) for number in part for key in "ab"] for part in (range(10), range(10, 20)))
        assert face.send_many(producer, [_ordered(key, number) for key, number in first]).ok
        futures = [producer.send_soon(_ordered(key, number)) for key, number in second]
        assert [type(each.result(REAL_LIMIT_S)) for each in futures] == [Accepted] * 20
        got = [each.body for each in _drain(queue, 40)]
        for key in "ab":
            assert _of_key(got, key) == [b"%s %d" % (key.encode(), number) for number in range(20)]

    @requires("ordering")
    def test_ORD_09_partial_send_failure_stops_key(self, harness: Harness, face: Face) -> None:
        """After a message that was not accepted, later ones of its key are not attempted, in that report and in
        later sends, so that none overtakes it; other keys and messages without a key go on."""
        queue = Queue(harness)
        # Of "a" the second message fails: the first of its call, or alone in it.
        alone = queue.capabilities.one_key_per_send
        opener = FaultyOpener(harness.opener, max_send_batch=1 if alone else 2)
        producer = face.producer(queue, opener=opener)
        opener.script.on("send", *[as_is] * (2 if alone else 1), fail_entries({0}, _rejected))
        given = [_ordered("a", 0), _ordered("b", 0), _ordered("a", 1), Message(b"none"), _ordered("a", 2)]
        outcomes = face.send_many(producer, [*given, _ordered("b", 1)]).outcomes
        assert [type(each) for each in outcomes] == [Accepted, Accepted, Rejected, Accepted, NotAttempted, Accepted]
        (held,) = face.send_many(producer, [_ordered("a", 3)]).outcomes
        assert isinstance(held, NotAttempted)
        assert isinstance(producer.send_soon(_ordered("a", 4)).result(REAL_LIMIT_S), NotAttempted)
        with pytest.raises(RefusedError, match="resume_key"):
            face.send(producer, _ordered("a", 5))
        assert isinstance(face.send(producer, _ordered("b", 2)), Accepted)
        got = [each.body for each in _drain(queue, 5)]
        assert sorted(got) == [b"a 0", b"b 0", b"b 1", b"b 2", b"none"]
        queue.expect_nothing("what was not attempted was not sent")

    @requires("ordering")
    def test_ORD_10_paused_key_resumes(self, harness: Harness, face: Face) -> None:
        """After `resume_key` the messages of the key are sent again, in order; another key's changes nothing."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=1)
        producer = face.producer(queue, opener=opener)
        opener.script.on("send", fail_entries({0}, _rejected))
        report = face.send_many(producer, [_ordered("a", number) for number in range(3)])
        assert [type(each) for each in report.outcomes] == [Rejected, NotAttempted, NotAttempted]
        assert not producer.resume_key("b")
        with pytest.raises(RefusedError):
            face.send(producer, _ordered("a", 3))
        assert producer.resume_key("a")
        assert not producer.resume_key("a"), "it goes on already"
        assert face.send_many(producer, [_ordered("a", number) for number in range(3)]).ok
        assert isinstance(face.send(producer, _ordered("a", 3)), Accepted)
        assert [each.body for each in _drain(queue, 4)] == [b"a %d" % number for number in range(4)]

    def test_ORD_11_ordering_required_but_absent(self, harness: Harness, face: Face) -> None:
        """Requiring order of a queue without it fails when opening, or at the first call where only the service
        knows; nothing is sent."""
        name, without = harness.unique_name(), FaultyOpener(harness.opener, ordering="none")
        for opens in (face.producer, face.consumer):
            with pytest.raises(UnsupportedError, match="ordering"):
                opens(name, opener=without, require=["ordering"])
        assert without.script.calls() == []
        if harness.capabilities.ordering == "none":
            return
        found_out = FaultyOpener(harness.opener)
        found_out.script.always("probe", edit_answer(lambda got: [dataclasses.replace(got[0], ordering="none")]))
        producer = face.producer(name, opener=found_out, require=["ordering"])
        with pytest.raises(UnsupportedError, match="ordering"):
            face.send(producer, b"x")
        assert found_out.script.calls("send") == []

    def test_ORD_12_missing_key_on_fifo_refused(self, harness: Harness, face: Face) -> None:
        """Where every message needs a key, one without is refused before any call, and no key is made up."""
        queue = Queue(harness)
        opener = FaultyOpener(harness.opener, ordering="per_key", ordering_key_required=True)
        producer = face.producer(queue, opener=opener, keys=False)
        with pytest.raises(InvalidMessageError, match="ordering key"):
            face.send(producer, b"x")
        with pytest.raises(InvalidMessageError, match="ordering key"):
            producer.send_soon(b"x")
        for payloads in ([b"1", b"2"], [Message(b"1", attributes={"a": "b"})]):
            outcomes = face.send_many(producer, payloads).outcomes
            assert [type(each) for each in outcomes] == [Rejected] * len(payloads)
            assert {each.error.code for each in outcomes if isinstance(each, Rejected)} == {ErrorCode.INVALID_MESSAGE}
        assert opener.script.calls("send") == []

    def test_ORD_13_unordered_mode_makes_no_promise(self, harness: Harness, face: Face) -> None:
        """Shuffled deliveries are all handled, once each, by consumers and workers: nothing counts on an order."""
        bodies = [b"%d" % index for index in range(20)]
        opener = FaultyOpener(harness.opener, ordering="none")
        opener.script.always("receive", edit_answer(lambda got: got[1::2] + got[::2]))
        read, worked = Queue(harness), Queue(harness)
        read.put(*bodies)
        consumer, got = face.consumer(read, opener=opener), list[bytes]()
        for _ in bodies:
            delivery = face.next(consumer)
            got.append(delivery.body)
            delivery.ack()
        face.close(consumer)
        worked.put(*bodies)
        work = Work(face, worked, lambda _body: None, opener=opener, **_LONG)
        work.await_begun(20, within_s=60.0)
        assert work.stop() is ExitCode.DRAINED
        assert sorted(got) == sorted(work.begun) == sorted(bodies)
        read.expect_nothing("each was acked")
        worked.expect_nothing("each was acked")


def _of_key(bodies: list[bytes], key: str) -> list[bytes]:
    return [each for each in bodies if each.startswith(key.encode())]


def _ordered(key: str, number: int) -> Message[bytes]:
    return Message(b"%s %d" % (key.encode(), number), ordering_key=key)


def _rejected(entry: OutgoingMessage) -> Rejected:
    return Rejected(refused(), entry.message_id)


def _failing_once(body: bytes) -> Any:
    """A handler that fails the first time that it gets this body."""
    failed = list[bytes]()

    def handle(got: bytes) -> None:
        if got == body and not failed:
            failed.append(got)
            raise ValueError("the first try fails")

    return handle


def _drain(queue: Queue, count: int) -> list[IncomingMessage]:
    got = list[IncomingMessage]()
    while len(got) < count:
        # One is waited for; what else is ready comes with it, as the others wait behind their keys.
        batch = queue.receive(min(10, queue.capabilities.max_receive)) or queue.take()
        queue.ack(*batch)
        got += batch
    return got


def _limit(harness: Harness) -> float:
    return 60.0 if harness.one_process and harness.virtual else REAL_LIMIT_S
