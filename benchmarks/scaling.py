# SPDX-License-Identifier: Apache-2.0
"""How a worker's throughput grows with its concurrency, against a pool that runs the same function with no queue.

A ratio near 1 means that the handlers are what takes the time. The I/O-bound handler sleeps for 5 ms; the
CPU-bound one hashes for some 5 ms.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from time import perf_counter

from _bench import Contest, Part, arguments, begin, compare
from queuekit import App
from queuekit.testing import reset_memory

_SLEEP_S = 0.005
_ROUNDS_OF_HASH = 12_000
_QUEUE = "scaling"


def sleep(_number: int) -> None:
    time.sleep(_SLEEP_S)


async def asleep(_number: int) -> None:
    await asyncio.sleep(_SLEEP_S)


def burn(number: int) -> None:
    digest = str(number).encode()
    for _ in range(_ROUNDS_OF_HASH):
        digest = hashlib.sha256(digest).digest()


class Stopper:
    """Stops the app at its last message, and has the moments of all."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._left = 0
        self._ended: list[float] = []

    def begin(self, count: int) -> None:
        self._left, self._ended = count, []

    def one(self, _event: object) -> None:
        with self._lock:
            self._ended.append(perf_counter())
            self._left -= 1
            done = not self._left
        if done:
            self._app.stop()

    def took(self) -> float:
        return steady(self._ended)


def steady(ended: Sequence[float]) -> float:
    """The time for all, as it would be had it begun at the speed of the second half: starting is not scaling."""
    ordered = sorted(ended)
    half = len(ordered) // 2
    if not half:
        return 1e-9
    return max((ordered[-1] - ordered[half - 1]) / (len(ordered) - half) * len(ordered), 1e-9)


# At module level, where child processes find them.
burning = App("memory://")
burning.handler(_QUEUE, message_type="burn", concurrency=2)(burn)
_STOPPERS = {burning: Stopper(burning)}
burning.listen(_STOPPERS[burning].one, "completed")


def through_queuekit(app: App, *, processes: int = 0) -> Part:
    if app not in _STOPPERS:
        _STOPPERS[app] = Stopper(app)
        app.listen(_STOPPERS[app].one, "completed")
    (handler,) = app.handlers

    def run(count: int) -> float:
        reset_memory()
        handler.send_many(range(count)).raise_for_failures()
        _STOPPERS[app].begin(count)
        begin()
        app.run(processes=processes, signals=False)
        return _STOPPERS[app].took()

    return run


def worker(function: Callable[[int], object], concurrency: int) -> App:
    app = App("memory://")
    app.handler(_QUEUE, concurrency=concurrency)(function)
    return app


def through_pool(pool: Callable[[], Executor], function: Callable[[int], object]) -> Part:
    def run(count: int) -> float:
        ended: list[float] = []
        begin()
        with pool() as executor:
            for future in [executor.submit(function, number) for number in range(count)]:
                future.add_done_callback(lambda _: ended.append(perf_counter()))
        return steady(ended)

    return run


def through_tasks(concurrency: int) -> Part:
    async def work(count: int) -> float:
        slots, ended = asyncio.Semaphore(concurrency), list[float]()

        async def one(number: int) -> None:
            async with slots:
                await asleep(number)
            ended.append(perf_counter())

        await asyncio.gather(*map(one, range(count)))
        return steady(ended)

    def run(count: int) -> float:
        begin()
        return asyncio.run(work(count))

    return run


def main() -> None:
    options = arguments("a worker against a bare pool", messages=2_000, rounds=3).parse_args()
    cores = os.cpu_count() or 1
    contests = [
        Contest(
            f"I/O-bound, sync, {count} threads",
            through_pool(partial(ThreadPoolExecutor, count), sleep),
            through_queuekit(worker(sleep, count)),
            share=count / 50,
        )
        for count in (1, 10, 50)
    ]
    contests += [
        Contest(
            f"I/O-bound, async, {count} at once",
            through_tasks(count),
            through_queuekit(worker(asleep, count)),
            share=count / 100,
        )
        for count in (10, 100)
    ]
    contests += [
        Contest(
            f"CPU-bound, {count} processes",
            through_pool(partial(ProcessPoolExecutor, count), burn),
            through_queuekit(burning, processes=count),
            share=0.2,
        )
        for count in sorted({1, min(2, cores)})
    ]
    compare(contests, options)


if __name__ == "__main__":
    main()
