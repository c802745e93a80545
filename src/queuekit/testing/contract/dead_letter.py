# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""DLQ: what becomes of a message that will never succeed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

from queuekit._engine import metadata as meta
from queuekit._portable.retry import DeadLetter as DeadLetterOutcome
from queuekit._portable.retry import Retry, RetryPolicy
from queuekit._portable.worker import ExitCode
from queuekit._values.errors import QueueKitError
from queuekit.backend import Action, IncomingMessage, Support
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import Answers, Call, FaultyOpener, InjectedFault, Proceed, Step, unavailable

_LONG: dict[str, Any] = {"lease": timedelta(hours=1)}


class DeadLetter(Group):
    """A dead letter is whole, says why it is dead, and is never lost on its way."""

    @requires("dead_letters")
    def test_DLQ_01_max_attempts_then_dlq(self, harness: Harness, face: Face) -> None:
        """A handler that always fails is run exactly as often as the policy says; then the message is dead."""
        queue, runs = Queue(harness), list[bytes]()
        queue.put(b"x")

        def fail(body: bytes) -> None:
            runs.append(body)
            raise ValueError("broken")

        policy = RetryPolicy(max_attempts=3, wait=wait_none())
        work = Work(face, queue, fail, retry=policy, **dead_letter_argument(harness, queue), **_LONG)
        letter = _await_letter(work, queue)
        assert work.stop() is ExitCode.DRAINED
        assert runs == [b"x"] * 3
        assert letter.metadata[meta.DEAD_ATTEMPTS] == "3"
        assert "ValueError" in letter.metadata[meta.DEAD_ERROR]
        assert "broken" in letter.metadata[meta.DEAD_TRACEBACK]
        queue.expect_nothing("it is dead")

    @requires("dead_letters")
    def test_DLQ_02_dlq_keeps_body_headers_id(self, harness: Harness, face: Face) -> None:
        """The dead letter has the same body, attributes, message id and ordering key."""
        queue, ordered = Queue(harness), harness.capabilities.ordering != "none"
        key = "customer-7" if ordered else None
        (sent,) = queue.put(b"\x00body", attributes={"Color": "red"}, metadata={"type": "t"}, ordering_key=key)
        letter = _bury_one(face, queue, "broken")
        assert (letter.body, letter.message_id, letter.ordering_key) == (sent.body, sent.message_id, key)
        assert dict(letter.attributes) == {"Color": "red"}
        assert letter.metadata["type"] == "t"
        queue.expect_nothing("it is dead")

    @requires("dead_letters")
    def test_DLQ_03_dlq_metadata_present(self, harness: Harness, face: Face) -> None:
        """It says the reason, the attempts, the first and the last time and the source, and holds no secret."""
        queue = Queue(harness)
        queue.put(b"x")
        queue.retry(queue.take()[0])
        letter = _bury_one(face, queue, "no such customer")
        counted = queue.capabilities.attempts == "exact"
        assert letter.metadata[meta.DEAD_REASON] == "no such customer"
        assert letter.metadata[meta.DEAD_ATTEMPTS] == ("2" if counted else letter.metadata[meta.DEAD_ATTEMPTS])
        first, last = (meta.read_instant(letter.metadata[name]) for name in (meta.DEAD_FIRST, meta.DEAD_LAST))
        assert first is not None
        assert last is not None
        assert first <= last <= harness.clock.time() + harness.tolerance_s + 1.0
        assert queue.name in letter.metadata[meta.DEAD_SOURCE]
        assert letter.metadata[meta.DEAD_WORKER]

    def test_DLQ_04_dlq_copy_before_ack(self, harness: Harness, face: Face) -> None:
        """With a queue of one's own for dead letters, a failure between the copy and the ACK of the original
        leaves two messages, and never none."""
        queue, grave, opener = Queue(harness), Queue(harness), FaultyOpener(harness.opener)
        queue.put(b"x")
        consumer = face.consumer(queue, opener=opener, dead_letter=harness.url(grave.name))
        delivery = face.next(consumer)
        order: list[str] = []
        opener.script.always("send", _noting(order, "copy")).always("settle", _noting(order, "ack", fail=True))
        delivery.dead_letter("broken")
        harness.until(lambda: "ack" in order, within_s=60.0, what="the original is settled after its copy")
        assert order[0] == "copy"
        assert grave.take()[0].body == b"x"
        queue.expect_nothing("it is still leased")
        opener.script.always("settle", None)
        face.settled(delivery)
        queue.expect_nothing("its ACK was tried again, and the copy was not repeated")
        grave.expect_nothing("one copy was made")

    def test_DLQ_05_dlq_down_means_retry(self, harness: Harness, face: Face) -> None:
        """While the dead-letter queue is down the original is retried after a wait, and not dropped."""
        queue, grave, opener = Queue(harness), Queue(harness), FaultyOpener(harness.opener)
        queue.put(b"x")
        consumer = face.consumer(queue, opener=opener, dead_letter=harness.url(grave.name))
        opener.script.always("send", _noting([], "copy", fail=True))
        delivery = face.next(consumer)
        delivery.dead_letter("broken")
        face.settled(delivery)
        (entry,) = opener.script.calls("settle")[-1].batch
        assert entry.action is Action.RETRY
        # What is pushed is answered as failed, and its wait is the service's own.
        assert entry.delay_s > 0 or harness.pushed
        assert consumer.counts()["dead_letter.failed"] == 1
        grave.expect_nothing("it was down")
        opener.script.always("send", None)
        if harness.virtual or harness.pushed:
            harness.pass_time(entry.delay_s)
            again = face.next(consumer)
            again.dead_letter("broken")
            face.settled(again)
            assert grave.take()[0].body == b"x"

    @requires("dead_letters")
    def test_DLQ_06_unrecoverable_skips_retries(self, harness: Harness, face: Face) -> None:
        """DeadLetter, returned, raised or inside a group, and an exception marked by the policy, are dead at once."""
        queue, runs = Queue(harness), list[bytes]()
        queue.put(b"return", b"raise", b"group", b"marked")

        def give_up(body: bytes) -> object:
            runs.append(body)
            if body == b"raise":
                raise DeadLetterOutcome("raised")
            if body == b"group":
                raise BaseExceptionGroup("several", [ValueError(), DeadLetterOutcome("grouped")])
            if body == b"marked":
                raise KeyError(body)
            return DeadLetterOutcome("returned")

        policy = RetryPolicy(max_attempts=9, wait=wait_none(), dead_letter_on=LookupError)
        work = Work(face, queue, give_up, retry=policy, **dead_letter_argument(harness, queue), **_LONG)
        letters = {letter.body: letter for letter in [_await_letter(work, queue) for _ in range(4)]}
        assert work.stop() is ExitCode.DRAINED
        assert sorted(runs) == sorted(letters)
        reasons = {body: letter.metadata[meta.DEAD_REASON] for body, letter in letters.items()}
        assert (reasons[b"return"], reasons[b"raise"], reasons[b"group"]) == ("returned", "raised", "grouped")
        assert "KeyError" in reasons[b"marked"]

    @requires("retry_delay")
    def test_DLQ_07_retryable_override_delay(self, harness: Harness, face: Face) -> None:
        """The delay that a handler asks for wins over the policy's, and is kept."""
        queue, runs, delay = Queue(harness), list[float](), harness.min_delay_s
        queue.put(b"x")

        def later(_body: bytes) -> object:
            runs.append(harness.clock.monotonic())
            return Retry(delay=timedelta(seconds=delay)) if len(runs) == 1 else None

        work = Work(face, queue, later, retry=RetryPolicy(wait=wait_fixed(100 * delay)), **_LONG)
        work.await_true(lambda: len(runs) == 2, "it is run again", within_s=3 * delay)
        assert runs[1] - runs[0] >= delay - 0.005
        assert work.stop() is ExitCode.DRAINED

    @requires("dead_letters")
    def test_DLQ_08_undecodable_goes_to_dlq(self, harness: Harness, face: Face) -> None:
        """A body that does not decode is dead at once, with its raw bytes and attributes, and never deleted."""
        queue, runs = Queue(harness), list[object]()
        queue.put(b"\xffnot json", attributes={"Color": "red"})
        work = Work(face, queue, runs.append, payload=int, **dead_letter_argument(harness, queue), **_LONG)
        letter = _await_letter(work, queue)
        assert work.stop() is ExitCode.DRAINED
        assert (runs, letter.body, dict(letter.attributes)) == ([], b"\xffnot json", {"Color": "red"})
        assert letter.metadata[meta.DEAD_REASON] == "undecodable"
        assert "xff" not in letter.metadata[meta.DEAD_ERROR]

    @requires("native_dead_letters")
    def test_DLQ_09_oversized_for_dlq(self, harness: Harness, face: Face) -> None:
        """What makes the letter too large for its queue is left out in a set order, and the letter says what."""
        queue = Queue(harness)
        (sent,) = queue.put(b"x" * 1000)
        limit = queue.backend.size(sent) + 700
        lowered = FaultyOpener(harness.opener, max_message_bytes=limit)
        letter = _bury_one(face, queue, "a long reason " * 60, opener=lowered)
        assert letter.body == sent.body
        left_out = letter.metadata[meta.TRIMMED].split()
        assert meta.DEAD_REASON in left_out
        assert not set(left_out) & set(letter.metadata)
        size = queue.backend.size(message(letter.body, message_id=sent.message_id, metadata=letter.metadata))
        assert size <= limit

    def test_DLQ_10_no_dlq_configured_policy(self, harness: Harness, face: Face) -> None:
        """Nothing configured: the store's own dead-letter queue, else a RETRY at a long wait; never a silent drop."""
        for support in {harness.capabilities.dead_letters, Support.BRIDGED}:
            queue = Queue(harness)
            opener = FaultyOpener(harness.opener, dead_letters=support, dead_letter_queue="")
            queue.put(b"x")
            delivery = face.next(face.consumer(queue, opener=opener))
            delivery.dead_letter("broken")
            face.settled(delivery)
            (entry,) = opener.script.calls("settle")[-1].batch
            assert entry.action is (Action.DEAD if support is Support.NATIVE else Action.RETRY)

    def test_DLQ_12_dlq_of_dlq_is_refused(self, harness: Harness, face: Face) -> None:
        """A queue cannot be its own dead-letter queue; a dead-letter queue's dead letters are not lost either."""
        name = harness.unique_name()
        with pytest.raises(QueueKitError, match="itself"):
            face.consumer(name, dead_letter=harness.url(name))
        if harness.capabilities.dead_letters is not Support.NATIVE:
            return
        queue = Queue(harness, name)
        queue.put(b"x")
        _bury_one(face, queue, "broken", lease_s=harness.min_lease_s)
        harness.pass_time(2 * harness.min_lease_s)
        dead = queue.dead()
        consumer = face.consumer(dead)
        delivery = face.next(consumer)
        delivery.dead_letter("still broken")
        face.settled(delivery)
        assert consumer.counts()["dead_letter.missing"] == 1
        face.close(consumer)
        Queue(harness, harness.dead_name(dead.name)).expect_nothing("there is no second grave")


