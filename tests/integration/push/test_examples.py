# SPDX-License-Identifier: Apache-2.0
"""``examples/starlette-push``, ``examples/fastapi-push`` and ``queuekit worker``, as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import queuekit as qk

from .conftest import LIMIT_S, Cloud

EXAMPLES = Path(__file__).parents[3] / "examples"

Start = Callable[..., "Process"]


class Process:
    """A process whose output is read as it comes."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._changed = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.output += line
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: text in self.output or self._over, LIMIT_S)
            assert text in self.output, f"no {text!r} in:\n{self.output}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Process] = []

    def begin(*command: str, cwd: Path, **env: str) -> Process:
        started.append(Process([sys.executable, *command], cwd, env))
        return started[-1]

    yield begin
    for each in started:
        each.end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.parametrize("name", ["starlette", "fastapi"])
def test_an_application_that_mounts_the_endpoint(cloud: Cloud, start: Start, name: str) -> None:
    cloud.make("orders")
    dead = cloud.make("orders-dead")
    port = free_port()
    cloud.push_to("orders", f"http://127.0.0.1:{port}/queues/")
    running = start(
        *("-m", "uvicorn", "shop:web", "--port", str(port)),
        cwd=EXAMPLES / f"{name}-push",
        QUEUEKIT_URL=cloud.base,
        ORDERS_DEAD=dead,
    )
    running.wait_for("Application startup complete")
    if name == "fastapi":
        taken = httpx.post(f"http://127.0.0.1:{port}/orders", json={"number": 1, "cents": 1250}, timeout=LIMIT_S)
        assert taken.status_code == 202
    else:
        assert httpx.get(f"http://127.0.0.1:{port}/", timeout=LIMIT_S).text == "a shop"
        cloud.publish("orders", [b'{"number": 1, "cents": 1250}'])
    cloud.publish("orders", [b'{"number": 2, "cents": 0}'])
    running.wait_for("order 1: charged 12.50")
    with qk.Consumer(dead, payload=dict) as letters:
        letter = letters.receive(timeout=LIMIT_S)
        assert letter is not None
        assert letter.payload["number"] == 2
        letter.ack()
    cloud.push_to("orders", "")
    running.stop()
    assert "Application shutdown complete" in running.output
    assert " 307 " not in running.output, "Google's emulator follows redirects, and the service does not"


TASKS = """
import os
import queuekit as qk

app = qk.App(os.environ["QUEUEKIT_URL"])

@app.handler("orders")
def handle(text: str) -> None:
    print("got", text)
"""


def test_a_worker_serves_what_is_pushed(cloud: Cloud, start: Start, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    cloud.make("orders")
    port = free_port()
    cloud.push_to("orders", f"http://127.0.0.1:{port}/")
    worker = ("-m", "queuekit.cli", "worker", "tasks:app", "--port", str(port))
    running = start(*worker, cwd=tmp_path, QUEUEKIT_URL=cloud.base)
    running.wait_for("push.started")
    cloud.publish("orders", [b"one"])
    running.wait_for("got one")
    assert httpx.get(f"http://127.0.0.1:{port}/", timeout=LIMIT_S).status_code == 405
    cloud.push_to("orders", "")
    assert running.stop() == 0
    assert "push.stopped" in running.output


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--host", "0.0.0.0"), "anybody could push; say who may by --audience and --service-account"),
        (("--processes", "2"), "--processes is for messages that are fetched"),
    ],
)
def test_a_worker_that_cannot_serve_says_why(
    cloud: Cloud, start: Start, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    cloud.make("orders")
    cloud.push_to("orders", "http://127.0.0.1:1/")
    running = start("-m", "queuekit.cli", "worker", "tasks:app", *flags, cwd=tmp_path, QUEUEKIT_URL=cloud.base)
    running.wait_for(said)
    assert running.process.wait(LIMIT_S) == 2
