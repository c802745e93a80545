# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""CCY: many at once, how much at once, and who goes first."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from queuekit._engine.rate import Rate
from queuekit._values.errors import InvalidURLError, UnsupportedError
from queuekit._values.message import Message
from queuekit._values.url import QueueURL
from queuekit._wiring.registry import find_spec
from queuekit.backend import Accepted, IncomingMessage, Settled
from queuekit.testing.contract.bridged import expect_lanes
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.twins import TWINS
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import FaultyOpener

_HOUR = timedelta(hours=1)


class Concurrency(Group):
    """Nothing is lost or doubled by doing many things at once, and every bound holds."""

    def test_CCY_01_concurrent_sends_all_delivered(self, harness: Harness, face: Face) -> None:
        """Many threads or tasks that send through one producer at once: each message arrives once."""
        queue = Queue(harness)
        producer = face.producer(queue)

        def send_all(thread: int) -> list[bytes]:
            sends = {b"soon %d-%d" % (thread, index): None for index in range(10)}
            futures = {body: face.send_soon(producer, body) for body in sends}
            blocking = [b"%d-%d" % (thread, index) for index in range(5)]
            outcomes = [producer.send(body) for body in blocking]
            outcomes += [each.result(REAL_LIMIT_S) for each in futures.values()]
            assert {type(each) for each in outcomes} == {Accepted}
            return [*sends, *blocking]

        senders = [harness.start(partial(send_all, thread)) for thread in range(8)]
        sent = [body for each in senders for body in each.result("the sends")]
        assert len(sent) == 120
        assert Counter(each.body for each in queue.take_up_to(len(sent) + 1)) == Counter(sent)

    def test_CCY_02_concurrent_receives_disjoint(self, harness: Harness) -> None:
        """Many threads that receive through one backend at once never hold one message together."""
        queue = Queue(harness)
        bodies = [b"%d" % index for index in range(90)]
        queue.put(*bodies)

        def receive_until_empty() -> list[IncomingMessage]:
            mine: list[IncomingMessage] = []
            while got := queue.receive(min(4, queue.capabilities.max_receive)):
                mine += got
            return mine

        receivers = [harness.start(receive_until_empty) for _ in range(6)]
        got = [each for receiver in receivers for each in receiver.result("the receives")]
        if len(got) < len(bodies):  # a service may answer with nothing while it still holds some
            got += queue.take_up_to(len(bodies) - len(got))
        assert Counter(each.body for each in got) == Counter(bodies)
        assert len({each.handle for each in got}) == len(got)
        assert {type(each) for each in queue.ack(*got)} == {Settled}

    def test_CCY_03_out_of_order_settle(self, harness: Harness, face: Face) -> None:
        """Settled in any order, each delivery gets its own settlement, and no neighbour's."""
        queue = Queue(harness)
        queue.put(*[b"%02d" % index for index in range(20)])
        consumer = face.consumer(queue)
        deliveries = [face.next(consumer) for _ in range(20)]
        for delivery in sorted(deliveries, key=lambda each: int(each.body) * 7 % 20):
            if int(delivery.body) % 2:
                delivery.ack()
            else:
                delivery.retry()
        for delivery in deliveries:
            face.settled(delivery)
        face.close(consumer)
        left = queue.take_up_to(20)
        assert sorted(each.body for each in left) == [b"%02d" % index for index in range(0, 20, 2)]

    def test_CCY_04_concurrency_cap_respected(self, harness: Harness, face: Face) -> None:
        """No more handlers run at once than the worker may run."""
        queue, gate, done = Queue(harness), threading.Event(), list[bytes]()
        bodies = [b"%02d" % index for index in range(12)]
        queue.put(*bodies)
        work = Work(face, queue, done.append, gate=gate, concurrency=3, prefetch=12, lease=_HOUR)
        work.await_begun(3)
        harness.pass_time(1.0 if harness.virtual else 0.2)
        assert (len(work.begun), done) == (3, [])
        gate.set()
        work.await_true(lambda: sorted(done) == bodies, "all are handled")

    def test_CCY_05_prefetch_cap_respected(self, harness: Harness, face: Face) -> None:
        """What is leased and unsettled stays under its caps, by count and by bytes; the rest is free for others."""
        caps: dict[int, dict[str, Any]] = {4: {"max_in_flight": 4}, 2: {"max_in_flight_bytes": 1000}}
        for most, cap in caps.items():
            queue = Queue(harness)
            queue.put(*[b"%02d" % index + b"x" * 398 for index in range(20)])
            consumer = face.consumer(queue, prefetch=100, **cap)
            held = [face.next(consumer).body for _ in range(most)]
            assert face.receive_now(consumer) is None
            free = list[bytes]()
            # What one poll brought over the cap is on its way back.
            harness.until(partial(_takes, queue, free, 20 - most), within_s=1.0, what="the rest is free")
            assert len({*held, *free}) == 20

    def test_CCY_06_saturated_then_resumes(self, harness: Harness, face: Face) -> None:
        """With as many unsettled as may be, nothing more comes; each settlement lets one more in."""
        queue = Queue(harness)
        queue.put(*[b"%d" % index for index in range(6)])
        consumer = face.consumer(queue, max_in_flight=3)
        held = [face.next(consumer) for _ in range(3)]
        seen = [each.body for each in held]
        for _ in range(3):
            assert face.receive_now(consumer) is None
            held.pop().ack()
            held.append(face.next(consumer))
            seen.append(held[-1].body)
        assert len(set(seen)) == 6

    def test_CCY_07_slow_message_does_not_block_others(self, harness: Harness, face: Face) -> None:
        """One slow handler does not hold up what was fetched with its message."""
        queue, slow, done = Queue(harness), threading.Event(), list[bytes]()
        quick = [b"%d" % index for index in range(10)]
        queue.put(b"slow", *quick)
        work = Work(face, queue, done.append, gate={b"slow": slow}, concurrency=2, prefetch=20, lease=_HOUR)
        work.await_true(lambda: sorted(done) == quick, "all the others are handled")
        slow.set()
        work.await_true(lambda: len(done) == 11, "the slow one is handled too")

    def test_CCY_08_batch_flush_by_size_bytes_linger(self, harness: Harness, face: Face) -> None:
        """A batch goes when it is full by count, when it is full by bytes, and when it has waited long enough;
        each by itself."""
        _expect_batch(harness, face, {"max_send_batch": 3}, sends=3, together=3)
        _expect_batch(harness, face, {"max_send_batch_bytes": 2500}, sends=3, together=2)
        _expect_batch(harness, face, {}, sends=2, together=2, linger_s=harness.min_delay_s)

    @requires("ordering")
    def test_CCY_09_batch_per_key(self, harness: Harness, face: Face) -> None:
        """Where a call may hold only one ordering key, no batch mixes keys, and each key's order is kept."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, one_key_per_send=True, atomic_send=False)
        sent = [(b"%02d" % index, ("a", "b", "c")[index % 3]) for index in range(18)]
        producer = face.producer(queue, opener=opener)
        assert face.send_many(producer, [Message(body, ordering_key=key) for body, key in sent[:9]]).ok
        futures = [face.send_soon(producer, body, ordering_key=key) for body, key in sent[9:]]
        assert all(isinstance(each.result(REAL_LIMIT_S), Accepted) for each in futures)
        calls = opener.script.calls("send")
        assert [len({each.ordering_key for each in call.batch}) for call in calls] == [1] * len(calls)
        arrived: dict[str | None, list[bytes]] = {}
        for _ in sent:
            (got,) = queue.take()
            arrived.setdefault(got.ordering_key, []).append(got.body)
            queue.ack(got)
        assert arrived == {key: [body for body, each in sent if each == key] for key in ("a", "b", "c")}

    def test_CCY_10_rate_limit_before_receive(self, harness: Harness, face: Face) -> None:
        """What the rate does not allow yet is not fetched: it is free for others, and no lease of it burns."""
        queue, done, per_s = Queue(harness), list[bytes](), 2 * harness.min_delay_s
        queue.put(*[b"%d" % index for index in range(8)])
        rate = Rate(2, per=timedelta(seconds=per_s), burst=2)
        work = Work(face, queue, done.append, rate=rate, prefetch=10, lease=_HOUR)
        work.await_true(lambda: len(done) == 2, "as many are handled as the rate allows at once")
        free = queue.take(6)
        assert len({*done, *(each.body for each in free)}) == 8
        for each in free:
            queue.release(each)
        harness.pass_time(per_s)
        work.await_true(lambda: len(done) == 4, "as many again, once their time has come")
        assert len(queue.take_up_to(5)) == 4

    def test_CCY_11_settle_path_not_starved(self, harness: Harness, face: Face) -> None:
        """While every poll thread waits for messages, settlements and extensions go through."""
        queues = [Queue(harness) for _ in range(3)]
        for queue in queues:
            queue.put(b"x", b"y")
        consumers = [face.consumer(queue, prefetch=0, poll_wait=_HOUR) for queue in queues]
        deliveries = [[face.next(consumer) for _ in range(2)] for consumer in consumers]
        polls = [face.receiving(consumer) for consumer in consumers]
        harness.until_blocked(3 * len(consumers))
        for first, second in deliveries:
            if harness.capabilities.extend != "none":
                face.run(first.aextend(by=timedelta(seconds=harness.lease_s)))
            first.ack()
            second.retry(delay=timedelta(0))
            for each in (first, second):
                face.settling(each).result("a settlement beside a poll")
        again = [poll.result("the poll, which the retry ends") for poll in polls]
        assert {each.message_id for each in again if each} == {second.message_id for _, second in deliveries}

    def test_CCY_12_fair_queues_no_starvation(self, harness: Harness, face: Face) -> None:
        """Of two queues on one worker, each makes progress while the other has all its handlers busy."""
        for busy in (0, 1):
            _expect_progress_beside(face, [Queue(harness), Queue(harness)], busy)

    @requires("receive")
    def test_CCY_13_priority_lanes(self, harness: Harness) -> None:
        """The higher priority first, and of one priority the earlier; weighted, every priority has its share. So
        it is over lanes too, where the service itself has no priorities."""
        levels = harness.capabilities.priority_levels
        if levels:
            _expect_priorities(harness, levels)
        else:
            TWINS["priority"](harness)
        if harness.capabilities.ordering_key_required:
            with pytest.raises((InvalidURLError, UnsupportedError), match="lanes"):
                harness.opener.open(QueueURL.parse(harness.url(harness.unique_name())), {"lanes": "high,low"})
        else:
            expect_lanes(harness)


def _expect_priorities(harness: Harness, levels: int) -> None:
    queue = Queue(harness)
    sent = [queue.put(b"x", priority=index * 7 % levels)[0] for index in range(2 * levels)]
    expected = [each.message_id for each in sorted(sent, key=lambda each: -each.priority)]
    assert [queue.take()[0].message_id for _ in sent] == expected
    options = find_spec(QueueURL.parse(harness.url(queue.name)).scheme).options
    if "priorities" in {each.name for each in dataclasses.fields(options)}:
        _expect_shares(harness, levels - 1)


def _expect_batch(
    harness: Harness, face: Face, limits: dict[str, Any], *, sends: int, together: int, linger_s: float = 3600.0
) -> None:
    """So many sends are one call of so many messages, made at the last send or at the end of the linger."""
    queue, opener = Queue(harness), FaultyOpener(harness.opener, **limits)
    producer = face.producer(queue, opener=opener, linger=timedelta(seconds=linger_s))
    futures = list[Future[Any]]()
    for index in range(sends):
        assert opener.script.calls("send") == [], "nothing has filled the batch"
        futures.append(face.send_soon(producer, b"%d" % index + b"x" * 900))
    if linger_s < 3600.0 and harness.virtual:
        harness.until(lambda: producer._outbox.unsent() == sends, within_s=0.0, what="all are gathered")
        harness.pass_time(0.9 * linger_s)
        assert opener.script.calls("send") == [], "it may wait a little longer"
        harness.pass_time(0.1 * linger_s)
    limit_s = 0.0 if harness.virtual else REAL_LIMIT_S
    harness.until(lambda: len(opener.script.answered("send")) == 1, within_s=limit_s, what="the batch goes")
    assert [len(call.batch) for call in opener.script.calls("send")] == [together]
    face.close(producer)
    assert all(isinstance(each.result(REAL_LIMIT_S), Accepted) for each in futures)
    assert len(queue.take(sends)) == sends


def _expect_progress_beside(face: Face, queues: list[Queue], busy: int) -> None:
    """One of the queues keeps all its handlers busy, and the other is worked all the same."""
    gate, done, quick = threading.Event(), list[bytes](), [b"%d" % index for index in range(10)]
    queues[busy].put(*[b"busy"] * 30)
    queues[1 - busy].put(*quick)
    work = Work(face, queues[0], done.append, gate={b"busy": gate}, also=queues[1:], concurrency=2, lease=_HOUR)
    work.await_true(lambda: sorted(done) == quick, "the other queue is worked")
    gate.set()
    work.await_true(lambda: len(done) == 40, "the busy one is worked off")
    work.stop()


def _expect_shares(harness: Harness, high: int) -> None:
    """With weighted priorities, the low ones come too while high ones wait, and less often."""
    name = harness.unique_name()
    queue = Queue(harness, name, backend=harness.open(name, priorities="weighted"))
    for priority in (high, 0):
        queue.put(*[b"%d" % priority] * 200, priority=priority)
    # So many that a share of one in eleven comes up for sure.
    first = Counter(each.body for each in (queue.take()[0] for _ in range(190)))
    assert 0 < first[b"0"] < first[b"%d" % high]


def _takes(queue: Queue, bodies: list[bytes], count: int) -> bool:
    bodies.extend(each.body for each in queue.take_up_to(count - len(bodies)))
    return len(bodies) == count
