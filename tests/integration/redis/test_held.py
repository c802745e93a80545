# SPDX-License-Identifier: Apache-2.0
"""What a queue keeps when it is empty again; a worker whose queue is paused, or flushed under it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis

import queuekit as qk
from queuekit._values.clock import SystemClock
from queuekit.backend import Action, OutgoingMessage, QueueStats, Settlement
from queuekit.backends.redis import RedisBackend
from queuekit.testing.contract.harness import Running
from queuekit.testing.emulators import LocalRedis

Open = Callable[..., RedisBackend]
CALL_S = 5.0


@pytest.fixture
def raw(server: LocalRedis) -> Iterator[Any]:
    with redis.Redis(port=server.port) as client:
        yield client


def put(backend: RedisBackend, count: int, **fields: Any) -> None:
    for start in range(0, count, 500):
        batch = [
            OutgoingMessage(f"m{index}", b"x" * 100, **fields) for index in range(start, min(start + 500, count))
        ]
        backend.send(batch, timeout_s=CALL_S)


def take(backend: RedisBackend, limit: int = 500, lease_s: float = 30.0) -> list[Any]:
    return list(backend.receive(max_messages=limit, wait_s=0.3, lease_s=lease_s))


def settle(backend: RedisBackend, got: list[Any], action: Action, **fields: Any) -> None:
    letter = OutgoingMessage("letter", b"x" * 100) if action is Action.DEAD else None
    if got:
        backend.settle([Settlement(each.handle, action, dead=letter, **fields) for each in got], timeout_s=CALL_S)


def all_kinds_of_work(queue: RedisBackend, one: RedisBackend, dead: RedisBackend) -> None:
    """Some thousand messages in each way that there is, and out again in each."""
    put(queue, 1500)
    put(queue, 500, ordering_key="k")
    put(queue, 300, priority=4)
    put(queue, 200, delay_s=0.01)
    for backend in (queue, one):
        settle(backend, take(backend, 100), Action.RETRY, delay_s=0.01)
        settle(backend, take(backend, 100), Action.RELEASE)
        settle(backend, take(backend, 100), Action.EXTEND, lease_s=0.01)
        take(backend, 200, lease_s=0.01)
        settle(backend, take(backend, 300), Action.DEAD)
        settle(backend, take(backend, 500), Action.ACK)
        assert backend.cancel("m1499") in {True, False}
        backend.purge()
        while got := take(backend):
            settle(backend, got, Action.ACK)
    settle(dead, take(dead, 50), Action.ACK)
    dead.redrive([OutgoingMessage("letter", b"")] * 50, timeout_s=CALL_S)
    while got := take(queue):
        settle(queue, got, Action.ACK)


def test_storage_is_back_where_it_was_after_thousands_of_messages(
    server: LocalRedis, open_queue: Open, raw: Any
) -> None:
    queue, one = open_queue(server, "cycle", rate=10_000_000), open_queue(server, "cycle", subscription="one")
    dead, dead_of_one = open_queue(server, "cycle.dead"), open_queue(server, "cycle.dead", subscription="one")
    assert take(queue, 1) == take(one, 1) == []

    def empty() -> dict[str, int]:
        for each in (dead, dead_of_one):
            assert each.purge() > 0
        raw.delete("qk:{cycle}:rate")
        return {key.decode(): raw.memory_usage(key) for key in raw.keys("qk:{cycle}*")}

    all_kinds_of_work(queue, one, dead)
    first = empty()
    for _ in range(2):
        all_kinds_of_work(queue, one, dead)
    after = empty()
    assert after.keys() == first.keys()
    kept = {key.rpartition(":")[2] for key in after}
    assert kept == {"plain", "kept", "meta", "wake", "subs"}
    assert all(after[key] <= first[key] + 4096 for key in after), "the pages of a stream, which it frees late"
    streams = [key for key in after if key.endswith((":plain", ":kept"))]
    assert [raw.xlen(each) for each in streams] == [0] * len(streams)
    assert queue.stats() == one.stats() == QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)
    queue.delete()


def test_a_stream_is_never_trimmed_however_long_it_is(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    queue, one = open_queue(server, "long"), open_queue(server, "long", subscription="one")
    put(queue, 5000)
    held = take(queue, 8)
    one.create()
    put(queue, 5000)
    stats = queue.stats()
    assert (len(held), stats.ready, stats.leased) == (8, 10_000 - 8, 8), "whoever received goes on to have all"
    assert one.stats().ready == 5000
    assert raw.xlen("qk:{long}/one:plain") == 5000
    settle(queue, held, Action.ACK)
    queue.delete()


def test_a_flush_under_a_waiting_consumer_is_told_within_two_seconds(valkey: LocalRedis, open_queue: Open) -> None:
    for subscription in ("", "one"):
        queue = open_queue(valkey, "flushed-while-waiting", subscription=subscription)
        put(queue, 1)
        settle(queue, take(queue, 1), Action.ACK)
        before = queue.recreated()
        waiting = Running(lambda queue=queue: queue.receive(max_messages=1, wait_s=30.0, lease_s=5.0), SystemClock())  # type: ignore[misc]
        while not queue._watches.waiting:
            waiting.join(0.001)
        with redis.Redis(port=valkey.port) as raw:
            raw.flushall()
        waiting.result()
        assert queue.recreated() > before
        assert waiting.took_s < 2.0 + 5.0, "at most a second by itself; the rest is for a busy host"
        put(queue, 1)
        assert [each.message_id for each in take(queue, 1)] == ["m0"]
        queue.delete()


def test_a_worker_idles_without_an_alarm_while_its_queue_is_paused(server: LocalRedis, open_queue: Open) -> None:
    """The watchdog is asked to be as impatient as can be; what was sent meanwhile is handled once it is resumed."""
    backend, handled, told = open_queue(server, "held"), threading.Event(), list[str]()
    backend.pause()
    app = qk.App(server.url, watchdog=timedelta(seconds=1))
    app.listen(lambda event: told.append(event.name), "stalled")

    @app.handler("held")
    def handle(_body: bytes) -> None:
        handled.set()
        app.stop()

    handle.send(b"x")
    with redis.Redis(port=server.port) as raw:
        calls = int(raw.info("stats")["total_commands_processed"])
        running = Running(lambda: app.run(signals=False), SystemClock())
        assert not handled.wait(1.5), "it is paused"
        assert not running.done
        asked = int(raw.info("stats")["total_commands_processed"]) - calls
        assert asked < 300, "no busy loop"
    backend.resume()
    assert running.result() == 0
    assert handled.is_set()
    assert told == []
    app.close()
