# SPDX-License-Identifier: Apache-2.0
"""Real workers of one folder, each a process, and what can be told from what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import queuekit as qk
from queuekit.backend import StoredMessage
from queuekit.cli.ledger import Kill, Line, held_by, read_lines

from .places import Place
from .rows import FULL

HERE = Path(__file__).parent
LIMIT_S = 150.0 if FULL else 60.0
"""Real time after which something that should come to pass has not. Costs nothing while all is well."""


class Workers:
    """The workers of an app of this folder, which keeps its ledger in another one.

    Args:
        folder: Where they work.
        place: Where their queues are.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        self.place = place
        self.app = "killed_app"
        self._queues = set[str]()
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.leased_at_kills = 0
        self._offset, self._rest, self._lines = 0, b"", list[Line]()

    @property
    def database(self) -> Path:
        return self.folder / "jobs.db"

    def url(self, queue: str) -> str:
        self._queues.add(queue)
        return self.place.url(queue)

    @property
    def is_file(self) -> bool:
        return self.place.backend == "sqlite"

    def start(self, queue: str, *options: str, env: Mapping[str, str] | None = None) -> int:
        self.url(queue)
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "queuekit.cli", "worker", f"{self.app}:app", "--queue", queue, *options],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": _path(),
                    "QK_APP_URL": self.place.app_url,
                    "QK_LEAST_LEASE_S": f"{self.place.least_lease_s}",
                    "QK_LEASE_S": f"{self.place.lease_s}",
                    "QK_MOST_ATTEMPTS": f"{self.place.most_attempts}",
                    **(env or {}),
                },
                stdout=log,
                stderr=log,
            )
        self.running[worker.pid] = worker
        return worker.pid

    def signal(self, pid: int, number: signal.Signals) -> float:
        self.running[pid].send_signal(number)
        return time.monotonic()

    def kill(self, pid: int) -> Kill:
        victim = self.running.pop(pid)
        victim.kill()
        victim.wait()
        at = time.monotonic()
        if self.place.backend == "pubsub":
            return Kill(pid=pid, at=at, leased=self._unacked_of(pid))
        self.leased_at_kills += 0 if self.place.peeks else sum(map(self.place.leased, self._queues))
        return Kill(pid=pid, at=at, leased=self.leased())

    def wait(self, pid: int) -> int:
        """The exit code of a worker that ends."""
        return self.running.pop(pid).wait(LIMIT_S)

    def stop(self) -> dict[int, int]:
        """Ask all to drain. Returns their exit codes, by process."""
        for worker in self.running.values():
            worker.terminate()
        codes = {pid: worker.wait(LIMIT_S) for pid, worker in self.running.items()}
        self.running.clear()
        return codes

    def end(self) -> None:
        for worker in self.running.values():
            worker.kill()
            worker.wait()

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

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

    def until(self, reached: Callable[[list[Line]], bool], shown: Callable[[], object] = lambda: "") -> None:
        """Until the ledger shows it; no worker may end meanwhile. ``shown`` tells more of a failure."""
        wait, limit = threading.Event().wait, time.monotonic() + LIMIT_S
        while not reached(self.lines()):
            assert all(worker.poll() is None for worker in self.running.values()), self.log()[-4000:]
            assert time.monotonic() < limit, (
                f"{len(self.lines())} lines, {shown()}, and no more in time; {self.log()[-4000:]}"
            )
            wait(0.005)

    def until_lines(self, count: int) -> None:
        """Until the ledger has so many lines."""
        self.until(lambda lines: len(lines) >= count)

    def until_started(self, count: int) -> None:
        """Until so many workers in all have said that they work."""
        self.until(lambda _: self.log().count("worker.started on") >= count)

    def alive(self) -> set[int]:
        """The workers that have not ended by themselves; those that have are forgotten."""
        for pid in [pid for pid, worker in self.running.items() if worker.poll() is not None]:
            del self.running[pid]
        return set(self.running)

    def leased(self) -> Mapping[str, int]:
        """Every message that is leased, with its attempt."""
        if self.is_file:
            return leased(self.database)
        if not self.place.peeks:
            return {}
        return {each.message_id: each.attempt for each in self._peeked() if each.state == "leased"}

    def _unacked_of(self, pid: int) -> Mapping[str, int]:
        """What a worker had begun or handled and not acknowledged, with its attempt: only that can come twice."""
        unacked = set[str]().union(*map(self.place.unacked, self._queues))
        return {
            each.message_id: each.attempt for each in self.lines() if each.pid == pid and each.message_id in unacked
        }

    def until_empty(self) -> None:
        """Until there is no message at all."""
        self.until_empty_but(dead=0)

    def until_empty_but(self, *, dead: int) -> None:
        """Until there is nothing but so many dead letters."""
        with ExitStack() as opened:
            counts = self._counting(opened)
            self.until(lambda _: counts() == (dead, dead), counts)

    def _counting(self, opened: ExitStack) -> Callable[[], tuple[float, float]]:
        """What tells how many messages there are, and how many of the dead."""
        if self.is_file:
            connection = opened.enter_context(closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)))
            return lambda: connection.execute("SELECT count(*), total(findable) FROM message").fetchone()  # type: ignore[no-any-return]
        if not self.place.peeks:
            return self._counted
        backends: list[Any] = [
            opened.enter_context(qk.Consumer(self.url(each)))._link.backend for each in self._queues
        ]

        def count() -> tuple[float, float]:
            found = [backend.stats() for backend in backends]
            dead = sum(each.dead for each in found)
            return sum(each.ready + each.delayed + each.leased for each in found) + dead, dead

        return count

    def _counted(self) -> tuple[float, float]:
        found = [self.place.counts(each) for each in self._queues]
        dead = sum(each[1] for each in found)
        return sum(each[0] for each in found) + dead, dead

    def assert_sound(self, messages: int = 0) -> None:
        """The store is whole, and holds so many messages."""
        if self.is_file:
            assert_sound(self.database, messages)
        else:
            self.until_empty_but(dead=messages)

    def _peeked(self) -> Iterator[StoredMessage]:
        """What was ever taken, and some more: what was not stands behind it, and reading that all would take long."""
        for queue in sorted(self._queues):
            with qk.Consumer(self.url(queue)) as consumer:
                backend: Any = consumer._link.backend
                found = backend.peek(limit=500)
                while found:
                    yield from found
                    is_new = all(each.attempt == 0 for each in found)
                    found = [] if is_new else backend.peek(limit=500, after=found[-1].cursor)

    def at_work(self) -> set[int]:
        """The workers that are up: those that handled something lately."""
        return {each.pid for each in self.lines()[-1000:]} & set(self.running)


def _path() -> str:
    return os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))


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


def duplicates(lines: Sequence[Line]) -> list[Line]:
    """What was handled and came again: every line of a message but its last."""
    attempts = defaultdict(list)
    for each in sorted(lines, key=lambda line: line.attempt):
        attempts[each.message_id].append(each)
    return [line for group in attempts.values() for line in group[:-1]]


def in_flight(kills: Sequence[Kill], lines: Sequence[Line]) -> int:
    """How many deliveries the killed workers held; as a set, as a lease is seen at the next kill too."""
    return len({(held, kill.leased[held]) for kill in kills for held in held_by(kill, lines)})


def assert_explained(kills: Sequence[Kill], lines: Sequence[Line]) -> None:
    """Whatever came twice had been handled by a worker that was killed while it held the lease."""
    by_pid = {kill.pid: kill for kill in kills}
    for line in duplicates(lines):
        assert line.pid in by_pid, f"{line} came again, and its worker was not killed"
        assert by_pid[line.pid].leased.get(line.message_id) == line.attempt


def assert_sound(path: Path, messages: int = 0) -> None:
    """The file is whole, and holds so many messages."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (messages,)
