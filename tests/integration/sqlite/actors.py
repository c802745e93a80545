# SPDX-License-Identifier: Apache-2.0
"""What the other processes do; in a module of its own, so that a fresh process can import it."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from queuekit.backend import Action, Opening, OutgoingMessage, QueueURL, Settlement
from queuekit.backends.sqlite import SPEC, SQLiteBackend, SQLiteOptions, _turns, _wakeup


def open_file(path: Path, **options: Any) -> SQLiteBackend:
    url = QueueURL(scheme="sqlite", path=f"/{path}", options={"queue": "orders"})
    backend = SPEC.open(Opening(url=url, queue="orders", options=SQLiteOptions(**options)))
    assert isinstance(backend, SQLiteBackend)
    return backend


def send_at_once(pipe: Connection, path: Path, count: int) -> None:
    """Open the file when told, with everybody else, and send."""
    queue = open_file(path)
    pipe.send("here")
    pipe.recv()
    slowest = 0.0
    for index in range(count):
        began = time.monotonic()
        queue.send([OutgoingMessage(f"{index}", b"x")], timeout_s=10)
        slowest = max(slowest, time.monotonic() - began)
    pipe.send(slowest)


def work_until_killed(pipe: Connection, path: Path) -> None:
    """Receive and acknowledge, and tell what was acknowledged before and after it was."""
    queue = open_file(path)
    while True:
        got = queue.receive(max_messages=5, wait_s=5, lease_s=0.3)
        for each in got:
            pipe.send(("try", each.message_id))
            queue.settle([Settlement(each.handle, Action.ACK)], timeout_s=10)


def receive_and_tell(pipe: Connection, path: Path, net_s: float = _wakeup.NET_S) -> None:
    """Wait for messages and tell which came. ``net_s`` is the time between two looks without being told."""
    _wakeup.NET_S = net_s
    queue = open_file(path)
    queue.probe()
    pipe.send("here")
    while got := queue.receive(max_messages=1, wait_s=20, lease_s=60):
        pipe.send(got[0].message_id)
        queue.settle([Settlement(got[0].handle, Action.ACK)], timeout_s=10)


def hammer(pipe: Connection, path: Path, count: int) -> None:
    """Send, receive and acknowledge without a pause; every call must succeed."""
    queue = open_file(path)
    pipe.send("here")
    pipe.recv()
    acked = 0
    for index in range(count):
        queue.send([OutgoingMessage(f"{index}", b"x")], timeout_s=30)
        got = queue.receive(max_messages=1, wait_s=0, lease_s=60)
        acked += len(queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=30) if got else ())
    pipe.send(acked)


def hold_a_turn(pipe: Connection, path: Path) -> None:
    """Take a turn and keep it."""
    with _turns.Turns(path).taken(10):
        pipe.send("taken")
        pipe.recv()


def hold_a_turn_and_fork(pipe: Connection, path: Path) -> None:
    """Take a turn, start a child that outlives us, and keep the turn."""
    with _turns.Turns(path).taken(10):
        if os.fork() == 0:
            pipe.send(os.getpid())
            pipe.recv()  # until the test ends
            os._exit(0)
        pipe.send("forked")
        signal.pause()


def collect(pipe: Connection, path: Path, subscription: str, count: int) -> None:
    """Receive and acknowledge as a subscription until so many messages came; tell which."""
    queue = open_file(path, subscription=subscription)
    queue.probe()
    pipe.send("here")
    got: list[str] = []
    while len(got) < count:
        messages = queue.receive(max_messages=7, wait_s=20, lease_s=60)
        if messages:
            queue.settle([Settlement(each.handle, Action.ACK) for each in messages], timeout_s=30)
        got += [each.message_id for each in messages]
    pipe.send(got)


def send_and_be_killed(pipe: Connection, path: Path) -> None:
    """Send batches of three, and tell of each that was accepted."""
    queue = open_file(path)
    for index in range(1_000_000):
        queue.send([OutgoingMessage(f"{index}-{part}", b"x" * 500) for part in range(3)], timeout_s=30)
        pipe.send(index)
