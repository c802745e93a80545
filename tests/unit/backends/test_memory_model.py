# SPDX-License-Identifier: Apache-2.0
"""Memory against a model that is too slow and too simple to be wrong: one list, searched for every question."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    Action,
    Duplicate,
    OutgoingMessage,
    Settled,
    Settlement,
)
from queuekit.testing import VirtualClock, reset_memory

LENGTHS = st.sampled_from([0.5, 1.0, 2.0, 5.0])
MESSAGES = st.builds(
    OutgoingMessage,
    message_id=st.sampled_from("abcdef"),
    body=st.just(b""),
    delay_s=st.just(0.0) | LENGTHS,
    ordering_key=st.none() | st.sampled_from("kl"),
    dedup_id=st.none() | st.none() | st.sampled_from("xyz"),
    priority=st.just(0) | st.integers(0, 9),
)
WINDOW_S = 4.0


@dataclass(eq=False)
class Held:
    message: OutgoingMessage
    due_at: float
    attempt: int = 0
    handle: object = None
    lease_until: float = 0.0


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        reset_memory()
        self.clock = VirtualClock()
        opener = Opener(self.clock)
        url = f"memory://jobs?dedup_window={WINDOW_S:g}s&max_messages=12"
        self.queue: Any = opener.open(QueueURL.parse(url))
        self.dead: Any = opener.open(QueueURL.parse("memory://jobs.dead"))
        self.held: list[Held] = []
        self.handles: list[Any] = ["never ours"]
        self.seen: dict[str, tuple[float, str]] = {}
        self.dead_count = 0

    def leased(self, each: Held) -> bool:
        return each.lease_until > self.clock.monotonic()

    def ready(self, each: Held) -> bool:
        key = each.message.ordering_key
        first = key is None or next(other for other in self.held if other.message.ordering_key == key) is each
        return first and not self.leased(each) and each.due_at <= self.clock.time()

    def store(self, messages: list[OutgoingMessage]) -> None:
        self.held += [Held(each, self.clock.time() + each.delay_s) for each in messages]

    @rule(batch=st.lists(MESSAGES, min_size=1, max_size=4))
    def send(self, batch: list[OutgoingMessage]) -> None:
        now = self.clock.monotonic()
        seen = {name: record for name, record in self.seen.items() if record[0] > now}
        expected: list[Any] = []
        for each in batch:
            if each.dedup_id in seen:
                expected.append(Duplicate(each.message_id, seen[each.dedup_id][1]))
                continue
            expected.append(Accepted(each.message_id))
            if each.dedup_id is not None:
                seen[each.dedup_id] = (now + WINDOW_S, each.message_id)
        new = [each for each, outcome in zip(batch, expected, strict=True) if isinstance(outcome, Accepted)]
        outcomes = self.queue.send(batch, timeout_s=1)
        if len(self.held) + len(new) > 12:
            assert {type(each).__name__ for each in outcomes} == {"Rejected"}
            return
        assert outcomes == expected
        self.seen = seen
        self.store(new)

    @rule(limit=st.integers(1, 4), lease_s=LENGTHS)
    def receive(self, limit: int, lease_s: float) -> None:
        ready = [each for each in self.held if self.ready(each)]
        ready.sort(key=lambda each: -each.message.priority)  # stable: then in order of sending
        taken = self.queue.receive(max_messages=limit, wait_s=0, lease_s=lease_s)
        assert len(taken) == min(limit, len(ready))
        for each, got in zip(ready, taken, strict=False):
            each.attempt += 1
            each.handle, each.lease_until = got.handle, self.clock.monotonic() + lease_s
            assert (got.message_id, got.attempt, got.lease_until) == (
                each.message.message_id,
                each.attempt,
                each.lease_until,
            )
            self.handles.append(got.handle)

    @rule(data=st.data(), actions=st.lists(st.sampled_from(Action), min_size=1, max_size=4), length=LENGTHS)
    def settle(self, data: Any, actions: list[Action], length: float) -> None:
        count = min(len(actions), len(self.handles))
        picked = data.draw(st.lists(st.sampled_from(self.handles[-12:]), unique=True, max_size=count))
        letter = OutgoingMessage("dead", b"")
        batch = [
            Settlement(handle, action, delay_s=length, lease_s=length, dead=letter)
            for handle, action in zip(picked, actions, strict=False)
        ]
        expected = [self.settled(each) for each in batch]
        assert self.queue.settle(batch, timeout_s=1) == expected

    def settled(self, settlement: Settlement) -> Any:
        held = next((each for each in self.held if each.handle == settlement.handle and self.leased(each)), None)
        if held is None:
            return LEASE_LOST
        if settlement.action is Action.EXTEND:
            held.lease_until = self.clock.monotonic() + settlement.lease_s
            return Settled(lease_until=held.lease_until)
        if settlement.action in {Action.ACK, Action.DEAD}:
            self.held.remove(held)
            self.dead_count += settlement.action is Action.DEAD
            return SETTLED
        held.attempt -= settlement.action is Action.RELEASE
        held.lease_until = 0.0
        held.due_at = self.clock.time() + settlement.delay_s
        return Settled(applied_delay_s=settlement.delay_s)

    @rule(length=LENGTHS)
    def advance(self, length: float) -> None:
        self.clock.advance(length)

    @rule(message_id=st.sampled_from("abcdef"))
    def cancel(self, message_id: str) -> None:
        gone = [each for each in self.held if each.message.message_id == message_id and each.handle is None]
        self.held = [each for each in self.held if each not in gone]
        assert self.queue.cancel(message_id) is bool(gone)

    @rule()
    def purge(self) -> None:
        left = [each for each in self.held if self.leased(each)]
        assert self.queue.purge() == len(self.held) - len(left)
        self.held = left

    @rule()
    def redrive(self) -> None:
        if self.dead_count and len(self.held) < 12:
            assert self.dead.redrive([OutgoingMessage("again", b"")], timeout_s=1) == [LEASE_LOST]
            assert self.dead.redrive([OutgoingMessage("dead", b"")], timeout_s=1) == [SETTLED]
            self.dead_count -= 1
            self.store([OutgoingMessage("dead", b"")])

    @rule()
    def looks_the_same(self) -> None:
        state: Callable[[Held], str] = lambda each: (  # noqa: E731
            "leased" if self.leased(each) else "ready" if self.ready(each) else "delayed"
        )
        expected = [(each.message.message_id, state(each), each.attempt, each.due_at) for each in self.held]
        seen = self.queue.peek(limit=100)
        assert [(each.message_id, each.state, each.attempt, each.due_at) for each in seen] == expected
        stats = self.queue.stats()
        for name in ("ready", "delayed", "leased"):
            assert getattr(stats, name) == sum(each[1] == name for each in expected)
        assert stats.dead == self.dead_count

    def teardown(self) -> None:
        self.looks_the_same()
        reset_memory()


Model.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestMemoryAgainstItsModel = Model.TestCase
