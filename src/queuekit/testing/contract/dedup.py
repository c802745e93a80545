# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""DUP: the same message sent twice, and the same delivery handled twice."""

from __future__ import annotations

from typing import Any

import pytest

from queuekit._values.errors import UnsupportedError
from queuekit._values.message import Message
from queuekit.backend import Accepted, Capabilities, Duplicate, ErrorCode, Rejected
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message
from queuekit.testing.faults import FaultyOpener, raise_after, unavailable

_LONGEST_REAL_WINDOW_S = 10.0


class Dedup(Group):
    """A dedup id folds sends of one message into one, inside a window, and nothing else is ever folded."""

    @requires("dedup")
    def test_DUP_01_dedup_id_within_window_once(self, harness: Harness, face: Face) -> None:
        """Two sends with one id inside the window are one delivery, also when the first was acked meanwhile; the
        second is answered as a duplicate of the first."""
        queue = Queue(harness)
        producer = face.producer(queue)
        first = face.send(producer, b"x", dedup_id="order-1")
        assert isinstance(first, Accepted)
        second = face.send(producer, b"x", dedup_id="order-1")
        _expect_folded(second, first)
        queue.ack(*queue.take())
        _expect_folded(face.send(producer, b"x", dedup_id="order-1"), first)
        queue.expect_nothing("it was handled, and the window is open")
        assert isinstance(face.send(producer, b"y", dedup_id="order-2"), Accepted)
        assert queue.take()[0].body == b"y"

    @requires("dedup")
    def test_DUP_02_dedup_id_after_window_twice(self, harness: Harness) -> None:
        """Up to its end the window folds; after it the same id is a new message."""
        queue = Queue(harness)
        queue.backend = harness.open(queue.name, **harness.short_dedup)
        window = queue.capabilities.dedup_window_s
        if not (harness.virtual or harness.settable) and window > _LONGEST_REAL_WINDOW_S:
            pytest.skip(f"the harness has no short_dedup, and a window of {window:g} s is too long to wait for")
        (first,) = queue.send(message(b"1", dedup_id="d"))
        assert isinstance(first, Accepted)
        done = queue.take() if harness.pushed else []  # there the window begins when the first is done
        queue.ack(*done)
        harness.pass_time(0.9 * window - (0 if harness.virtual else min(0.2, window / 4)))
        (late,) = queue.send(message(b"2", dedup_id="d"))
        _expect_folded(late, first)
        slack_s = 0 if harness.virtual else 0.5 + harness.tolerance_s + harness.dedup_slack_s
        harness.pass_time(0.1 * window + slack_s)
        queue.put(b"3", dedup_id="d")
        assert {each.body for each in (*done, *queue.take(2 - len(done)))} == {b"1", b"3"}
        queue.expect_nothing("the second was a duplicate")

    @requires("dedup")
    def test_DUP_03_dedup_different_bodies_same_id(self, harness: Harness, face: Face) -> None:
        """Of two bodies with one id the second is dropped, and the report says so, also inside one batch."""
        queue = Queue(harness)
        producer = face.producer(queue)
        given = [Message(b"1", dedup_id="d"), Message(b"2", dedup_id="d"), Message(b"3", dedup_id="e")]
        report = face.send_many(producer, given)
        assert report.ok
        first, second, third = report.outcomes
        assert isinstance(first, Accepted)
        assert isinstance(third, Accepted)
        _expect_folded(second, first)
        (fourth,) = face.send_many(producer, [Message(b"4", dedup_id="d")]).outcomes
        _expect_folded(fourth, first)
        assert {each.body for each in queue.take(2)} == {b"1", b"3"}
        queue.expect_nothing("the others were duplicates")

    def test_DUP_04_dedup_not_declared_is_refused(self, harness: Harness, face: Face) -> None:
        """Where a queue remembers no ids, a send with one is refused, and nothing is sent."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, dedup_window_s=0.0)
        producer = face.producer(queue, opener=opener)
        with pytest.raises(UnsupportedError, match="dedup id"):
            face.send(producer, b"x", dedup_id="d")
        (outcome,) = face.send_many(producer, [Message(b"x", dedup_id="d")])
        assert isinstance(outcome, Rejected)
        assert outcome.error.code is ErrorCode.UNSUPPORTED
        assert opener.script.calls("send") == []
        queue.expect_nothing("both sends were refused")

    def test_DUP_05_no_implicit_content_dedup(self, harness: Harness, face: Face) -> None:
        """Without an id nothing is dropped: not by its body, its attributes, its key, nor its message id."""
        queue = Queue(harness)
        producer = face.producer(queue)
        same: dict[str, Any] = {"attributes": {"a": "1"}, **_key(queue.capabilities)}
        for _ in range(2):
            assert isinstance(face.send(producer, b"same", **same), Accepted)
        assert face.send_many(producer, [Message(b"same", **same)] * 2).ok
        got = list[bytes]()
        while len(got) < 4:
            (each,) = queue.take()
            got.append(each.body)
            queue.ack(each)
        assert got == [b"same"] * 4

    @requires("dedup")
    def test_DUP_06_retry_of_unknown_send_uses_same_id(self, harness: Harness, face: Face) -> None:
        """When an answer was lost, the engine tries again with the same id, so that the service folds both."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        producer = face.producer(queue, opener=opener)
        opener.script.on("send", raise_after(unavailable()), raise_after(unavailable()))
        outcome = face.send(producer, b"x", dedup_id="order-1")
        assert isinstance(outcome, (Accepted, Duplicate))
        sent = [call.batch[0] for call in opener.script.calls("send")]
        assert len(sent) == 3
        assert {each.dedup_id for each in sent} == {"order-1"}
        assert {each.message_id for each in sent} == {outcome.message_id}
        queue.take()
        queue.expect_nothing("three tries are one message")


def _expect_folded(outcome: Any, first: Accepted) -> None:
    """Answered as a duplicate, or with the id of the first where the service does not tell."""
    if isinstance(outcome, Duplicate):
        assert outcome.provider_id in {None, first.message_id, first.provider_id}
        return
    assert isinstance(outcome, Accepted)
    assert first.provider_id is not None, f"a second send with one dedup id is {outcome}"
    assert outcome.provider_id == first.provider_id


def _key(can: Capabilities) -> dict[str, Any]:
    return {"ordering_key": "k"} if can.ordering != "none" else {}
