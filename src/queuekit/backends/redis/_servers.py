# SPDX-License-Identifier: Apache-2.0
"""Finding the server that a queue is on: the one that there is, a node of a cluster, or the Sentinels' primary.

What was found is believed until something speaks against it: a redirection, a lost connection, a server that is a
replica. It is asked for anew then, at the next call; when to call again is not decided here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from redis import exceptions

from queuekit.backend import Clock, ErrorClass
from queuekit.backends.redis._errors import (
    NoNodeError,
    NotConnectedError,
    UnknownServiceError,
    classify,
    is_unknown_command,
)
from queuekit.backends.redis._lines import Lines
from queuekit.backends.redis._options import Address, Target
from queuekit.backends.redis._topology import Node, Redirect, SlotMap, read_primary, read_slots

T = TypeVar("T")

_LEAST_S = 0.05
"""The shortest time limit for asking one server."""

_PATIENCE = 3
"""One server that does not answer may take this part of the time that is left, while there are others."""


class Finder(Protocol):
    """Where the server of a slot is, as far as it is known."""

    def find(self, slot: int, until: float, /) -> Node | None:
        """The server of a slot; None for the only one that there is.

        Args:
            slot: Which slot; without a cluster it does not matter.
            until: The monotonic time when it must be known.

        Raises:
            NotConnectedError: Nobody could say.
        """
        ...

    def learn(self, redirect: Redirect, /) -> bool:
        """Believe a redirection; False where none can be followed."""
        ...

    def doubt(self) -> None:
        """Believe nothing that was found before."""
        ...


class OnlyOne:
    """The one server that the URL names."""

    def find(self, _slot: int, _until: float) -> Node | None:
        """See `Finder.find`."""
        return None

    def learn(self, _redirect: Redirect, /) -> bool:
        """See `Finder.learn`."""
        return False

    def doubt(self) -> None:
        """See `Finder.doubt`."""


class Witnesses:
    """Servers that can be asked the same, one after another; who did not help is asked last next time.

    Args:
        nodes: Where they are.
        address: Who we are there.
        clock: Measures how long asking takes.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, nodes: Iterable[Node], address: Address, clock: Clock) -> None:
        self._nodes = tuple(nodes)
        self._address = address
        self._clock = clock

    def ask(self, question: tuple[str, ...], read: Callable[[Any, Node], T], until: float) -> T:
        """What the first one says that can be read.

        Args:
            question: A command.
            read: Makes sense of the answer, or raises what is wrong with it.
            until: The monotonic time when it must be known. It is shared among them.

        Raises:
            NotConnectedError: Nobody could say; why, is its cause.
        """
        nodes, why = self._nodes, None
        for index, node in enumerate(nodes):
            left_s = until - self._clock.monotonic()
            if index and left_s <= 0:
                break
            try:
                return read(self._ask_one(node, question, left_s / min(len(nodes) - index, _PATIENCE)), node)
            except (exceptions.RedisError, OSError, NoNodeError, UnknownServiceError) as error:
                why = _more_telling(why, error)
                self.put_last(node)
        raise NotConnectedError(str(why)) from why

    def put_last(self, node: Node) -> None:
        """Ask this one last."""
        self._nodes = (*(each for each in self._nodes if each != node), node)

    def add(self, nodes: Iterable[Node]) -> None:
        """Ask these too, after the others."""
        self._nodes = tuple(dict.fromkeys((*self._nodes, *nodes)))

    def _ask_one(self, node: Node, question: tuple[str, ...], limit_s: float) -> Any:
        lines = Lines(replace(self._address, host=node.host, port=node.port), self._clock)
        limit_s = max(limit_s, _LEAST_S)
        line = lines.take(limit_s / 2)
        try:
            return line.call(limit_s / 2, *question)
        finally:
            line.close()


def _more_telling(first: Exception | None, second: Exception) -> Exception:
    """Of two reasons the one that waiting does not heal."""
    if first is None or (_meaning(first).retryable and not _meaning(second).retryable):
        return second
    return first


def _meaning(error: Exception) -> ErrorClass:
    return classify(error)


