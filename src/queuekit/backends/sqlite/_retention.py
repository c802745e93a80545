# SPDX-License-Identifier: Apache-2.0
"""What is kept for a time: messages that are done, where that is wanted, and dead letters.

How long is decided when a message gets there, by the options of whoever puts it there; whoever comes by later
removes what has been kept for long enough, a few hundred messages at a time.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from queuekit.backend import OutgoingMessage
from queuekit.backends.sqlite._claiming import Moment
from queuekit.backends.sqlite._managing import withdraw
from queuekit.backends.sqlite._places import DEAD_SUFFIX, Queue, add, coalesce, end_leases, find_untidy

TIDY_EVERY_S = 60.0
"""How often a backend looks whether something has been kept for long enough."""

_AT_ONCE = 500
_GRAIN = 64
_LEASED_S = 60.0

_KEEP = """
    INSERT INTO done SELECT seq, ?, ?, ?, ?, id, enqueued, priority, key, attributes, metadata, body
    FROM message WHERE seq BETWEEN ? AND ?
"""
_FORGET = "DELETE FROM done WHERE seq IN (SELECT seq FROM done WHERE queue = ? AND until <= ? ORDER BY until LIMIT ?)"


class Retention(NamedTuple):
    """What a backend's options say.

    Attributes:
        done_s: How long messages are kept when they are done; None keeps none.
        done_max: The most of them in one place.
        dead_letter_s: How long dead letters are kept, at least.
    """

    done_s: float | None
    done_max: int
    dead_letter_s: float


def keep_done(
    connection: sqlite3.Connection,
    queue: Queue,
    done: Sequence[tuple[int, int]],
    now: float,
    retention: Retention,
) -> None:
    """Copy messages that are about to be removed to where they can be looked at. ``done``: number, attempt."""
    until = now + (retention.done_s or 0.0)
    runs = [(queue.id, until, now, attempt, first, last) for first, last, attempt in coalesce(done)]
    kept = connection.executemany(_KEEP, runs).rowcount
    connection.execute("UPDATE queue SET done = done + ? WHERE id = ?", (kept, queue.id))
    excess = min(queue.done + kept - retention.done_max, kept + _AT_ONCE)
    if excess > 0:
        _forget_done(connection, queue, math.inf, excess)
    _tidy_by(connection, queue, until)


def add_letters(
    connection: sqlite3.Connection, dead: Queue, letters: Sequence[OutgoingMessage], now: float, retention: Retention
) -> None:
    """Store dead letters, for as long as the options say."""
    add(connection, dead, letters, now)
    # Rounded up, so that neighbours share a row: there are as many rows as grains, whatever is buried.
    grain = max(retention.dead_letter_s / _GRAIN, 1.0)
    until = math.ceil((now + retention.dead_letter_s) / grain) * grain
    first = dead.low + dead.next
    last = first + len(letters) - 1
    joined = connection.execute(
        "UPDATE expiry SET last = ? WHERE queue = ? AND until = ? AND last = ?", (last, dead.id, until, first - 1)
    ).rowcount
    if not joined:
        connection.execute("INSERT INTO expiry VALUES (?, ?, ?, ?)", (dead.id, until, first, last))
    _tidy_by(connection, dead, until)


def forget_gone(connection: sqlite3.Connection, queue: Queue) -> None:
    """Once a dead-letter queue is empty, nothing in it expires any more."""
    if queue.tidy is None or not queue.name.endswith(DEAD_SUFFIX):
        return
    held = connection.execute("SELECT held FROM queue WHERE id = ?", (queue.id,)).fetchone()[0]
    if not held:
        connection.execute("DELETE FROM expiry WHERE queue = ?", (queue.id,))
        _set_tidy(connection, queue)


def is_untidy(connection: sqlite3.Connection, now: float) -> bool:
    """Whether `tidy` would find something."""
    return bool(find_untidy(connection, now, 1))


def tidy(connection: sqlite3.Connection, now: Moment) -> bool:
    """Remove what has been kept for long enough, in the whole file, some hundred messages at most.

    Returns:
        Whether there is more to do.
    """
    left = _AT_ONCE
    for queue in find_untidy(connection, now.utc, _AT_ONCE):
        if left <= 0:
            return True
        left -= 1 + _forget_done(connection, queue, now.utc, left)
        left -= _remove_letters(connection, queue, now, left)
        _set_tidy(connection, queue)
    return left <= 0


def _forget_done(connection: sqlite3.Connection, queue: Queue, until: float, limit: int) -> int:
    forgotten = connection.execute(_FORGET, (queue.id, until, limit)).rowcount
    if forgotten:
        connection.execute("UPDATE queue SET done = done - ? WHERE id = ?", (forgotten, queue.id))
    return forgotten


def _remove_letters(connection: sqlite3.Connection, queue: Queue, now: Moment, limit: int) -> int:
    runs = connection.execute(
        "SELECT until, first, last FROM expiry WHERE queue = ? AND until <= ? ORDER BY until LIMIT ?",
        (queue.id, now.utc, max(limit, 0)),
    ).fetchall()
    if runs:
        end_leases(connection, "queue = ? AND until <= ?", (queue.id, now.monotonic))
    looked_at = 0
    for until, first, last in runs:
        if looked_at >= limit:
            break
        found = connection.execute(
            "SELECT seq, id FROM message WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
            (first, last, limit - looked_at),
        ).fetchall()
        looked_at += 1 + len(found)
        leased = [seq for seq, message_id in found if not withdraw(connection, queue, seq, message_id, now)]
        connection.execute("DELETE FROM expiry WHERE queue = ? AND until = ? AND first = ?", (queue.id, until, first))
        later = [(queue.id, now.utc + _LEASED_S, seq, seq) for seq in leased]
        if looked_at > limit and found[-1][0] < last:
            later.append((queue.id, until, found[-1][0] + 1, last))
        connection.executemany("INSERT INTO expiry VALUES (?, ?, ?, ?)", later)
    return looked_at


def _tidy_by(connection: sqlite3.Connection, queue: Queue, until: float) -> None:
    if queue.tidy is None or until < queue.tidy:
        connection.execute("UPDATE queue SET tidy = ? WHERE id = ?", (until, queue.id))


def _set_tidy(connection: sqlite3.Connection, queue: Queue) -> None:
    connection.execute(
        "UPDATE queue SET tidy = (SELECT min(until) FROM (SELECT min(until) AS until FROM done WHERE queue = :id"
        " UNION ALL SELECT min(until) FROM expiry WHERE queue = :id)) WHERE id = :id",
        {"id": queue.id},
    )
