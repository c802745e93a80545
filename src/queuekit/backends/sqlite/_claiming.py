# SPDX-License-Identifier: Apache-2.0
"""Leasing messages: what is there, what comes next, and taking it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from queuekit.backend import Clock, IncomingMessage
from queuekit.backends.sqlite._places import RANKS, Queue, Share, end_leases, pack_lease

MAX_CLAIM_BYTES = 64 << 20
"""A claim ends once its bodies have this many bytes, so that large messages cannot fill the memory."""

_EMPTY: Mapping[str, str] = MappingProxyType({})
_CACHED_TEXT = 1024

_OUTLOOK = """
    SELECT EXISTS (SELECT 1 FROM ready WHERE queue = q.id),
           (SELECT min(due) FROM delayed WHERE queue = q.id),
           (SELECT min(until) FROM lease WHERE queue = q.id),
           id,
           received,
           paused
    FROM queue q WHERE name = ? AND subscription = ?
"""
# The joins run in the order of `ready`'s key, best run first, and stop at the limit: the number of rows read
# is the number of messages taken, however many wait behind them or are leased.
_BEST = """
    SELECT m.seq, m.id, m.body, m.attributes, m.metadata, r.attempt + 1, m.enqueued, m.key, m.priority
    FROM ready r CROSS JOIN message m ON m.seq BETWEEN r.first AND r.last
    WHERE r.queue = ? ORDER BY r.rank, r.first, m.seq LIMIT ?
"""
_BEST_OF_RANK = """
    SELECT m.seq, m.id, m.body, m.attributes, m.metadata, r.attempt + 1, m.enqueued, m.key, m.priority
    FROM ready r CROSS JOIN message m ON m.seq BETWEEN r.first AND r.last
    WHERE r.queue = ? AND r.rank = ? ORDER BY r.first, m.seq LIMIT ?
"""


class Moment(NamedTuple):
    """One reading of both clocks."""

    utc: float
    monotonic: float


class Outlook(NamedTuple):
    """Whether something can be claimed now; else when it may be, monotonic, None if only a send can change it.

    Attributes:
        ready: Something can be claimed.
        until: When to look again.
        known: Whether the place is there, and gets what is sent.
        queue: Its id, None where there is none.
    """

    ready: bool
    until: float | None
    known: bool = True
    queue: int | None = None


def look(connection: sqlite3.Connection, name: str, subscription: str, now: Moment) -> Outlook:
    """What a place has to offer, without a write lock."""
    row = connection.execute(_OUTLOOK, (name, subscription)).fetchone()
    if row is None:
        return Outlook(ready=False, until=None, known=False)
    ready, due, until, queue, received, paused = row
    if paused:
        return Outlook(ready=False, until=None, known=bool(received), queue=queue)
    waits = []
    if due is not None:
        # The UTC clock may be set while we wait, so a wait for it is cut into seconds.
        waits.append(min(due - now.utc, 1.0))
    if until is not None:
        waits.append(until - now.monotonic)
    if ready or any(wait <= 0 for wait in waits):
        return Outlook(ready=True, until=None, known=bool(received), queue=queue)
    later = now.monotonic + min(waits) if waits else None
    return Outlook(ready=False, until=later, known=bool(received), queue=queue)


class Claim:
    """One lease, and the messages that it takes. Runs in a write transaction.

    Args:
        connection: In a write transaction.
        queue: Whose messages.
        now: Decides what is due and which leases have ended.
        until: The end of the new lease, monotonic.
        lease: Its id, never used before: the handles' fencing token.
    """

    def __init__(self, connection: sqlite3.Connection, queue: Queue, now: Moment, until: float, lease: int) -> None:
        self._connection = connection
        self._queue = queue
        self._now = now
        self._until = until
        self._lease = lease
        self._messages: list[IncomingMessage] = []
        self._shares: list[tuple[int, Share]] = []
        self._size = 0

    def take_best(self, limit: int) -> list[IncomingMessage]:
        """Lease up to ``limit`` messages, the best ones."""
        _refill(self._connection, self._queue, self._now)
        if self._read(self._connection.execute(_BEST, (self._queue.id, limit))):
            _consume(self._connection, self._queue, *self._shares[-1])
        self._save()
        return self._messages

    def take_weighted(self, limit: int, clock: Clock) -> list[IncomingMessage]:
        """Lease up to ``limit`` messages, each of a priority drawn by its weight among those that have any."""
        _refill(self._connection, self._queue, self._now)
        ranks = [rank for rank in range(RANKS) if self._has(rank)]
        if not ranks:
            return []
        drawn = Counter(clock.random.choices(ranks, [RANKS - rank for rank in ranks], k=limit))
        for rank in ranks:
            self._take_rank(rank, drawn[rank])
        for rank in ranks:  # a priority with fewer messages than its share leaves room
            self._take_rank(rank, limit - len(self._messages))
        best_first = sorted(
            zip(self._shares, self._messages, strict=True), key=lambda each: (each[0][1][0], each[0][0])
        )
        self._save()
        return [message for _, message in best_first]

    def _has(self, rank: int) -> bool:
        values = (self._queue.id, rank)
        found = self._connection.execute("SELECT 1 FROM ready WHERE queue = ? AND rank = ? LIMIT 1", values)
        return found.fetchone() is not None

    def _take_rank(self, rank: int, limit: int) -> None:
        if limit <= 0 or self._size > MAX_CLAIM_BYTES:
            return
        if self._read(self._connection.execute(_BEST_OF_RANK, (self._queue.id, rank, limit))):
            _consume_rank(self._connection, self._queue, rank, self._shares[-1][0])

    def _read(self, cursor: sqlite3.Cursor) -> bool:
        """Take over the rows of a statement until they are too large; whether there was any."""
        lease, until, messages, shares = self._lease, self._until, self._messages, self._shares
        new, make, read, best = tuple.__new__, IncomingMessage, _read_mapping, RANKS - 1
        text, mapping, size, before = "", _EMPTY, self._size, len(messages)
        # The hottest loop of the backend: a tuple of known length is made at a third of a constructor's cost.
        for seq, message_id, body, attributes, metadata, attempt, enqueued, key, priority in cursor:
            attributes_ = read(attributes) if attributes else _EMPTY
            if metadata != text:  # hardly ever: most neighbours have the same
                text, mapping = metadata, read_mapping(metadata)
            fields = (
                (lease, seq),
                message_id,
                body,
                attributes_,
                mapping,
                attempt,
                enqueued,
                until,
                key,
                priority,
                None,
                None,
                None,
            )
            messages.append(new(make, fields))
            shares.append((seq, (best - priority, attempt, 0 if key is None else 1)))
            size += len(body)
            if size > MAX_CLAIM_BYTES:
                break
        cursor.close()
        self._size = size
        return len(messages) > before

    def _save(self) -> None:
        if self._shares:
            row = (self._lease, self._until, self._queue.id, *pack_lease(sorted(self._shares)))
            self._connection.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?)", row)


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
    connection.execute("DELETE FROM ready WHERE queue = ? AND rank < ?", (queue.id, share[0]))
    _consume_rank(connection, queue, share[0], seq)


def _consume_rank(connection: sqlite3.Connection, queue: Queue, rank: int, seq: int) -> None:
    """Take the claimed messages of a rank, of which this is the last, out of ``ready``."""
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
