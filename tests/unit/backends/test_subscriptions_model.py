# SPDX-License-Identifier: Apache-2.0
"""Subscriptions and retention against a model that is too simple to be wrong: a list for each subscription."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from queuekit.backend import LEASE_LOST, SETTLED, Action, OutgoingMessage, Settlement
from queuekit.testing import reset_memory
from queuekit.testing.emulators import LocalRedis

from .stores import RedisStore, Store, ids, take

NAMES = st.sampled_from(["", "one", "two"])
IDS = st.sampled_from("abcd")
KEEP_DONE_S = 20.0
MOST_DONE = 5
DEAD_S = 120.0
GRAIN_S = DEAD_S / 64
WINDOW_S = 30.0
OPTIONS = {
    "keep_done": timedelta(seconds=KEEP_DONE_S),
    "keep_done_max": MOST_DONE,
    "dead_letter_retention": timedelta(seconds=DEAD_S),
    "dedup_window": timedelta(seconds=WINDOW_S),
    "max_messages": 8,
}


@dataclass(eq=False)
class Held:
    message_id: str
    sequence: int
    handle: Any = None
    lease_until: float = 0.0


@dataclass
class Place:
    """One subscription, or the queue itself."""

    received: bool = False
    held: list[Held] = field(default_factory=list)
    done: list[tuple[float, int, str]] = field(default_factory=list)  # end, number, id
    dead: list[tuple[float, str]] = field(default_factory=list)


class SubscriptionModel(RuleBasedStateMachine):
    kind: str

    def __init__(self) -> None:
        super().__init__()
        reset_memory()
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.make_store()
        options: dict[str, Any] = dict(OPTIONS, **({"durability": "normal"} if self.kind == "sqlite" else {}))
        self.queues = {name: self.store.open(subscription=name, **options) for name in ("", "one", "two")}
        self.letters = {name: self.store.open("orders.dead", name, **options) for name in ("", "one", "two")}
        self.places: dict[str, Place] = {}
        self.seen: dict[str, float] = {}
        self.sent = 0

    def make_store(self) -> Store:
        return Store(self.kind, self.folder)

    def now(self) -> float:
        return self.store.clock.time()

    def place(self, name: str) -> Place:
        """The place, made by its first use."""
        self.places.setdefault("", Place())
        return self.places.setdefault(name, Place(received=bool(name)))

    def leased(self, each: Held) -> bool:
        return each.lease_until > self.store.clock.monotonic()

    @rule(through=NAMES, batch=st.lists(IDS, min_size=1, max_size=3), dedup_id=st.none() | st.sampled_from("xy"))
    def send(self, through: str, batch: list[str], dedup_id: str | None) -> None:
        messages = [
            OutgoingMessage(each, b"", dedup_id=dedup_id if index == 0 else None) for index, each in enumerate(batch)
        ]
        known = dedup_id is not None and self.seen.get(dedup_id, 0.0) > self.now()
        new = batch[1:] if known else batch
        root = self.place("")
        audience = [each for each in self.places.values() if each.received] or [root]
        answers = [type(each).__name__ for each in self.queues[through].send(messages, timeout_s=1)]
        if any(len(each.held) + len(new) > 8 for each in audience) and new:
            assert set(answers) == {"Rejected"}
            return
        assert answers == ["Duplicate" if known and index == 0 else "Accepted" for index in range(len(batch))]
        if dedup_id is not None and not known:
            self.seen[dedup_id] = self.now() + WINDOW_S
        for message_id in new:
            self.sent += 1
            for each in audience:
                each.held.append(Held(message_id, self.sent))

    @rule(name=NAMES, limit=st.integers(1, 4), lease_s=st.sampled_from([2.0, 10.0]))
    def receive(self, name: str, limit: int, lease_s: float) -> None:
        place = self.place(name)
        place.received = True
        ready = [each for each in place.held if not self.leased(each)][:limit]
        taken = take(self.queues[name], limit, lease_s=lease_s)
        assert ids(taken) == [each.message_id for each in ready]
        for each, got in zip(ready, taken, strict=True):
            each.handle, each.lease_until = got.handle, self.store.clock.monotonic() + lease_s

    @rule(
        name=NAMES,
        through=NAMES,
        action=st.sampled_from([Action.ACK, Action.RETRY, Action.DEAD]),
        pick=st.integers(0, 5),
    )
    def settle(self, name: str, through: str, action: Action, pick: int) -> None:
        place = self.places.get(name, Place())
        handles = [each for each in place.held if each.handle is not None]
        if not handles:
            return
        each = handles[pick % len(handles)]
        letter = OutgoingMessage(each.message_id, b"")
        (outcome,) = self.queues[through].settle([Settlement(each.handle, action, dead=letter)], timeout_s=1)
        if through != name or not self.leased(each):
            assert outcome == LEASE_LOST, "another's handle, or an old one"
            return
        assert type(outcome).__name__ == "Settled"
        if action is Action.RETRY:
            each.lease_until = 0.0
            return
        place.held.remove(each)
        if action is Action.DEAD:
            place.dead.append((self.now() + DEAD_S, each.message_id))
        else:
            place.done.append((self.now() + KEEP_DONE_S, each.sequence, each.message_id))
            place.done = [done for done in place.done if done[0] > self.now()]
            place.done = sorted(place.done)[-MOST_DONE:]

    @rule(name=NAMES)
    def redrive(self, name: str) -> None:
        place = self.place(name) if self.places.get(name, Place()).dead else Place()
        sure = [each for each in place.dead if each[0] > self.now()]
        if len(sure) == len(place.dead) and sure:
            message_id = sure[0][1]
            assert self.letters[name].redrive([OutgoingMessage(message_id, b"")], timeout_s=1) == [SETTLED]
            place.dead.remove(sure[0])
            self.sent += 1
            place.held.append(Held(message_id, self.sent))

    @rule(name=st.sampled_from(["one", "two"]))
    def create(self, name: str) -> None:
        self.queues[name].create()
        self.place(name)

    @rule(name=st.sampled_from(["one", "one", "two", ""]))
    def delete(self, name: str) -> None:
        self.queues[name].delete()
        if name:
            self.places.pop(name, None)
        else:
            self.places.clear()
            self.seen.clear()

    @rule(message_id=IDS, through=NAMES)
    def cancel(self, message_id: str, through: str) -> None:
        removed = False
        for place in self.places.values():
            gone = [each for each in place.held if each.message_id == message_id and each.handle is None]
            place.held = [each for each in place.held if each not in gone]
            removed |= bool(gone)
        assert self.queues[through].cancel(message_id) is removed

    @rule(name=NAMES)
    def purge(self, name: str) -> None:
        place = self.places.get(name, Place())
        left = [each for each in place.held if self.leased(each)]
        assert self.queues[name].purge() == len(place.held) - len(left)
        place.held = left

    @rule(seconds=st.sampled_from([1.0, 5.0, 25.0, 70.0]))
    def advance(self, seconds: float) -> None:
        self.store.clock.advance(seconds)

    @rule()
    def looks_the_same(self) -> None:
        for name, queue in self.queues.items():
            place = self.places.get(name, Place())
            assert queue.exists() is (name in self.places)
            assert ids(queue.peek(limit=100)) == [each.message_id for each in place.held]
            stats = queue.stats()
            leased = sum(self.leased(each) for each in place.held)
            assert (stats.ready, stats.leased) == (len(place.held) - leased, leased)
            done = [(number, message_id) for end, number, message_id in place.done if end > self.now()]
            assert ids(queue.peek(limit=100, done=True)) == [message_id for _, message_id in sorted(done)]
            assert stats.done == len(done)
            self.looks_dead(name, place, stats.dead)

    def looks_dead(self, name: str, place: Place, counted: int) -> None:
        """What is due may be removed, whatever is not must be there."""
        letters = ids(self.letters[name].peek(limit=100))
        sure = [message_id for end, message_id in place.dead if end > self.now()]
        assert letters[len(letters) - len(sure) :] == sure
        assert len(sure) <= len(letters) <= len(place.dead)
        gone = len(place.dead) - len(letters)
        place.dead = place.dead[gone:]
        assert counted == len(letters)

    def teardown(self) -> None:
        self.looks_the_same()
        self.store.close()
        shutil.rmtree(self.folder)


class MemorySubscriptions(SubscriptionModel):
    kind = "memory"


class SQLiteSubscriptions(SubscriptionModel):
    kind = "sqlite"


class RedisSubscriptions(SubscriptionModel):
    kind = "redis"
    server: ClassVar[LocalRedis]
    patch: ClassVar[pytest.MonkeyPatch]

    def make_store(self) -> Store:
        return RedisStore(self.server, self.folder, self.patch)


@pytest.fixture(autouse=True)
def _server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.name.startswith("Redis") or "Redis" in request.node.nodeid:
        RedisSubscriptions.server, RedisSubscriptions.patch = request.getfixturevalue("redis_server"), monkeypatch


MemorySubscriptions.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
SQLiteSubscriptions.TestCase.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
RedisSubscriptions.TestCase.settings = settings(max_examples=6, stateful_step_count=40, deadline=None)
TestMemorySubscriptions = MemorySubscriptions.TestCase
TestSQLiteSubscriptions = SQLiteSubscriptions.TestCase
TestRedisSubscriptions = RedisSubscriptions.TestCase
