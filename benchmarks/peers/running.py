# SPDX-License-Identifier: Apache-2.0
"""One run: start a worker, warm it up, stop it, fill the queue, let it go, and watch what it does and costs.

A worker that is stopped by SIGSTOP is started, connected and warm, and takes nothing: so that every contender
drains a full queue from one moment on, and sending has the machine to itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO

_WATCH_S = 0.004
_PATIENCE_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class RunFailedError(Exception):
    """A contender did not do what it was asked for."""


@dataclass(frozen=True)
class Figures:
    """What one run gave.

    Attributes:
        drained: Messages a second, from the first that was handled to the last.
        sent: Messages a second, sent in bulk where the contender has that.
        sent_singly: Messages a second, each sent and answered before the next.
        cpu_us: Microseconds of processor time of all worker processes, per message.
        server_us: The same of the server, while the queue was drained.
        rss_mb: Megabytes of all worker processes when the queue was empty.
        idle_rss_mb: The same before it was filled; None where that was not watched.
        idle_cpu_percent: Percent of one core, meanwhile.
    """

    drained: float
    sent: float
    sent_singly: float
    cpu_us: float
    server_us: float
    rss_mb: float
    idle_rss_mb: float | None
    idle_cpu_percent: float | None


@dataclass(frozen=True)
class Load:
    """How many messages, and how long to watch the idle worker."""

    warm_up: int
    many: int
    singly: int
    idle_s: float


def run(
    worker: Sequence[str],
    sender: Sequence[str],
    environment: Mapping[str, str],
    load: Load,
    *,
    server_cpu_s: Callable[[], float],
) -> Figures:
    """Do one run on an empty database.

    Raises:
        RunFailedError: It ended early, or a message was not handled in two minutes.
    """
    with tempfile.TemporaryDirectory() as counts:
        made = {**os.environ, **environment, "PEERS_COUNTS": counts}
        with _session(worker, made) as group, _sender(sender, made) as send:
            watch = _Watch(Path(counts), group)
            send("many", load.warm_up)
            watch.until(load.warm_up)
            idle_rss, idle_cpu = _idle(group, load.idle_s) if load.idle_s else (None, None)
            group.signal(signal.SIGSTOP)
            sent_s, singly_s = send("many", load.many), send("singly", load.singly)
            before, server_before = group.cpu_s(), server_cpu_s()
            group.signal(signal.SIGCONT)
            count = load.many + load.singly
            took, seen = watch.drain(load.warm_up, count)
            cpu, server_cpu = group.cpu_s() - before, server_cpu_s() - server_before
            rss = group.rss_mb()
    return Figures(
        drained=(count - seen) / took,
        sent=load.many / sent_s,
        sent_singly=load.singly / singly_s,
        cpu_us=cpu / count * 1e6,
        server_us=server_cpu / count * 1e6,
        rss_mb=rss,
        idle_rss_mb=idle_rss,
        idle_cpu_percent=idle_cpu,
    )


class _Group:
    """The processes of one worker: all that stand in its session."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ended(self) -> bool:
        return self._process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        for pid, _ in self._stats():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def cpu_s(self) -> float:
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self._stats()) / _TICKS

    def rss_mb(self) -> float:
        return sum(int(fields[21]) for _, fields in self._stats()) * _PAGE / 1e6

    def _stats(self) -> list[tuple[int, list[str]]]:
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self._process.pid:
                found.append((int(folder.name), fields))
        return found


class _Watch:
    """How many messages were handled, by the files that the processes count in."""

    def __init__(self, folder: Path, group: _Group) -> None:
        self._folder = folder
        self._group = group
        self._pause = threading.Event()

    def _count(self) -> int:
        return sum(int.from_bytes(each.read_bytes()[:8], "little") for each in self._folder.iterdir())

    def until(self, count: int) -> None:
        end = perf_counter() + _PATIENCE_S
        while (seen := self._count()) < count:
            self._check(end, seen, count)
            self._pause.wait(_WATCH_S)

    def drain(self, before: int, count: int) -> tuple[float, int]:
        """Seconds from the first that was seen to the last, and how many had been handled when the first was seen."""
        end = perf_counter() + _PATIENCE_S
        began, first = 0.0, 0
        while (seen := self._count() - before) < count:
            if seen and not first:
                began, first = perf_counter(), seen
            self._check(end, seen, count)
            self._pause.wait(_WATCH_S)
        now = perf_counter()
        return (now - began, first) if first else (_WATCH_S, 0)

    def _check(self, end: float, seen: int, count: int) -> None:
        if self._group.ended():
            raise RunFailedError("the worker ended")
        if perf_counter() > end:
            message = f"{seen} of {count} messages were handled in {_PATIENCE_S:.0f} s"
            raise RunFailedError(message)


def _idle(group: _Group, seconds: float) -> tuple[float, float]:
    pause = threading.Event()
    pause.wait(1.0)  # what was begun for the warm-up comes to its end
    before = group.cpu_s()
    pause.wait(seconds)  # what is measured is that nothing happens
    return group.rss_mb(), 100 * (group.cpu_s() - before) / seconds


@contextmanager
def _session(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[_Group]:
    """A worker in a session of its own, killed at the end: nothing of it is needed any more."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        group = _Group(process)
        try:
            yield group
        except RunFailedError as error:
            said.seek(0)
            tail = said.read().decode(errors="replace").strip()[-2000:]
            message = f"{error}; it said:\n{tail}"
            raise RunFailedError(message) from None
        finally:
            group.signal(signal.SIGKILL)
            process.wait()


@contextmanager
def _sender(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[_Send]:
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send = _Send(process.stdin, process.stdout)
            yield send
        finally:
            process.kill()


class _Send:
    """Tells the sender what to send, and has the seconds that it took."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._stdin, self._stdout = stdin, stdout
        self._answer("ready")

    def __call__(self, how: str, count: int) -> float:
        self._stdin.write(f"{how} {count}\n")
        self._stdin.flush()
        return float(self._answer())

    def _answer(self, wanted: str = "") -> str:
        line = self._stdout.readline().strip()
        if not line or (wanted and line != wanted):
            message = f"the sender ended, or said {line!r}"
            raise RunFailedError(message)
        return line
