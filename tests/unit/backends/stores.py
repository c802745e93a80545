# SPDX-License-Identifier: Apache-2.0
"""Queues of both stores that keep messages themselves, memory and SQLite, for tests that ask both the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, IncomingMessage, OutgoingMessage, Settlement
from queuekit.testing import VirtualClock, reset_memory


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
        form = {"memory": "memory://{}", "sqlite": f"sqlite:///{self.file}?queue={{}}"}[self.kind]
        backend: Any = self._opener.open(QueueURL.parse(form.format(queue)), options)
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self._opener.close()
        reset_memory()


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
