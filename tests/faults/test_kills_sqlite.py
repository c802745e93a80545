# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` of workers on SQLite: nothing is lost, and only what a killed worker held comes twice."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

import queuekit as qk
from queuekit.cli.ledger import Kill, Line, held_by, read_lines

from .killed_app import LEASE_S, Task

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
MESSAGES = 20_000
KILLS = 20
WORKERS = 3
GRACE_S = 2.0
LIMIT_S = 60.0


class Workers:
    """Real workers of one folder, each a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self._offset, self._rest, self._lines = 0, b"", list[Line]()

    def start(self, queue: str) -> int:
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "queuekit.cli", "worker", "killed_app:app", "--queue", queue],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(HERE)},
                stdout=log,
                stderr=log,
            )
        self.running[worker.pid] = worker
        return worker.pid

    def kill(self, pid: int) -> Kill:
        victim = self.running.pop(pid)
        victim.kill()
        victim.wait()
        return Kill(pid=pid, at=time.monotonic(), leased=leased(self.folder / "jobs.db"))

    def stop(self) -> dict[int, int]:
        """Ask all to drain. Returns their exit codes, by process."""
        for worker in self.running.values():
            worker.terminate()
        return {pid: worker.wait(LIMIT_S) for pid, worker in self.running.items()}

    def end(self) -> None:
        for worker in self.running.values():
            worker.kill()
            worker.wait()

    def lines(self) -> list[Line]:
        path = self.folder / "ledger.jsonl"
        if path.exists():
            with path.open("rb") as ledger:
                ledger.seek(self._offset)
                data = ledger.read()
            self._offset += len(data)
            new, self._rest = read_lines(self._rest + data)
            self._lines += new
        return self._lines

    def until(self, reached: Callable[[list[Line]], bool]) -> None:
        wait, limit = threading.Event().wait, time.monotonic() + LIMIT_S
        while not reached(self.lines()):
            assert all(worker.poll() is None for worker in self.running.values()), (self.folder / "log").read_text()
            assert time.monotonic() < limit, f"{len(self.lines())} lines, and no more in time"
            wait(0.005)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.end()


def leased(path: Path) -> Mapping[str, int]:
    """Every message that is leased, with its attempt: read from the rows, so that nothing moves by looking."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        found: dict[str, int] = {}
        for (runs,) in connection.execute("SELECT runs FROM lease").fetchall():
            for first, last, _rank, attempt, _keyed in json.loads(runs):
                rows = connection.execute("SELECT id FROM message WHERE seq BETWEEN ? AND ?", (first, last))
                found.update((message_id, attempt) for (message_id,) in rows)
        return found


def test_twenty_kills_during_twenty_thousand_messages(workers: Workers) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed: {seed}\n")
    chance = random.Random(seed)
    url = f"sqlite:///{workers.folder}/jobs.db?queue=busy"
    with qk.Producer[Task](url, payload=Task) as producer:
        report = producer.send_many(Task(number=number) for number in range(MESSAGES))
        report.raise_for_failures()
    sent = {each.message_id for each in report if isinstance(each, qk.Accepted)}
    assert len(sent) == MESSAGES
    for _ in range(WORKERS):
        workers.start("busy")

    kills: list[Kill] = []
    for index in range(KILLS):
        due = MESSAGES * (index + 1) // (KILLS + 1)
        workers.until(lambda lines, due=due: len(lines) >= due and bool(at_work(workers, lines)))  # type: ignore[misc]
        kills.append(workers.kill(chance.choice(sorted(at_work(workers, workers.lines())))))
        workers.start("busy")

    workers.until(lambda lines: len(lines) >= MESSAGES and len({each.message_id for each in lines}) == MESSAGES)
    with qk.DeadLetters(url) as dead:
        assert list(dead.letters()) == []
    assert_empty_in_time(workers)
    lines = workers.lines()
    assert not {code for pid, code in workers.stop().items() if pid in {each.pid for each in lines}} - {0}

    assert {each.message_id for each in lines} == sent
    assert_last_one_back_in_time(kills, lines)
    assert_duplicates_were_in_flight(kills, lines)
    with closing(sqlite3.connect(workers.folder / "jobs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (0,)


def at_work(workers: Workers, lines: list[Line]) -> set[int]:
    """The workers that are up: those that handled something lately."""
    return {each.pid for each in lines[-1000:]} & set(workers.running)


def assert_empty_in_time(workers: Workers) -> None:
    """What a killed worker had done and not settled comes once more, and then the queue is empty."""
    with closing(sqlite3.connect(f"file:{workers.folder}/jobs.db?mode=ro", uri=True)) as connection:
        workers.until(lambda _: connection.execute("SELECT count(*) FROM message").fetchone() == (0,))


def assert_last_one_back_in_time(kills: list[Kill], lines: list[Line]) -> None:
    first_done: dict[str, float] = {}
    for each in lines:
        first_done[each.message_id] = min(each.at, first_done.get(each.message_id, each.at))
    assert max(first_done.values()) - kills[-1].at <= LEASE_S + GRACE_S


def assert_duplicates_were_in_flight(kills: list[Kill], lines: list[Line]) -> None:
    """Whatever came twice had been handled by a worker that was killed while it held the lease."""
    by_pid = {kill.pid: kill for kill in kills}
    attempts = defaultdict(list)
    for each in sorted(lines, key=lambda line: line.attempt):
        attempts[each.message_id].append(each)
    duplicates = 0
    for group in attempts.values():
        for line in group[:-1]:
            duplicates += 1
            assert line.pid in by_pid, f"{line} came again, and its worker was not killed"
            assert by_pid[line.pid].leased.get(line.message_id) == line.attempt
    # As a set, because until its lease ends a message is seen at the next kill too.
    in_flight = len({(held, kill.leased[held]) for kill in kills for held in held_by(kill, lines)})
    sys.stdout.write(f"{len(kills)} kills, {in_flight} in flight, {duplicates} duplicates\n")
    assert duplicates <= in_flight
    assert in_flight >= KILLS  # else nothing was shown: every victim was at work


def test_on_an_idle_queue_a_waiting_worker_gets_what_a_killed_one_held(workers: Workers) -> None:
    with qk.Producer[Task](f"sqlite:///{workers.folder}/jobs.db?queue=idle", payload=Task) as producer:
        holder = workers.start("idle")
        held = producer.send(Task(number=1, hold=True)).message_id
        workers.until(lambda lines: len(lines) == 1)
        heir = workers.start("idle")
        producer.send(Task(number=2))
        workers.until(lambda lines: len(lines) == 2)  # the heir is up; from here on nothing moves but the lease
        kill = workers.kill(holder)
        assert kill.leased.get(held) == 1
        workers.until(lambda lines: len(lines) == 3)
    last = workers.lines()[-1]
    assert (last.message_id, last.attempt, last.pid, last.done) == (held, 2, heir, True)
    assert last.at - kill.at <= LEASE_S + GRACE_S
    assert workers.stop() == {heir: 0}
