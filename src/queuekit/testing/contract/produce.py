# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""PRO: sending."""

from __future__ import annotations

from queuekit._engine.guard import Guard
from queuekit.backend import Accepted, ErrorCode, NotAttempted, Rejected
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import CALL_S, Queue, message


class Produce(Group):
    """What becomes of a message on its way in."""

    def test_PRO_01_send_one_returns_accepted_with_id(self, harness: Harness) -> None:
        """One message yields Accepted with an id that is printable and safe to log."""
        sent = message()
        (outcome,) = Queue(harness).send(sent)
        assert isinstance(outcome, Accepted)
        assert outcome.message_id == sent.message_id
        assert outcome.message_id.isascii()
        assert (outcome.message_id + (outcome.provider_id or "")).isprintable()

    def test_PRO_02_send_many_all_accepted(self, harness: Harness) -> None:
        """N messages give N outcomes in input order, and all of them arrive."""
        queue = Queue(harness)
        count = min(queue.capabilities.max_send_batch, 25)
        batch = [message(b"%d" % index) for index in range(count)]
        outcomes = queue.backend.send(batch, timeout_s=CALL_S)
        assert [type(each) for each in outcomes] == [Accepted] * count
        assert [each.message_id for each in outcomes] == [each.message_id for each in batch]
        assert {each.body for each in queue.take(count)} == {each.body for each in batch}

    def test_PRO_06_same_payload_twice_is_two_messages(self, harness: Harness) -> None:
        """Identical bodies and attributes are two deliveries unless a dedup id was given."""
        queue = Queue(harness)
        queue.put(b"same", b"same", attributes={"a": "1"})
        queue.put(b"same", attributes={"a": "1"})
        assert [each.body for each in queue.take(3)] == [b"same"] * 3

    @requires("durable")
    def test_PRO_07_send_before_any_consumer(self, harness: Harness) -> None:
        """A backlog that was sent first is received by a consumer that is opened later."""
        queue = Queue(harness)
        queue.put(b"1", b"2", b"3")
        queue.backend.close()
        assert {each.body for each in queue.again().take(3)} == {b"1", b"2", b"3"}

    def test_PRO_08_client_message_id_round_trips(self, harness: Harness) -> None:
        """An id that the sender chose comes back as it is, and is not the handle."""
        queue = Queue(harness)
        queue.put(b"x", message_id="order-4711:retry/1")
        (got,) = queue.take()
        assert got.message_id == "order-4711:retry/1"
        assert got.handle != got.message_id

    @requires("declared")
    def test_PRO_11_unroutable_is_rejected(self, harness: Harness) -> None:
        """Sending to a queue that does not exist is refused as not found, never accepted."""
        guard = Guard(harness.open(harness.unique_name()), "the missing queue")
        (outcome,) = guard.send([message()], timeout_s=CALL_S)
        assert isinstance(outcome, Rejected | NotAttempted)
        assert outcome.error.code is ErrorCode.NOT_FOUND
