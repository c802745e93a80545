# SPDX-License-Identifier: Apache-2.0
"""queuekit on sqlite:/// against bare sqlite3 statements that do the same durable work, 100 to a transaction."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic, perf_counter, time

from _bench import Contest, Part, arguments, begin, compare
from _payloads import EMAIL, Email, dump, emails
from queuekit import App, Consumer, Producer

_BATCH = 100

_TABLE = """
    CREATE TABLE job (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL, body BLOB NOT NULL, attributes TEXT NOT NULL,
        metadata TEXT NOT NULL,
        due REAL NOT NULL, key TEXT, attempt INTEGER NOT NULL DEFAULT 0, token INTEGER, until REAL
    )
"""
_METADATA = json.dumps({"v": "1", "datacontenttype": "application/json"})

Step = Callable[[Path, Sequence[Email]], None]


class Bare:
    """A queue as one would write it by hand: one table, one transaction per batch."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(_TABLE)

    def send(self, payloads: Sequence[Email]) -> None:
        for start in range(0, len(payloads), _BATCH):
            batch = payloads[start : start + _BATCH]
            ids = os.urandom(16 * len(batch)).hex()
            due = time()
            rows = [
                (ids[i * 32 : i * 32 + 32], dump(EMAIL, each), "{}", _METADATA, due, None)
                for i, each in enumerate(batch)
            ]
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO job (id, body, attributes, metadata, due, key) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            self._connection.execute("COMMIT")

    def drain(self) -> None:
        while rows := self._claim():
            for _, body in rows:
                EMAIL.validate_json(body)
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "DELETE FROM job WHERE seq = ? AND token = ?", [(seq, self._token) for seq, _ in rows]
            )
            self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _claim(self) -> list[tuple[int, bytes]]:
        now = monotonic()
        self._token = int.from_bytes(os.urandom(7))
        self._connection.execute("BEGIN IMMEDIATE")
        rows = self._connection.execute(
            "UPDATE job SET token = ?, until = ?, attempt = attempt + 1 WHERE seq IN"
            " (SELECT seq FROM job WHERE due <= ? AND (until IS NULL OR until <= ?) ORDER BY seq LIMIT ?)"
            " RETURNING seq, body",
            (self._token, now + 60, time(), now, _BATCH),
        ).fetchall()
        self._connection.execute("COMMIT")
        return rows


def bare(*, send: bool, drain: bool) -> Part:
    def run(count: int) -> float:
        payloads = emails(count)
        with tempfile.TemporaryDirectory() as folder:
            queue = Bare(Path(folder) / "bare.db")
            sending = _measured(lambda: queue.send(payloads))
            draining = _measured(queue.drain)
            queue.close()
        return sending * send + draining * drain

    return run


def through_queuekit(*, send: bool, drain: bool, take: Callable[[str, int], None] | None = None) -> Part:
    def run(count: int) -> float:
        payloads = emails(count)
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/jobs.db"
            sending = _measured(lambda: _send(url, payloads))
            draining = _measured(lambda: (take or _consume)(url, count))
        return sending * send + draining * drain

    return run


def _send(url: str, payloads: Sequence[Email]) -> None:
    with Producer(url, queue="bench", payload=Email) as producer:
        for start in range(0, len(payloads), 10 * _BATCH):
            producer.send_many(payloads[start : start + 10 * _BATCH]).raise_for_failures()


def _consume(url: str, count: int) -> None:
    with Consumer(url, queue="bench", payload=Email) as consumer:
        for delivery in islice(consumer, count):
            _ = delivery.payload
            delivery.ack()


def _work_sync(url: str, count: int) -> None:
    app, seen = App(url), _Seen(count)

    @app.handler("bench")
    def handle(_email: Email) -> None:
        seen.one(app)

    app.run(signals=False)
    app.close()


def _work_async(url: str, count: int) -> None:
    app, seen = App(url), _Seen(count)

    @app.handler("bench")
    async def handle(_email: Email) -> None:
        seen.one(app)

    app.run(signals=False)
    app.close()


class _Seen:
    """Stops an app when the last message was handled."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()

    def one(self, app: App) -> None:
        with self._lock:
            self._left -= 1
            done = not self._left
        if done:
            app.stop()


def _measured(step: Callable[[], object]) -> float:
    began = begin()
    step()
    return perf_counter() - began


def main() -> None:
    options = arguments("queuekit on sqlite:/// against bare sqlite3", messages=10_000, rounds=5).parse_args()
    drain = bare(send=False, drain=True)
    compare(
        [
            Contest(
                "sqlite, send_many and drain",
                bare(send=True, drain=True),
                through_queuekit(send=True, drain=True),
                target=0.5,
            ),
            Contest("sqlite, send_many", bare(send=True, drain=False), through_queuekit(send=True, drain=False)),
            Contest("sqlite, drain by Consumer", drain, through_queuekit(send=False, drain=True)),
            Contest(
                "sqlite, drain by a sync worker", drain, through_queuekit(send=False, drain=True, take=_work_sync)
            ),
            Contest(
                "sqlite, drain by an async worker", drain, through_queuekit(send=False, drain=True, take=_work_async)
            ),
        ],
        options,
    )


if __name__ == "__main__":
    main()
