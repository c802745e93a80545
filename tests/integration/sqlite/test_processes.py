# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import Action, OutgoingMessage, Settlement
from queuekit.backends.sqlite import SQLiteBackend


def wait_for_socket(path: Path, count: int = 1) -> None:
    """Until so many processes listen. A listener binds before it looks, so what is sent from here on wakes it."""
    directory = path.with_name(path.name + "-wake")
    wait = threading.Event().wait
    for _ in range(2000):
        if directory.exists() and sum(not each.name.startswith(".") for each in directory.iterdir()) >= count:
            return
        wait(0.005)
    pytest.fail("nobody listens")


def test_many_processes_open_a_new_file_at_once(actors: Any, start: Any, path: Path, queue: SQLiteBackend) -> None:
    started = [start(actors.send_at_once, path, 20) for _ in range(6)]
    for _, pipe in started:
        assert pipe.recv() == "here"
    for _, pipe in started:
        pipe.send("go")
    for _, pipe in started:
        assert pipe.recv() < 10
    assert queue.stats().ready == 120


def test_many_processes_find_an_empty_file_at_once(actors: Any, start: Any, path: Path, queue: SQLiteBackend) -> None:
    path.touch()
    started = [start(actors.send_at_once, path, 5) for _ in range(4)]
    for _, pipe in started:
        assert pipe.recv() == "here"
    for _, pipe in started:
        pipe.send("go")
    for _, pipe in started:
        assert pipe.recv() < 10
    assert queue.stats().ready == 20


def kill_after(pipe: Any, process: BaseProcess, tries: int, tried: set[str]) -> None:
    for _ in range(tries):
        tried.add(pipe.recv()[1])
    process.kill()
    process.join()
    while pipe.poll():
        try:
            tried.add(pipe.recv()[1])
        except EOFError:
            return


def test_killing_workers_loses_nothing(actors: Any, start: Any, path: Path, queue: SQLiteBackend) -> None:
    sent = {f"m{index}" for index in range(300)}
    queue.send([OutgoingMessage(each, b"x" * 200) for each in sorted(sent)], timeout_s=10)
    tried: set[str] = set()
    for round_ in range(4):
        process, pipe = start(actors.work_until_killed, path)
        kill_after(pipe, process, 20 + 7 * round_, tried)
    left: set[str] = set()
    while got := queue.receive(max_messages=50, wait_s=1, lease_s=30):
        left |= {each.message_id for each in got}
        queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=10)
    assert left | tried == sent, "what is gone was acknowledged"
    assert left, "the workers were killed in the middle"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_send_wakes_other_processes(actors: Any, start: Any, path: Path, queue: SQLiteBackend) -> None:
    _, pipe = start(actors.receive_and_tell, path, 1000.0)  # no net: only a datagram can wake it
    assert pipe.recv() == "here"
    wait_for_socket(path)
    for index in range(20):
        queue.send([OutgoingMessage(f"m{index}", b"")], timeout_s=10)
        assert pipe.poll(10)
        assert pipe.recv() == f"m{index}"


def test_without_sockets_the_net_still_wakes(actors: Any, start: Any, path: Path, queue: SQLiteBackend) -> None:
    path.with_name(path.name + "-wake").write_text("in the way of the directory")
    _, pipe = start(actors.receive_and_tell, path)
    assert pipe.recv() == "here"
    queue.send([OutgoingMessage("m", b"")], timeout_s=10)
    assert pipe.poll(5)
    assert pipe.recv() == "m"


def test_a_path_too_long_for_a_socket(actors: Any, start: Any, tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    path = directory / "jobs.db"
    queue = actors.open_file(path)
    queue.probe()
    _, pipe = start(actors.receive_and_tell, path)
    assert pipe.recv() == "here"
    queue.send([OutgoingMessage("m", b"")], timeout_s=10)
    assert pipe.poll(5)
    assert pipe.recv() == "m"
    queue.close()


@pytest.mark.row("S28", backend="sqlite", case="sockets")
def test_a_dead_socket_is_removed(actors: Any, start: Any, path: Path, queue: SQLiteBackend) -> None:
    process, pipe = start(actors.receive_and_tell, path)
    assert pipe.recv() == "here"
    wait_for_socket(path)
    directory = path.with_name(path.name + "-wake")
    (name,) = directory.iterdir()
    assert (stat.S_IMODE(directory.stat().st_mode), stat.S_IMODE(name.stat().st_mode)) == (0o700, 0o600)
    process.kill()
    process.join()
    queue.send([OutgoingMessage("m", b"")], timeout_s=10)
    assert list(directory.iterdir()) == []


def test_a_full_socket_blocks_no_sender(path: Path, queue: SQLiteBackend) -> None:
    queue.probe()
    receiver = queue._database._here().directory.bind("9-full.sock")
    assert receiver is not None
    for _ in range(300):  # far more than a socket holds
        queue.send([OutgoingMessage("m", b"")], timeout_s=10)
    assert queue.stats().ready == 300
    receiver.close()


def test_close_ends_the_listener_and_removes_its_socket(path: Path, queue: SQLiteBackend) -> None:
    before = threading.active_count()
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(queue.receive(max_messages=1, wait_s=30, lease_s=5)))
    waiting.start()
    wait_for_socket(path)
    queue.close()
    waiting.join(10)
    assert got == [[]]
    assert threading.active_count() == before
    assert list(path.with_name(path.name + "-wake").iterdir()) == []


def test_an_ended_lease_wakes_a_consumer_that_waits_already(queue: SQLiteBackend) -> None:
    queue.send([OutgoingMessage("m", b"")], timeout_s=10)
    (first,) = queue.receive(max_messages=1, wait_s=0, lease_s=0.2)
    (again,) = queue.receive(max_messages=1, wait_s=20, lease_s=5)
    assert (again.message_id, again.attempt) == ("m", 2)
    assert first.lease_until is not None
    assert time.monotonic() >= first.lease_until


@pytest.mark.row("R49", backend="sqlite", case="fork with an open file")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_has_connections_of_its_own(path: Path, queue: SQLiteBackend) -> None:
    queue.send([OutgoingMessage("parent", b"")], timeout_s=10)
    assert queue.receive(max_messages=1, wait_s=0, lease_s=60)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        try:
            queue.send([OutgoingMessage("child", b"")], timeout_s=10)
            (got,) = queue.receive(max_messages=5, wait_s=1, lease_s=60)
            os.write(writer, got.message_id.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        assert told.read() == b"child"
    os.waitpid(child, 0)
    queue.send([OutgoingMessage("after", b"")], timeout_s=10)
    assert (queue.stats().leased, queue.stats().ready) == (2, 1)


def test_threads_of_one_process_share_the_file(queue: SQLiteBackend) -> None:
    errors: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for index in range(30):
                queue.send([OutgoingMessage(f"{name}-{index}", b"")], timeout_s=10)
                got = queue.receive(max_messages=1, wait_s=5, lease_s=60)
                queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=10)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert errors == []
    assert queue.stats().ready == 0
