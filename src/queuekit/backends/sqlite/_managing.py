# SPDX-License-Identifier: Apache-2.0
"""Everything beside sending, receiving and settling: counting, peeking, cancelling, emptying, redriving."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Literal

from queuekit.backend import LEASE_LOST, SETTLED, OutgoingMessage, QueueStats, SettleOutcome, StoredMessage
from queuekit.backends.sqlite._claiming import Moment, read_mapping
from queuekit.backends.sqlite._places import (
    DEAD_SUFFIX,
    MAX_RUN,
    RANKS,
    Queue,
    add,
    end_leases,
    find_run,
    make_queue,
    next_of_key,
    remove,
    take_out,
    unpack_lease,
)

_COUNTS = """
    SELECT (SELECT coalesce(sum(last - first + 1), 0) FROM ready WHERE queue = q.id)
         + (SELECT coalesce(sum(last - first + 1), 0) FROM delayed WHERE queue = q.id AND due <= :utc)
         + (SELECT coalesce(sum(held), 0) FROM lease WHERE queue = q.id AND until <= :monotonic),
           (SELECT coalesce(sum(held), 0) FROM lease WHERE queue = q.id AND until > :monotonic),
           q.held,
           (SELECT held FROM queue WHERE name = :dead AND subscription = :subscription),
           q.done - (SELECT count(*) FROM done WHERE queue = q.id AND until <= :utc)
    FROM queue q WHERE name = :name AND subscription = :subscription
"""
_PAGE_OF_MESSAGES = """
    SELECT seq, id, body, attributes, metadata, enqueued, due, key, priority
    FROM message WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?
"""
_PAGE_OF_DONE = """
    SELECT seq, id, body, attributes, metadata, attempt, enqueued, key, priority, at
    FROM done WHERE seq > ? AND seq <= ? AND until > ? ORDER BY seq LIMIT ?
