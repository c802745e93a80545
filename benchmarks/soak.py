# SPDX-License-Identifier: Apache-2.0
"""A long run at a steady load, with failing handlers: storage, memory, threads and descriptors end where they began.

``--messages`` is how many messages go through in each round; what is shown is the process after the first
round, which warms everything up, and after the last.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sqlite3
import tempfile
import threading
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
from tenacity import wait_none

from _bench import arguments
from _servers import redis_server
from queuekit import App, DeadLetters, Retry, RetryPolicy, current
from queuekit.testing import reset_memory


@dataclass(frozen=True)
class Standing:
    """What a process holds."""

    rss_mb: float
    threads: int
    descriptors: int
    pages: int
    """Pages of the SQLite database that are in use, keys of the Redis one; 0 in memory."""


@dataclass(frozen=True)
class Soak:
    """Before and after."""

    name: str
    rounds: int
    messages: int
    before: Standing
    after: Standing
    ratio: float
    """Resident memory after over before."""

    @property
    def flat(self) -> bool:
        """Whether threads, descriptors and storage are where they were."""
        return (self.after.threads, self.after.descriptors, self.after.pages) == (
            self.before.threads,
            self.before.descriptors,
            self.before.pages,
        )


def main() -> None:
    options = arguments("storage, memory, threads and descriptors over a long run", messages=5_000, rounds=20)
    chosen = options.parse_args()
    logging.getLogger("queuekit").setLevel(logging.ERROR)  # every dead letter is a warning
    results = []
    with tempfile.TemporaryDirectory() as folder, redis_server() as server:
        for name, url in (("memory", "memory://"), ("sqlite", f"sqlite:///{folder}/jobs.db"), ("redis", server.url)):
            if chosen.only in name:
                results.append(soak(name, url, chosen.rounds, chosen.messages))
                if not chosen.json:
                    each = results[-1]
                    print(f"{each.name:<8} {'flat' if each.flat else 'NOT FLAT'}, ratio {each.ratio:.3f}")
                    print(f"         before {each.before}\n         after  {each.after}")
    if chosen.json:
        print(json.dumps([asdict(each) | {"flat": each.flat} for each in results], indent=2))


def soak(name: str, url: str, rounds: int, messages: int) -> Soak:
    one_round(url, messages)
    before = standing(url)
    for _ in range(rounds):
        one_round(url, messages)
    after = standing(url)
    return Soak(name, rounds, messages, before, after, after.rss_mb / before.rss_mb)


def one_round(url: str, messages: int) -> None:
    """Send, work with a tenth of failing attempts and a hundredth of poison, redrive the dead, work them too."""
    app, left, mended = App(url), Countdown(messages), threading.Event()

    @app.handler("soak", concurrency=8, retry=RetryPolicy(wait=wait_none(), dead_letter_on=ValueError))
    def handle(number: int) -> Retry | None:
        if number % 100 == 7 and not mended.is_set():
            left.one(app)
            raise ValueError(number)
        if number % 10 == 3 and current().attempt == 1:
            return Retry()
        left.one(app)
        return None

    with app:
        handle.send_many(range(messages)).raise_for_failures()
        app.run(signals=False)
        mended.set()
        with DeadLetters(url, queue="soak") as letters:
            moved = len(letters.redrive().moved)
        if moved:
            left.reset(moved)
            app.run(signals=False)
    if url.startswith("memory"):
        reset_memory()
    gc.collect()


class Countdown:
    """Stops an app when so many messages have come to their end."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()

    def reset(self, left: int) -> None:
        self._left = left

    def one(self, app: App) -> None:
        with self._lock:
            self._left -= 1
            done = not self._left
        if done:
            app.stop()


def standing(url: str) -> Standing:
    gc.collect()
    return Standing(_rss_mb(), threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), _pages(url))


def _pages(url: str) -> int:
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return len(list(client.scan_iter(count=1000)))
    if not url.startswith("sqlite"):
        return 0
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return int(pages) - int(free)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
