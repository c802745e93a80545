# SPDX-License-Identifier: Apache-2.0
"""Every message is in exactly one place, whatever was done; and claims read what they take, not more."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import LEASE_LOST, SETTLED, Action, IncomingMessage, OutgoingMessage, Settlement
from queuekit.backends.sqlite import SQLiteBackend, _claiming
from queuekit.backends.sqlite._places import coalesce, pack_lease, unpack_lease
from queuekit.testing.clock import VirtualClock


def check_places(path: Path) -> None:
    """Every message stands in ready, in delayed, in a lease, or behind another of its key: in exactly one."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        keys = dict(connection.execute("SELECT seq, key FROM message"))
        runs = connection.execute("SELECT first, last FROM ready UNION ALL SELECT first, last FROM delayed")
        placed = [seq for first, last in runs for seq in range(first, last + 1)]
        for held, text in connection.execute("SELECT held, runs FROM lease"):
            leased = list(unpack_lease(text))
            assert len(leased) == held
            placed += leased
        assert len(placed) == len(set(placed)), "in two places"
        assert set(placed) <= set(keys), "a place without its message"
        heads: dict[tuple[int, str], int] = {}
        for seq, key in sorted(keys.items()):
            if key is not None:
                heads.setdefault((seq >> 45, key), seq)
        held_back = {seq for seq, key in keys.items() if key is not None and heads[seq >> 45, key] != seq}
        assert set(keys) - set(placed) == held_back, "lost, or not held behind its key"
        for queue, held in connection.execute("SELECT id, held FROM queue"):
            assert held == sum(seq >> 45 == queue for seq in keys)


class Storm:
    """Does one thing after another to a queue, at random."""

    def __init__(self, seed: int, clock: VirtualClock, queue: SQLiteBackend, dead: SQLiteBackend) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.queue = queue
        self.dead = dead
        self.sent = 0
        self.held: list[IncomingMessage] = []

    def step(self) -> None:
        acts: list[Callable[[], Any]] = [self.send, self.send, self.receive, self.receive, self.settle, self.settle]
        acts += [self.cancel, self.redrive, lambda: self.clock.advance(self.random.choice([1, 5, 40]))]
        if self.random.random() < 0.01:
            acts = [self.queue.purge]
        self.random.choice(acts)()

    def send(self) -> None:
        pick = self.random.choice
        batch = []
        for _ in range(self.random.randrange(1, 12)):
            self.sent += 1
            key, delay_s, priority = pick([None, None, "a", "b"]), pick([0, 0, 3]), pick([0, 0, 5])
            batch.append(OutgoingMessage(f"m{self.sent}", b"", {}, {}, delay_s, key, None, priority))
        self.queue.send(batch, timeout_s=1)

    def receive(self) -> None:
        self.held += self.queue.receive(max_messages=self.random.randrange(1, 15), wait_s=0, lease_s=20)

    def settle(self) -> None:
        self.random.shuffle(self.held)
        batch, self.held = self.held[:6], self.held[6:]
        settlements = []
        for each in batch:
            action = self.random.choice(list(Action))
            letter = OutgoingMessage(each.message_id, b"") if action is Action.DEAD else None
            settlements.append(Settlement(each.handle, action, self.random.choice([0, 2]), 7, letter))
            if action is Action.EXTEND:
                self.held.append(each)
        if settlements:
            self.queue.settle(settlements, timeout_s=1)

    def cancel(self) -> None:
        self.queue.cancel(f"m{self.random.randrange(1, self.sent + 2)}")

    def redrive(self) -> None:
        letters = self.dead.peek(limit=3)
        if letters:
            self.dead.redrive([OutgoingMessage(each.message_id, each.body) for each in letters], timeout_s=1)


@pytest.mark.parametrize("seed", range(6))
def test_every_message_is_in_exactly_one_place(
    open_queue: Any, clock: VirtualClock, tmp_path: Path, seed: int
) -> None:
    queue, dead = open_queue(), open_queue("orders.dead")
    storm = Storm(seed, clock, queue, dead)
    for _ in range(30):
        for _ in range(10):
            storm.step()
        check_places(tmp_path / "jobs.db")
        stats = queue.stats()
        peeked = [each.state for each in queue.peek(limit=10_000)]
        counted = [peeked.count("ready"), peeked.count("delayed"), peeked.count("leased")]
        assert [stats.ready, stats.delayed, stats.leased] == counted


def test_everything_can_be_drained_after_a_storm(open_queue: Any, clock: VirtualClock) -> None:
    queue = open_queue()
    storm = Storm(99, clock, queue, open_queue("orders.dead"))
    for _ in range(200):
        storm.step()
    left = {each.message_id for each in queue.peek(limit=10_000)}
    clock.advance(60)
    drained: set[str] = set()
    while got := queue.receive(max_messages=50, wait_s=0, lease_s=60):
        assert queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=1) == [SETTLED] * len(
            got
        )
        drained |= {each.message_id for each in got}
    assert drained == left


def test_runs_join_neighbours_of_one_fate_only() -> None:
    assert coalesce([(1, "a"), (2, "a"), (3, "b"), (5, "b")]) == [(1, 2, "a"), (3, 3, "b"), (5, 5, "b")]
    assert coalesce([]) == []


