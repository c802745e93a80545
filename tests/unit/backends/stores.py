# SPDX-License-Identifier: Apache-2.0
"""Queues of both stores that keep messages themselves, memory and SQLite, for tests that ask both the same."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, IncomingMessage, OutgoingMessage, Settlement
from queuekit.backends.redis import _backend, _scripts
from queuekit.backends.redis._scripts import Script
from queuekit.testing import VirtualClock, reset_memory
from queuekit.testing.emulators import LocalRedis


class Store:
    """One space or file, on virtual time."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.clock = VirtualClock()
        self.file = folder / "jobs.db"
        self.kind = kind
        self._opener = Opener(self.clock)
        self._opened: list[Any] = []

    def open(self, queue: str = "orders", subscription: str = "", **options: Any) -> Any:
        if subscription:
            options["subscription"] = subscription
        backend: Any = self._opener.open(QueueURL.parse(self.form().format(queue)), options)
        self._opened.append(backend)
        return backend

    def form(self) -> str:
        return {"memory": "memory://{}", "sqlite": f"sqlite:///{self.file}?queue={{}}"}[self.kind]

    def wait_for_waiters(self, count: int) -> None:
        """Wait until so many receives wait."""
        self.clock.wait_for_waiters(count)

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self._opener.close()
        reset_memory()


class RedisStore(Store):
    """One server, emptied before; its scripts are told the virtual time where they would ask for the server's."""

    def __init__(self, server: LocalRedis, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__("redis", folder)
        self._server = server
        self._raw = redis.Redis(port=server.port)
        self._raw.flushall()
        monkeypatch.setattr(_backend, "load", self._load)

    def form(self) -> str:
        return f"{self._server.url}?queue={{}}"

    def wait_for_waiters(self, count: int) -> None:
        while sum(each._watches.waiting for each in self._opened) < count:
            threading.Event().wait(0.001)

    def close(self) -> None:
        super().close()
        self._raw.close()

    def _load(self, name: str) -> Script:
        now_us = round(self.clock.time() * 1e6)
        self._raw.set("now", f"{now_us // 1_000_000} {now_us % 1_000_000}")
        source = _scripts.load(name).source.replace(b"call('TIME')", b"virtual_time()")
        source = _VIRTUAL_TIME + source
        return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


_VIRTUAL_TIME = b"""local function virtual_time()
  local seconds, rest = string.match(redis.call('GET', 'now'), '^(%d+) (%d+)$')
  return { seconds, rest }
end
"""


def send(queue: Any, *ids: str, **fields: Any) -> list[str]:
    """Send empty messages with these ids; how each was answered."""
    outcomes = queue.send([OutgoingMessage(each, b"", **fields) for each in ids], timeout_s=1)
    return [type(each).__name__ for each in outcomes]


def take(queue: Any, limit: int = 100, *, lease_s: float = 60.0) -> list[IncomingMessage]:
    taken: list[IncomingMessage] = list(queue.receive(max_messages=limit, wait_s=0, lease_s=lease_s))
    return taken


def ids(messages: Any) -> list[str]:
    return [each.message_id for each in messages]


def settle(queue: Any, taken: list[IncomingMessage], action: Action = Action.ACK, **fields: Any) -> None:
    """Settle all of them; each must work."""
    batch = []
    for each in taken:
        letter = OutgoingMessage(each.message_id, b"letter") if action is Action.DEAD else None
        batch.append(Settlement(each.handle, action, dead=letter, **fields))
    outcomes = queue.settle(batch, timeout_s=1) if batch else []
    assert {type(each).__name__ for each in outcomes} <= {"Settled"}
