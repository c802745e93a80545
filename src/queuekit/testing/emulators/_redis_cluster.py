# SPDX-License-Identifier: Apache-2.0
"""A Redis or Valkey cluster."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from queuekit.testing.emulators._redis import LocalRedis, free_port

_SLOTS = 16_384
_BUS = 10_000
"""So far above a node's port is the one on which nodes talk to each other."""

_READY_S = 30.0


class LocalRedisCluster:
    """Some servers that share the keys between them, without replicas.

    Starting takes two seconds, as a node takes no writes before.

    Args:
        directory: Where the nodes keep their files; the cluster's own.
        program: See `redis_program`.
        nodes: How many.
        durable: See `LocalRedis`.
        options: More of the servers' own options.
    """

    def __init__(
        self, directory: Path, program: Path, *, nodes: int = 3, durable: bool = False, options: Sequence[str] = ()
    ) -> None:
        more = ("--cluster-enabled", "yes", *options)
        self.nodes: tuple[LocalRedis, ...] = tuple(
            LocalRedis(directory / f"node{index}", program, durable=durable, ports=_node_port, options=more)
            for index in range(nodes)
        )
        self._formed = False

    @property
    def url(self) -> str:
        """The URL of all nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{each.port}" for each in self.nodes)

    def start(self) -> None:
        """Start all nodes, and wait until the cluster takes commands."""
        for each in self.nodes:
            each.start()
        if not self._formed:
            self._form()
            self._formed = True
        for each in self.nodes:
            until(partial(self._is_whole, each), "the cluster is whole")

    def kill(self) -> None:
        """End all nodes at once, as a crash does."""
        for each in self.nodes:
            each.kill()

    def restart(self) -> None:
        """End all nodes at once, and start them again."""
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, no node answers."""
        with ExitStack() as all_of_them:
            for each in self.nodes:
                all_of_them.enter_context(each.paused())
            yield

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Inside, all nodes answer that they are busy with a script."""
        with ExitStack() as all_of_them:
            for each in self.nodes:
                all_of_them.enter_context(each.busy())
            yield

    def owner(self, key: str) -> LocalRedis:
        """The node that has a key."""
        slot = self.slot_of(key)
        for first, last, primary, *_ in self.call(self.nodes[0], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(each for each in self.nodes if each.port == primary[1])
        msg = f"no node has the slot {slot}"
        raise LookupError(msg)

    def slot_of(self, key: str) -> int:
        """The slot of a key, as the servers see it."""
        slot: int = self.call(self.nodes[0], "CLUSTER", "KEYSLOT", key)
        return slot

    def begin_to_move(self, key: str, to: LocalRedis) -> None:
        """Begin to move the slot of a key: from now on, what is not on the old node is asked for at the new one."""
        slot, old = self.slot_of(key), self.owner(key)
        self.call(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(old))
        self.call(old, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(to))

    def move_keys(self, key: str, to: LocalRedis, *, names: Sequence[str] = ()) -> None:
        """Move the keys that are in the slot of a key now.

        Args:
            key: Tells the slot.
            to: The node that they go to.
            names: Only these.
        """
        slot, old = self.slot_of(key), self.owner(key)
        moving = list(names) or self.call(old, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
        if moving:
            self.call(old, "MIGRATE", "127.0.0.1", to.port, "", 0, int(_READY_S * 1000), "KEYS", *moving)

    def end_move(self, key: str, to: LocalRedis) -> None:
        """Move what is left in the slot of a key, and let all nodes know."""
        slot, old = self.slot_of(key), self.owner(key)
        self.move_keys(key, to)
        # The new one first: where neither says that the slot is its own, it is nobody's.
        for each in (to, old, *(each for each in self.nodes if each not in {to, old})):
            self.call(each, "CLUSTER", "SETSLOT", slot, "NODE", self._id(to))

    def call(self, node: LocalRedis, *command: Any) -> Any:
        """Run a command on one node, and give its answer as it came."""
        return call(node.port, *command)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def _form(self) -> None:
        count = len(self.nodes)
        for index, each in enumerate(self.nodes):
            self.call(each, "CLUSTER", "ADDSLOTS", *range(index * _SLOTS // count, (index + 1) * _SLOTS // count))
            self.call(each, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            self.call(each, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)

    def _is_whole(self, node: LocalRedis) -> bool:
        return b"cluster_state:ok" in self.call(node, "CLUSTER", "INFO")

    def _id(self, node: LocalRedis) -> Any:
        return self.call(node, "CLUSTER", "MYID")


def call(port: int, *command: Any) -> Any:
    """Run a command on a server of this host."""
    from redis import connection as redis_connections

    kinds: Any = redis_connections
    connection: Any = kinds.Connection(host="127.0.0.1", port=port, socket_timeout=_READY_S, protocol=2)
    try:
        connection.connect()
        connection.send_command(*command)
        return connection.read_response()
    finally:
        connection.disconnect()


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something that servers come to by themselves.

    Raises:
        TimeoutError: They did not.
    """
    from redis import exceptions

    pause = threading.Event()
    for _ in range(int(_READY_S / 0.01)):
        try:
            if true():
                return
        except exceptions.ConnectionError:
            pass  # servers that change their role close connections
        pause.wait(0.01)
    msg = f"not within {_READY_S:g} s: {what}"
    raise TimeoutError(msg)


def _node_port() -> int:
    while True:
        port = free_port()
        if port + _BUS < 65_536:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port + _BUS)):
                    return port
