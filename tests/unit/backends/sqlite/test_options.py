# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import (
    Accepted,
    Action,
    Duplicate,
    ErrorCode,
    InvalidURLError,
    OutgoingMessage,
    QueueURL,
    Rejected,
    Settlement,
)
from queuekit.backends.sqlite import SQLiteBackend
from queuekit.backends.sqlite._options import file_of
from queuekit.testing.clock import VirtualClock


@pytest.mark.parametrize("url", ["sqlite:///:memory:?queue=q", "sqlite://?queue=q", "sqlite:///?queue=q"])
def test_sqlite_in_memory_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(InvalidURLError, match="memory://QUEUE"):
        file_of(QueueURL.parse(url))


@pytest.mark.parametrize(
    "url", ["sqlite://jobs.db?queue=q", "sqlite://user@/jobs.db?queue=q", "sqlite:///dir/?queue=q"]
)
def test_what_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(InvalidURLError):
        file_of(QueueURL.parse(url))


def test_relative_and_absolute_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_of(QueueURL.parse("sqlite:///jobs.db")) == tmp_path / "jobs.db"
    assert file_of(QueueURL.parse("sqlite:////srv/jobs.db")) == Path("/srv/jobs.db")
    assert str(file_of(QueueURL.parse("sqlite:///../jobs.db"))) == f"{tmp_path}/../jobs.db"


@pytest.mark.row("S24", backend="sqlite", case="names of files")
@pytest.mark.parametrize(
    "file", ["a'b\".db", "what?mode=memory", "50%41.db", "#.db", "file:x.db", "x;DROP TABLE y", "ü ☃.db"]
)
@pytest.mark.parametrize("queue", ["q'); DROP TABLE message; --", "../q", "{tag}*>", "☃", '"'])
def test_odd_names_stay_where_they_point(open_queue: Any, tmp_path: Path, file: str, queue: str) -> None:
    backend, other = open_queue(queue, file=file), open_queue("other", file=file)
    backend.send([OutgoingMessage("m", b"")], timeout_s=1)
    assert (backend.stats().ready, other.stats().ready) == (1, 0)
    assert {each.name for each in tmp_path.iterdir()} == {
        f"{file}{suffix}" for suffix in ("", "-wal", "-shm", "-turn", "-next")
    }


@pytest.mark.row("S28", backend="sqlite")
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_their_owners_whatever_the_umask(open_queue: Any, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        open_queue().send([OutgoingMessage("m", b"")], timeout_s=1)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {f"jobs.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm", "-turn", "-next")}


def test_a_batch_over_max_messages_is_refused_whole(open_queue: Any) -> None:
    queue = open_queue(max_messages=3)
    queue.send([OutgoingMessage("a", b""), OutgoingMessage("b", b"")], timeout_s=1)
    refused = queue.send([OutgoingMessage("c", b"", dedup_id="x"), OutgoingMessage("d", b"")], timeout_s=1)
    assert all(isinstance(each, Rejected) and each.error.code is ErrorCode.QUEUE_FULL for each in refused)
    assert queue.stats().ready == 2
    assert queue.send([OutgoingMessage("c", b"", dedup_id="x")], timeout_s=1) == [Accepted("c")]


def fill(queue: SQLiteBackend) -> tuple[int, sqlite3.Error]:
    for sent in range(0, 10_000, 10):
        try:
            queue.send([OutgoingMessage(f"m{sent + index}", b"x" * 500) for index in range(10)], timeout_s=1)
        except sqlite3.Error as error:
            return sent, error
    pytest.fail("the file has no largest size")


def test_a_full_file_refuses_sends_and_still_drains(open_queue: Any) -> None:
    queue = open_queue(max_size=256 * 1024)
    sent, caught = fill(queue)
    told = queue.classify(caught)
    assert (told.code, told.retryable, told.sent) == (ErrorCode.QUEUE_FULL, True, "no")
    assert queue.stats().ready == sent
    drained = 0
    while got := queue.receive(max_messages=7, wait_s=0, lease_s=60):
        for each in got:
            queue.settle([Settlement(each.handle, Action.ACK)], timeout_s=1)
        drained += len(got)
    assert drained == sent
    queue.send([OutgoingMessage("again", b"x" * 500)], timeout_s=1)


def test_dedup_records_are_forgotten_after_the_window(open_queue: Any, clock: VirtualClock) -> None:
    queue = open_queue()
    once = [OutgoingMessage("first", b"", dedup_id="d")]
    again = [OutgoingMessage("second", b"", dedup_id="d")]
    assert queue.send(once, timeout_s=1) == [Accepted("first")]
    assert queue.send([*again, *again], timeout_s=1) == [Duplicate("second", "first")] * 2
    clock.advance(3600)
    assert queue.send([*again, *once], timeout_s=1) == [Accepted("second"), Duplicate("first", "second")]
    with queue._database.reading(1) as connection:
        assert connection.execute("SELECT count(*) FROM dedup").fetchone() == (1,)


class Rebooted(VirtualClock):
    """The clock of the host after a restart."""

    def boot_id(self) -> str:
        return "another boot"


def test_leases_end_with_the_hosts_boot(open_queue: Any) -> None:
    queue = open_queue()
    queue.send([OutgoingMessage("m", b"")], timeout_s=1)
    (before,) = queue.receive(max_messages=1, wait_s=0, lease_s=43_200)
    rebooted = open_queue(clock=Rebooted(seed=1))
    (after,) = rebooted.receive(max_messages=1, wait_s=0, lease_s=60)
    assert (after.message_id, after.attempt) == ("m", 2)
    assert after.handle != before.handle


def test_a_replaced_file_is_noticed(open_queue: Any, tmp_path: Path) -> None:
    queue = open_queue()
    queue.send([OutgoingMessage("m", b"")], timeout_s=1)
    for each in tmp_path.iterdir():
        each.unlink()
    queue.send([OutgoingMessage("n", b"")], timeout_s=1)
    assert [each.message_id for each in open_queue().peek(limit=5)] == ["n"]


def test_the_log_does_not_grow_without_bound(open_queue: Any, tmp_path: Path) -> None:
    queue = open_queue()
    sizes = []
    for _ in range(60):
        queue.send([OutgoingMessage("m", b"x" * 1000) for _ in range(100)], timeout_s=1)
        got = queue.receive(max_messages=100, wait_s=0, lease_s=60)
        queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=1)
        sizes.append((tmp_path / "jobs.db").stat().st_size)
    assert (tmp_path / "jobs.db-wal").stat().st_size < 17 << 20
    assert sizes[-1] <= 2 * (1 << 20), "the pages of deleted rows are used again"
