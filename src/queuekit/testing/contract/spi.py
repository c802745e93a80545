# SPDX-License-Identifier: Apache-2.0
"""One queue as the cases drive it: the verbs of the backend interface, each answer checked for its form."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from queuekit.backend import (
    Accepted,
    Action,
    Backend,
    Capabilities,
    IncomingMessage,
    OutgoingMessage,
    SendOutcome,
    Settlement,
    SettleOutcome,
)
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness

CALL_S = 30.0
_TRIES = 2


def message(body: bytes = b"body", **fields: Any) -> OutgoingMessage:
    """A message with an id of its own."""
    return OutgoingMessage(fields.pop("message_id", uuid.uuid4().hex), body, **fields)


def fresh_key() -> str:
    """An ordering key that no other message has."""
    return f"alone-{uuid.uuid4().hex}"


@contextmanager
def suppress_retryable(backend: Backend) -> Iterator[None]:
    """Passes over what the backend itself says can go well another time."""
    try:
        yield
    except Exception as error:
        if not backend.classify(error).retryable:
            raise


class Queue:
    """A backend whose every answer is held to the obligations of the interface (K1, K5, K6).

    Args:
        harness: Whose clock and limits count.
        name: The queue; a new one by default.
        backend: An open backend; by default one is opened on ``name``.
    """

    def __init__(self, harness: Harness, name: str = "", *, backend: Backend | None = None) -> None:
        self.harness = harness
        self.name: str = name or harness.unique_name()
        self.backend: Backend = backend or harness.open(self.name)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend says that it can do."""
        return self.backend.capabilities

    def again(self) -> Queue:
        """The same queue through another backend object, as another consumer sees it."""
        return Queue(self.harness, self.name)

    def dead(self) -> Queue:
        """The queue where the dead letters go."""
        return Queue(self.harness, self.harness.dead_name(self.name))

    def keyed(self, *messages: OutgoingMessage) -> list[OutgoingMessage]:
        """The same messages, each with an ordering key of its own where the queue takes none without."""
        if not self.capabilities.ordering_key_required:
            return list(messages)
        return [
            each if each.ordering_key is not None else each._replace(ordering_key=fresh_key()) for each in messages
        ]

    def send(self, *messages: OutgoingMessage) -> list[SendOutcome]:
        """Send in calls that respect the limits, as the engine does."""
        messages = tuple(self.keyed(*messages))
        outcomes: list[SendOutcome] = []
        step = 1 if self.capabilities.one_key_per_send else self.capabilities.max_send_batch
        for start in range(0, len(messages), step):
            batch = messages[start : start + step]
            answer = self.backend.send(batch, timeout_s=CALL_S)
            assert len(answer) == len(batch), "send must answer once per entry (K1)"
            outcomes += answer
        return outcomes

    def put(self, *bodies: bytes, **fields: Any) -> list[OutgoingMessage]:
        """Send one message per body, all with the same other fields, and insist that each is accepted."""
        messages = self.keyed(*(message(body, **fields) for body in bodies))
        for sent, outcome in zip(messages, self.send(*messages), strict=True):
            assert isinstance(outcome, Accepted), f"{sent.body[:40]!r} was not accepted: {outcome}"
        return messages

    def receive(
        self, max_messages: int = 1, *, wait_s: float = 0.0, lease_s: float | None = None
    ) -> list[IncomingMessage]:
        """Call receive once."""
        lease = self.harness.lease_s if lease_s is None else lease_s
        got = list(self._receive(max_messages, wait_s, lease))
        assert len(got) <= max_messages, f"receive({max_messages}) returned {len(got)} (K6)"
        assert len({each.handle for each in got}) == len(got), "two deliveries share a handle (K5)"
        return got

    def _receive(self, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Once more where the service says that it may be asked once more: any service has such moments."""
        for _ in range(_TRIES):
            with suppress_retryable(self.backend):
                return self.backend.receive(max_messages=max_messages, wait_s=wait_s, lease_s=lease_s)
        return self.backend.receive(max_messages=max_messages, wait_s=wait_s, lease_s=lease_s)

    def take(
        self, count: int = 1, *, within_s: float | None = None, lease_s: float | None = None
    ) -> list[IncomingMessage]:
        """Receive until ``count`` messages are here; fails the case when fewer come in time."""
        got = self.take_up_to(count, within_s=within_s, lease_s=lease_s)
        assert len(got) == count, f"{count} messages should be ready, and {len(got)} came"
        return got

    def take_up_to(
        self, count: int, *, within_s: float | None = None, lease_s: float | None = None
    ) -> list[IncomingMessage]:
        """Receive until ``count`` messages are here or the time is over."""
        harness, got = self.harness, list[IncomingMessage]()
        limit = harness.tolerance_s if within_s is None else within_s
        end = harness.clock.monotonic() + limit
        while len(got) < count:
            wanted = min(count - len(got), self.capabilities.max_receive)
            wait_s = 0.0 if harness.virtual or harness.nothing_left(self.name) else min(limit, 1.0)
            more = self.receive(wanted, wait_s=wait_s, lease_s=lease_s)
            got += more
            if not more:
                if harness.clock.monotonic() >= end or harness.nothing_left(self.name):
                    break
                harness.pass_time(limit / 8)
        return got

    def expect_nothing(self, why: str) -> None:
        """Insist that nothing can be received now."""
        got = self.receive(min(10, self.capabilities.max_receive))
        assert got == [], f"{len(got)} came: {why}"

    def expect_waiting_receive_after(self, seconds: float) -> None:
        """Insist that a receive which waits is woken by the passing of so much time, no sooner and not much later."""
        harness = self.harness
        if not self.capabilities.long_poll:
            return
        poll = harness.start(lambda: self.receive(wait_s=10 * seconds))
        if harness.virtual or (harness.settable and seconds > REAL_LIMIT_S):
            harness.until_blocked()
            harness.pass_time(0.9 * seconds)
            poll.join(0.02)  # real time in which a poll that ends too soon would end
            assert not poll.done, "it was received too soon"
            harness.pass_time(0.1 * seconds)
        got = poll.result("a receive that waits for something to become ready")
        assert len(got) == 1
        assert poll.took_s <= seconds + harness.tolerance_s + 0.005

    def settle(self, *settlements: Settlement) -> list[SettleOutcome]:
        """Settle in calls that respect the limits and the mixing rule, as the engine does."""
        outcomes: list[SettleOutcome] = []
        for batch in self._settle_batches(settlements):
            answer = self.backend.settle(batch, timeout_s=CALL_S)
            assert len(answer) == len(batch), "settle must answer once per entry (K1)"
            outcomes += answer
        return outcomes

    def _settle_batches(self, settlements: Sequence[Settlement]) -> list[Sequence[Settlement]]:
        limit, groups = self.capabilities.max_settle_batch, [list(settlements)]
        if not self.capabilities.mixed_settles:
            alike = groupby(settlements, lambda each: (each.action, each.delay_s, each.lease_s))
            groups = [list(group) for _, group in alike]
        return [group[start : start + limit] for group in groups for start in range(0, len(group), limit)]

    def ack(self, *deliveries: IncomingMessage) -> list[SettleOutcome]:
        """Settle each as done."""
        return self.settle(*(Settlement(each.handle, Action.ACK) for each in deliveries))

    def retry(self, delivery: IncomingMessage, delay_s: float = 0.0) -> SettleOutcome:
        """Settle as failed."""
        return self.settle(Settlement(delivery.handle, Action.RETRY, delay_s=delay_s))[0]

    def release(self, delivery: IncomingMessage, delay_s: float = 0.0) -> SettleOutcome:
        """Settle as not tried."""
        return self.settle(Settlement(delivery.handle, Action.RELEASE, delay_s=delay_s))[0]

    def extend(self, delivery: IncomingMessage, lease_s: float) -> SettleOutcome:
        """Keep for longer."""
        return self.settle(Settlement(delivery.handle, Action.EXTEND, lease_s=lease_s))[0]

    def bury(self, delivery: IncomingMessage, dead: OutgoingMessage) -> SettleOutcome:
        """Settle as dead."""
        return self.settle(Settlement(delivery.handle, Action.DEAD, dead=dead))[0]
