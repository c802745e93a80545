# SPDX-License-Identifier: Apache-2.0
"""Subscriptions on a real server: what is sent plainly comes by way of the inbox, and keeps its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis

import queuekit as qk
from queuekit._values.clock import SystemClock
from queuekit.backend import Action, OutgoingMessage, QueueStats, Settled, Settlement
from queuekit.backends.redis import RedisBackend
from queuekit.testing.contract.harness import Running
from queuekit.testing.emulators import LocalRedis

Open = Callable[..., RedisBackend]
Start = Callable[..., LocalRedis]
CALL_S = 5.0


@pytest.fixture
def raw(server: LocalRedis) -> Iterator[Any]:
    with redis.Redis(port=server.port) as client:
        yield client


def put(backend: RedisBackend, *names: str, **fields: Any) -> None:
    backend.send([OutgoingMessage(each, each.encode(), **fields) for each in names], timeout_s=CALL_S)


def take(backend: RedisBackend, limit: int = 500, wait_s: float = 0.0) -> list[str]:
    got = backend.receive(max_messages=limit, wait_s=wait_s, lease_s=30.0)
    if got:
        outcomes = backend.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=CALL_S)
        assert {type(each) for each in outcomes} == {Settled}
    return [each.message_id for each in got]


def all_of(backend: RedisBackend) -> list[str]:
    names: list[str] = []
    while got := take(backend, wait_s=0.05):
        names += got
    return names


def test_plain_and_other_messages_come_in_the_order_of_sending(server: LocalRedis, open_queue: Open) -> None:
    queue, one, two = open_queue(server), *(open_queue(server, subscription=each) for each in ("one", "two"))
    assert take(one) == take(two) == []
    expected = []
    for round_ in range(30):
        put(queue, f"{round_} plain")
        put(two, f"{round_} key", ordering_key=f"{round_}")
        put(queue, *(f"{round_} batch {index}" for index in range(3)))
        put(one, f"{round_} once", dedup_id=f"{round_}")
        expected += [f"{round_} plain", f"{round_} key", *(f"{round_} batch {index}" for index in range(3))]
        expected.append(f"{round_} once")
    put(queue, "urgent", priority=5)
    for each in (one, two):
        assert all_of(each) == ["urgent", *expected]


def test_a_large_inbox_is_given_out_in_steps_and_in_order(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    names = [f"{index}" for index in range(2500)]
    queue = open_queue(server, "large")
    subscriptions = [open_queue(server, "large", subscription=f"{index}") for index in range(4)]
    for each in subscriptions:
        assert take(each) == []
    for start in range(0, 2500, 500):
        put(queue, *names[start : start + 500])
    put(queue, "last", ordering_key="k")
    late = open_queue(server, "large", subscription="late")
    late.create()
    assert take(subscriptions[0], 1) == ["0"]
    assert 0 < raw.xlen("qk:{large}:plain") < 2500, "not all of it at once"
    assert all_of(subscriptions[0]) == [*names[1:], "last"]
    assert raw.xlen("qk:{large}:plain") == 0
    for each in subscriptions[1:]:
        assert each.stats().ready == 2501
        assert all_of(each) == [*names, "last"]
    assert all_of(late) == [], "it was made after all of that"
    assert queue.stats() == QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)


def test_large_messages_are_given_out_a_few_at_a_time(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    queue, one = open_queue(server, "bytes"), open_queue(server, "bytes", subscription="one")
    one.create()
    for index in range(12):
        queue.send([OutgoingMessage(f"{index}", b"x" * (1 << 20))], timeout_s=CALL_S)
    assert take(one, 1) == ["0"]
    assert raw.xlen("qk:{bytes}:plain") >= 8
    assert all_of(one) == [f"{index}" for index in range(1, 12)]


def test_who_read_before_the_first_subscription_was_made_claims_nothing_of_it(
    server: LocalRedis, open_queue: Open
) -> None:
    queue, one = open_queue(server), open_queue(server, subscription="one")
    put(queue, *(f"{index}" for index in range(6)))
    assert take(queue, 2) == ["0", "1"]
    assert queue._next is not None
    one.create()
    put(queue, "for both")
    assert take(queue, 2) == ["2", "3"]
    assert all_of(queue) == ["4", "5", "for both"]
    assert all_of(one) == ["for both"]


def test_a_send_that_fits_into_the_queue_but_not_into_a_subscription_waits_for_what_is_in_the_inbox(
    server: LocalRedis, open_queue: Open
) -> None:
    one, limited = open_queue(server, subscription="one"), open_queue(server, max_messages=600)
    one.create()
    put(open_queue(server), *(f"{index}" for index in range(500)))
    assert [type(each).__name__ for each in limited.send([OutgoingMessage("a", b"")] * 101, timeout_s=1)] == [
        "Rejected"
    ] * 101
    put(limited, *(f"more {index}" for index in range(100)))
    assert one.stats().ready == 600


def test_a_waiting_subscription_is_woken_by_each_kind_of_send(server: LocalRedis, open_queue: Open) -> None:
    queue, one = open_queue(server), open_queue(server, subscription="one")
    one.create()
    sends: list[Callable[[], None]] = [
        lambda: put(queue, "single"),
        lambda: put(queue, "batch", "of two"),
        lambda: put(queue, "key", ordering_key="k"),
        lambda: put(queue, "soon", delay_s=0.05),
    ]
    for send in sends:
        waiting = Running(lambda: take(one, wait_s=20.0), SystemClock())
        while not one._watches.waiting:
            waiting.join(0.001)
        send()
        assert waiting.result()
        assert waiting.took_s < 5
        all_of(one)


def test_without_memory_a_subscription_is_given_what_was_accepted(start: Start, open_queue: Open) -> None:
    server = start()
    queue, one, two = open_queue(server), *(open_queue(server, subscription=each) for each in ("one", "two"))
    one.create()
    two.create()
    put(queue, *(f"{index}" for index in range(500)))
    with redis.Redis(port=server.port) as raw:
        raw.config_set("maxmemory", "400kb")
    assert [len(all_of(each)) for each in (one, two)] == [500, 500]


def test_nothing_of_a_queue_is_left_once_it_is_deleted(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    options = {"keep_done": timedelta(hours=1), "rate": 1000}
    queue = open_queue(server, "whole", **options)
    for name in ("a", "b/c", "dead"):
        each = open_queue(server, "whole", subscription=name, **options)
        take(each)
        put(queue, "plain", "done")
        put(queue, "key", ordering_key="k", dedup_id=name)
        got = list(each.receive(max_messages=2, wait_s=0.0, lease_s=30.0))
        letter = OutgoingMessage("letter", b"")
        each.settle([Settlement(got[0].handle, Action.DEAD, dead=letter)], timeout_s=CALL_S)
        each.settle([Settlement(got[1].handle, Action.ACK)], timeout_s=CALL_S)
    put(open_queue(server, "whole.dead", subscription="alone"), "letter")
    assert len(raw.keys("qk:{whole}*")) > 20
    open_queue(server, "whole", subscription="a").delete()
    assert raw.keys("qk:{whole}/a:*") == raw.keys("qk:{whole}.dead/a:*") == []
    queue.delete()
    assert raw.keys("qk:{whole}*") == []


def test_handlers_of_two_subscriptions_each_work_on_all(server: LocalRedis) -> None:
    app, seen = qk.App(server.url), {"one": [0], "two": [0]}
    producer = qk.Producer(f"{server.url}?queue=shared", payload=int)

    def handle(name: str, number: int) -> None:
        seen[name].append(number)
        if sum(map(len, seen.values())) == 102:
            app.stop()

    @app.handler(f"{server.url}?queue=shared&subscription=one")
    def one(number: int) -> None:
        handle("one", number)

    @app.handler(f"{server.url}?queue=shared&subscription=two")
    async def two(number: int) -> None:
        handle("two", number)

    for each in ("one", "two"):
        with qk.Consumer(f"{server.url}?queue=shared&subscription={each}", payload=int) as consumer:
            assert consumer.check().ok
    producer.send_many(range(1, 51)).raise_for_failures()
    app.run(signals=False)
    app.close()
    producer.close()
    assert {name: sorted(each) for name, each in seen.items()} == {key: list(range(51)) for key in seen}
