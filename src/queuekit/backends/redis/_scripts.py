# SPDX-License-Identifier: Apache-2.0
"""The functions that run in the server, and the names of what they work on."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

PLACES = ("plain", "kept", "meta", "ready", "due", "leases", "runs", "items", "lines", "wake", "dedup", "forget")
"""The keys of a queue, in the order in which `queue.lua` takes them."""

CLAIMED = ("meta", "ready", "due", "leases", "runs", "wake")
"""Those of them that `claim.lua` takes."""

_DEAD_SUFFIX = ".dead"
_SHARED = "queue.lua"


class Script(NamedTuple):
    """One Lua function.

    Attributes:
        source: Its text.
        sha: What the server calls it.
    """

    source: bytes
    sha: str


@cache
def load(name: str) -> Script:
    """The script of a file; read once in a process."""
    folder = resources.files("queuekit.backends.redis") / "lua"
    source = (folder / f"{name}.lua").read_bytes()
    if b"keys_of(" in source:
        source = (folder / _SHARED).read_bytes() + source
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


class Keys(NamedTuple):
    """The keys of one queue. All of them, and those of its dead-letter queue, are in one slot of a cluster."""

    all: tuple[str, ...]
    plain: str
    meta: str
    wake: str
    claimed: tuple[str, ...]


def keys_of(queue: str) -> Keys:
    """The keys of a queue; those of ``orders`` and ``orders.dead`` have ``{orders}`` in common."""
    source = queue.removesuffix(_DEAD_SUFFIX)
    # A brace in the name would end the part that a cluster looks at.
    name = source.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    start = f"qk:{{{name}}}{queue[len(source) :]}:"
    every = tuple(start + place for place in PLACES)
    named = dict(zip(PLACES, every, strict=True))
    return Keys(every, named["plain"], named["meta"], named["wake"], tuple(named[each] for each in CLAIMED))
