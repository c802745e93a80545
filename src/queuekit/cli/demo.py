# SPDX-License-Identifier: Apache-2.0
"""``queuekit demo``: a real job with everything going wrong, and a count of what came of it.

Files are hashed by worker processes through a SQLite queue. One worker is killed while it holds work, one
file fails twice, and one is poison until it is fixed. The figures come from the ledger and the queue.
"""

from __future__ import annotations

import os
import signal
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

from queuekit import Accepted, DeadLetters, Message, Producer, QueueKitError, UsageError
from queuekit._portable.link import open_link
from queuekit._values.clock import Clock, SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Peekable, StoredMessage
from queuekit.cli.demo_place import LEASE_S, PREFETCH, SLOTS, FileTask, LedgerTail, Place, Trouble
from queuekit.cli.demo_show import Show, open_show
from queuekit.cli.demo_workers import Workers
from queuekit.cli.ledger import Kill, Line, Summary, summarize, unfinished_by
from queuekit.cli.showing import put_json, put_table, say

WORKERS = 3
MOST_FILES = 2000
FEWEST_FILES = 20
_BUSY_S = 1.5
_SETTLING_S = 2.0  # less than a lease: then the victim's come to the others
_PORTION = 100
_BUDGET_S = 50.0
_LOOK_S = 0.004
_PAGE = 500
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(QueueKitError):
    """The demo could not go on; its summary tells how far it came."""


def demo(folder: Path | None, *, as_json: bool) -> int:
    """Run the demo. Returns the exit code: 0 when nothing was lost or left over.

    Raises:
        UsageError: The folder is missing or has too few files.
    """
    files = choose_files(folder or Path(sysconfig.get_path("stdlib")))
    with _stopping_on_signals(), tempfile.TemporaryDirectory(prefix="queuekit-demo-") as work:
        place = Place(Path(work))
        with open_show(len(files)) as show:
            summary, trouble = Demo(files, place, show, SystemClock()).run()
        if trouble:
            say(f"queuekit: {trouble}")
            for line in place.last_words():
                say(line)
    if as_json:
        put_json({**asdict(summary), "ok": summary.ok and not trouble})
    else:
        put_table(("what", "how many"), describe(summary))
    return int(bool(trouble) or not summary.ok)


def choose_files(folder: Path, most: int = MOST_FILES) -> list[Path]:
    """The first readable files below a folder, by name.

    Raises:
        UsageError: There are too few to show anything with.
    """
    files = [path for _, path in zip(range(most), _files(folder), strict=False)]
    if len(files) < FEWEST_FILES:
        msg = f"the demo needs a folder with at least {FEWEST_FILES} files, and {str(folder)!r} has {len(files)}"
        raise UsageError(msg)
    return files


def make_tasks(files: Sequence[Path]) -> list[FileTask]:
    """A task for each file; the second one fails twice, and the third one is poison."""
    troubles: dict[int, Trouble] = {1: "fails twice", 2: "poison"}
    pause_s = 0.0 if len(files) >= MOST_FILES // 4 else _BUSY_S * WORKERS * SLOTS / len(files)
    return [
        FileTask(path=str(path), trouble=troubles.get(index, "none"), pause_s=pause_s)
        for index, path in enumerate(files)
    ]


def describe(summary: Summary) -> list[tuple[str, str]]:
    """The rows of the table."""
    return [
        ("sent", str(summary.sent)),
        ("done", str(summary.done)),
        ("retried", str(summary.retried)),
        ("workers killed", str(summary.killed)),
        ("in flight at the kill", str(summary.in_flight)),
        ("recovered after the kill", str(summary.recovered)),
        ("dead", str(summary.dead)),
        ("redriven", str(summary.redriven)),
        ("lost", str(summary.lost)),
        ("left over", str(summary.left_over)),
        ("duplicates", str(summary.duplicates)),
        ("messages/s", f"{summary.per_second:,.0f}"),
        ("latency p50", f"{summary.p50_s * 1000:,.0f} ms"),
        ("latency p99", f"{summary.p99_s * 1000:,.0f} ms"),
    ]


