# SPDX-License-Identifier: Apache-2.0
"""queuekit on sqlite:/// beside the storage of huey and of litequeue, all with WAL and ``synchronous=FULL``.

The peers are driven at their storage, below their own workers and codecs: the least that they can cost. Both
send and take one message to a transaction; huey's storage deletes what it hands out, and litequeue's keeps it
until it is done, as queuekit does. The pydantic work is the same on every side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter

from huey.storage import SqliteStorage
from litequeue import LiteQueue

from _bench import Contest, Part, arguments, begin, compare
from _payloads import EMAIL, Email, dump, emails
from queuekit import Consumer, Producer


class Huey:
    """huey's storage: a message is gone once it was taken, so a crash of the worker loses it."""

    def __init__(self, path: Path) -> None:
        self._storage = SqliteStorage(filename=str(path), fsync=True, journal_mode="wal")

    def send(self, payload: Email) -> None:
        self._storage.enqueue(dump(EMAIL, payload))

    def take(self) -> bool:
        data = self._storage.dequeue()
        if data is None:
            return False
        EMAIL.validate_json(bytes(data))
        return True

    def close(self) -> None:
        self._storage.close()


class Lite:
    """litequeue: what was taken and is not done stays locked for ever."""

    def __init__(self, path: Path) -> None:
        self._queue = LiteQueue(path)
        self._queue.conn.execute("PRAGMA synchronous = FULL")

    def send(self, payload: Email) -> None:
        self._queue.put(dump(EMAIL, payload).decode())

    def take(self) -> bool:
        message = self._queue.pop()
        if message is None:
            return False
        EMAIL.validate_json(message.data)
        self._queue.done(message.message_id)
        return True

    def close(self) -> None:
        self._queue.close()


def through_peer(kind: type[Huey | Lite], *, send: bool, drain: bool) -> Part:
    def run(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            queue = kind(Path(folder) / "peer.db")
            payloads = emails(count)
            sending = _measured(lambda: _each(queue.send, payloads))
            draining = _measured(lambda: _until_empty(queue.take))
            queue.close()
        return sending * send + draining * drain

    return run


def through_queuekit(*, send: bool, drain: bool, one_by_one: bool = False) -> Part:
    def run(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/jobs.db"
            payloads = emails(count)
            sending = _measured(lambda: (_send_each if one_by_one else _send)(url, payloads))
            draining = _measured(lambda: _consume(url, count))
        return sending * send + draining * drain

    return run


def _send(url: str, payloads: Sequence[Email]) -> None:
    with Producer(url, queue="bench", payload=Email) as producer:
        for start in range(0, len(payloads), 1000):
            producer.send_many(payloads[start : start + 1000]).raise_for_failures()


def _send_each(url: str, payloads: Sequence[Email]) -> None:
    with Producer(url, queue="bench", payload=Email) as producer:
        _each(producer.send, payloads)


def _consume(url: str, count: int) -> None:
    with Consumer(url, queue="bench", payload=Email) as consumer:
        for delivery in islice(consumer, count):
            _ = delivery.payload
            delivery.ack()


def _each(send: Callable[[Email], object], payloads: Sequence[Email]) -> None:
    for payload in payloads:
        send(payload)


def _until_empty(take: Callable[[], bool]) -> None:
    while take():
        pass


def _measured(step: Callable[[], object]) -> float:
    began = begin()
    step()
    return perf_counter() - began


def main() -> None:
    options = arguments("queuekit on sqlite:/// beside huey and litequeue", messages=3_000, rounds=5).parse_args()
    contests = []
    for name, kind in (("huey", Huey), ("litequeue", Lite)):
        contests += [
            Contest(
                f"sqlite, send_many and drain / {name}",
                through_peer(kind, send=True, drain=True),
                through_queuekit(send=True, drain=True),
                target=3.0,
            ),
            Contest(
                f"sqlite, drain / {name}",
                through_peer(kind, send=False, drain=True),
                through_queuekit(send=False, drain=True),
                target=3.0,
            ),
            Contest(
                f"sqlite, one send at a time / {name}",
                through_peer(kind, send=True, drain=False),
                through_queuekit(send=True, drain=False, one_by_one=True),
            ),
        ]
    compare(contests, options)


if __name__ == "__main__":
    main()
