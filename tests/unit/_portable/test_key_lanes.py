# SPDX-License-Identifier: Apache-2.0
"""Consumers and workers of a service that leases several messages of one ordering key at once."""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, Consumer, ExitCode
from queuekit.backend import (
    LEASE_LOST,
    Action,
    Backend,
    Capabilities,
    ErrorClass,
    ErrorCode,
    IncomingMessage,
    OutgoingMessage,
    QueueURL,
    SendOutcome,
    Settled,
    Settlement,
    SettleOutcome,
)
from queuekit.testing.clock import VirtualClock

from .calls import Call
from .conftest import let


@dataclass(eq=False)
class Stored:
    message: OutgoingMessage
    attempt: int = 0
    due: float = 0.0
    until: float = 0.0
    handle: int = 0


class GroupedBackend:
    """Leases what is ready of a key all at once, in order, and nothing of it while any of it is leased."""

    capabilities = Capabilities(
        queues="implicit", durability="process", max_message_bytes=1 << 20, max_send_batch=100, atomic_send=True,
        max_receive=10, max_settle_batch=10, mixed_settles=True, max_lease_s=3600.0, extend="absolute",
        fencing="strict", attempts="exact", release_counts=False, max_retry_delay_s=3600.0, ordering="per_key",
    )  # fmt: skip

    def __init__(self, clock: VirtualClock) -> None:
        self.clock, self.stored, self.released = clock, list[Stored](), list[str]()
        self.changed, self.closed, self.handles = threading.Condition(), False, 0

    def probe(self) -> Capabilities:
        return self.capabilities

    def size(self, message: OutgoingMessage) -> int:
        return len(message.body)

    def classify(self, error: BaseException) -> ErrorClass:
        return ErrorClass(ErrorCode.UNKNOWN)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        with self.changed:
            self.stored += map(Stored, batch)
            self.changed.notify_all()
        return [qk.Accepted(each.message_id) for each in batch]

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        end = self.clock.monotonic() + wait_s
        with self.changed:
            while not (found := self._ready(max_messages)) and not self.closed:
                left_s = end - self.clock.monotonic()
                if left_s <= 0:
                    break
                self.clock.wait(self.changed, min(left_s, 0.1))
            return [self._lease(each, lease_s) for each in found]

    def _ready(self, most: int) -> list[Stored]:
        now = self.clock.monotonic()
        held = {each.message.ordering_key for each in self.stored if each.until > now}
        found: list[Stored] = []
        for each in self.stored:
            if each.due > now:
                held.add(each.message.ordering_key)
            elif each.message.ordering_key not in held:
                found.append(each)
        return found[:most]

    def _lease(self, each: Stored, lease_s: float) -> IncomingMessage:
        self.handles += 1
        each.handle, each.until, each.attempt = self.handles, self.clock.monotonic() + lease_s, each.attempt + 1
        sent = each.message
        return IncomingMessage(
            each.handle,
            sent.message_id,
            sent.body,
            {},
            sent.metadata,
            each.attempt,
            None,
            each.until,
            sent.ordering_key,
        )

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        with self.changed:
            self.changed.notify_all()
            return [self._settle(each) for each in batch]

    def _settle(self, entry: Settlement) -> SettleOutcome:
        now = self.clock.monotonic()
        each = next((one for one in self.stored if one.handle == entry.handle and one.until > now), None)
        if each is None:
            return LEASE_LOST
        if entry.action is Action.ACK:
            self.stored.remove(each)
        elif entry.action is Action.EXTEND:
            each.until = now + entry.lease_s
            return Settled(lease_until=each.until)
        else:
            each.until, each.due = 0.0, now + entry.delay_s
            if entry.action is Action.RELEASE:
                each.attempt -= 1
                self.released.append(each.message.body.decode())
        return Settled()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class OneBackend:
    """Opens the same backend, whatever the URL."""

    def __init__(self, backend: GroupedBackend) -> None:
        self.backend, self.clock = backend, backend.clock

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        self.backend.closed = False
        return self.backend

    def close(self) -> None: ...


@pytest.fixture
def service(clock: VirtualClock) -> GroupedBackend:
    return GroupedBackend(clock)


def put(service: GroupedBackend, *names: str) -> None:
    service.send([OutgoingMessage(name, name.encode(), ordering_key=name[0]) for name in names], timeout_s=1.0)


@pytest.fixture
def consumer(service: GroupedBackend, clock: VirtualClock) -> Iterator[Consumer[str]]:
    opener: Any = OneBackend(service)
    made = Consumer("memory://q", payload=str, lease=timedelta(seconds=10), prefetch=10, _opener=opener)
    yield made
    Call(made.close, clock).result()


def take(consumer: Consumer[str], clock: VirtualClock, timeout: float = 60.0) -> Any:
    return Call(lambda: consumer.receive(timeout=timeout), clock).result()


