# SPDX-License-Identifier: Apache-2.0
"""Real processes of the command line, and a third party's backend whose URLs hold a secret."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

import queuekit as qk
from queuekit.cli import main

LIMIT_S = 30.0
QUEUEKIT = (sys.executable, "-m", "queuekit.cli")


class Running:
    """A process whose output is read as it comes."""

    def __init__(self, *command: str, cwd: Path, env: dict[str, str] | None = None, stdin: bytes = b"") -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._changed = threading.Condition()
        self._text = {"out": "", "err": ""}
        self._open = 2
        pipes = {"out": self.process.stdout, "err": self.process.stderr}
        self._readers = [threading.Thread(target=self._read, args=each) for each in pipes.items()]
        for reader in self._readers:
            reader.start()
        assert self.process.stdin is not None
        self.process.stdin.write(stdin)
        self.process.stdin.close()

    @property
    def out(self) -> str:
        return self._text["out"]

    @property
    def err(self) -> str:
        return self._text["err"]

    def wait_for(self, text: str, count: int = 1) -> None:
        """Until the output holds the text so many times."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._count(text) >= count or not self._open, LIMIT_S)
            assert came, f"no {text!r} in time"
            assert self._count(text) >= count, f"no {text!r} x{count} in:\n{self.out}\n{self.err}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        code = self.process.wait(LIMIT_S)
        for reader in self._readers:
            reader.join(LIMIT_S)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _count(self, text: str) -> int:
        return self.out.count(text) + self.err.count(text)

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        while data := os.read(pipe.fileno(), 1 << 16):
            with self._changed:
                self._text[name] += data.decode("utf-8", "surrogateescape")
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


Start = Callable[..., Running]


def eventually(reached: Callable[[], bool]) -> None:
    """Until it is so; for what shows itself in a file or a queue only."""
    wait = threading.Event().wait
    for _ in range(int(LIMIT_S / 0.01)):
        if reached():
            return
        wait(0.01)
    pytest.fail("it never came to be")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command in the test's folder; whatever still runs at the end is killed."""
    started: list[Running] = []

    def start(*command: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> Running:
        running = Running(*command, cwd=tmp_path, env=env, stdin=stdin)
        started.append(running)
        return running

    yield start
    for running in started:
        running.end()


@pytest.fixture
def queuekit(start: Start) -> Start:
    """Start the command line."""
    return lambda *arguments, **options: start(*QUEUEKIT, *arguments, **options)


VAULT = """
from dataclasses import dataclass, replace
from queuekit.backends.sqlite import SPEC as SQLITE, SQLiteOptions

@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    token: str = ""

def open_vault(opening):
    return SQLITE.open(replace(opening, url=opening.url.replace(options={}), options=SQLiteOptions()))

SPEC = replace(SQLITE, open=open_vault, options=Options)
"""


@pytest.fixture
def vault(tmp_path: Path, canary: str) -> tuple[str, dict[str, str]]:
    """A URL with a secret that a third party's backend takes, and the environment that has the backend."""
    folder = tmp_path / "site"
    (folder / "vault-1.0.dist-info").mkdir(parents=True)
    (folder / "vault-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vault\nVersion: 1.0\n")
    (folder / "vault-1.0.dist-info" / "entry_points.txt").write_text("[queuekit.backends]\nvault = vault:SPEC\n")
    (folder / "vault.py").write_text(VAULT)
    return f"vault:///jobs.db?queue=orders&token={canary}", {"PYTHONPATH": str(folder)}


EVIL = "\x1b[31mred\x1b]0;owned\x07 \u202e [bold]markup[/bold]"
ODD = "\u202e[red]:boom:"  # an attribute may hold no control characters, but this


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        return [json.loads(each) for each in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture
def run(queuekit: Start) -> Run:
    """Run a command to its end."""

    def run(*arguments: str, **options: Any) -> Result:
        running = queuekit(*arguments, **options)
        return Result(running.wait(), running.out, running.err)

    return run


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, for what is asked many times."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, shown.out, shown.err)

    return run_here


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db?queue=orders"


def receive(url: str, count: int, payload: Any = bytes) -> list[qk.Delivery[Any]]:
    found = []
    with qk.Consumer[Any](url, payload=payload) as consumer:
        for _ in range(count):
            delivery = consumer.receive(timeout=10)
            assert delivery is not None
            delivery.ack()
            found.append(delivery)
        assert consumer.receive(timeout=0) is None
    return found


def kill_message(url: str, reason: str = "poison", body: bytes = b"body", attributes: Any = None) -> str:
    """A message in the dead-letter queue."""
    with qk.Producer(url) as producer:
        message_id = producer.send(body, attributes=attributes or {}, type="order").message_id
    with qk.Consumer(url) as consumer:
        delivery = consumer.receive(timeout=10)
        assert delivery is not None
        delivery.dead_letter(reason)
        delivery.settled(timeout=10)
    return message_id