def test_a_run_is_never_longer_than_the_search_for_it() -> None:
    assert [last - first + 1 for first, last, _ in coalesce((seq, 0) for seq in range(2500))] == [1000, 1000, 500]


def test_a_lease_reads_back() -> None:
    shares = [(5, (9, 1, 0)), (6, (9, 1, 0)), (9, (0, 3, 1))]
    held, text = pack_lease(shares)
    assert (held, unpack_lease(text)) == (3, dict(shares))


def steps_of(backend: SQLiteBackend, act: Callable[[], Any]) -> int:
    """How many hundreds of virtual machine steps the backend's connection takes for something."""
    with backend._database.writing(1) as connection:
        pass
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    connection.set_progress_handler(count, 100)
    act()
    connection.set_progress_handler(None, 0)
    return counted


@pytest.mark.parametrize("key", ["one-customer", None])
def test_a_backlog_of_20_000_drains_in_linear_work(open_queue: Any, key: str | None) -> None:
    queue = open_queue()
    batch = [OutgoingMessage("m", b"", ordering_key=key) for _ in range(500)]
    work = []

    def round_trip() -> None:
        got = queue.receive(max_messages=10, wait_s=0, lease_s=60)
        assert queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=1) == [SETTLED] * len(
            got
        )
        assert got

    for _ in range(40):
        queue.send(batch, timeout_s=10)
        work.append(steps_of(queue, round_trip))
    assert queue.stats().ready or key
    assert max(work) <= 2 * min(work) + 20


def test_claims_do_not_look_at_what_is_leased_or_delayed(open_queue: Any) -> None:
    queue = open_queue()

    def round_trip() -> None:
        queue.send([OutgoingMessage("m", b"")], timeout_s=1)
        (got,) = queue.receive(max_messages=1, wait_s=0, lease_s=60)
        queue.settle([Settlement(got.handle, Action.ACK)], timeout_s=1)

    alone = steps_of(queue, round_trip)
    for _ in range(10):
        queue.send([OutgoingMessage("m", b"")] * 500, timeout_s=10)
        assert len(queue.receive(max_messages=500, wait_s=0, lease_s=600)) == 500
        queue.send([OutgoingMessage("m", b"", delay_s=600.0 + index) for index in range(500)], timeout_s=10)
    assert steps_of(queue, round_trip) <= 2 * alone + 20


def test_the_best_messages_are_read_without_sorting(open_queue: Any) -> None:
    with open_queue()._database.reading(1) as connection:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {_claiming._BEST}", (1, 100)))
    assert "TEMP B-TREE" not in plan
    assert "SCAN" not in plan


def test_priority_and_then_order_of_sending(open_queue: Any) -> None:
    queue = open_queue()
    sent = [("a", 0), ("b", 9), ("c", 0), ("d", 5), ("e", 9)]
    queue.send([OutgoingMessage(name, b"", priority=priority) for name, priority in sent], timeout_s=1)
    got = queue.receive(max_messages=4, wait_s=0, lease_s=9)
    assert [each.message_id for each in got] == ["b", "e", "d", "a"]


@pytest.mark.parametrize(
    "handle", ["x", None, (), (1, 2), (1.5, 2), ("a", "b"), (2**70, 1), (-1, 5), ([], 1), (1, []), (True, 1), 7]
)
def test_foreign_handles_are_lost_leases(open_queue: Any, handle: Any) -> None:
    queue = open_queue()
    queue.send([OutgoingMessage("m", b"")], timeout_s=1)
    for action in (Action.ACK, Action.RETRY, Action.EXTEND):
        assert queue.settle([Settlement(handle, action, lease_s=5)], timeout_s=1) == [LEASE_LOST]


def test_extending_some_of_a_batch_leaves_the_rest(open_queue: Any, clock: VirtualClock) -> None:
    queue = open_queue()
    queue.send([OutgoingMessage(f"m{index}", b"") for index in range(5)], timeout_s=1)
    got = queue.receive(max_messages=5, wait_s=0, lease_s=10)
    queue.settle([Settlement(each.handle, Action.EXTEND, lease_s=60) for each in got[1:3]], timeout_s=1)
    clock.advance(30)
    again = queue.receive(max_messages=5, wait_s=0, lease_s=10)
    assert [each.message_id for each in again] == ["m0", "m3", "m4"]
    settled = queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=1)
    assert settled == [LEASE_LOST, SETTLED, SETTLED, LEASE_LOST, LEASE_LOST]


def test_a_dead_letter_whose_lease_is_over_can_be_redriven(open_queue: Any, clock: VirtualClock) -> None:
    queue, dead = open_queue(), open_queue("orders.dead")
    queue.send([OutgoingMessage("m", b"")], timeout_s=1)
    (got,) = queue.receive(max_messages=1, wait_s=0, lease_s=10)
    queue.settle([Settlement(got.handle, Action.DEAD, dead=OutgoingMessage("m", b""))], timeout_s=1)
    assert len(dead.receive(max_messages=1, wait_s=0, lease_s=10)) == 1
    assert dead.redrive([OutgoingMessage("m", b"")], timeout_s=1) == [LEASE_LOST]
    clock.advance(10)  # and nobody receives before the redrive
    assert dead.redrive([OutgoingMessage("m", b"")], timeout_s=1) == [SETTLED]
    assert [each.message_id for each in queue.receive(max_messages=2, wait_s=0, lease_s=10)] == ["m"]
