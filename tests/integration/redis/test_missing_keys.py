# SPDX-License-Identifier: Apache-2.0
"""Single keys of a queue that are gone, as by eviction, in the midst of work: what is still there is not lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from queuekit.backend import Action, LeaseLost, OutgoingMessage, Settled, Settlement
from queuekit.backends.redis import RedisBackend
from queuekit.backends.redis._scripts import PLACES, keys_of
from queuekit.testing.emulators import LocalRedis

Open = Callable[..., RedisBackend]
CALL_S = 5.0


@pytest.fixture
def raw(valkey: LocalRedis) -> Iterator[Any]:
    with redis.Redis(port=valkey.port) as client:
        yield client


def put(backend: RedisBackend, *names: str, **fields: Any) -> None:
    backend.send([OutgoingMessage(each, each.encode(), **fields) for each in names], timeout_s=CALL_S)


def take(backend: RedisBackend, limit: int, lease_s: float = 30.0) -> list[Any]:
    return list(backend.receive(max_messages=limit, wait_s=0.0, lease_s=lease_s))


def settle(backend: RedisBackend, got: list[Any], action: Action = Action.ACK, **fields: Any) -> None:
    outcomes = backend.settle([Settlement(each.handle, action, **fields) for each in got], timeout_s=CALL_S)
    assert {type(each) for each in outcomes} <= {Settled, LeaseLost}


def names_of(messages: Any) -> set[str]:
    return {each.message_id for each in messages}


def in_the_midst_of_work(backend: RedisBackend) -> tuple[list[Any], list[Any]]:
    """Messages in every place: new, leased in a run and by themselves, retried, delayed, behind a key, dead."""
    put(backend, *(f"plain{index}" for index in range(20)))
    run = take(backend, 6)
    settle(backend, run[:1], Action.RETRY)
    settle(backend, run[1:2], Action.RETRY, delay_s=0.1)
    put(backend, "urgent", "urgent too", priority=9)
    lone = take(backend, 1)
    put(backend, "delayed", delay_s=0.1)
    put(backend, "first", "second", "third", ordering_key="k", priority=5)
    put(backend, "of another", ordering_key="other", dedup_id="once")
    return run[2:], lone


def drain(backend: RedisBackend) -> Counter[str]:
    """All that comes, acknowledged; ends when nothing came for longer than it takes to find what has no place."""
    seen: Counter[str] = Counter()
    empty = 0
    while empty < 2:  # the first one may tell that something is gone
        got = list(backend.receive(max_messages=100, wait_s=0.15, lease_s=5.0))
        settle(backend, got)
        seen.update(each.message_id for each in got)
        empty = 0 if got else empty + 1
    return seen


@pytest.mark.parametrize("place", [*PLACES, "subs"])
def test_what_still_has_a_body_comes_when_a_key_is_gone(
    place: str, valkey: LocalRedis, open_queue: Open, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queuekit.backends.redis._backend._MEND_EVERY_S", 0.02)
    backend, other = open_queue(valkey, f"gone-{place}"), open_queue(valkey, f"gone-{place}")
    run, lone = in_the_midst_of_work(backend)
    sent = names_of(backend.peek(limit=100))
    assert len(sent) == 27
    raw.delete(keys_of(f"gone-{place}").start + place)
    there = names_of(backend.peek(limit=100))
    lost = {
        "plain": {each for each in sent if each.startswith("plain")},
        "kept": {*sent} - {f"plain{i}" for i in range(20)},
    }
    assert there == sent - lost.get(place, set())
    stats = other.stats()
    assert min(stats.ready, stats.delayed, stats.leased) >= 0  # type: ignore[type-var]
    settle(backend, run[:2])
    done = names_of(run[:2]) if place not in {"meta", "leases", "runs"} else set()
    settle(other, run[2:3] + lone, Action.RETRY)
    settle(backend, run[3:], Action.RELEASE)
    seen = drain(backend)
    put(other, "after")
    seen += drain(backend)
    assert there - set(seen) <= done | names_of(run[:2]), "what has a body was delivered, or acknowledged before"
    assert set(seen) - sent == {"after"}
    assert drain(other) == Counter()
    assert names_of(backend.peek(limit=100)) == set()
    stats = backend.stats()
    assert (stats.ready, stats.delayed, stats.leased) == (0, 0, 0)
    if place in {"plain", "kept", "meta"}:
        assert backend.recreated() >= 1
    backend.delete()
    assert raw.keys(f"qk:{{gone-{place}}}*") == []


@pytest.mark.parametrize("place", ["items", "lines", "ready", "leases", "meta"])
def test_the_order_of_a_key_is_kept_where_it_can_be(
    place: str, valkey: LocalRedis, open_queue: Open, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queuekit.backends.redis._backend._MEND_EVERY_S", 0.02)
    backend = open_queue(valkey, f"order-{place}")
    put(backend, *(f"{index}" for index in range(300)), ordering_key="k")
    raw.delete(keys_of(f"order-{place}").start + place)
    seen: list[str] = []
    while len(seen) < 300:
        got = list(backend.receive(max_messages=100, wait_s=10.0, lease_s=5.0))
        assert len(got) == 1, "one of a key at a time"
        settle(backend, got)
        seen += [each.message_id for each in got]
    assert seen == [f"{index}" for index in range(300)]
    assert not backend.receive(max_messages=100, wait_s=0.15, lease_s=5.0)
    backend.delete()


@pytest.mark.parametrize("place", ["plain", "meta", "subs"])
def test_a_subscription_goes_on_when_a_key_of_its_queue_is_gone(
    place: str, valkey: LocalRedis, open_queue: Open, raw: Any
) -> None:
    name = f"inbox-{place}"
    queue, one, two = open_queue(valkey, name), *(open_queue(valkey, name, subscription=each) for each in "ab")
    for each in (one, two):
        assert take(each, 1) == []
    put(queue, "given")
    assert names_of(take(one, 5)) == {"given"}
    put(queue, "in the inbox")
    raw.delete(keys_of(name).start + place)
    rest = names_of(take(one, 5)) | names_of(queue.peek(limit=5))
    assert ("in the inbox" in rest) is (place != "plain")
    assert names_of(take(two, 5)) >= {"given"}
    put(queue, "after")
    assert (names_of(take(one, 5)), names_of(take(two, 5))) == ({"after"}, {"after"})
    if place == "subs":
        assert (one.recreated(), two.recreated()) == (1, 1)
    queue.delete()
    assert raw.keys(f"qk:{{{name}}}*") == []
