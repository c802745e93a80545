# SPDX-License-Identifier: Apache-2.0
"""What the Python contenders share: the work of each scenario, a count that can be watched, sending on command.

Runs in the peers' own environment too, so it imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

URL = os.environ["PEERS_URL"]
SCENARIO = os.environ["PEERS_SCENARIO"]
_PAYLOAD = json.loads(Path(os.environ["PEERS_PAYLOAD"]).read_text(encoding="utf-8"))
_COUNTS = Path(os.environ["PEERS_COUNTS"])
_SLEEP_S = 0.005
_STEPS = 40_000

Payload = dict[str, Any]


class Tally:
    """How many messages this process has handled, in a file that is mapped into memory: no call for each message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count: memoryview | None = None
        os.register_at_fork(after_in_child=self._forget)

    def one(self) -> None:
        with self._lock:
            if self._count is None:
                self._count = self._open()
            self._count[0] += 1

    def _open(self) -> memoryview:
        path = _COUNTS / f"{os.getpid()}.count"
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            return memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._count = None


_tally = Tally()


def burn() -> None:
    """Some milliseconds of Python. The other languages do the same steps."""
    state = 1
    for _ in range(_STEPS):
        state = state * 16807 % 2147483647


def handled(_payload: Payload) -> None:
    """What a sync handler does."""
    if SCENARIO == "io":
        time.sleep(_SLEEP_S)
    elif SCENARIO == "cpu":
        burn()
    _tally.one()


async def ahandled(_payload: Payload) -> None:
    """What an async handler does."""
    if SCENARIO == "io":
        await asyncio.sleep(_SLEEP_S)
    elif SCENARIO == "cpu":
        burn()
    _tally.one()


def _payloads(count: int) -> list[Payload]:
    return [{**_PAYLOAD, "number": number} for number in range(count)]


def _commands() -> Any:
    """Each line of the input is ``many N`` or ``singly N``."""
    print("ready", flush=True)
    for line in sys.stdin:
        how, count = line.split()
        yield how == "many", _payloads(int(count))


def send_on_command(many: Callable[[Sequence[Payload]], object], one: Callable[[Payload], object]) -> None:
    """Do as the driver says, and tell it the seconds that each command took."""
    for in_bulk, payloads in _commands():
        began = time.perf_counter()
        if in_bulk:
            many(payloads)
        else:
            for payload in payloads:
                one(payload)
        print(time.perf_counter() - began, flush=True)


async def asend_on_command(
    many: Callable[[Sequence[Payload]], Awaitable[object]], one: Callable[[Payload], Awaitable[object]]
) -> None:
    """As `send_on_command`."""
    for in_bulk, payloads in _commands():
        began = time.perf_counter()
        if in_bulk:
            await many(payloads)
        else:
            for payload in payloads:
                await one(payload)
        print(time.perf_counter() - began, flush=True)
