# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import OutgoingMessage
from queuekit.backends.sqlite import SQLiteBackend, _turns
from queuekit.backends.sqlite._turns import Turns

MESSAGE = [OutgoingMessage("m", b"")]


@pytest.fixture
def turns(path: Path) -> Iterator[Turns]:
    made = Turns(path)
    yield made
    made.close()


@pytest.fixture
def others(path: Path) -> Iterator[Turns]:
    """As another process would: its locks are its own, though it is the same process."""
    made = Turns(path)
    yield made
    made.close()


def until(true: Callable[[], bool]) -> None:
    wait = threading.Event().wait
    for _ in range(2000):
        if true():
            return
        wait(0.005)
    pytest.fail("it never came to that")


def in_line(turns: Turns) -> bool:
    """Whether somebody waits for the turn."""
    if _turns._try(turns._files[1]):
        _turns.fcntl.flock(turns._files[1], _turns.fcntl.LOCK_UN)
        return False
    return True


def leave(turns: Turns) -> None:
    _turns.fcntl.flock(turns._files[0], _turns.fcntl.LOCK_UN)


def test_eight_processes_meet_no_error(actors: Any, start: Any, path: Path, queue: SQLiteBackend) -> None:
    started = [start(actors.hammer, path, 30) for _ in range(8)]
    for _, pipe in started:
        assert pipe.recv() == "here"
    for _, pipe in started:
        pipe.send("go")
    acked = sum(pipe.recv() for _, pipe in started)
    stats = queue.stats()
    assert (acked + (stats.ready or 0), stats.leased) == (240, 0)


def test_who_writes_again_and_again_overtakes_a_waiter_a_few_times_at_most(turns: Turns, others: Turns) -> None:
    order: list[str] = []

    def wait_in_line() -> None:
        with others.taken(30):
            order.append("the waiter")

    assert turns._take(0)
    waiter = threading.Thread(target=wait_in_line)
    waiter.start()
    until(lambda: in_line(turns))
    for _ in range(_turns._LOOK_EVERY):
        leave(turns)
        assert turns._take(30)
        order.append("the writer")
    leave(turns)
    waiter.join(10)
    assert order[-1] == "the writer", "the waiter came before"
    assert order.count("the waiter") == 1


