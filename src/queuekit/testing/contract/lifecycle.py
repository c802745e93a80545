# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""SHU: opening, closing, and what is in flight meanwhile."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from queuekit._portable.worker import ExitCode
from queuekit._values.errors import ClosedError, QueueKitError
from queuekit.backend import Accepted, IncomingMessage, Interruptible, Settled
from queuekit.testing.contract.faces import Face, extended
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.programs import FORKS, KEYS, LEAVES_WITHOUT_CLOSE, WORKS_UNTIL_SIGTERM
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import FaultyOpener, hold, hold_before, raise_before, refused

_HOUR = timedelta(hours=1)


class Lifecycle(Group):
    """Nothing is lost, and nothing hangs, at either end of a life."""

    def test_SHU_01_close_is_idempotent(self, harness: Harness, face: Face) -> None:
        """Closing twice, from two threads at once, and after a failure, is harmless."""
        opener = FaultyOpener(harness.opener)
        producer = face.producer(harness.unique_name(), opener=opener)
        consumer = face.consumer(harness.unique_name(), opener=opener)
        assert face.receive_now(consumer) is None
        opener.script.on("send", raise_before(refused()))
        with pytest.raises(QueueKitError):
            face.send(producer, b"x")
        for opened in (producer, consumer):
            both = [harness.start(partial(face.close, opened)) for _ in range(2)]
            for each in both:
                each.result("close")
            face.close(opened)
        backend = harness.open(harness.unique_name())
        backend.close()
        backend.close()

    def test_SHU_02_send_after_close(self, harness: Harness, face: Face) -> None:
        """Sending after close raises ClosedError, and nothing is sent."""
        queue = Queue(harness)
        producer = face.producer(queue)
        face.close(producer)
        with pytest.raises(ClosedError):
            face.send(producer, b"x")
        with pytest.raises(ClosedError):
            face.send_many(producer, [b"x"])
        with pytest.raises(ClosedError):
            producer.send_soon(b"x")
        queue.expect_nothing("the producer was closed")

    def test_SHU_03_receive_after_close(self, harness: Harness, face: Face) -> None:
        """Receiving after close raises ClosedError; a blocked receive wakes, at both levels."""
        consumer = face.consumer(harness.unique_name())
        blocked = harness.start(lambda: face.next(consumer))
        harness.until_blocked(2)
        face.close(consumer)
        with pytest.raises(ClosedError):
            blocked.result("a receive of a closed consumer")
        with pytest.raises(ClosedError):
            face.receive_now(consumer)
        queue = Queue(harness)
        poll = harness.start(lambda: queue.receive(wait_s=harness.lease_s))
        harness.until_blocked()
        queue.backend.close()
        assert poll.result("a poll of a closed backend") == []

    def test_SHU_04_graceful_drain_finishes_running(self, harness: Harness, face: Face) -> None:
        """On a stop what runs is finished and settled, and what has not begun is another consumer's at once."""
        queue, gate, done = Queue(harness), threading.Event(), list[bytes]()
        queue.put(b"1", b"2", b"3")
        work = Work(face, queue, done.append, gate=gate, concurrency=1, prefetch=10, lease=_HOUR)
        work.await_begun(1)
        work.request_stop()
        handed_back = list[IncomingMessage]()

        def both_back() -> bool:
            handed_back.extend(queue.receive(1))
            return len(handed_back) == 2

        work.await_true(both_back, "what has not begun is released while the first still runs")
        assert not work.ended()
        gate.set()
        assert work.stop() is ExitCode.DRAINED
        assert done == work.begun
        assert {*done, *(each.body for each in handed_back)} == {b"1", b"2", b"3"}
        if queue.capabilities.attempts == "exact" and not queue.capabilities.release_counts:
            assert [each.attempt for each in handed_back] == [1, 1]
        assert [type(each) for each in queue.ack(*handed_back)] == [Settled, Settled]
        queue.expect_nothing("the first was acked")

    @requires("extend", "lease")
    def test_SHU_05_drain_keeps_extending(self, harness: Harness, face: Face) -> None:
        """While the worker drains, the leases of what still runs are kept, and its ACK counts."""
        queue, opener, gate = Queue(harness), FaultyOpener(harness.opener), threading.Event()
        lease = harness.min_lease_s
        queue.put(b"x")
        work = Work(
            face,
            queue,
            lambda _body: None,
            gate=gate,
            opener=opener,
            lease=timedelta(seconds=lease),
            app={"drain": _HOUR},
        )
        work.await_begun(1)
        work.request_stop()
        other = queue.again()
        for kept in range(1, 7):
            harness.pass_time(0.6 * lease)
            harness.until_kept(partial(extended, opener, kept))
            other.expect_nothing("the lease is kept while the worker drains")
        gate.set()
        assert work.stop() is ExitCode.DRAINED
        harness.pass_time(2 * lease)
        other.expect_nothing("it was acked")

    def test_SHU_06_drain_deadline(self, harness: Harness, face: Face) -> None:
        """At the deadline of the drain handlers are cancelled, their messages released, and run returns."""
        queue, gate, drain_s = Queue(harness), threading.Event(), harness.min_delay_s
        queue.put(b"x")
        work = Work(
            face, queue, lambda _body: None, gate=gate, app={"drain": timedelta(seconds=drain_s)}, lease=_HOUR
        )
        work.await_begun(1)
        asked_at = harness.clock.monotonic()
        work.stop(within_s=drain_s + 15.0)
        assert harness.clock.monotonic() - asked_at >= drain_s - 0.005, "the handler had its time"
        assert queue.take()[0].body == b"x"
        gate.set()

    def test_SHU_07_poll_in_flight_at_stop(self, harness: Harness, face: Face) -> None:
        """Messages that a poll brings after the stop are handed back at once, not kept for their lease."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        queue.put(b"1", b"2")
        reached, released = threading.Event(), threading.Event()
        opener.script.on("receive", hold(released, reached))
        consumer = face.consumer(queue, opener=opener)
        waiting = harness.start(lambda: face.next(consumer))
        assert reached.wait(REAL_LIMIT_S)
        closing = harness.start(consumer.close)
        with pytest.raises(ClosedError):
            waiting.result("a receive of a closing consumer")
        released.set()
        closing.result("close")
        got = queue.take(2)
        assert {each.body for each in got} == {b"1", b"2"}
        if queue.capabilities.attempts == "exact" and not queue.capabilities.release_counts:
            assert [each.attempt for each in got] == [1, 1]
        _expect_poll_that_begins_late_to_end(harness, face)

    def test_SHU_08_partial_batches_flush(self, harness: Harness, face: Face) -> None:
        """What a producer still gathers for a fuller batch is sent by close, not dropped."""
        queue = Queue(harness)
        producer = face.producer(queue, linger=_HOUR)
        futures = [producer.send_soon(b"%d" % index) for index in range(3)]
        assert not any(each.done() for each in futures)
        face.close(producer)
        assert [type(each.result(0)) for each in futures] == [Accepted] * 3
        assert len(queue.take(3)) == 3

    def test_SHU_09_producer_close_flushes(self, harness: Harness, face: Face) -> None:
        """Every send that the API took has its outcome when close returns, whatever the outcome is."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=2)
        reached, released = threading.Event(), threading.Event()
        opener.script.on("send", hold(released, reached), raise_before(refused()))
        producer = face.producer(queue, opener=opener)
        futures = [producer.send_soon(b"%d" % index) for index in range(7)]
        assert reached.wait(REAL_LIMIT_S)
        closing = harness.start(producer.close)
        released.set()
        closing.result("close")
        outcomes = [each.result(0) for each in futures]
        accepted = [b"%d" % index for index, each in enumerate(outcomes) if isinstance(each, Accepted)]
        assert 0 < len(accepted) < 7, "one call failed, the others did not"
        assert sorted(each.body for each in queue.take(len(accepted))) == accepted
        queue.expect_nothing("no other was accepted")

    def test_SHU_10_sigterm_exit_code(self, harness: Harness) -> None:
        """SIGTERM drains a worker, which exits with 0; a second one ends it now. Nothing is lost either way."""
        harness = harness.in_real_time()
        for requests in (1, 2):
            queue = Queue(harness)
            ran = harness.work_elsewhere(queue.name, KEYS + WORKS_UNTIL_SIGTERM, str(requests), _keyed(harness))
            assert ran.returncode == 0, ran.stderr
            begun, *rest = ran.stdout.splitlines()
            first = begun.removeprefix("begun ")
            assert first in ("12" if harness.pushed else "1")
            assert rest == ([f"handled {first}", "ended"] if requests == 1 else ["ended"])
            if not harness.one_process:
                within_s = harness.tolerance_s if harness.pushed and requests == 2 else 0.5
                left = {each.body for each in queue.take_up_to(2, within_s=within_s)}
                # Whether the other was still begun, and acked, depends on when the stop came.
                assert left - ({b"1", b"2"} - {first.encode()}) == ({first.encode()} if requests == 2 else set())

    def test_SHU_11_close_before_start(self, harness: Harness, face: Face) -> None:
        """Closing what was never used is fine, and touches nothing."""
        opener = FaultyOpener(harness.opener)
        name = harness.unique_name()
        face.close(face.producer(name, opener=opener))
        face.close(face.consumer(name, opener=opener))
        assert opener.script.calls() == []

    def test_SHU_12_no_leaked_threads_tasks_sockets(self, harness: Harness, face: Face) -> None:
        """Opening, using and closing many times leaves as many threads and files as before."""
        queue = Queue(harness)
        _open_use_close(face, queue)
        before = _threads(), _descriptors()
        for _ in range(25):
            _open_use_close(face, queue)
        gc.collect()
        # Of a service in this process, the last connections may be about to end.
        harness.until(
            lambda: _threads() <= before[0] and _descriptors() <= before[1],
            within_s=harness.tolerance_s,
            what=f"as many threads and files as before, {before}",
        )

    def test_SHU_13_interpreter_exit_without_close(self, harness: Harness) -> None:
        """A process that ends without close does not hang, sends what it took, and loses no lease's message."""
        harness = harness.in_real_time()
        queue = Queue(harness)
        ran = subprocess.run(
            [
                sys.executable,
                "-c",
                KEYS + LEAVES_WITHOUT_CLOSE,
                f"{max(1.0, harness.min_lease_s)}",
                _received(harness),
                _keyed(harness),
            ],
            input=harness.url(queue.name),
            capture_output=True,
            text=True,
            timeout=REAL_LIMIT_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() in {"now", "soon"}
        if not harness.one_process:
            got = queue.take(2, within_s=10.0)
            assert {each.body for each in got} == {b"now", b"soon"}

    def test_SHU_14_fork_safety(self, harness: Harness) -> None:
        """After a fork the child's producer and consumer work afresh or refuse clearly; the parent's go on, and
        nothing of theirs is settled or lost by the child."""
        if not hasattr(os, "fork"):
            pytest.skip("this system has no fork")
        harness = harness.in_real_time()
        queue = Queue(harness)
        code, url = KEYS + FORKS, harness.url(queue.name)
        command = [sys.executable, "-W", "ignore", "-c", code, url, _received(harness), _keyed(harness)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=REAL_LIMIT_S, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.splitlines()[-1] == "unharmed 0", ran.stdout + ran.stderr
        if not harness.one_process:
            sent = {b"waiting", b"parent"} | (set() if "refused" in ran.stdout else {b"child", b"soon"})
            sent |= {b"held"} if harness.pushed else set()
            assert {each.body for each in queue.take(len(sent), within_s=5.0)} == sent
            queue.expect_nothing("the parent's own message was acked by the parent")


def _keyed(harness: Harness) -> str:
    """Tells a child whether its messages need keys."""
    return "keyed" if harness.capabilities.ordering_key_required else "plain"


def _received(harness: Harness) -> str:
    """Tells a child whether it can receive."""
    return "pushed" if harness.pushed else "received"


def _expect_poll_that_begins_late_to_end(harness: Harness, face: Face) -> None:
    """A poll that reaches the service just after the interruption does not hold up close for its whole wait."""
    if not isinstance(harness.open(harness.unique_name()), Interruptible):
        return
    opener, reached, released = FaultyOpener(harness.opener), threading.Event(), threading.Event()
    opener.script.on("receive", hold_before(released, reached))
    consumer = face.consumer(harness.unique_name(), opener=opener, poll_wait=timedelta(seconds=20))
    waiting = harness.start(lambda: face.next(consumer))
    assert reached.wait(REAL_LIMIT_S)
    closing = harness.start(consumer.close)
    with pytest.raises(ClosedError):
        waiting.result("a receive of a closing consumer")
    released.set()
    harness.until(lambda: closing.done, within_s=5.0, what="close ends, though the poll missed the interruption")


def _open_use_close(face: Face, queue: Queue) -> None:
    producer, consumer = face.producer(queue), face.consumer(queue)
    producer.send_soon(b"x").result(REAL_LIMIT_S)
    delivery = face.next(consumer)
    delivery.ack()
    face.close(consumer)
    face.close(producer)


def _threads() -> int:
    # Executor threads of the face's own loop stay until it is closed: they are not queuekit's.
    return sum(thread.name.startswith("queuekit") for thread in threading.enumerate())


def _descriptors() -> int:
    listing = Path("/proc/self/fd")
    return len(list(listing.iterdir())) if listing.exists() else 0
