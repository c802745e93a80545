# SPDX-License-Identifier: Apache-2.0
"""Threads that pass pushed messages through a pipe, one each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from queuekit._portable.pipe import Passage

_LOOK_AGAIN_S = 0.05
_CLOSE_S = 1.0

_Job = tuple[Callable[[], Passage], "Future[Passage]"]


class Crew:
    """At most so many threads, started when they are needed.

    A thread whose handler runs on after its answer was due is not free before that handler is over, so that never
    more of them run at once than were allowed. Threads are daemons: one that hangs does not keep the process.

    Args:
        most: Most threads.
        name: For them.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._free = 0
        self._closing = threading.Event()

    def submit(self, work: Callable[[], Passage]) -> Future[Passage]:
        """Have a thread do it when one is free. Cancelled before that, it is not done."""
        future: Future[Passage] = Future()
        with self._lock:
            self._free -= 1
            if self._free < 0 and len(self._threads) < self._most:
                self._free += 1
                thread = threading.Thread(
                    target=self._work,
                    args=(self._jobs, self._closing),
                    name=f"queuekit-push-{self._name}",
                    daemon=True,
                )
                self._threads.append(thread)
                thread.start()
            self._jobs.put((work, future))
        return future

    def close(self) -> None:
        """End the threads; those in a handler end with it. Idempotent; a later `submit` starts others."""
        with self._lock:
            threads, self._threads, self._free = self._threads, [], 0
            jobs, self._jobs = self._jobs, SimpleQueue()
            closing, self._closing = self._closing, threading.Event()
            closing.set()
            for _ in threads:
                jobs.put(None)
        for each in threads:
            if each is not threading.current_thread():
                each.join(_CLOSE_S)

    def _work(self, jobs: SimpleQueue[_Job | None], closing: threading.Event) -> None:
        while (job := jobs.get()) is not None:
            work, future = job
            if future.set_running_or_notify_cancel():
                self._do(work, future, closing)
            with self._lock:
                self._free += jobs is self._jobs

    def _do(self, work: Callable[[], Passage], future: Future[Passage], closing: threading.Event) -> None:
        try:
            passage = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            future.set_exception(error)
            return
        future.set_result(passage)
        while passage.runs_on() and not closing.wait(_LOOK_AGAIN_S):
            pass