def test_a_stopped_holder_is_waited_for_once(
    actors: Any, start: Any, path: Path, queue: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send(MESSAGE, timeout_s=10)
    process, pipe = start(actors.hold_a_turn, path)
    assert pipe.recv() == "taken"
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(_turns, "PATIENCE_S", 0.1)
    queue.send(MESSAGE, timeout_s=10)  # with a turn of nobody's, and so after the patience
    waiter = queue._database._here().turns._waiter
    assert waiter is not None
    assert waiter.waiting
    monkeypatch.setattr(_turns, "PATIENCE_S", 1000.0)
    queue.send(MESSAGE, timeout_s=1000)  # at once, or this test would never end
    assert queue.stats().ready == 3
    process.kill()
    process.join()
    until(lambda: not waiter.waiting)
    with queue._database.writing(10), path.with_name("jobs.db-turn").open() as file:
        assert not _turns._try(file.fileno()), "turns are taken again"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_of_a_killed_process_does_not_keep_its_turn(
    actors: Any, start: Any, path: Path, turns: Turns
) -> None:
    process, pipe = start(actors.hold_a_turn_and_fork, path)
    told = {pipe.recv(), pipe.recv()}
    child = (told - {"forked"}).pop()
    assert not turns._take(0.01)
    process.kill()
    process.join()
    until(lambda: turns._take(0))
    os.kill(child, 0)  # it lives
    leave(turns)
    pipe.send("end")


def test_a_killed_holder_leaves_no_turn_behind(actors: Any, start: Any, path: Path, turns: Turns) -> None:
    process, pipe = start(actors.hold_a_turn, path)
    assert pipe.recv() == "taken"
    process.kill()
    process.join()
    assert turns._take(0)
    leave(turns)


def test_closing_while_a_holder_hangs_leaves_nothing_open_in_the_end(
    turns: Turns, others: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_turns, "PATIENCE_S", 0.05)
    assert others._take(0)
    assert not turns._take(1)
    waiter, files = turns._waiter, turns._files
    assert waiter is not None
    turns.close()
    assert waiter.is_alive()
    leave(others)
    waiter.join(10)
    assert not waiter.is_alive()
    for each in files:
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(each)
    assert turns._take(0), "it opens again"
    leave(turns)


def test_a_file_where_no_turn_can_be_taken_is_written_all_the_same(path: Path, queue: SQLiteBackend) -> None:
    path.with_name("jobs.db-next").mkdir()
    queue.send(MESSAGE, timeout_s=10)
    assert queue.stats().ready == 1


def test_a_link_in_the_place_of_a_turn_is_not_followed(path: Path, queue: SQLiteBackend) -> None:
    path.with_name("jobs.db-turn").symlink_to(path.with_name("elsewhere"))
    queue.send(MESSAGE, timeout_s=10)
    assert not path.with_name("elsewhere").exists()


def test_only_the_owner_can_keep_others_waiting(path: Path, queue: SQLiteBackend) -> None:
    before = os.umask(0)
    try:
        queue.send(MESSAGE, timeout_s=10)
    finally:
        os.umask(before)
    for name in ("jobs.db-turn", "jobs.db-next"):
        assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600


def free(turns: Turns) -> bool:
    """Whether anybody may take both files at once."""
    for each in turns._files:
        if not _turns._try(each):
            return False
        _turns.fcntl.flock(each, _turns.fcntl.LOCK_UN)
    return True


def test_who_is_interrupted_while_waiting_does_not_keep_the_turn(turns: Turns, others: Turns) -> None:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    assert turns._take(0)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt), others.taken(30):
            pytest.fail("the turn is another's")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    waiter = others._waiter
    assert waiter is not None
    leave(turns)
    until(lambda: not waiter.waiting)
    assert free(turns)


@pytest.mark.parametrize("what", ["error", "interrupt"])
def test_a_turn_that_cannot_be_asked_for_leaves_no_lock(
    turns: Turns, others: Turns, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    assert turns._open()
    assert others._open()
    others._others = True  # so that both files are asked
    flock, files = _turns.fcntl.flock, others._files

    def fail(file: int, how: int) -> None:
        flock(file, how)
        if file == files[0] and how != _turns.fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, "no locks") if what == "error" else KeyboardInterrupt

    monkeypatch.setattr(_turns.fcntl, "flock", fail)
    with suppress(KeyboardInterrupt), others.taken(0):
        pass
    monkeypatch.undo()
    assert free(turns)


def test_without_a_thread_to_wait_with_there_is_no_turn_and_no_error(
    turns: Turns, path: Path, queue: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "_start_new_thread", refuse)
    with turns.taken(0):
        for _ in range(2):
            (outcome,) = queue.send(MESSAGE, timeout_s=5)
            assert type(outcome).__name__ == "Accepted"
    queue.close()


def test_a_file_with_something_in_it_is_no_turn(path: Path, queue: SQLiteBackend) -> None:
    other = path.with_name(path.name + "-next")
    other.write_bytes(b"somebody's database")
    other.chmod(0o644)
    queue.send(MESSAGE, timeout_s=5)
    assert stat.S_IMODE(other.stat().st_mode) == 0o644
    with _turns.Turns(path).taken(0), other.open("rb") as file:
        assert _turns._try(file.fileno())


def test_a_folder_that_comes_later_has_turns(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    turns = Turns(folder / "jobs.db")
    with turns.taken(0):
        pass
    folder.mkdir()
    with turns.taken(0):
        assert len(turns._files) == 2
    turns.close()
