# SPDX-License-Identifier: Apache-2.0
"""Which server holds what, from what servers say about themselves and about others. No I/O."""

from __future__ import annotations

import bisect
import re
from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

SLOTS = 16_384
"""How many parts the keys of a cluster are divided into."""

_TAG = re.compile(rb"\{([^}]+)\}")
_REDIRECT = re.compile(r"(?:(?P<word>MOVED|ASK) )?(?P<slot>[0-9]{1,5}) (?P<host>\S*):(?P<port>[0-9]{1,5})\b")
_WORDS = {"MovedError": "MOVED", "AskError": "ASK"}
_UNKNOWN_HOST = "?"


class Node(NamedTuple):
    """One server.

    Attributes:
        host: A name or an address.
        port: The port.
    """

    host: str
    port: int


class Redirect(NamedTuple):
    """A node's answer that another one has the slot; it proves that nothing ran.

    Attributes:
        slot: Which slot.
        node: Who has it.
        once: Whether that is so for this key alone, because the slot is on its way.
    """

    slot: int
    node: Node
    once: bool


def slot_of(key: str) -> int:
    """The slot of a key: by the part in the first braces that hold something, else by all of it."""
    name = key.encode()
    start = name.find(b"{")
    tag = _TAG.match(name, start) if start >= 0 else None
    return crc_hqx(name if tag is None else tag[1], 0) % SLOTS


def redirect_of(error: BaseException, asked: Node) -> Redirect | None:
    """Where a node sends us; None where the error says nothing of the kind.

    Args:
        error: As redis-py raised it; by its version, the first word is in its class or in its text.
        asked: The node that said it. Its host counts where it names none, as it does where it does not know its own.
    """
    match = _REDIRECT.match(str(error))
    if match is None:
        return None
    word = match["word"] or _WORDS.get(type(error).__name__)
    if word is None:
        return None
    node = Node(_named(match["host"], asked), int(match["port"]))
    return Redirect(int(match["slot"]), node, word == "ASK")


def _named(host: str, asked: Node) -> str:
    # An IPv6 address stands in brackets, or without them.
    return asked.host if host in {"", _UNKNOWN_HOST} else host.strip("[]")


@dataclass(frozen=True, slots=True)
class SlotMap:
    """Which node has which slots.

    Attributes:
        starts: The first slot of each stretch, in order.
        stretches: The last slot of each, and its node.
    """

    starts: tuple[int, ...]
    stretches: tuple[tuple[int, Node], ...]

    def node_of(self, slot: int) -> Node | None:
        """The node of a slot; None where no node has it."""
        at = bisect.bisect_right(self.starts, slot) - 1
        if at < 0:
            return None
        last, node = self.stretches[at]
        return node if slot <= last else None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node that has a slot, once."""
        return tuple(dict.fromkeys(node for _, node in self.stretches))


def read_slots(answer: Sequence[Any], asked: Node) -> SlotMap:
    """The answer to ``CLUSTER SLOTS``.

    Args:
        answer: One row per stretch: first, last, the primary, its replicas.
        asked: The node that said it; see `redirect_of`.
    """
    rows = sorted((first, last, _node(primary, asked)) for first, last, primary, *_replicas in answer)
    return SlotMap(tuple(first for first, _, _ in rows), tuple((last, node) for _, last, node in rows))


def _node(row: Sequence[Any], asked: Node) -> Node:
    host = row[0]
    return Node(_named("" if host is None else _text(host), asked), int(row[1]))


def read_primary(answer: Any) -> Node | None:
    """The answer to ``SENTINEL GET-MASTER-ADDR-BY-NAME``; None where the Sentinel knows no such service."""
    return None if answer is None else Node(_text(answer[0]), int(answer[1]))


def is_primary(answer: Sequence[Any]) -> bool:
    """Whether the answer to ``ROLE`` is that of a server that takes writes."""
    return _text(answer[0]) == "master"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
