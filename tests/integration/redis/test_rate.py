# SPDX-License-Identifier: Apache-2.0
"""A rate for all consumers of a queue together: never more, and not much less."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis

from queuekit._values.clock import SystemClock
from queuekit.backend import Action, InvalidURLError, OutgoingMessage, Settlement
from queuekit.backends.redis import RedisBackend
from queuekit.testing.contract.harness import Running
from queuekit.testing.emulators import LocalRedis

Open = Callable[..., RedisBackend]
CALL_S = 5.0


def put(backend: RedisBackend, count: int, **fields: Any) -> None:
    backend.send([OutgoingMessage(f"m{index}", b"x", **fields) for index in range(count)], timeout_s=CALL_S)


def take(backend: RedisBackend, limit: int = 500, wait_s: float = 0.0) -> list[str]:
    got = backend.receive(max_messages=limit, wait_s=wait_s, lease_s=30.0)
    if got:
        backend.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=CALL_S)
    return [each.message_id for each in got]


def test_all_consumers_together_get_as_many_as_the_rate_allows(server: LocalRedis, open_queue: Open) -> None:
    """Counted by the clock of the server's answers: between first and last, so that a slow host does no harm."""
    clock, rate, burst = SystemClock(), 200, 20
    consumers = [open_queue(server, rate=rate, rate_burst=burst) for _ in range(4)]
    put(consumers[0], 300)
    began, lock = clock.monotonic(), threading.Lock()
    got: list[tuple[float, int]] = []

    def consume(backend: RedisBackend) -> None:
        while sum(count for _, count in got) < 300:
            taken = take(backend, wait_s=1.0)
            with lock:
                got.append((clock.monotonic() - began, len(taken)))

    running = [Running(lambda each=each: consume(each), clock) for each in consumers]  # type: ignore[misc]
    for each in running:
        each.result()
    so_far = 0
    for at_s, count in sorted(got):
        so_far += count
        assert so_far <= rate * at_s + burst + 1
    took_s = max(at_s for at_s, _ in got)
    assert took_s >= (300 - burst) / rate - 0.02
    asked = len(got)
    assert asked <= 320, "nobody asks while there is no token"


def test_a_consumer_waits_for_the_next_token_and_asks_no_sooner(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server, "waits", rate=4, rate_burst=1)
    put(backend, 3)
    assert len(take(backend)) == 1
    with redis.Redis(port=server.port) as raw:
        calls = int(raw.info("stats")["total_commands_processed"])
        waiting = Running(lambda: take(backend, wait_s=5.0), SystemClock())
        while not (backend._watches.waiting or waiting.done):
            waiting.join(0.001)
        for _ in range(50):
            raw.xadd("qk:{waits}:wake", {"w": ""}, maxlen=1)
        assert waiting.result() == ["m1"]
        assert 0.1 < waiting.took_s < 2.0
        asked = int(raw.info("stats")["total_commands_processed"]) - calls
        assert asked < 50 + 150, "sends do not make it ask again"


def test_a_token_is_taken_only_for_what_is_handed_out(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server, rate=5, rate_per=timedelta(hours=1))
    assert take(backend, 500) == []
    put(backend, 2)
    put(backend, 1, priority=9)
    assert len(take(backend, 500)) == 3
    assert take(backend, 500) == []
    put(backend, 9)
    assert len(take(backend, 500)) == 2, "five in all"
    assert take(backend, 500, wait_s=0.05) == []


def test_the_quick_way_of_receiving_takes_tokens_too(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server, rate=10, rate_per=timedelta(hours=1))
    put(backend, 100)
    assert [len(take(backend, 2)) for _ in range(7)] == [2, 2, 2, 2, 2, 0, 0]


def test_who_has_no_rate_takes_no_tokens(server: LocalRedis, open_queue: Open) -> None:
    limited, free = open_queue(server, rate=2, rate_per=timedelta(hours=1)), open_queue(server)
    put(free, 50)
    assert len(take(limited)) == 2
    assert len(take(free)) >= 8
    assert take(limited) == []


def test_a_subscription_has_tokens_of_its_own(server: LocalRedis, open_queue: Open) -> None:
    one, two = (open_queue(server, subscription=each, rate=2, rate_per=timedelta(hours=1)) for each in ("one", "two"))
    assert take(one) == take(two) == []
    put(one, 5)
    assert (len(take(one)), len(take(two)), len(take(one))) == (2, 2, 0)


def test_a_wait_for_tokens_can_be_interrupted(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server, rate=1, rate_per=timedelta(hours=1))
    put(backend, 2)
    assert len(take(backend)) == 1
    waiting = Running(lambda: take(backend, wait_s=30.0), SystemClock())
    while not backend._watches.waiting:
        waiting.join(0.001)
    backend.interrupt()
    assert waiting.result() == []
    assert waiting.took_s < 5


def test_the_bucket_has_a_time_to_live(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server, "bucket", rate=10)
    put(backend, 5)
    assert len(take(backend)) == 5
    with redis.Redis(port=server.port) as raw:
        assert 0 < raw.pttl("qk:{bucket}:rate") <= 1600


@pytest.mark.parametrize("options", [{"rate_burst": 5}, {"rate_per": timedelta(minutes=1)}])
def test_more_about_a_rate_without_one_is_refused(
    options: dict[str, Any], server: LocalRedis, open_queue: Open
) -> None:
    with pytest.raises(InvalidURLError, match="add rate=NUMBER"):
        open_queue(server, **options)
