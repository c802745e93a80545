# SPDX-License-Identifier: Apache-2.0
"""Leasing messages: what is there, what comes next, and taking it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from queuekit.backend import IncomingMessage
from queuekit.backends.sqlite._places import RANKS, Queue, Share, end_leases, pack_lease

MAX_CLAIM_BYTES = 64 << 20
"""A claim ends once its bodies have this many bytes, so that large messages cannot fill the memory."""

_EMPTY: Mapping[str, str] = MappingProxyType({})
_CACHED_TEXT = 1024

_OUTLOOK = """
    SELECT EXISTS (SELECT 1 FROM ready WHERE queue = q.id),
           (SELECT min(due) FROM delayed WHERE queue = q.id),
           (SELECT min(until) FROM lease WHERE queue = q.id),
           id
    FROM queue q WHERE name = ?
"""
# The joins run in the order of `ready`'s key, best run first, and stop at the limit: the number of rows read
# is the number of messages taken, however many wait behind them or are leased.
_BEST = """
    SELECT m.seq, m.id, m.body, m.attributes, m.metadata, r.attempt + 1, m.enqueued, m.key, m.priority
    FROM ready r CROSS JOIN message m ON m.seq BETWEEN r.first AND r.last
    WHERE r.queue = ? ORDER BY r.rank, r.first, m.seq LIMIT ?
"""


class Moment(NamedTuple):
    """One reading of both clocks."""

    utc: float
    monotonic: float


class Outlook(NamedTuple):
    """Whether something can be claimed now; else when it may be, monotonic, None if only a send can change it.

    `queue` is the queue's id, None where there is none.
    """

    ready: bool
    until: float | None
    queue: int | None = None


def look(connection: sqlite3.Connection, name: str, now: Moment) -> Outlook:
    """What a queue has to offer, without a write lock."""
    row = connection.execute(_OUTLOOK, (name,)).fetchone()
    if row is None:
        return Outlook(ready=False, until=None)
    ready, due, until, queue = row
    waits = []
    if due is not None:
        # The UTC clock may be set while we wait, so a wait for it is cut into seconds.
        waits.append(min(due - now.utc, 1.0))
    if until is not None:
        waits.append(until - now.monotonic)
    if ready or any(wait <= 0 for wait in waits):
        return Outlook(ready=True, until=None, queue=queue)
    return Outlook(ready=False, until=now.monotonic + min(waits) if waits else None, queue=queue)


def claim(
    connection: sqlite3.Connection, queue: Queue, *, limit: int, now: Moment, until: float, lease: int
) -> list[IncomingMessage]:
    """Lease the best messages of a queue. Runs in a write transaction.

    Args:
        connection: In a write transaction.
        queue: Whose messages.
        limit: At most this many.
        now: Decides what is due and which leases have ended.
        until: The end of the new lease, monotonic.
        lease: Its id, never used before: the handles' fencing token.
    """
    _refill(connection, queue, now)
    messages: list[IncomingMessage] = []
    shares: list[tuple[int, Share]] = []
    new, make, read, best = tuple.__new__, IncomingMessage, _read_mapping, RANKS - 1
    text, mapping, size = "", _EMPTY, 0
    cursor = connection.execute(_BEST, (queue.id, limit))
    # The hottest loop of the backend: a tuple of known length is made at a third of a constructor's cost.
    for seq, message_id, body, attributes, metadata, attempt, enqueued, key, priority in cursor:
        attributes_ = read(attributes) if attributes else _EMPTY
        if metadata != text:  # hardly ever: most neighbours have the same
            text, mapping = metadata, read_mapping(metadata)
        fields = ((lease, seq), message_id, body, attributes_, mapping, attempt, enqueued, until, key, priority, None)
        messages.append(new(make, fields))
        shares.append((seq, (best - priority, attempt, 0 if key is None else 1)))
        size += len(body)
        if size > MAX_CLAIM_BYTES:
            break
    cursor.close()
    if messages:
        _consume(connection, queue, *shares[-1])
        shares.sort()
        connection.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?)", (lease, until, queue.id, *pack_lease(shares)))
    return messages


def _refill(connection: sqlite3.Connection, queue: Queue, now: Moment) -> None:
    """Make ready what is due and whatever a lease held too long."""
    end_leases(connection, "queue = ? AND until <= ?", (queue.id, now.monotonic))
    due = (queue.id, now.utc)
    if connection.execute("SELECT 1 FROM delayed WHERE queue = ? AND due <= ? LIMIT 1", due).fetchone():
        connection.execute(
            "INSERT INTO ready SELECT queue, rank, first, last, attempt FROM delayed WHERE queue = ? AND due <= ?",
            due,
        )
        connection.execute("DELETE FROM delayed WHERE queue = ? AND due <= ?", due)


def _consume(connection: sqlite3.Connection, queue: Queue, seq: int, share: Share) -> None:
    """Take the claimed messages, of which this is the last, out of ``ready``."""
    rank = share[0]
    connection.execute("DELETE FROM ready WHERE queue = ? AND rank < ?", (queue.id, rank))
    connection.execute(
        "DELETE FROM ready WHERE queue = ? AND rank = ? AND first <= ? AND last <= ?", (queue.id, rank, seq, seq)
    )
    connection.execute(
        "UPDATE ready SET first = ? WHERE queue = ? AND rank = ? AND first <= ?", (seq + 1, queue.id, rank, seq)
    )


def _read_mapping(text: str) -> Mapping[str, str]:
    return _read_short(text) if len(text) <= _CACHED_TEXT else MappingProxyType(json.loads(text))


@lru_cache(maxsize=512)
def _read_short(text: str) -> Mapping[str, str]:
    # Many messages share one text, and so they share one mapping, which nobody can change.
    return MappingProxyType(json.loads(text))


def read_mapping(text: str) -> Mapping[str, str]:
    """The mapping that `_places.add` wrote."""
    return _read_mapping(text) if text else _EMPTY
