# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""BPF: a batch of which a part fails. One answer per message, and only what failed is tried again."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from queuekit._values.errors import InvalidMessageError, LeaseLostError, PartialFailureError, RefusedError
from queuekit._values.message import Message
from queuekit._values.outcome import SendOutcome
from queuekit.backend import Accepted, ErrorCode, Failed, Handle, NotAttempted, OutgoingMessage, Rejected, Unknown
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import (
    Answers,
    Call,
    FaultyOpener,
    Proceed,
    Step,
    as_is,
    edit_answer,
    fail_entries,
    raise_after,
    raise_before,
    refused,
    unavailable,
)

TEN = [b"%d" % index for index in range(10)]


class BatchFailure(Group):
    """Sends, handlings and settlements of which some fail."""

    def test_BPF_01_send_one_bad_entry(self, harness: Harness, face: Face) -> None:
        """One invalid entry is Rejected; the rest is Accepted, and each delivered once."""
        queue = Queue(harness)
        payloads = [*TEN[:4], Message(b"bad", attributes={"a": "\n"}), *TEN[4:], "not bytes"]
        report = face.send_many(face.producer(queue), payloads)
        assert [type(each) for each in report] == [*[Accepted] * 4, Rejected, *[Accepted] * 6, Rejected]
        _expect_once(queue, TEN)

    def test_BPF_02_send_failed_list_subset(self, harness: Harness, face: Face) -> None:
        """When the service fails three of ten for now, those three are sent again, and only they."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=10)
        opener.script.on("send", fail_entries({2, 5, 7}, lambda each: NotAttempted(unavailable(), each.message_id)))
        report = face.send_many(face.producer(queue, opener=opener), TEN)
        assert [type(each) for each in report] == [Accepted] * 10
        assert _sent(opener) == [TEN, [TEN[2], TEN[5], TEN[7]]]
        _expect_once(queue, TEN)

    def test_BPF_03_send_permanent_vs_transient(self, harness: Harness, face: Face) -> None:
        """The sender's fault is Rejected without another try; the service's fault is tried again."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=10)

        def outcome(entry: OutgoingMessage) -> SendOutcome:
            if entry.body == TEN[1]:
                return Rejected(refused(), entry.message_id)
            return NotAttempted(unavailable(sent="no"), entry.message_id)

        opener.script.on("send", fail_entries({1, 4}, outcome))
        report = face.send_many(face.producer(queue, opener=opener), TEN)
        assert [index for index, each in enumerate(report) if isinstance(each, Rejected)] == [1]
        assert sum(isinstance(each, Accepted) for each in report) == 9
        assert _sent(opener)[1:] == [[TEN[4]]]
        _expect_once(queue, [each for each in TEN if each != TEN[1]])

    def test_BPF_04_send_missing_entry_in_response(self, harness: Harness, face: Face) -> None:
        """An answer that leaves entries out proves nothing about any: they are Unknown, and the backend's bug."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=10)
        opener.script.on("send", edit_answer(lambda answers: answers[:-1]))
        report = face.send_many(face.producer(queue, opener=opener), TEN)
        assert [each.error.code for each in report.unknown] == [ErrorCode.BACKEND_BUG] * 10
        assert len(_sent(opener)) == 1, "what may have been accepted is not sent again for a backend's bug"

    def test_BPF_05_send_unknown_id_in_response(self, harness: Harness, face: Face) -> None:
        """An answer for a foreign entry is the backend's bug, and other calls of the batch are unaffected."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=3)
        opener.script.on("send", as_is, edit_answer(lambda answers: [*answers, Accepted("foreign")]))
        report = face.send_many(face.producer(queue, opener=opener), TEN[:9])
        assert [type(each) for each in report] == [*[Accepted] * 3, *[Unknown] * 3, *[Accepted] * 3]
        assert {each.error.code for each in report.unknown} == {ErrorCode.BACKEND_BUG}
        _expect_once(queue, TEN[:9])

    def test_BPF_06_send_duplicate_failed_id(self, harness: Harness, face: Face) -> None:
        """Two inputs with one id are two entries: the one that failed is sent again once, the other not at all."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=10)
        opener.script.on("send", fail_entries({1}, lambda each: NotAttempted(unavailable(), each.message_id)))
        twins = [Message(b"first", message_id="twin"), Message(b"second", message_id="twin"), b"other"]
        report = face.send_many(face.producer(queue, opener=opener), twins)
        assert report.ok
        assert _sent(opener) == [[b"first", b"second", b"other"], [b"second"]]
        _expect_once(queue, [b"first", b"second", b"other"])

    def test_BPF_07_send_id_in_both_lists(self, harness: Harness, face: Face) -> None:
        """Answers that contradict each other leave the entry Unknown: a later refusal proves nothing about
        a first try whose answer was lost."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=10)
        opener.script.on(
            "send",
            fail_entries({0}, lambda each: Unknown(unavailable(), each.message_id)),
            fail_entries({0}, lambda each: Rejected(refused(), each.message_id)),
        )
        report = face.send_many(face.producer(queue, opener=opener), TEN[:2])
        assert [type(each) for each in report] == [Unknown, Accepted]

    def test_BPF_08_send_chunk_n_raises(self, harness: Harness, face: Face) -> None:
        """When call two of three raises, what one accepted stays accepted, two is Unknown or not attempted,
        and three is still tried."""
        for fault, expected in ((raise_after, Unknown), (raise_before, NotAttempted)):
            queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=3)
            what = refused() if fault is raise_before else unavailable()
            fatal = type(what)(what.code, retryable=False, sent=what.sent)
            opener.script.on("send", as_is, fault(fatal))
            report = face.send_many(face.producer(queue, opener=opener), TEN[:9])
            assert [type(each) for each in report] == [*[Accepted] * 3, *[expected] * 3, *[Accepted] * 3]
            arrived = TEN[:9] if fault is raise_after else [*TEN[:3], *TEN[6:9]]
            _expect_once(queue, arrived)

    def test_BPF_09_send_report_covers_all_inputs(self, harness: Harness, face: Face) -> None:
        """There is one outcome per input, by position, whatever failed and however ids repeat."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=4)
        opener.script.on(
            "send", fail_entries({0}, lambda each: Rejected(refused(), each.message_id)), raise_before(refused())
        )
        payloads = [
            Message(b"0", message_id="same"),
            Message(b"1", message_id="same"),
            Message(b"2", delay=timedelta(seconds=-1), message_id="bad"),
            *TEN[3:],
        ]
        report = face.send_many(face.producer(queue, opener=opener), payloads)
        expected = [Rejected, Accepted, Rejected, *[Accepted] * 2, *[NotAttempted] * 4, Accepted]
        assert [type(each) for each in report] == expected
        assert [each.message_id for each in report][:3] == ["same", "same", "bad"]
        assert report.retryable_messages() == payloads[5:9]

    def test_BPF_10_send_raise_for_errors(self, harness: Harness, face: Face) -> None:
        """The exception carries an outcome for each failure; a single send raises the entry's own error."""
        opener = FaultyOpener(harness.opener, max_send_batch=10)
        producer = face.producer(harness.unique_name(), opener=opener)
        opener.script.on("send", fail_entries({1}, lambda each: Rejected(refused(), each.message_id)))
        report = face.send_many(producer, [*TEN[:3], Message(b"x", attributes={"qk": "1"})])
        with pytest.raises(PartialFailureError, match="2 of 4") as caught:
            report.raise_for_failures()
        assert caught.value.failures == report.failed == (report.outcomes[1], report.outcomes[3])
        opener.script.on("send", fail_entries({0}, lambda each: Rejected(refused(), each.message_id)))
        with pytest.raises(RefusedError):
            face.send(producer, b"x")
        with pytest.raises(InvalidMessageError):
            face.send(producer, b"x", attributes={"qk": "1"})
        face.send_many(producer, TEN).raise_for_failures()

    def test_BPF_18_settle_partial_failure(self, harness: Harness, face: Face) -> None:
        """Of ten settlements two fail for now: those two are tried again while their lease lasts."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        queue.put(*TEN)
        consumer = face.consumer(queue, opener=opener)
        deliveries = {each.body: each for each in [face.next(consumer) for _ in TEN]}
        failing = {TEN[2], TEN[5]}
        by_handle = {delivery._held.message.handle: body for body, delivery in deliveries.items()}
        opener.script.always("settle", _fail_bodies(by_handle, failing))
        for delivery in deliveries.values():
            delivery.ack()
        for body, delivery in deliveries.items():
            if body not in failing:
                face.settled(delivery)
        opener.script.always("settle", None)
        for delivery in deliveries.values():
            face.settled(delivery)
        tries = Counter(by_handle[entry.handle] for call in opener.script.calls("settle") for entry in call.batch)
        assert {body for body, count in tries.items() if count > 1} == failing
        face.close(consumer)
        queue.expect_nothing("all were acked")

    @requires("lease")
    def test_BPF_19_settle_retry_gives_up_at_expiry(self, harness: Harness, face: Face) -> None:
        """A settlement that still fails when the lease ends is LeaseLost and counted; the message comes back."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        queue.put(b"x")
        consumer = face.consumer(
            queue, opener=opener, lease=timedelta(seconds=harness.min_lease_s), keep_leases=False, prefetch=0
        )
        delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
        opener.script.always("settle", raise_before(unavailable(sent="no")))
        delivery.ack()
        with pytest.raises(LeaseLostError):
            face.settled(delivery)
        assert len(opener.script.calls("settle")) > 1, "it was tried again while the lease lasted"
        assert consumer.counts()["lease.lost"] == 1
        harness.pass_time(harness.min_lease_s)
        assert queue.take()[0].body == b"x"


def _fail_bodies(by_handle: dict[Handle, bytes], failing: set[bytes]) -> Step:
    """Fail the settlements of these messages for now, and carry out the others."""

    def step(call: Call, proceed: Proceed) -> Answers:
        positions = [index for index, entry in enumerate(call.batch) if by_handle[entry.handle] in failing]
        return fail_entries(positions, lambda _entry: Failed(unavailable(sent="no")))(call, proceed)

    return step


def _sent(opener: FaultyOpener) -> list[list[bytes]]:
    """The bodies of each call that reached the service."""
    return [[entry.body for entry in call.batch] for call in opener.script.calls("send")]


def _expect_once(queue: Queue, bodies: list[bytes]) -> None:
    """Insist that the queue holds each of these exactly once."""
    got = queue.take_up_to(len(bodies) + 1)
    assert Counter(each.body for each in got) == Counter(bodies)
