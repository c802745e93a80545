# SPDX-License-Identifier: Apache-2.0
"""What of a server's settings can lose messages, or will surprise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from redis import exceptions

from queuekit.backend import Finding
from queuekit.backends.redis._probing import facts_of, name_of

Facts: TypeAlias = Mapping[str, str]

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
# The first versions without CVE-2025-49844, by which a script leaves the Lua engine; older branches have none.
_MENDED = {
    "Redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "Valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
_LAST_S = "up to two seconds of what was accepted last, when the server or its host crashes"
_AT_A_FAILOVER = "what was accepted last, when a replica takes over"

_NO_INFO = Finding(
    severity="note",
    code="info_denied",
    text="the server does not let INFO be asked, so that nothing is known about what it keeps",
    remedy="allow the user INFO, or ask whoever runs the server for its persistence and its maxmemory-policy",
    loses="whatever the server's own settings leave open, which may not be asked",
)
_NO_CONFIG = Finding(
    severity="note",
    code="config_denied",
    text="the server does not let CONFIG GET be asked, as managed services do not, so that appendfsync, the "
    "snapshots and min-replicas-to-write are not known",
    remedy="look at the parameters that the service shows for it",
)
_NOTHING_KEPT = Finding(
    severity="loss",
    code="no_append_file",
    text="the server writes no append-only file, and no snapshots",
    remedy="set appendonly to yes",
    loses="every message, when the server ends",
)
_PERHAPS_SNAPSHOTS = Finding(
    severity="loss",
    code="no_append_file",
    text="the server writes no append-only file",
    remedy="set appendonly to yes, or use a service that does",
    loses="every message since the last snapshot, if there are any, when the server ends",
)
_SNAPSHOTS_ONLY = Finding(
    severity="loss",
    code="snapshots_only",
    text="the server writes no append-only file, only a snapshot now and then",
    remedy="set appendonly to yes",
    loses="every message since the last snapshot, when the server ends",
)
_FAILED_SNAPSHOTS_IGNORED = Finding(
    severity="warning",
    code="failed_snapshots_ignored",
    text="the server goes on when its snapshots fail, so that the last one may be old",
    remedy="set stop-writes-on-bgsave-error to yes",
)
_SNAPSHOT_FAILED = Finding(
    severity="warning",
    code="snapshot_failed",
    text="the server's last snapshot failed, and it refuses writes until one succeeds",
    remedy="look at the server's log, and at the room on its disk",
)
_NEVER_SYNCED = Finding(
    severity="loss",
    code="fsync_no",
    text="appendfsync is no: the server leaves it to the system when its append-only file reaches the disk",
    remedy="set appendfsync to everysec or always",
    loses="half a minute of what was accepted last, or more, when the server's host crashes",
)
_SYNCED_EACH_SECOND = Finding(
    severity="note",
    code="fsync_everysec",
    text="appendfsync is everysec: the server answers first, and the disk has it up to two seconds later",
    remedy="set appendfsync to always where not even that may be lost",
    loses=_LAST_S,
)
_NOT_SYNCED_DURING_REWRITES = Finding(
    severity="warning",
    code="no_fsync_during_rewrite",
    text="no-appendfsync-on-rewrite is yes: while the append-only file is rewritten, nothing is forced to the disk",
    remedy="set no-appendfsync-on-rewrite to no",
    loses="half a minute of what was accepted last, or more, when the server's host crashes during a rewrite",
)
_FILE_FAILING = Finding(
    severity="loss",
    code="append_file_failing",
    text="the server's last write to its append-only file failed",
    remedy="look at the server's log, and at the room on its disk",
    loses="what is accepted until the file can be written again, when the server ends",
)
_REPLICA = Finding(
    severity="loss",
    code="replica",
    text="the server is a replica: it refuses writes, or drops them at its next synchronization",
    remedy="name its primary, or use a redis+sentinel URL, which follows it",
    loses="whatever is sent, as a replica does not keep it",
)
_NO_MEMORY_LIMIT = Finding(
    severity="note",
    code="no_memory_limit",
    text="the server has no maxmemory: a backlog may grow until the system ends the server for want of memory",
    remedy="set maxmemory below what the host has; sends are refused with QueueFullError then",
)


def diagnose(ask: Callable[..., Any]) -> list[Finding]:
    """Everything about the settings of one server.

    Args:
        ask: Runs a command in it.

    Raises:
        RedisError: It could not be reached.
    """
    try:
        facts = facts_of(ask("INFO", "everything"))
    except exceptions.NoPermissionError:
        return [_NO_INFO]
    settings = _Settings(ask)
    found = [
        *_role(facts),
        *_eviction(facts),
        *_persistence(facts, settings),
        *_replication(facts, settings),
        *_cluster(facts, ask),
        *_version(facts),
    ]
    return [*found, _NO_CONFIG] if settings.denied else found


class _Settings:
    """What ``CONFIG GET`` tells, where it may be asked."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask
        self.denied = False

    def get(self, name: str) -> str | None:
        """One setting; None where it may not be asked, or there is none."""
        if self.denied:
            return None
        try:
            found = self._ask("CONFIG", "GET", name)
        except exceptions.ResponseError:  # forbidden, renamed, or taken out of a managed service
            self.denied = True
            return None
        return found[1].decode("utf-8", "replace") if found else None


