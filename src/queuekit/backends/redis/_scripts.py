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

ABSENT = "absent"
"""Named by every script that may reach keys which it does not name, or which come and go; there is never such a key.

While a slot moves, a server refuses to run what names a key that is not there, before anything ran; but a key that a
running script finds missing ends it in the middle of its writes. So no such script ever begins while the slot moves.
"""

CLAIMED = ("meta", "ready", "due", "leases", "runs", "wake")
"""Those of them that `claim.lua` takes. Where all of them are there, so is `ready`, and then it does nothing."""

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
        worked: Those that nearly every script works on, `plain` first; and the one that is never there.
        all: These, and all others.
        plain: Where plain messages are sent to.
        meta: What is known of the queue.
        wake: Where changes are told.
        subs: Which subscriptions there are.
        claimed: What `claim.lua` takes.
    """

    start: str
    worked: tuple[str, ...]
    all: tuple[str, ...]
    plain: str
    meta: str
    wake: str
    subs: str
    claimed: tuple[str, ...]

    def at(self, *places: str) -> tuple[str, ...]:
        """The keys of some places."""
        return tuple(self.start + place for place in places)


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
    return keys_at(start + ":")


def keys_at(start: str) -> Keys:
    """The keys that begin like this."""
    worked = tuple(start + place for place in (*WORKED, ABSENT))
    return Keys(
        start,
        worked,
        (*worked, *(start + place for place in (*PLACES[len(WORKED) :], "subs"))),
        start + "plain",
        start + "meta",
        start + "wake",
        start + "subs",
        tuple(start + place for place in CLAIMED),
    )


class Named(NamedTuple):
    """What the scripts of one backend name in ``KEYS``: all that can be known before they run.

    Keys of subscriptions that others have made cannot be; `ABSENT` is there for them.

    Attributes:
        sending: For messages of any kind.
        receiving: For a receive.
        settling: For settlements, none of which makes a dead letter.
        burying: For those that do.
        everything: For what is rare, the queue's own `plain` first.
    """

    sending: tuple[str, ...]
    receiving: tuple[str, ...]
    settling: tuple[str, ...]
    burying: tuple[str, ...]
    everything: tuple[str, ...]


def named_by(queue: str, subscription: str, *, keeps_done: bool, has_rate: bool) -> Named:
    """What the scripts name that work on a queue, or on a subscription of it."""
    is_dead = queue.endswith(DEAD_SUFFIX)
    other = queue.removesuffix(DEAD_SUFFIX) if is_dead else queue + DEAD_SUFFIX
    own, root = keys_of(queue, subscription), keys_of(queue)
    beyond, beyond_root = keys_of(other, subscription), keys_of(other)
    sent_to, ends = (own, own.at("ends")) if is_dead else (root, ())
    shared = () if is_dead else root.at("plain", "meta", "wake", "subs")
    settling = own.worked + ends + (own.at("done", "past") if keeps_done else ())
    return Named(
        _once(sent_to.worked + sent_to.at("dedup", "forget") + ends + root.at("subs")),
        _once(own.worked + ends + shared + (own.at("rate") if has_rate else ())),
        settling,
        _once(settling + beyond.worked + beyond.at("ends") + beyond_root.at("subs")),
        _once(own.all + beyond.all + root.all + beyond_root.all),
    )


def _once(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))
