# SPDX-License-Identifier: Apache-2.0
"""The functions that run in the server, and the names of what they work on."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources
from typing import NamedTuple

WORKED = ("plain", "kept", "meta", "ready", "due", "leases", "runs", "items", "lines", "wake")
"""The keys of a queue that nearly every script works on."""

PLACES = (*WORKED, "dedup", "forget", "done", "past", "ends", "rate")
"""All keys of a queue, but for ``subs``, which tells of its subscriptions."""

CLAIMED = ("meta", "ready", "due", "leases", "runs", "wake")
"""Those of them that `claim.lua` takes."""

DEAD_SUFFIX = ".dead"

_USES = re.compile(rb"-- uses: ([a-z ]+)\n")
_ESCAPED = re.compile(r"[%{}:/]")


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
    """The script of a file, behind the files that it uses; read once in a process."""
    folder = resources.files("queuekit.backends.redis") / "lua"
    source = (folder / f"{name}.lua").read_bytes()
    if uses := _USES.match(source):
        shared = [(folder / f"{each}.lua").read_bytes() for each in uses[1].decode().split()]
        source = b"".join([*shared, source])
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


class Keys(NamedTuple):
    """The keys of one queue, or of one subscription of it.

    Attributes:
        start: What they begin with.
        worked: Those that nearly every script works on, `plain` first.
        plain: Where plain messages are sent to.
        meta: What is known of the queue.
        wake: Where changes are told.
        subs: Which subscriptions there are.
        claimed: What `claim.lua` takes.
    """

    start: str
    worked: tuple[str, ...]
    plain: str
    meta: str
    wake: str
    subs: str
    claimed: tuple[str, ...]


def keys_of(queue: str, subscription: str = "") -> Keys:
    """The keys of a place for messages.

    Those of ``orders``, ``orders.dead`` and all their subscriptions have ``{orders}`` in common, so that they are in
    one slot of a cluster.
    """
    source = queue
    while source.endswith(
        DEAD_SUFFIX
    ):  # dead letters have none themselves, and their keys are asked for all the same
        source = source.removesuffix(DEAD_SUFFIX)
    # A brace in the name would end the part that a cluster looks at.
    name = source.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    start = f"qk:{{{name}}}{queue[len(source) :]}"
    if subscription:
        start += "/" + _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", subscription)
    start += ":"
    return Keys(
        start,
        tuple(start + place for place in WORKED),
        start + "plain",
        start + "meta",
        start + "wake",
        start + "subs",
        tuple(start + place for place in CLAIMED),
    )