class ClusterMap:
    """The nodes of a cluster, as they name each other."""

    def __init__(self, target: Target, clock: Clock) -> None:
        self._witnesses = Witnesses(target.nodes, target.asking, clock)
        self._map: tuple[SlotMap, Node] | None = None
        self._learned: dict[int, Node] = {}

    def find(self, slot: int, until: float, /) -> Node | None:
        """See `Finder.find`.

        Raises:
            NotConnectedError: Nobody could say.
        """
        learned = self._learned.get(slot)
        if learned is not None:
            return learned
        known = self._map
        found = None if known is None else known[0].node_of(slot)
        return self._ask(slot, until) if found is None else found

    def _ask(self, slot: int, until: float) -> Node:
        def read(answer: Any, node: Node) -> Node:
            slots = read_slots(answer, node)
            found = slots.node_of(slot)
            if found is None:
                msg = f"no node has the slot {slot}"
                raise NoNodeError(msg)
            self._map = (slots, node)
            self._learned = {}
            self._witnesses.add(slots.nodes)
            return found

        return self._witnesses.ask(("CLUSTER", "SLOTS"), read, until)

    def learn(self, redirect: Redirect, /) -> bool:
        """See `Finder.learn`."""
        if not redirect.once:
            self._learned = {**self._learned, redirect.slot: redirect.node}
        return True

    def doubt(self) -> None:
        """See `Finder.doubt`."""
        known, self._map, self._learned = self._map, None, {}
        if known is not None:
            self._witnesses.put_last(known[1])  # it may be cut off from the others


class Sentinels:
    """The primary of a service, as its Sentinels name it."""

    def __init__(self, target: Target, clock: Clock) -> None:
        self._witnesses = Witnesses(target.nodes, target.asking, clock)
        self._service = target.service
        self._primary: tuple[Node, Node] | None = None

    def find(self, _slot: int, until: float, /) -> Node | None:
        """See `Finder.find`.

        Raises:
            NotConnectedError: Nobody could say.
        """
        known = self._primary
        if known is not None:
            return known[0]
        try:
            return self._witnesses.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service), self._read, until)
        except NotConnectedError as error:
            if is_unknown_command(error.__cause__):
                msg = "the servers that the URL names are no Sentinels, whose port is 26379 unless it was changed"
                raise NotConnectedError(msg) from UnknownServiceError(msg)
            raise

    def _read(self, answer: Any, witness: Node) -> Node:
        primary = read_primary(answer)
        if primary is None:
            msg = f"the Sentinels know no service {self._service!r}; the URL's path begins with its name"
            raise UnknownServiceError(msg)
        self._primary = (primary, witness)
        return primary

    def learn(self, _redirect: Redirect, /) -> bool:
        """See `Finder.learn`."""
        return False

    def doubt(self) -> None:
        """See `Finder.doubt`."""
        known, self._primary = self._primary, None
        if known is not None:
            self._witnesses.put_last(known[1])  # it may be cut off from the others


class Servers:
    """The servers of one target, with the connections to each.

    Args:
        target: What the URL points to.
        clock: Measures how long finding and connecting take.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, target: Target, clock: Clock) -> None:
        self._target = target
        self._clock = clock
        self._finder = _finder_of(target, clock)
        self.generation = 0
        """Raised whenever what was found before may be wrong."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._lines: dict[Node | None, Lines] = {}
        self._closed = False

    @property
    def answer_s(self) -> float:
        """The longest that a server may take to answer."""
        return self._target.address.answer_s

    @property
    def connect_s(self) -> float:
        """The longest that finding a server and connecting to it may take."""
        return self._target.address.connect_s

    def find(self, slot: int, until: float) -> Lines:
        """The connections to the server of a slot.

        Args:
            slot: Which slot; without a cluster it does not matter.
            until: The monotonic time when it must be known.

        Raises:
            NotConnectedError: Nobody could say where it is.
        """
        return self.lines_of(self._finder.find(slot, until))

    def lines_of(self, node: Node | None) -> Lines:
        """The connections to a server."""
        if os.getpid() != self._pid:
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            lines = self._lines.get(node)
            if lines is None:
                address = self._target.address
                if node is not None:
                    address = replace(address, host=node.host, port=node.port)
                lines = self._lines[node] = Lines(address, self._clock, primary=self._target.form == "sentinel")
                if self._closed:
                    lines.close()
            return lines

    def learn(self, redirect: Redirect) -> bool:
        """Believe a redirection; False where none can be followed."""
        followed = self._finder.learn(redirect)
        if followed and not redirect.once:
            self.generation += 1
        return followed

    def doubt(self, lines: Lines) -> None:
        """Use none of these connections again, and ask anew where servers are."""
        lines.renew()
        self._finder.doubt()
        self.generation += 1

    def close(self) -> None:
        """Close what is idle now, and all else when it is given back."""
        with self._lock:
            self._closed = True
            every = list(self._lines.values())
        for lines in every:
            lines.close()


def _finder_of(target: Target, clock: Clock) -> Finder:
    if target.form == "cluster":
        return ClusterMap(target, clock)
    return Sentinels(target, clock) if target.form == "sentinel" else OnlyOne()