class Demo:
    """One run.

    Args:
        files: What to hash.
        place: A fresh folder.
        show: Where progress is shown.
        clock: Time.
    """

    def __init__(self, files: Sequence[Path], place: Place, show: Show, clock: Clock) -> None:
        self._tasks = make_tasks(files)
        self._place, self._show, self._clock = place, show, clock
        self._deadline = clock.monotonic() + _BUDGET_S
        self._tick = threading.Condition()
        self._lines: list[Line] = []
        self._done: set[str] = set()
        self._sent: dict[str, float] = {}
        self._kills: list[Kill] = []
        self._dead: set[str] = set()
        self._tail = LedgerTail(place)
        self._opener = Opener(clock)
        self._link = open_link(place.queue_url, None, {}, opener=self._opener)

    def run(self) -> tuple[Summary, str]:
        """Do it all. Returns the figures, and what stopped it before its time, if anything did."""
        trouble = ""
        try:
            with Workers(self._place) as workers:
                self._start(workers)
                self._send_and_kill(workers)
                self._redrive(workers)
                self._await(workers, "the queue to be empty", lambda: not self._stored())
                _check_ends(workers.stop())
        except QueueKitError as error:
            trouble = str(error)
        self._look()
        summary = summarize(
            self._lines, sent=self._sent, kills=self._kills, dead=self._dead, left_over=self._left_over()
        )
        self._link.backend.close()
        self._opener.close()
        return summary, trouble

    def _start(self, workers: Workers) -> None:
        for _ in range(WORKERS):
            workers.start()
        self._await(workers, "the workers to start", workers.all_up)
        self._show.tell(f"{WORKERS} workers are up, with leases of {LEASE_S} s")

    def _send_and_kill(self, workers: Workers) -> None:
        """Send two thirds, kill a worker amid them, and send the rest.

        The rest is held back so that there is work left for another try, should the moment be missed.
        """
        with Producer[FileTask](self._place.queue_url, payload=FileTask) as producer:
            total = len(self._tasks)
            self._send(producer, total * 2 // 3)
            self._await(workers, "a third to be done", lambda: len(self._done) >= total // 3)
            while not self._kill(workers):
                if len(self._done) >= len(self._sent) - 2:  # all but those in trouble
                    self._send(producer, len(self._sent) + _PORTION)
                self._await(workers, "the next line", self._grows())
            self._send(producer, total)
        self._show.tell(f"sent {len(self._sent)} messages")

    def _send(self, producer: Producer[FileTask], upto: int) -> None:
        while len(self._sent) < min(upto, len(self._tasks)):
            start = len(self._sent)
            portion = self._tasks[start : min(upto, start + _PORTION)]
            now = self._clock.monotonic()
            report = producer.send_many([Message(task) for task in portion])
            report.raise_for_failures()
            self._sent |= {each.message_id: now for each in report if isinstance(each, Accepted)}
            self._look()

    def _kill(self, workers: Workers) -> bool:
        """Kill the worker that wrote the newest line; whether it held files that it had not finished."""
        victim = self._lines[-1].pid
        if victim not in workers.pids:
            return False
        workers.kill(victim)
        leased = {each.message_id: each.attempt for each in self._stored() if each.state == "leased"}
        kill = Kill(pid=victim, at=self._clock.monotonic(), leased=leased)
        self._kills.append(kill)
        workers.start()
        self._show.tell(f"killed worker {victim} after {len(self._done)} files; another takes its place")
        # Once the others have handled what they held themselves, the rest was the victim's.
        enough, until = len(self._lines) + WORKERS * (SLOTS + PREFETCH), kill.at + _SETTLING_S
        self._await(workers, "others", lambda: len(self._lines) >= enough or self._clock.monotonic() >= until)
        return bool(unfinished_by(kill, self._lines))

    def _redrive(self, workers: Workers) -> None:
        with DeadLetters(self._place.queue_url) as dead:

            def all_done_or_dead() -> bool:
                if len(self._done) < len(self._sent) - 1:
                    return False
                self._dead |= {each.message_id for each in dead.letters()}
                return len(self._done | self._dead) == len(self._sent)

            self._await(workers, "every file to be done or dead", all_done_or_dead)
            self._show.tell(f"{len(self._dead)} dead; fixed now, and sent back")
            self._place.cure.touch()
            dead.redrive()
        self._await(workers, "every file to be done", lambda: len(self._done) == len(self._sent))

    def _await(self, workers: Workers, what: str, reached: Callable[[], bool]) -> None:
        while not reached():
            if codes := workers.failed():
                msg = f"a worker ended by itself with exit code {codes[0]}"
                raise DemoError(msg)
            if self._clock.monotonic() > self._deadline:
                msg = f"out of time, waiting for {what}"
                raise DemoError(msg)
            with self._tick:
                self._clock.wait(self._tick, _LOOK_S)
            self._look()

    def _grows(self) -> Callable[[], bool]:
        before = len(self._lines)
        return lambda: len(self._lines) > before

    def _look(self) -> None:
        """Read what the workers appended meanwhile."""
        new = self._tail.read()
        self._lines += new
        self._done |= {each.message_id for each in new if each.done}
        self._show.progress(len(self._done))

    def _stored(self) -> list[StoredMessage]:
        """Everything that the queue holds, whoever has it."""
        stored: list[StoredMessage] = []
        backend, guard = self._link.backend, self._link.guard
        if isinstance(backend, Peekable):
            while page := guard.call("peek", partial(backend.peek, limit=_PAGE, after=_cursor(stored))):
                stored.extend(page)
        return stored

    def _left_over(self) -> set[str]:
        with DeadLetters(self._place.queue_url) as dead:
            return {each.message_id for each in self._stored()} | {each.message_id for each in dead.letters()}


def _check_ends(codes: Sequence[int]) -> None:
    """See that every worker drained; one that was still starting had nothing to drain.

    Raises:
        DemoError: One ended in another way.
    """
    if bad := [code for code in codes if code not in {0, -signal.SIGTERM}]:
        msg = f"a worker did not drain and ended with exit code {bad[0]}"
        raise DemoError(msg)


def _cursor(stored: Sequence[StoredMessage]) -> str:
    return stored[-1].cursor if stored else ""


def _files(folder: Path) -> Iterator[Path]:
    """Regular files that can be read, by name, folder by folder; compiled files come and go by themselves."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink() or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _files(entry)
        elif entry.is_file() and os.access(entry, os.R_OK):
            yield entry


@contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """Have every polite signal clean up; Ctrl-C too where a shell had it ignored."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, stop) for each in _STOPPING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