def _bury_one(
    face: Face,
    queue: Queue,
    reason: str,
    *,
    opener: FaultyOpener | None = None,
    lease_s: float | None = None,
) -> IncomingMessage:
    """Dead-letter the queue's one message through a consumer, and lease the dead letter."""
    consumer = face.consumer(queue, opener=opener, **dead_letter_argument(face.harness, queue))
    delivery = face.next(consumer)
    delivery.dead_letter(reason)
    face.settled(delivery)
    assert delivery.message_id
    (letter,) = queue.dead().take(lease_s=lease_s)
    return letter


def _await_letter(work: Work, queue: Queue) -> IncomingMessage:
    """Lease the next dead letter once there is one."""
    dead, got = queue.dead(), list[IncomingMessage]()

    def there_is_one() -> bool:
        got.extend(dead.receive())
        return bool(got)

    work.await_true(there_is_one, "there is a dead letter", within_s=60.0)
    return got[0]


def dead_letter_argument(harness: Harness, queue: Queue) -> dict[str, Any]:
    """Nothing where the store has its own dead-letter queue; else the URL of one."""
    if harness.capabilities.dead_letters is Support.NATIVE:
        return {}
    return {"dead_letter": harness.url(harness.dead_name(queue.name))}


def _noting(order: list[str], name: str, *, fail: bool = False) -> Step:
    """A step that notes its call, and then lets it go on or fails it before anything is done."""

    def step(call: Call, proceed: Proceed) -> Answers:
        order.append(name)
        if fail:
            raise InjectedFault(unavailable(sent="no"))
        return proceed(call.batch)

    return step
