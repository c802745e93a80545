# SPDX-License-Identifier: Apache-2.0
"""A producer and a worker of this process that go on through whatever is done to the server or the network."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import queuekit as qk

from .places import Place
from .rows import Result
from .working import LIMIT_S, until

LEASE_S = 2.0
BATCH = 50


class Load:
    """Numbers are sent in batches and handled, until as many as asked for were sent.

    Args:
        place: Where the queue is.
        messages: How many there are; None: until the end of the block.
        send_s: Longest time of one send.
        pause_s: Time between two batches.
    """

    def __init__(
        self, place: Place, messages: int | None, *, send_s: float = 30.0, pause_s: float = 0.0, batch: int = BATCH
    ) -> None:
        self.handled: list[tuple[int, float]] = []
        self.accepted = set[int]()
        self.slowest_send_s = 0.0
        self.failed_sends = 0
        self.app = qk.App(place.app_url)
        self._messages, self._pause_s, self._batch = messages, pause_s, batch
        self._ended, self._goes_on, self._rests = threading.Event(), threading.Event(), threading.Event()
        self._goes_on.set()
        self._producer = qk.Producer[int](place.url("jobs"), payload=int, timeout=timedelta(seconds=send_s))

        @self.app.handler(
            "jobs",
            concurrency=4,
            lease=timedelta(seconds=LEASE_S),
            retry=qk.RetryPolicy(max_attempts=place.most_attempts),
        )
        def handle(number: int) -> None:
            self.handled.append((number, time.monotonic()))

        self.codes: list[qk.ExitCode] = []
        self._threads = [
            threading.Thread(target=each, daemon=True)
            for each in (lambda: self.codes.append(self.app.run(signals=False)), self._send)
        ]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None
    ) -> None:
        self._end()
        self.app.stop()
        for each in self._threads:
            each.join(LIMIT_S)
        self._producer.close()
        self.app.close()

    def _send(self) -> None:
        first = 0
        while self._may_send() and (self._messages is None or first < self._messages):
            batch = range(first, first + self._batch)
            began = time.monotonic()
            report = self._producer.send_many(batch)
            self.slowest_send_s = max(self.slowest_send_s, time.monotonic() - began)
            for number, outcome in zip(batch, report, strict=True):
                if isinstance(outcome, qk.Accepted):
                    self.accepted.add(number)
                else:
                    self.failed_sends += 1
            first += self._batch
            self._ended.wait(self._pause_s)
        self._ended.set()

    def _may_send(self) -> bool:
        if not self._goes_on.is_set():
            self._rests.set()
            self._goes_on.wait()
            self._rests.clear()
        return not self._ended.is_set()

    def _end(self) -> None:
        self._ended.set()
        self._goes_on.set()

    def rest(self) -> None:
        """Send nothing until `go_on`, and wait until everything is handled."""
        self._goes_on.clear()
        until(self._rests.is_set)
        until(lambda: self.accepted <= {number for number, _ in list(self.handled)})

    def go_on(self) -> None:
        self._goes_on.set()

    def back_after(self, since: float) -> float:
        """How long after a moment something was handled for the first time."""
        until(lambda: bool(self.handled) and self.handled[-1][1] > since)
        return next(at for _, at in reversed_from(self.handled, since)) - since

    def until_handled(self, count: int) -> None:
        until(lambda: len(self.handled) >= count)

    def finish(self, row: Result, *, bound: int | None = None) -> None:
        """Send no more, wait until everything that was accepted is handled, and write down what came of it."""
        if self._messages is None:
            self._end()
        until(lambda: not self._threads[1].is_alive())
        missing = set(self.accepted)

        def all_there() -> bool:
            missing.difference_update(number for number, _ in list(self.handled))
            return not missing

        try:
            until(all_there)
        finally:
            times = Counter(number for number, _ in self.handled)
            row.found(lost=len(missing), duplicates=times.total() - len(times), bound=bound, sent=len(self.accepted))
            row.took(slowest_send=self.slowest_send_s)


def reversed_from(handled: list[tuple[int, float]], since: float) -> list[tuple[int, float]]:
    """What was handled after a moment, the earliest first."""
    return sorted((each for each in list(handled) if each[1] > since), key=lambda each: each[1])


def told(caplog: Any) -> Counter[str]:
    """Warnings and errors, by what they are about."""
    return Counter(record.action for record in caplog.records if record.levelname in {"WARNING", "ERROR"})
