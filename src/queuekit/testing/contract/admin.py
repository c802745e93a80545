# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""ADM: making, removing, emptying and counting a queue, and looking into it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from queuekit._engine.guard import Guard
from queuekit._values.errors import QueueExistsError, QueueNotFoundError, UnsupportedError
from queuekit.backend import (
    Accepted,
    Admin,
    ErrorCode,
    LeaseLost,
    NotAttempted,
    Pausable,
    Peekable,
    QueueStats,
    QueueURL,
    Rejected,
    Settled,
)
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import CALL_S, Queue, message
from queuekit.testing.faults import FaultyOpener, edit_answer

_PURGED_S = 70.0
"""How long a service that purges in the background may take."""
_COUNTS_S = 60.0
"""How long a service that counts approximately may take until its count is right."""


class Administration(Group):
    """What a user asks for is done to this queue alone, and nothing is done unasked."""

    @requires("admin")
    def test_ADM_01_create_delete_exists(self, harness: Harness) -> None:
        """Created it exists; deleted it does not, its messages and dead letters are gone, and its first use fails
        where queues are declared, or makes it anew."""
        name, neighbour = harness.unique_name(), Queue(harness)
        neighbour.put(b"stays")
        backend = harness.opener.open(QueueURL.parse(harness.url_of(name)))
        assert isinstance(backend, Admin), "admin is declared, so Admin must be there"
        guard = Guard(backend, name)
        assert not backend.exists(), "nobody has made it"
        assert not backend.exists(), "asking made it"
        backend.create()
        assert backend.exists()
        batch = Queue(harness, name, backend=backend).keyed(message(b"x"))
        assert isinstance(guard.send(batch, timeout_s=CALL_S)[0], Accepted)
        backend.delete()
        harness.until(lambda: not backend.exists(), within_s=harness.deleted_within_s, what="it is gone")
        backend.delete()
        if harness.capabilities.queues == "declared":
            (outcome,) = guard.send(batch, timeout_s=CALL_S)
            assert isinstance(outcome, Rejected | NotAttempted)
            assert outcome.error.code is ErrorCode.NOT_FOUND
        else:
            queue = Queue(harness, name, backend=backend)
            queue.expect_nothing("it was deleted with what it held")
            queue.put(b"y")
            assert backend.exists(), "its first use makes it"
        backend.close()
        assert neighbour.take()[0].body == b"stays"

    @requires("admin")
    def test_ADM_02_create_is_idempotent_same_config(self, harness: Harness) -> None:
        """Created again with the same settings it stays as it is, with its messages. With other settings it is
        refused, naming the difference, where the service keeps settings with the queue; where each opening has its
        own, there is none."""
        queue = Queue(harness)
        queue.put(b"x")
        for _ in range(2):
            assert isinstance(queue.backend, Admin)
            queue.backend.create()
        for name, value in harness.stored_settings.items():
            other: Any = harness.open(queue.name, **{name: value})
            with pytest.raises(QueueExistsError, match=name):
                Guard(other, queue.name).call("create", other.create)
        assert queue.take()[0].body == b"x"

    @requires("admin", "declared")
    def test_ADM_03_no_implicit_create(self, harness: Harness) -> None:
        """Neither sending to a queue that does not exist, nor receiving from it, nor probing it, makes it."""
        backend: Any = harness.opener.open(QueueURL.parse(harness.url_of(harness.unique_name())))
        guard = Guard(backend, "the missing queue")
        batch = Queue(harness, backend=backend).keyed(message())
        assert isinstance(guard.send(batch, timeout_s=CALL_S)[0], Rejected | NotAttempted)
        with pytest.raises(QueueNotFoundError):
            guard.receive(max_messages=1, wait_s=0.0, lease_s=harness.lease_s)
        with pytest.raises(QueueNotFoundError):
            guard.probe()
        assert not backend.exists()
        backend.close()

    @requires("admin", "purge")
    def test_ADM_04_purge_removes_ready(self, harness: Harness) -> None:
        """What is ready, delayed, or waits for a retry is gone and counted; what is leased is not, and can be
        settled, unless the service says that it takes that too; other queues are as they were."""
        queue, neighbour, can = Queue(harness), Queue(harness), harness.capabilities
        neighbour.put(b"stays")
        queue.put(b"leased", b"retried", b"ready")
        leased, retried = queue.take(2)
        removed = 2 if can.max_retry_delay_s else 1
        if can.max_retry_delay_s:
            queue.retry(retried, harness.min_delay_s)
        if can.max_delay_s:
            queue.put(b"delayed", delay_s=harness.min_delay_s)
            removed += 1
        assert isinstance(queue.backend, Admin)
        counted = queue.backend.purge()
        assert counted in {removed, None}
        harness.pass_time(harness.min_delay_s)
        if counted is None:  # done by the service, in its own time, and perhaps not twice in a row
            harness.until(lambda: _nothing_left(queue), within_s=_PURGED_S, what="it is purged")
        else:
            queue.expect_nothing("it was purged")
            assert queue.backend.purge() == 0
        rest = [leased] if can.max_retry_delay_s else [leased, retried]
        acked = {type(each) for each in queue.ack(*rest)}
        assert acked <= ({Settled, LeaseLost} if can.purges_leased else {Settled})
        assert neighbour.take()[0].body == b"stays"

    @requires("admin", "depth")
    def test_ADM_05_depth_counts(self, harness: Harness) -> None:
        """Ready, delayed, leased and dead are counted as declared; what is not told is None, and never 0."""
        queue, can = Queue(harness), harness.capabilities
        _expect_stats(queue, ready=0, leased=0)
        queue.put(b"1", b"2", b"3")
        (leased,) = queue.take()
        expected = {"ready": 2, "leased": 1}
        if can.max_delay_s:
            queue.put(b"4", b"5", b"6", delay_s=100 * harness.min_delay_s)
            expected["delayed"] = 3
        if can.dead_letters == "native":
            (dead,) = queue.take()
            queue.bury(dead, message(b"dead"))
            expected |= {"ready": 1, "dead": 1}
        _expect_stats(queue, **expected)
        queue.release(leased)
        _expect_stats(queue, **(expected | {"ready": expected["ready"] + 1, "leased": 0}))

    @requires("admin", "depth")
    def test_ADM_06_depth_after_settle(self, harness: Harness, face: Face) -> None:
        """Once everything is settled nothing is counted, nor after a lease has ended and what it held was acked."""
        queue = Queue(harness)
        assert face.send_many(face.producer(queue), [b"%d" % index for index in range(5)]).ok
        (lapsed,) = queue.take(lease_s=harness.min_lease_s)
        harness.pass_time(harness.min_lease_s)
        consumer = face.consumer(queue)
        for _ in range(5):
            face.next(consumer).ack()
        face.close(consumer)
        _expect_stats(queue, ready=0, delayed=0, leased=0)
        queue.ack(lapsed)
        _expect_stats(queue, ready=0, delayed=0, leased=0)

    @requires("peek")
    def test_ADM_07_peek_does_not_lease(self, harness: Harness) -> None:
        """Looking shows every message with its state, page by page, and changes neither attempt nor visibility."""
        queue = Queue(harness)
        sent = queue.put(b"1", b"2", b"3", attributes={"a": "1"}, metadata={"type": "t"})
        assert isinstance(queue.backend, Peekable), "peek is declared, so Peekable must be there"
        for _ in range(3):
            seen = list(queue.backend.peek(limit=10))
            assert [each.message_id for each in seen] == [each.message_id for each in sent]
            assert [(each.state, each.attempt) for each in seen] == [("ready", 0)] * 3
            assert {(each.body, *each.attributes.items(), *each.metadata.items()) for each in seen} == {
                (body, ("a", "1"), ("type", "t")) for body in (b"1", b"2", b"3")
            }
        (first,) = queue.backend.peek(limit=1)
        rest = queue.backend.peek(limit=10, after=first.cursor)
        assert [each.message_id for each in (first, *rest)] == [each.message_id for each in sent]
        assert list(queue.backend.peek(limit=10, after=rest[-1].cursor)) == []
        got = queue.take(3)
        if queue.capabilities.attempts == "exact":
            assert [each.attempt for each in got] == [1, 1, 1]
        assert {each.state for each in queue.backend.peek(limit=10)} == {"leased"}
        queue.ack(*got)
        assert list(queue.backend.peek(limit=10)) == []

    def test_ADM_08_capabilities_match_server_version(self, harness: Harness, face: Face) -> None:
        """What the probe finds missing is missing: required it fails at the first call, and `check` names it. A
        server that is too old for a feature is not said to have it."""
        name, opener = harness.unique_name(), FaultyOpener(harness.opener)
        present = [each for each in ("peek", "purge", "attempts") if not harness.capabilities.missing([each])]
        old: dict[str, Any] = {"peek": False, "purge": False, "attempts": "none"}
        opener.script.always("probe", edit_answer(lambda got: [dataclasses.replace(got[0], **old)]))
        for feature in present:
            producer = face.producer(name, opener=opener, require=[feature])
            with pytest.raises(UnsupportedError, match=feature):
                face.send(producer, b"x")
            report = face.check(producer)
            assert [feature in each for each in report.problems] == [True]
        assert opener.script.calls("send") == []
        if hasattr(harness, "old_servers"):
            for url, features in harness.hook("old_servers")():
                backend = harness.opener.open(QueueURL.parse(url))
                assert backend.probe().missing(features) == list(features)
                backend.close()

    @requires("pause")
    def test_ADM_09_pause_hands_out_nothing_to_anybody(self, harness: Harness) -> None:
        """A paused queue hands out nothing, through whichever opening, also what a lease gives back or a delay makes
        due; sends and settlements go on. Resumed, it has lost nothing. Paused twice it is resumed by one resume."""
        queue, neighbour = Queue(harness), Queue(harness)
        other = queue.again()
        neighbour.put(b"stays")
        queue.put(b"lapsed")
        queue.take(lease_s=harness.min_lease_s)
        harness.pass_time(0.6 * harness.min_lease_s)
        queue.put(b"held")
        (held,) = queue.take()
        backend = _pausable(queue)
        assert not backend.is_paused()
        backend.pause()
        backend.pause()
        assert _pausable(other).is_paused()
        other.put(b"sent while paused")
        if harness.capabilities.max_delay_s:
            other.put(b"delayed", delay_s=harness.min_delay_s)
        harness.pass_time(max(0.5 * harness.min_lease_s, harness.min_delay_s))
        for each in (queue, other, queue.again()):
            each.expect_nothing("the queue is paused")
        assert [type(each) for each in queue.ack(held)] == [Settled]
        assert neighbour.take()[0].body == b"stays", "another queue is not paused"
        _pausable(other).resume()
        assert not backend.is_paused()
        expected = {b"lapsed", b"sent while paused", *([b"delayed"] if harness.capabilities.max_delay_s else [])}
        assert {each.body for each in queue.take(len(expected))} == expected
        backend.resume()

    @requires("pause", "long_poll")
    def test_ADM_10_pause_holds_a_waiting_receive(self, harness: Harness) -> None:
        """A receive that waits goes on waiting while its queue is paused, whatever is sent, and has the message soon
        after it is resumed."""
        queue = Queue(harness)
        other, wait_s = queue.again(), min(harness.lease_s, 20.0)
        poll = harness.start(lambda: queue.receive(wait_s=wait_s))
        harness.until_blocked()
        _pausable(other).pause()
        other.put(b"late")
        poll.join(harness.tolerance_s + 0.05)  # real time in which a poll that is not held would end
        assert not poll.done, "the queue is paused"
        _pausable(other).resume()
        harness.until(lambda: poll.done, within_s=max(harness.tolerance_s, 1.0), what="the poll wakes by the resume")
        assert [each.body for each in poll.result()] == [b"late"]

    @requires("pause")
    def test_ADM_11_pause_outlives_who_paused(self, harness: Harness) -> None:
        """The pause stays when whoever made it is closed; it ends with the queue. Asking and resuming make none."""
        name = harness.unique_name()
        first = Queue(harness, name)
        if harness.capabilities.queues == "implicit":
            assert not _pausable(first).is_paused()
            _pausable(first).resume()
            assert not _exists(first), "asking made it"
        if not harness.pushed:  # there somebody has it at once
            first.put(b"before")
        _pausable(first).pause()
        first.put(b"x")
        first.backend.close()
        second = Queue(harness, name)
        second.expect_nothing("it is paused")
        assert _pausable(second).is_paused()
        if isinstance(second.backend, Admin):
            second.backend.delete()
            harness.pass_time(harness.name_kept_s)
            second.backend.create()
            assert not _pausable(second).is_paused()
            second.put(b"y")
            assert second.take()[0].body == b"y"


def _pausable(queue: Queue) -> Pausable:
    backend = queue.backend
    assert isinstance(backend, Pausable), "pause is declared, so Pausable must be there"
    return backend


def _exists(queue: Queue) -> bool:
    return isinstance(queue.backend, Admin) and queue.backend.exists()


def _expect_stats(queue: Queue, **expected: int) -> None:
    backend = queue.backend
    assert isinstance(backend, Admin)
    if queue.capabilities.depth == "exact":
        stats = backend.stats()
        assert _told(stats, expected) == expected
        return

    def right() -> bool:
        told = _told(backend.stats(), expected)
        return all(value in {None, expected[name]} for name, value in told.items())

    queue.harness.until(right, within_s=_COUNTS_S, what=f"the counts are {expected}")


def _told(stats: QueueStats, names: dict[str, int]) -> dict[str, int | None]:
    return {name: getattr(stats, name) for name in names}


def _nothing_left(queue: Queue) -> bool:
    """Whether nothing can be received; what can goes back, or it would be gone by the next look."""
    got = queue.receive(min(10, queue.capabilities.max_receive))
    for each in got:
        queue.release(each)
    return not got
