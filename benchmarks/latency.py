# SPDX-License-Identifier: Apache-2.0
"""From `send` to the first line of the handler, on a consumer that was idle. For information: no ratio is aimed at.

Both processes of a host read one monotonic clock, so that the time of sending can travel in the message.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Self

import redis

from _bench import arguments, percentile
from _servers import redis_server
from queuekit import Consumer, Producer
from queuekit.testing import reset_memory

_PAUSE_S = 0.01
_CHILD = "--send-when-told"


@dataclass(frozen=True)
class Latency:
    """Milliseconds from sending to having the delivery."""

    name: str
    messages: int
    p50_ms: float
    p99_ms: float
    ratio: float
    """p99 over p50: how long the tail is."""


Sender = Callable[[str], AbstractContextManager[Callable[[], object]]]
"""Opens a way to send to a URL; what it gives sends one message that holds the time."""


def main() -> None:
    if sys.argv[1:2] == [_CHILD]:
        send_when_told(sys.argv[2])
        return
    options = arguments("enqueue-to-start latency on an idle consumer", messages=300, rounds=1).parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder, redis_server() as server:
        url = f"sqlite:///{Path(folder) / 'latency.db'}?queue=bench"
        for name, where, sender in (
            ("memory, one process", "memory://latency", here),
            ("sqlite, one process", url, here),
            ("sqlite, two processes", url, elsewhere),
            ("redis, bare", server.url, bare),
            ("redis, one process", f"{server.url}?queue=bench", here),
            ("redis, two processes", f"{server.url}?queue=bench", elsewhere),
        ):
            if options.only in name:
                open_consumer = BareConsumer if sender is bare else partial(Consumer, payload=float)
                results.append(measure(name, where, open_consumer, sender, options.messages))
                if not options.json:
                    each = results[-1]
                    print(
                        f"{each.name:<24} p50 {each.p50_ms:.3f} ms, p99 {each.p99_ms:.3f} ms, ratio {each.ratio:.1f}"
                    )
    reset_memory()
    if options.json:
        print(json.dumps([asdict(each) for each in results], indent=2))


def measure(name: str, url: str, open_consumer: Callable[[str], Any], sender: Sender, count: int) -> Latency:
    took = []
    idle = threading.Event()
    with open_consumer(url) as consumer, sender(url) as send:
        for index in range(count + 5):
            # Only a consumer that has been waiting for a while is idle; waiting here is what is measured, not a test.
            idle.wait(_PAUSE_S)
            threading.Thread(target=send).start()
            delivery = consumer.receive(timeout=30)
            now = monotonic()
            if delivery is None:
                message = f"{name}: no message within 30 s"
                raise SystemExit(message)
            if index >= 5:
                took.append((now - delivery.payload) * 1e3)
            delivery.ack()
            delivery.settled()
    middle, tail = percentile(took, 0.5), percentile(took, 0.99)
    return Latency(name, count, middle, tail, tail / middle)


@dataclass(frozen=True)
class BareDelivery:
    """What came, and what is called with it."""

    payload: float
    ack: Callable[[], object]
    settled: Callable[[], object]


class BareConsumer:
    """A blocking XREADGROUP of redis-py with hiredis: the least that a message can take."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)
        self._client.xgroup_create("bare", "workers", mkstream=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.close()

    def receive(self, *, timeout: float) -> BareDelivery | None:
        found = self._client.xreadgroup("workers", "me", {"bare": ">"}, count=1, block=int(timeout * 1000))
        if not found:
            return None
        entry_id, fields = found[0][1][0]
        pipeline = self._client.pipeline(transaction=False).xack("bare", "workers", entry_id).xdel("bare", entry_id)
        return BareDelivery(float(fields[b"body"]), pipeline.execute, lambda: None)


@contextmanager
def bare(url: str) -> Iterator[Callable[[], object]]:
    with redis.Redis.from_url(url) as client:
        yield lambda: client.xadd("bare", {"body": monotonic()})


@contextmanager
def here(url: str) -> Iterator[Callable[[], object]]:
    with Producer(url, payload=float) as producer:
        yield lambda: producer.send(monotonic())


@contextmanager
def elsewhere(url: str) -> Iterator[Callable[[], object]]:
    command = [sys.executable, __file__, _CHILD, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()

        def send() -> None:
            child.stdin.write("go\n")
            child.stdin.flush()

        yield send
        child.stdin.close()


def send_when_told(url: str) -> None:
    """The other process: one message for each line of its input."""
    with Producer(url, payload=float) as producer:
        print("ready", flush=True)
        for _ in sys.stdin:
            producer.send(monotonic())


if __name__ == "__main__":
    main()
