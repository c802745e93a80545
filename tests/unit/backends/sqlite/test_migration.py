# SPDX-License-Identifier: Apache-2.0
"""From version 1 on. ``version1.db.gz`` was made by the code of that version, on a virtual clock with seed 1."""

from __future__ import annotations

import gzip
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import Action, OutgoingMessage, Settlement
from queuekit.backends.sqlite._schema import MIGRATIONS, migrate
from queuekit.testing.clock import VirtualClock

GOLDEN = gzip.decompress((Path(__file__).parent / "version1.db.gz").read_bytes())
LEASED = [(1451967416820086237, 35184372088836 + index) for index in range(4)]
STATES = {
    **{f"leased{index}": ("leased", 1) for index in range(4)},
    "retried": ("ready", 1),
    **{f"ready{index}": ("ready", 0) for index in range(5)},
    "late": ("delayed", 0),
    "high": ("ready", 0),
    "key0": ("ready", 0),
    "key1": ("delayed", 0),
    "key2": ("delayed", 0),
    "once": ("ready", 0),
    "big": ("ready", 0),
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.db"
    path.write_bytes(GOLDEN)
    return path


def states(queue: Any) -> dict[str, tuple[str, int]]:
    return {each.message_id: (each.state, each.attempt) for each in queue.peek(limit=100)}


def test_everything_of_version_1_is_where_it_was(open_queue: Any, old: Path) -> None:
    queue, dead = open_queue(), open_queue("orders.dead")
    assert states(queue) == STATES
    assert [(each.message_id, each.body, dict(each.metadata)) for each in dead.peek(limit=9)] == [
        (f"dead{index}", b"letter", {"reason": "x"}) for index in range(3)
    ]
    assert list(states(open_queue("it's odd"))) == ["elsewhere"]
    stats = queue.stats()
    assert (stats.ready, stats.delayed, stats.leased, stats.dead, stats.done) == (10, 3, 4, 3, 0)


def test_a_file_of_version_1_goes_on(open_queue: Any, clock: VirtualClock, old: Path) -> None:
    queue = open_queue()
    acked = queue.settle([Settlement(each, Action.ACK) for each in LEASED], timeout_s=1)
    assert {type(each).__name__ for each in acked} == {"Settled"}, "leases of version 1 hold"
    (again,) = queue.send([OutgoingMessage("twice", b"", dedup_id="o")], timeout_s=1)
    assert type(again).__name__ == "Duplicate"
    drained: list[str] = []
    clock.advance(3600)
    while got := queue.receive(max_messages=50, wait_s=0, lease_s=60):
        drained += [each.message_id for each in got]
        queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=1)
    assert sorted(drained) == sorted(set(STATES) - {f"leased{index}" for index in range(4)})
    assert drained[0] == "high"
    assert [each for each in drained if each.startswith("key")] == ["key0", "key1", "key2"]


def test_a_queue_of_version_1_may_have_a_consumer_and_so_gets_what_subscriptions_get(
    open_queue: Any, old: Path
) -> None:
    queue, one = open_queue(), open_queue(subscription="one")
    one.create()
    queue.send([OutgoingMessage("new", b"")], timeout_s=1)
    assert states(one) == {"new": ("ready", 0)}
    assert "new" in states(queue)


def test_dead_letters_of_version_1_are_kept_for_the_usual_time_from_the_migration_on(
    open_queue: Any, clock: VirtualClock, old: Path
) -> None:
    queue, dead = open_queue(), open_queue("orders.dead")
    queue.probe()
    clock.advance(13.9 * 86_400)
    queue.receive(max_messages=1, wait_s=0, lease_s=60)
    assert len(dead.peek(limit=9)) == 3
    clock.advance(0.2 * 86_400)
    queue.receive(max_messages=1, wait_s=0, lease_s=60)
    assert list(dead.peek(limit=9)) == []


def fork(act: Callable[[], None]) -> None:
    """Run it in a child, which may be killed."""
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        try:
            act()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 1


def migrate_and_die(path: Path, statement: int, steps: int) -> None:
    """Be killed when the statement of that number begins, or after so many steps of SQLite's machine."""
    connection = sqlite3.connect(path, isolation_level=None)
    begun = 0

    def count(_statement: str) -> None:
        nonlocal begun
        begun += 1
        if begun == statement:
            die()

    connection.set_trace_callback(count)
    connection.set_progress_handler(die, steps)
    migrate(connection, now=1_700_000_000.0)


NEVER = 1_000_000
KILLS = [*((each, NEVER) for each in range(1, 20)), *((NEVER, each) for each in (30, 60, 100, 200)), (NEVER, NEVER)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_migration_that_is_killed_loses_nothing(open_queue: Any, old: Path) -> None:
    versions = []
    for kill in KILLS:
        for suffix in ("", "-wal", "-shm"):
            old.with_name(old.name + suffix).unlink(missing_ok=True)
        old.write_bytes(GOLDEN)
        fork(lambda kill=kill: migrate_and_die(old, *kill))  # type: ignore[misc]
        with closing(sqlite3.connect(old)) as connection:
            versions.append(connection.execute("PRAGMA user_version").fetchone()[0])
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert ("expiry" in tables, "place" in tables) == (versions[-1] >= 2, False), "half a migration"
        queue = open_queue()
        assert states(queue) == STATES
        queue.close()
    assert versions == [1] * (len(KILLS) - 1) + [len(MIGRATIONS)], "all but the last were killed in the middle"
