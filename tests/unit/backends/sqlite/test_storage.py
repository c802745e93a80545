# SPDX-License-Identifier: Apache-2.0
"""What stays in the file, who may hold it up, and ids that are never used twice."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import LEASE_LOST, Action, Opening, OutgoingMessage, QueueURL, Settlement, SystemClock
from queuekit.backends.sqlite import SPEC, SQLiteOptions
from queuekit.backends.sqlite._schema import create_file
from queuekit.testing.clock import VirtualClock

MESSAGE = OutgoingMessage("m", b"x" * 3000)


def in_use(path: Path) -> tuple[int, dict[str, int]]:
    """Pages that hold something, and rows by table."""
    with closing(sqlite3.connect(path)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        pages -= connection.execute("PRAGMA freelist_count").fetchone()[0]
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return pages, {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}


def live(queue: Any, dead: Any) -> None:
    """Everything that can happen to messages, until none is left."""
    batch = [MESSAGE._replace(message_id=f"m{index}") for index in range(40)]
    batch += [MESSAGE._replace(ordering_key="k", priority=3) for _ in range(20)]
    batch += [MESSAGE._replace(message_id="late", delay_s=5.0)]
    queue.send(batch, timeout_s=1)
    assert queue.cancel("late")
    for action in (Action.RETRY, Action.RELEASE, Action.EXTEND, Action.DEAD, Action.ACK):
        got = queue.receive(max_messages=10, wait_s=0, lease_s=60)
        queue.settle([Settlement(each.handle, action, 0.0, 9.0, MESSAGE) for each in got], timeout_s=1)
    letters = dead.peek(limit=100)
    dead.redrive([OutgoingMessage(each.message_id, b"") for each in letters], timeout_s=1)


def finish(queue: Any) -> None:
    while got := queue.receive(max_messages=100, wait_s=0, lease_s=60):
        queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=1)


@pytest.mark.parametrize("subscription", ["", "one"])
def test_what_is_done_leaves_no_trace(
    open_queue: Any, clock: VirtualClock, tmp_path: Path, subscription: str
) -> None:
    options = {"subscription": subscription, "durability": "normal"}
    queue, dead = open_queue(**options), open_queue("orders.dead", **options)
    queue.create()
    path = tmp_path / "jobs.db"
    live(queue, dead)
    clock.advance(60)
    finish(queue)
    before = in_use(path)
    for _ in range(5):
        live(queue, dead)
        clock.advance(60)
        finish(queue)
    assert in_use(path) == before
    assert {before[1][name] for name in ("message", "ready", "delayed", "lease", "done", "expiry", "dedup")} == {0}


def test_what_was_kept_leaves_no_trace_in_the_end(open_queue: Any, clock: VirtualClock, tmp_path: Path) -> None:
    queue = open_queue(
        keep_done=timedelta(hours=1), dead_letter_retention=timedelta(hours=1), dedup_window=timedelta(0)
    )
    live(queue, open_queue("orders.dead"))
    clock.advance(60)
    finish(queue)
    clock.advance(7200)
    finish(queue)
    before = in_use(tmp_path / "jobs.db")
    for _ in range(20):
        queue.send([MESSAGE] * 20, timeout_s=1)
        finish(queue)
        queue.send([MESSAGE] * 10, timeout_s=1)
        got = queue.receive(max_messages=10, wait_s=0, lease_s=60)
        queue.settle([Settlement(each.handle, Action.DEAD, dead=MESSAGE) for each in got], timeout_s=1)
        clock.advance(30)
    assert in_use(tmp_path / "jobs.db")[1]["expiry"] <= 20, "neighbours share a row"
    for _ in range(4):
        clock.advance(3700)
        queue.receive(max_messages=1, wait_s=0, lease_s=60)
    assert in_use(tmp_path / "jobs.db") == before


def test_a_queue_that_dies_all_the_time_has_few_rows_for_it(
    open_queue: Any, clock: VirtualClock, tmp_path: Path
) -> None:
    queue = open_queue(durability="normal")
    for _ in range(100):
        queue.send([OutgoingMessage("m", b"")], timeout_s=1)
        (got,) = queue.receive(max_messages=1, wait_s=0, lease_s=60)
        queue.settle([Settlement(got.handle, Action.DEAD, dead=MESSAGE)], timeout_s=1)
        clock.advance(3600)
    assert in_use(tmp_path / "jobs.db")[1]["expiry"] <= 64


def test_two_clocks_with_one_seed_have_no_lease_in_common(open_queue: Any) -> None:
    one, two = open_queue(clock=VirtualClock(seed=7)), open_queue(clock=VirtualClock(seed=7))
    one.send([MESSAGE], timeout_s=1)
    (first,) = one.receive(max_messages=1, wait_s=0, lease_s=60)
    one.settle([Settlement(first.handle, Action.RELEASE)], timeout_s=1)
    (second,) = two.receive(max_messages=1, wait_s=0, lease_s=60)
    assert first.handle != second.handle
    assert one.settle([Settlement(first.handle, Action.ACK)], timeout_s=1) == [LEASE_LOST]
    assert two.stats().leased == 1


def test_a_lease_whose_transaction_failed_gives_its_id_to_nobody_else(open_queue: Any) -> None:
    one, two = open_queue(clock=VirtualClock(seed=7)), open_queue(clock=VirtualClock(seed=7))
    one.send([MESSAGE] * 3, timeout_s=1)
    with suppress(ZeroDivisionError), one._database.writing(1) as connection:
        one._database.next_lease(connection)
        raise ZeroDivisionError
    leases = [queue.receive(max_messages=1, wait_s=0, lease_s=60)[0].handle[0] for queue in (two, two, one)]
    assert len(set(leases)) == 3


def test_looking_does_not_wait_for_a_writer_that_is_stopped(open_queue: Any, tmp_path: Path) -> None:
    open_queue().send([MESSAGE], timeout_s=1)
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as stopped:
        stopped.execute("BEGIN IMMEDIATE")
        late = open_queue()
        late._timeout_s = 0.0
        assert [each.message_id for each in late.peek(limit=5)] == ["m"]
        assert late.stats().ready == 1


def test_the_leases_of_another_boot_are_ended_by_whoever_comes_first(
    open_queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue()
    queue.send([MESSAGE], timeout_s=1)
    assert queue.receive(max_messages=1, wait_s=0, lease_s=60)
    queue.close()
    monkeypatch.setattr(VirtualClock, "boot_id", lambda _: "another")
    assert open_queue().stats().ready == 1


def as_somebody_else(path: Path) -> str:
    """Send in a child that has no rights of root, and tell the error's code and whether it came at once."""
    SystemClock().boot_id()  # while Python's own files can be read
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        told = "nothing"
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            url = QueueURL(scheme="sqlite", path=f"/{path}", options={"queue": "orders"})
            queue = SPEC.open(Opening(url=url, queue="orders", options=SQLiteOptions()))
            began = time.monotonic()
            try:
                queue.send([MESSAGE], timeout_s=30)
                told = "sent"
            except Exception as error:  # noqa: BLE001 - told to the parent, whatever it is
                told = f"{queue.classify(error).code.name} {time.monotonic() - began < 10}"
        finally:
            os.write(writer, told.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    return told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("wrong", ["file", "directory", "both"])
def test_what_may_not_be_written_is_refused_at_once(wrong: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if wrong != "directory":
            create_file(folder / "jobs.db", "abc", now=0.0)
            (folder / "jobs.db").chmod(0o444)
        folder.chmod(0o777 if wrong == "file" else 0o555)
        told = as_somebody_else(folder / "jobs.db")
        folder.chmod(0o700)
    assert told == "ACCESS_DENIED True"


def test_the_wait_for_other_threads_is_part_of_the_time(open_queue: Any, clock: VirtualClock) -> None:
    queue = open_queue()
    queue.probe()
    here = queue._database._here()
    writing = here.writing

    class Slow:
        def acquire(self, timeout: float) -> bool:
            clock.advance(3)
            return True

        def release(self) -> None: ...

    here.writing = Slow()
    with queue._database.writing(5) as connection:
        assert connection.busy_ms == 2000
    here.writing = writing


def test_forgetting_many_dedup_ids_is_part_of_many_sends(
    open_queue: Any, clock: VirtualClock, tmp_path: Path
) -> None:
    queue = open_queue()
    for first in range(0, 3000, 500):
        batch = [OutgoingMessage(f"m{each}", b"", dedup_id=f"d{each}") for each in range(first, first + 500)]
        queue.send(batch, timeout_s=1)

    def remembered() -> int:
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            found: int = connection.execute("SELECT count(*) FROM dedup").fetchone()[0]
            return found

    clock.advance(3601)
    (again,) = queue.send([OutgoingMessage("again", b"", dedup_id="d2999")], timeout_s=1)
    assert type(again).__name__ == "Accepted"
    (twice,) = queue.send([OutgoingMessage("twice", b"", dedup_id="d2999")], timeout_s=1)
    assert type(twice).__name__ == "Duplicate"
    assert 1500 < remembered() < 3000, "some hundred at a time, because other writers wait"
    for _ in range(10):
        queue.send([OutgoingMessage("plain", b"", dedup_id="d2999")], timeout_s=1)
    assert remembered() == 1


def test_redriving_what_is_gone_does_not_search_the_queue(open_queue: Any) -> None:
    dead = open_queue("orders.dead")
    dead.send([OutgoingMessage(f"m{each}", b"") for each in range(500)], timeout_s=1)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with dead._database.reading(1) as connection:
        connection.set_progress_handler(count, 100)
    dead.redrive([OutgoingMessage(f"gone{each}", b"") for each in range(50)], timeout_s=1)
    assert steps < 100, "in hundreds of steps of SQLite's machine"
