# SPDX-License-Identifier: Apache-2.0
"""What a server says about itself."""

from __future__ import annotations

import re
from dataclasses import replace

from redis import exceptions

from queuekit.backend import Capabilities
from queuekit.backends.redis._connections import Way
from queuekit.backends.redis._errors import NotPrimaryError, ServerTooOldError

OLDEST = (6, 2)

_LINE = re.compile(rb"^(\w+):([^\r\n]*)", re.MULTILINE)
_VERSION = re.compile(r"(\d+)\.(\d+)")


def look(connections: Way, key: str, can: Capabilities, *, timeout_s: float) -> Capabilities:
    """The capabilities as the server bears them out.

    A user who may not ask ``INFO`` still has a probe of the connection; what it would have told stays assumed.

    Args:
        connections: The way to the server.
        key: One of the queue's.
        can: The capabilities as far as the URL tells.
        timeout_s: How long the server may take.

    Raises:
        NotPrimaryError: It is a replica.
        ServerTooOldError: It is older than `OLDEST`.
        RedisError: It could not be asked.
    """
    try:
        text = connections.call("INFO", "everything", timeout_s=timeout_s)
    except exceptions.NoPermissionError:
        connections.call("EXISTS", key, timeout_s=timeout_s)
        return replace(can, assumed=frozenset({"durability", "server"}))
    facts = facts_of(text)
    name, version = name_of(facts)
    found = _VERSION.match(facts.get("redis_version", ""))
    if found and (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        msg = f"{name} {version} is too old; {oldest} or later is needed"
        raise ServerTooOldError(msg)
    if facts.get("role") == "slave":
        msg = f"{name} {version} is a replica"
        raise NotPrimaryError(msg)
    # A snapshot now and then does not keep what was accepted since.
    lasting = facts.get("aof_enabled") == "1"
    return replace(can, server=f"{name} {version}", durability="disk" if lasting else "process")


def facts_of(text: bytes) -> dict[str, str]:
    """The lines of an answer to ``INFO``, or to another command that answers like it."""
    return {name.decode(): value.decode("utf-8", "replace") for name, value in _LINE.findall(text)}


def name_of(facts: dict[str, str]) -> tuple[str, str]:
    """Name and version of a server; Valkey calls itself a Redis of the version that it began from, too."""
    if "valkey_version" in facts:
        return "Valkey", facts["valkey_version"]
    return "Redis", facts.get("redis_version", "of an unknown version")