def test_the_next_of_a_key_comes_when_the_one_before_is_acked(
    service: GroupedBackend, consumer: Consumer[str], clock: VirtualClock
) -> None:
    put(service, "a0", "a1", "b0", "a2")
    first, other = take(consumer, clock), take(consumer, clock)
    assert (first.payload, other.payload) == ("a0", "b0")
    assert take(consumer, clock, 0.5) is None
    for name in ("a1", "a2"):
        first.ack()
        first = take(consumer, clock)
        assert first.payload == name
    Call(consumer.close, clock).result()
    assert consumer.counts()["in_flight"] == 0


@pytest.mark.parametrize("how", ["retry", "release"])
def test_what_is_behind_a_failure_goes_back_unstarted(
    service: GroupedBackend, consumer: Consumer[str], clock: VirtualClock, how: str
) -> None:
    put(service, "a0", "a1", "a2", "b0")
    first, other = take(consumer, clock), take(consumer, clock)
    other.ack()
    if how == "retry":
        first.retry(delay=timedelta(seconds=5))
    else:
        first.release()
    for name, attempt in (("a0", 2 if how == "retry" else 1), ("a1", 1), ("a2", 1)):
        again = take(consumer, clock)
        assert (again.payload, again.attempt) == (name, attempt)
        again.ack()
    assert service.released[-2:] == ["a1", "a2"]


def test_what_is_behind_a_lost_lease_goes_back_unstarted(
    service: GroupedBackend, consumer: Consumer[str], clock: VirtualClock
) -> None:
    put(service, "a0", "a1")
    first = take(consumer, clock)
    service.stored[0].until = 0.0  # somebody took it away
    let(clock, lambda: bool(first.lease_lost), step_s=0.5)
    let(clock, lambda: service.released == ["a1"])
    again = take(consumer, clock)
    assert (again.payload, again.attempt) == ("a0", 2)


def test_closing_gives_back_what_was_held_back(
    service: GroupedBackend, consumer: Consumer[str], clock: VirtualClock
) -> None:
    put(service, "a0", "a1", "a2")
    take(consumer, clock)
    Call(consumer.close, clock).result()
    assert set(service.released) == {"a0", "a1", "a2"}  # twice, where a poll that was in flight brought them again
    assert all(each.attempt == 0 for each in service.stored)


def test_a_batch_may_take_a_key_along_in_order(
    service: GroupedBackend, consumer: Consumer[str], clock: VirtualClock
) -> None:
    put(service, "a0", "a1", "b0", "a2", "a3")
    take_many = consumer._receiver.take_many
    group = Call(lambda: take_many(4, 60.0, with_key=True), clock).result()
    assert [each.message.message_id for each in group if each.message.ordering_key == "a"] == ["a0", "a1", "a2"]
    consumer._intake.receiver.control.record(group[0], Action.ACK)
    assert take(consumer, clock, 0.5) is None
    for each in group[1:]:
        consumer._intake.receiver.control.record(each, Action.ACK)
    assert take(consumer, clock).payload == "a3"


def test_handlers_of_a_key_never_overlap_and_keep_its_order(service: GroupedBackend, clock: VirtualClock) -> None:
    app = App("memory://", clock=clock)
    opener: Any = OneBackend(service)
    app._opener = opener
    lock, inside, done = threading.Lock(), defaultdict[str, int](int), defaultdict[str, list[str]](list)
    failed: set[str] = set()

    @app.handler("q", concurrency=4, retry=qk.RetryPolicy(wait=lambda _: 0.5))
    def handle(name: str) -> None:
        with lock:
            inside[name[0]] += 1
            assert inside[name[0]] == 1
        threading.Event().wait(0.001)
        with lock:
            inside[name[0]] -= 1
            if name[1:] in {"0", "3"} and name not in failed:
                failed.add(name)
                msg = "once"
                raise ValueError(msg)
            done[name[0]].append(name)

    put(service, *(f"{key}{number}" for number in range(6) for key in "abc"))
    running: Any = Call(lambda: app.run(signals=False), clock)
    let(clock, lambda: not service.stored, step_s=0.05)
    app.stop()
    assert running.result() is ExitCode.DRAINED
    assert done == {key: [f"{key}{number}" for number in range(6)] for key in "abc"}
    assert len(failed) == 6
    app.close()


def test_a_batch_handler_gets_several_of_one_key_together_in_order(
    service: GroupedBackend, clock: VirtualClock
) -> None:
    app = App("memory://", clock=clock)
    opener: Any = OneBackend(service)
    app._opener = opener
    batches = list[list[str]]()

    @app.batch_handler("q", max_size=4, max_wait=timedelta(seconds=1))
    def handle(batch: qk.Batch[str]) -> None:
        batches.append([each.payload for each in batch])

    put(service, "a0", "a1", "a2", "a3", "a4", "b0")
    running: Any = Call(lambda: app.run(signals=False), clock)
    let(clock, lambda: not service.stored, step_s=0.05)
    app.stop()
    assert running.result() is ExitCode.DRAINED
    assert max(map(len, batches)) > 1
    of_a = [payload for batch in batches for payload in batch if payload.startswith("a")]
    assert of_a == ["a0", "a1", "a2", "a3", "a4"]
    assert batches[0][:4] == ["a0", "a1", "a2", "a3"]
    app.close()