def _role(facts: Facts) -> Iterator[Finding]:
    if facts.get("role") == "slave":
        yield _REPLICA


def _eviction(facts: Facts) -> Iterator[Finding]:
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy.startswith("volatile-"):
        yield Finding(
            severity="loss",
            code="eviction",
            text=f"maxmemory-policy is {policy}: a server without memory drops keys that have a time to live",
            remedy="set maxmemory-policy to noeviction",
            loses="what is remembered of dedup ids and of work that was done, when the server's memory runs out",
        )
    elif policy != "noeviction":
        yield Finding(
            severity="loss",
            code="eviction",
            text=f"maxmemory-policy is {policy}: a server that runs out of memory drops keys, and so whole queues",
            remedy="set maxmemory-policy to noeviction",
            loses="whole queues, when the server's memory runs out",
        )
    if facts.get("maxmemory") == "0":
        yield _NO_MEMORY_LIMIT


def _persistence(facts: Facts, settings: _Settings) -> Iterator[Finding]:
    if facts.get("aof_enabled") == "1":
        yield from _append_file(facts, settings)
    elif (save := settings.get("save")) is None:
        yield _PERHAPS_SNAPSHOTS
    elif not save:
        yield _NOTHING_KEPT
    else:
        yield _SNAPSHOTS_ONLY
        if settings.get("stop-writes-on-bgsave-error") == "no":
            yield _FAILED_SNAPSHOTS_IGNORED
    if facts.get("rdb_last_bgsave_status") == "err" and settings.get("stop-writes-on-bgsave-error") == "yes":
        yield _SNAPSHOT_FAILED


def _append_file(facts: Facts, settings: _Settings) -> Iterator[Finding]:
    if facts.get("aof_last_write_status") == "err":
        yield _FILE_FAILING
    by = {"no": _NEVER_SYNCED, "everysec": _SYNCED_EACH_SECOND}.get(settings.get("appendfsync") or "")
    if by is not None:
        yield by
    if by is not _NEVER_SYNCED and settings.get("no-appendfsync-on-rewrite") == "yes":
        yield _NOT_SYNCED_DURING_REWRITES


def _replication(facts: Facts, settings: _Settings) -> Iterator[Finding]:
    if facts.get("role") != "master" or facts.get("connected_slaves", "0") == "0":
        return
    least = settings.get("min-replicas-to-write")
    if least == "0":
        yield Finding(
            severity="warning",
            code="asynchronous_replicas",
            text="the server answers whether its replicas follow or not, as min-replicas-to-write is 0",
            remedy="set min-replicas-to-write to 1, and min-replicas-max-lag to a few seconds",
            loses=_AT_A_FAILOVER,
        )
    else:
        yield Finding(
            severity="note",
            code="asynchronous_replicas",
            text="the server answers before its replicas have got a message",
            loses=_AT_A_FAILOVER,
        )


def _cluster(facts: Facts, ask: Callable[..., Any]) -> Iterator[Finding]:
    if facts.get("cluster_enabled") != "1":
        return
    try:
        state = facts_of(ask("CLUSTER", "INFO")).get("cluster_state", "")
    except exceptions.NoPermissionError:
        return
    if state != "ok":
        yield Finding(
            severity="warning",
            code="cluster_not_ok",
            text=f"the cluster's state is {state or 'unknown'}: some of its slots, or all, are not served",
            remedy="look at CLUSTER INFO and CLUSTER NODES",
        )


def _version(facts: Facts) -> Iterator[Finding]:
    name, version = name_of(dict(facts))
    parts = _VERSION.match(version)
    if parts is None:
        return
    branch, patch, mended = (int(parts[1]), int(parts[2])), int(parts[3]), _MENDED[name]
    if branch > max(mended) or (branch in mended and patch >= mended[branch]):
        return
    versions = ", ".join(f"{major}.{minor}.{least}" for (major, minor), least in mended.items())
    yield Finding(
        severity="warning",
        code="old_server",
        text=f"{name} {version} lets whoever may run scripts take the server over (CVE-2025-49844), unless its "
        "packager has mended that",
        remedy=f"update to one of {versions}, or to a later one",
    )
