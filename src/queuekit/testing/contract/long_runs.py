# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""MOD-08 and MOD-09: many operations with faults on a real clock, judged by their history."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

from queuekit._values.clock import SystemClock
from queuekit.backend import OutgoingMessage
from queuekit.testing.clock import VirtualClock
from queuekit.testing.consuming import consume
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness, Running
from queuekit.testing.contract.spi import Queue
from queuekit.testing.history import History
from queuekit.testing.oracle import Expectations, check, kept_history

OPERATIONS_VARIABLE = "QUEUEKIT_OPERATIONS"
"""How many operations the long runs make."""

_PER_MESSAGE = 4  # a send, a delivery, a settlement, and what goes wrong
_BATCH = 10
_OPERATIONS_PER_KILL = 10_000
_CALL_S = 30.0

_CHILD = """
import sys
from queuekit.testing.consuming import consume_in_child
consume_in_child(sys.stdin.read(), *sys.argv[1:])
"""


class LongRuns(Group):
    """What shows only after thousands of operations."""

    def test_MOD_08_history_oracle_stress(self, harness: Harness) -> None:
        """Many senders and consumers, lost answers on the way: nothing lost, made up, early, or with two at once."""
        _Run(harness.in_real_time(), name="MOD-08").go(kills=0)

    def test_MOD_09_history_oracle_two_processes(self, harness: Harness) -> None:
        """The same while consumers are killed; in processes of their own, where the queue is not in this one."""
        _Run(harness.in_real_time(), name="MOD-09").go(kills=1)


class _Run:
    def __init__(self, harness: Harness, *, name: str) -> None:
        self.harness, self.name = harness, name
        self.queue = Queue(harness)
        self.lease_s = max(0.3, harness.capabilities.min_lease_s)
        self.seed = int.from_bytes(os.urandom(4), "big")
        self.operations = int(os.environ.get(OPERATIONS_VARIABLE, "") or harness.operations)
        self.consumers: list[_Consumer] = []
        self.begun = 0

    def go(self, *, kills: int) -> None:
        kills *= max(1, self.operations // _OPERATIONS_PER_KILL)
        with kept_history(self.name, seed=self.seed) as (history, path):
            apart = path if kills and not self.harness.one_process else None
            try:
                self._work(history, apart, kills)
            finally:
                for consumer in self.consumers:
                    consumer.kill()
            expect = Expectations.of(self.harness.capabilities, tolerance_s=0.05)
            report = check(history.records(), expect=expect)
            report.assert_ok()
            assert report.ok == report.acknowledged > 0

    def _work(self, history: History, apart: Path | None, kills: int) -> None:
        senders = [self.harness.start(partial(self._send, history, index)) for index in range(2)]
        for _ in range(2):
            self._start(history, apart)
        for index in range(kills):
            most = (index + 1) * _BATCH
            self._await(lambda most=most: _deliveries(history) > most, "deliveries")  # type: ignore[misc]
            self.consumers.pop(0).kill()
            self._start(history, apart)
        for each in senders:
            each.join(self._limit_s())
            each.result("a sender")
        self._await(lambda: self._quiet(history), "the queue is drained")

    def _start(self, history: History, path: Path | None) -> None:
        self.begun += 1
        arguments = (self.harness.url(self.queue.name), self.lease_s, self.seed + self.begun)
        self.consumers.append(_Consumer(history, f"c{self.begun}", arguments).begin(path))

    def _send(self, history: History, index: int) -> None:
        chance, can = VirtualClock(self.seed + index).random, self.harness.capabilities
        history = history.beside(f"s{index}")
        batch = min(_BATCH, can.max_send_batch if not can.one_key_per_send else 1)
        names = [f"s{index}-{number}" for number in range(self.operations // _PER_MESSAGE // 2)]
        for start in range(0, len(names), batch):
            key = chance.choice(["k", "l"]) if can.ordering_key_required else None
            messages = [OutgoingMessage(name, b"x", ordering_key=key) for name in names[start : start + batch]]
            pending = [history.send(each.message_id, key=key) for each in messages]
            for each, outcome in zip(pending, self.queue.backend.send(messages, timeout_s=_CALL_S), strict=True):
                each.answered(outcome)

    def _await(self, true: Callable[[], bool], what: str) -> None:
        end, pause = SystemClock().monotonic() + self._limit_s(), threading.Event()
        while not true():
            assert SystemClock().monotonic() < end, f"not in time: {what}"
            pause.wait(0.05)

    def _limit_s(self) -> float:
        return REAL_LIMIT_S * (2 + self.operations / 10_000)

    def _quiet(self, history: History) -> bool:
        """Whether every accepted message was finished, and none has come for longer than a lease."""
        records = history.records()
        last = max((record.at for record in records if record.operation == "deliver"), default=0.0)
        if SystemClock().monotonic() - last < self.lease_s + 0.3:
            return False
        report = check(records)
        return not report.lost and report.acknowledged > 0


def _deliveries(history: History) -> int:
    return sum(record.operation == "deliver" for record in history.records())


class _Consumer:
    """Someone who receives until killed: on a thread, which drops what it has, or in a process."""

    def __init__(self, history: History, name: str, arguments: tuple[str, float, int]) -> None:
        self.name = name
        self.arguments = arguments  # the URL, the length of a lease, the seed
        self._history = history

    def begin(self, path: Path | None) -> Self:
        """Begin; with a path in a process of its own that appends to the history there."""
        url, lease_s, seed = self.arguments
        if path is None:
            self._killed = threading.Event()
            history = self._history.beside(self.name)
            self._running = Running(partial(consume, history, *self.arguments, self._killed.is_set), SystemClock())
            self._end = self._end_thread
        else:
            command = [sys.executable, "-c", _CHILD, str(path), self.name, str(lease_s), str(seed)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
            assert self._process.stdin is not None
            self._process.stdin.write(url)
            self._process.stdin.close()
            self._end = self._end_process
        return self

    def _end_thread(self) -> None:
        ended = self._running.done
        self._killed.set()
        self._running.result("a consumer")
        assert not ended, "the consumer ended by itself"

    def _end_process(self) -> None:
        assert self._process.poll() is None, "the consumer ended by itself"
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End it in the midst of what it does, and write that down."""
        self._end()
        self._history.kill(self.name)
