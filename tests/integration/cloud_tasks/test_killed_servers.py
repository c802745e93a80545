# SPDX-License-Identifier: Apache-2.0
"""`queuekit worker` behind the emulator, killed twice: nothing is lost, and what fails for good is kept."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk
from queuekit._engine import metadata as meta
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.testing.emulators import LocalCloudTasks

COUNT = int(os.environ.get("QUEUEKIT_TASKS", "1000"))
AT_ONCE = 64
"""Requests on their way at once: all that a kill can repeat."""
LIMIT_S = 120.0 + COUNT / 20

SHOP = """
import os
from tenacity import wait_fixed
import queuekit as qk

app = qk.App()

@app.handler(
    os.environ["QK_TASKS"],
    concurrency=16,
    retry=qk.RetryPolicy(max_attempts=3, wait=wait_fixed(0.3)),
    dead_letter=os.environ["QK_DEAD"],
)
def work(number: int) -> None:
    descriptor = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{number} {qk.current().attempt}\\n".encode())
    os.close(descriptor)
    if number % 10 == 3:
        raise ValueError(number)
"""

Start = Callable[[], "subprocess.Popen[bytes]"]


def free_port() -> int:
    """One that no outgoing connection is given, as the server comes back to it."""
    for _ in range(100):
        port = random.randint(20_000, 30_000)
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError


class Place:
    """Where the server works, and what it has noted."""

    def __init__(self, folder: Path, url: str, port: int) -> None:
        self.folder, self.url, self.port = folder, url, port
        self.dead = f"sqlite:///{folder}/dead.db?queue=dead"
        (folder / "shop.py").write_text(SHOP)

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "queuekit.cli", "worker", "shop:app", "--port", str(self.port)]
        environment = os.environ | {"QK_TASKS": self.url, "QK_DEAD": self.dead}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def runs(self) -> list[tuple[int, int]]:
        try:
            lines = (self.folder / "ledger").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(number), int(attempt)) for number, attempt in (each.split() for each in lines)]

    def letters(self) -> list[Any]:
        opener = Opener(SystemClock())
        dead: Any = opener.open(qk.QueueURL.parse(self.dead))
        try:
            found, cursor = list[Any](), None
            while page := list(dead.peek(limit=1000, after=cursor)):
                found += page
                cursor = page[-1].cursor
            return found
        finally:
            dead.close()
            opener.close()

    def has_run(self, least: float) -> Callable[[], bool]:
        """Whether so many runs have begun."""
        return lambda: len(self.runs()) >= least

    def until(self, true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not true():
            if time.monotonic() > end:
                pytest.fail(f"{what}\n{(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)


def test_two_kills_lose_nothing_and_what_fails_for_good_is_kept_with_its_reason(tmp_path: Path) -> None:
    port = free_port()
    with LocalCloudTasks() as emulator:
        url = f"cloudtasks://shop/here/orders?endpoint={emulator.address}&target=http://127.0.0.1:{port}/tasks"
        url += f"&max_concurrent={AT_ONCE}"
        place = Place(tmp_path, url, port)
        opener = Opener(SystemClock())
        made: Any = opener.open(qk.QueueURL.parse(url))
        made.create()
        opener.close()
        server = place.start()
        try:
            with qk.Producer[int](url, payload=int) as orders:
                orders.send_many(range(COUNT)).raise_for_failures()
            for share in (0.25, 0.6):
                place.until(place.has_run(share * COUNT), "it works")
                server.kill()
                server.wait()
                server = place.start()
            failing = {number for number in range(COUNT) if number % 10 == 3}
            good = set(range(COUNT)) - failing
            place.until(lambda: good <= {number for number, _ in place.runs()}, "every message is handled")
            place.until(lambda: len({each.body for each in place.letters()}) == len(failing), "each has its letter")
            emulator.wait_until_quiet()
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == qk.ExitCode.DRAINED
        finally:
            server.kill()
            server.wait()
    letters = place.letters()
    assert {int(each.body) for each in letters} == failing
    assert {each.metadata[meta.DEAD_REASON].partition(":")[0] for each in letters} == {"attempts used up"}
    # A kill repeats what runs at that moment, and of what fails perhaps the attempts that follow; nothing else.
    failed = sum(number in failing for number, _ in place.runs())
    assert failed <= 3 * len(failing) + 2 * AT_ONCE * 3
    assert len(place.runs()) - failed <= len(good) + 2 * AT_ONCE


def test_a_message_with_as_many_attributes_as_the_service_takes_reaches_the_worker(tmp_path: Path) -> None:
    port = free_port()
    with LocalCloudTasks() as emulator:
        url = f"cloudtasks://shop/here/orders?endpoint={emulator.address}&target=http://127.0.0.1:{port}/tasks"
        place = Place(tmp_path, url, port)
        opener = Opener(SystemClock())
        made: Any = opener.open(qk.QueueURL.parse(url))
        made.create()
        opener.close()
        server = place.start()
        try:
            with qk.Producer[int](url, payload=int) as orders:
                orders.send(7, attributes={f"a{number}": "x" * 3900 for number in range(20)})
            place.until(place.runs, "it is handled")
        finally:
            server.kill()
            server.wait()
    assert {number for number, _ in place.runs()} == {7}