"""

_LETTER_BY_ID = "SELECT seq FROM message INDEXED BY message_id WHERE id = ? AND seq BETWEEN ? AND ? AND findable = 1"
_BY_ID = (
    _LETTER_BY_ID,
    "SELECT seq FROM message NOT INDEXED WHERE id = ? AND seq BETWEEN ? AND ? AND findable = 0",
)


def count(connection: sqlite3.Connection, name: str, subscription: str, now: Moment) -> QueueStats:
    """The messages of a place, by state."""
    values = {"name": name, "dead": name + DEAD_SUFFIX, "subscription": subscription, **now._asdict()}
    row = connection.execute(_COUNTS, values).fetchone()
    if row is None:
        return QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)
    ready, leased, held, dead, done = row
    return QueueStats(ready=ready, delayed=held - ready - leased, leased=leased, dead=dead or 0, done=done)


def peek(connection: sqlite3.Connection, queue: Queue, *, limit: int, after: int, now: Moment) -> list[StoredMessage]:
    """Up to ``limit`` messages of a queue from behind the number ``after``."""
    rows = connection.execute(_PAGE_OF_MESSAGES, (queue.low + after, queue.high, limit)).fetchall()
    if not rows:
        return []
    places = _places_between(connection, queue, rows[0][0], rows[-1][0], now)
    return [_stored(row, places.get(row[0]), queue, now) for row in rows]


def peek_done(
    connection: sqlite3.Connection, queue: Queue, *, limit: int, after: int, now: Moment
) -> list[StoredMessage]:
    """Up to ``limit`` messages that are done and kept, from behind the number ``after``."""
    rows = connection.execute(_PAGE_OF_DONE, (queue.low + after, queue.high, now.utc, limit))
    return [
        StoredMessage(
            message_id,
            body,
            read_mapping(attributes),
            read_mapping(metadata),
            "done",
            attempt,
            enqueued,
            enqueued,
            key,
            priority,
            str(seq - queue.low),
            done_at,
        )
        for seq, message_id, body, attributes, metadata, attempt, enqueued, key, priority, done_at in rows
    ]


_Place = tuple[Literal["ready", "leased"], int, float]


def _places_between(
    connection: sqlite3.Connection, queue: Queue, low: int, high: int, now: Moment
) -> dict[int, _Place]:
    """State, attempt and due time of the messages in a range; those held behind their key are left out."""
    found: dict[int, _Place] = {}
    runs = connection.execute(
        f"SELECT first, last, attempt, 0.0 FROM ready"  # noqa: S608 - our own text
        f" WHERE queue = ? AND rank IN ({', '.join(map(str, range(RANKS)))}) AND first BETWEEN ? AND ?"
        " UNION ALL SELECT first, last, attempt, due FROM delayed WHERE first BETWEEN ? AND ?",
        (queue.id, low - MAX_RUN, high, max(low - MAX_RUN, queue.low), high),
    )
    for first, last, attempt, due in runs:
        for seq in range(max(first, low), min(last, high) + 1):
            found[seq] = ("ready", attempt, due)
    for until, text in connection.execute("SELECT until, runs FROM lease WHERE queue = ?", (queue.id,)):
        state: Literal["ready", "leased"] = "leased" if until > now.monotonic else "ready"
        for seq, (_, attempt, _) in unpack_lease(text).items():
            if low <= seq <= high:
                found[seq] = (state, attempt, 0.0)
    return found


def _stored(row: Any, where: _Place | None, queue: Queue, now: Moment) -> StoredMessage:
    seq, message_id, body, attributes, metadata, enqueued, due, key, priority = row
    state: Literal["ready", "delayed", "leased"] = "delayed"
    attempt = 0
    if where is not None:
        place_state, attempt, place_due = where
        due = place_due or due
        state = "delayed" if place_due > now.utc else place_state
    return StoredMessage(
        message_id=message_id,
        body=body,
        attributes=read_mapping(attributes),
        metadata=read_mapping(metadata),
        state=state,
        attempt=attempt,
        enqueued_at=enqueued,
        due_at=due or enqueued,
        ordering_key=key,
        priority=priority,
        cursor=str(seq - queue.low),
    )


def find_candidates(connection: sqlite3.Connection, queue: Queue, message_id: str) -> list[int]:
    """The messages with an id: by the index where it knows the id, else by reading the queue."""
    span = (message_id, queue.low, queue.high)
    for statement in _BY_ID:
        found = connection.execute(statement, span).fetchall()
        if found:
            return [seq for (seq,) in found]
    return []


def cancel(
    connection: sqlite3.Connection, queue: Queue, candidates: Sequence[int], message_id: str, now: Moment
) -> bool:
    """Remove those candidates that still have the id, are not leased, and of which no attempt counts."""
    removed = [withdraw(connection, queue, seq, message_id, now, most_attempts=0) for seq in candidates]
    return any(removed)


def withdraw(
    connection: sqlite3.Connection,
    queue: Queue,
    seq: int,
    message_id: str,
    now: Moment,
    *,
    most_attempts: int | None = None,
) -> bool:
    """Remove one message that is not leased; False if it is, or is gone, or had more attempts."""
    row = connection.execute(
        "SELECT priority, key FROM message WHERE seq = ? AND id = ?", (seq, message_id)
    ).fetchone()
    if row is None:
        return False
    rank, keyed = RANKS - 1 - row[0], 0 if row[1] is None else 1
    run = find_run(connection, queue, seq, rank)
    if run is None:
        head = next_of_key(connection, queue, row[1]) if keyed else None
        if head is None or head[0] == seq:
            return False  # in no run, and not held behind its key: so it is leased
        remove(connection, queue, [(seq, 0)], now.utc)
        return True
    if most_attempts is not None and run.attempt > most_attempts:
        return False
    take_out(connection, queue, run, seq, rank)
    remove(connection, queue, [(seq, keyed)], now.utc)
    return True


def purge(connection: sqlite3.Connection, queue: Queue, now: Moment) -> int:
    """Remove every message that no live lease holds. Returns how many."""
    leases = connection.execute(
        "SELECT runs FROM lease WHERE queue = ? AND until > ?", (queue.id, now.monotonic)
    ).fetchall()
    kept = sorted((run[0], run[1]) for (runs,) in leases for run in json.loads(runs))
    gaps, low = [], queue.low
    for first, last in kept:
        gaps.append((low, first - 1))
        low = last + 1
    gaps.append((low, queue.high))
    removed = connection.executemany("DELETE FROM message WHERE seq BETWEEN ? AND ?", gaps).rowcount
    for place in ("ready", "delayed"):
        connection.execute(f"DELETE FROM {place} WHERE queue = ?", (queue.id,))  # noqa: S608 - our own text
    connection.execute("DELETE FROM lease WHERE queue = ? AND until <= ?", (queue.id, now.monotonic))
    connection.execute("UPDATE queue SET held = held - ? WHERE id = ?", (removed, queue.id))
    return removed


def delete(connection: sqlite3.Connection, queue: Queue) -> None:
    """Remove a place and everything that belongs to it."""
    connection.execute("DELETE FROM message WHERE seq BETWEEN ? AND ?", (queue.low, queue.high))
    for place in ("ready", "delayed", "lease", "dedup", "done", "expiry"):
        connection.execute(f"DELETE FROM {place} WHERE queue = ?", (queue.id,))  # noqa: S608 - our own text
    connection.execute("DELETE FROM queue WHERE id = ?", (queue.id,))


def redrive(
    connection: sqlite3.Connection, dead: Queue, batch: Sequence[OutgoingMessage], now: Moment
) -> list[SettleOutcome]:
    """Move dead letters back to the place that they came from."""
    # Nobody has a dead letter whose lease is over, also when nobody has received since.
    end_leases(connection, "queue = ? AND until <= ?", (dead.id, now.monotonic))
    outcomes: list[SettleOutcome] = []
    back: list[OutgoingMessage] = []
    for message in batch:
        # By the index alone, which has every dead letter: others may have moved them all, and writers wait.
        found = connection.execute(_LETTER_BY_ID, (message.message_id, dead.low, dead.high)).fetchall()
        moved = any(withdraw(connection, dead, seq, message.message_id, now) for (seq,) in found)
        outcomes.append(SETTLED if moved else LEASE_LOST)
        if moved:
            back.append(message)
    if back:
        source = make_queue(connection, dead.name.removesuffix(DEAD_SUFFIX), dead.subscription)
        add(connection, source, back, now.utc)
    return outcomes
