# SPDX-License-Identifier: Apache-2.0
"""Moving messages between the four places that `_schema` describes. Every function runs in a write transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from queuekit.backend import OutgoingMessage
from queuekit.backends.sqlite._schema import SEQUENCE_BITS

MAX_RUN = 1000
"""Longest run, so that the run that holds a message can be found near it."""

DEAD_SUFFIX = ".dead"
RANKS = 10

K = TypeVar("K")
Spot = tuple[int, float, int]
"""Where an unleased message is to go: rank (0 for the highest priority), due, attempt."""
Share = tuple[int, int, int]
"""What a lease knows of a message: rank, attempt, and whether it has an ordering key (0 or 1)."""


_PLAIN: Spot = (RANKS - 1, 0.0, 0)
_COLUMNS = "seq, id, enqueued, attributes, metadata, body"
# The usual message has the defaults of the other columns, and each value that is not bound is time saved.
_INSERT_PLAIN = f"INSERT INTO message ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own text
_INSERT = (
    f"INSERT INTO message ({_COLUMNS}, priority, due, findable, key)"  # noqa: S608 - our own text
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Queue(NamedTuple):
    """The row of one place for messages: a queue itself, or one subscription of it."""

    id: int
    name: str
    subscription: str
    next: int
    held: int
    received: int
    done: int
    tidy: float | None
    paused: int = 0

    @property
    def low(self) -> int:
        """The row id that the queue's messages count from."""
        return self.id << SEQUENCE_BITS

    @property
    def high(self) -> int:
        """The greatest row id that a message of the queue can have."""
        return self.low | ((1 << SEQUENCE_BITS) - 1)


_SELECT = "SELECT id, name, subscription, next, held, received, done, tidy, paused FROM queue"


def find_queue(connection: sqlite3.Connection, name: str, subscription: str = "") -> Queue | None:
    """The place, if it exists. Never kept over a transaction: another process may delete it and reuse its id."""
    row = connection.execute(f"{_SELECT} WHERE name = ? AND subscription = ?", (name, subscription)).fetchone()
    return None if row is None else Queue(*row)


def find_queues(connection: sqlite3.Connection, name: str) -> list[Queue]:
    """The queue itself and all its subscriptions, in this order."""
    rows = connection.execute(f"{_SELECT} WHERE name = ? ORDER BY subscription", (name,))
    return [Queue(*row) for row in rows]


def find_untidy(connection: sqlite3.Connection, now: float, limit: int) -> list[Queue]:
    """Places with something that has been kept for long enough."""
    return [Queue(*row) for row in connection.execute(f"{_SELECT} WHERE tidy <= ? LIMIT ?", (now, limit))]


def make_queue(connection: sqlite3.Connection, name: str, subscription: str = "") -> Queue:
    """The place, made if it does not exist."""
    queue = find_queue(connection, name, subscription)
    if queue is not None:
        return queue
    values = (name, subscription)
    made = connection.execute("INSERT INTO queue (name, subscription) VALUES (?, ?)", values).lastrowid
    return Queue(made or 0, name, subscription, 1, 0, 0, 0, None)


def subscribe(connection: sqlite3.Connection, name: str, subscription: str) -> None:
    """Have a place get a copy of whatever is sent from now on. A subscription's queue is made with it."""
    make_queue(connection, name)
    queue = make_queue(connection, name, subscription)
    if not queue.received:
        connection.execute("UPDATE queue SET received = 1 WHERE id = ?", (queue.id,))


def pause(connection: sqlite3.Connection, queue: Queue, *, paused: bool) -> None:
    """Hand out nothing of a place any more, or again."""
    connection.execute("UPDATE queue SET paused = ? WHERE id = ?", (int(paused), queue.id))


def find_audience(connection: sqlite3.Connection, name: str) -> tuple[Queue, list[Queue]]:
    """The queue, made if need be, and every place that gets what is sent to it.

    The queue itself is one of them from its first receive on, and while there is no other.
    """
    queues = find_queues(connection, name)
    if not queues:
        queues = [make_queue(connection, name)]
    audience = [each for each in queues if each.received]
    return queues[0], audience or queues[:1]


def coalesce(fates: Iterable[tuple[int, K]]) -> list[tuple[int, int, K]]:
    """Join ascending sequence numbers that share their fate into runs (first, last, fate)."""
    runs: list[tuple[int, int, K]] = []
    first = last = limit = -2
    fate: Any = None
    for seq, each in fates:
        if seq == last + 1 and seq < limit and (each is fate or each == fate):
            last = seq
            continue
        if last >= 0:
            runs.append((first, last, fate))
        first = last = seq
        limit = seq + MAX_RUN
        fate = each
    if last >= 0:
        runs.append((first, last, fate))
    return runs


def place(connection: sqlite3.Connection, queue_id: int, fates: Iterable[tuple[int, Spot]], now: float) -> None:
    """Put messages, in ascending order, where they can be claimed: at once, or when they are due."""
    ready, delayed = [], []
    for first, last, (rank, due, attempt) in coalesce(fates):
        if due > now:
            delayed.append((first, last, queue_id, due, rank, attempt))
        else:
            ready.append((queue_id, rank, first, last, attempt))
    if ready:
        connection.executemany("INSERT INTO ready VALUES (?, ?, ?, ?, ?)", ready)
    if delayed:
        connection.executemany("INSERT INTO delayed VALUES (?, ?, ?, ?, ?, ?)", delayed)


def pack_lease(fates: Iterable[tuple[int, Share]]) -> tuple[int, str]:
    """How many messages a lease holds, and its runs as text. ``fates`` ascend."""
    runs = coalesce(fates)
    held = sum(last - first + 1 for first, last, _ in runs)
    return held, _ENCODE([(first, last, *share) for first, last, share in runs])


def unpack_lease(runs: str) -> dict[int, Share]:
    """Every message of a lease, by sequence number."""
    held: dict[int, Share] = {}
    for first, last, rank, attempt, keyed in json.loads(runs):
        share = (rank, attempt, keyed)
        held.update(dict.fromkeys(range(first, last + 1), share))
    return held


def end_leases(connection: sqlite3.Connection, where: str, values: Sequence[Any]) -> None:
    """Make the messages of some leases ready again; their attempts stay counted."""
    rows = connection.execute(f"SELECT queue, runs FROM lease WHERE {where}", values).fetchall()  # noqa: S608 - our own text
    if not rows:
        return
    ready = [
        (queue_id, rank, first, last, attempt)
        for queue_id, runs in rows
        for first, last, rank, attempt, _ in json.loads(runs)
    ]
    connection.executemany("INSERT INTO ready VALUES (?, ?, ?, ?, ?)", ready)
    connection.execute(f"DELETE FROM lease WHERE {where}", values)  # noqa: S608 - our own text


def add(connection: sqlite3.Connection, queue: Queue, messages: Sequence[OutgoingMessage], now: float) -> None:
    """Store messages behind all others of the queue; dedup ids are not looked at."""
    plain: list[tuple[Any, ...]] = []
    special: list[tuple[Any, ...]] = []
    texts: dict[int, str] = {}  # by identity: many messages share one mapping
    dead = queue.name.endswith(DEAD_SUFFIX)
    first = seq = queue.low + queue.next
    for message_id, body, attributes, metadata, delay_s, key, _, priority in messages:
        if (attributes_text := texts.get(id(attributes))) is None:
            attributes_text = texts[id(attributes)] = _dump(attributes)
        if (metadata_text := texts.get(id(metadata))) is None:
            metadata_text = texts[id(metadata)] = _dump(metadata)
        if delay_s or priority or dead or key is not None:
            due = now + delay_s if delay_s else 0.0
            flags = (priority, due, 1 if dead or due else 0, key)
            special.append((seq, message_id, now, attributes_text, metadata_text, body, *flags))
        else:
            plain.append((seq, message_id, now, attributes_text, metadata_text, body))
        seq += 1
    fates: dict[int, Spot] = dict.fromkeys(range(first, seq), _PLAIN)
    if special:
        _place_special(connection, queue, special, fates)
        connection.executemany(_INSERT, special)
    if plain:
        connection.executemany(_INSERT_PLAIN, plain)
    place(connection, queue.id, fates.items(), now)
    connection.execute(
        "UPDATE queue SET next = next + ?, held = held + ? WHERE id = ?", (seq - first, seq - first, queue.id)
    )


def _place_special(
    connection: sqlite3.Connection, queue: Queue, rows: list[tuple[Any, ...]], fates: dict[int, Spot]
) -> None:
    """Correct where messages with a delay, a priority or an ordering key go; behind a head, they go nowhere."""
    headed: dict[str, bool] = {}
    for seq, *_, priority, due, _, key in rows:
        if key is not None and key not in headed:
            headed[key] = next_of_key(connection, queue, key) is not None
        if key is not None and headed[key]:
            del fates[seq]
            continue
        fates[seq] = (RANKS - 1 - priority, due, 0)
        if key is not None:
            headed[key] = True


_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def _dump(mapping: Any) -> str:
    return _ENCODE(dict(mapping)) if mapping else ""


def next_of_key(connection: sqlite3.Connection, queue: Queue, key: str) -> tuple[int, int, float] | None:
    """Sequence number, priority and due time of the oldest message with an ordering key."""
    row: tuple[int, int, float] | None = connection.execute(
        "SELECT seq, priority, due FROM message INDEXED BY message_key"
        " WHERE key = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT 1",
        (key, queue.low, queue.high),
    ).fetchone()
    return row


def remove(connection: sqlite3.Connection, queue: Queue, fates: Iterable[tuple[int, int]], now: float) -> bool:
    """Delete messages that stand in no place any more, and let the next of each ordering key take its turn.

    Args:
        connection: In a write transaction.
        queue: Whose messages they are.
        fates: Ascending sequence numbers, each with 1 where the message is the head of an ordering key, else 0.
        now: UTC.

    Returns:
        Whether another message may have become ready.
    """
    runs = coalesce(fates)
    keys: list[str] = []
    for first, last, keyed in runs:
        if keyed:
            found = connection.execute("SELECT key FROM message WHERE seq BETWEEN ? AND ?", (first, last))
            keys.extend(key for (key,) in found)
    connection.executemany("DELETE FROM message WHERE seq BETWEEN ? AND ?", [run[:2] for run in runs])
    removed = sum(last - first + 1 for first, last, _ in runs)
    if removed:
        connection.execute("UPDATE queue SET held = held - ? WHERE id = ?", (removed, queue.id))
    heads = [head for key in keys if (head := next_of_key(connection, queue, key)) is not None]
    heads.sort()
    place(connection, queue.id, [(seq, (RANKS - 1 - priority, due, 0)) for seq, priority, due in heads], now)
    return bool(heads)


class Run(NamedTuple):
    """The run in ``ready``, or with a due time in ``delayed``, that holds a message."""

    first: int
    last: int
    attempt: int
    due: float


def find_run(connection: sqlite3.Connection, queue: Queue, seq: int, rank: int) -> Run | None:
    """Where a message of this rank waits; None when it is leased or held behind its key."""
    near = (seq - MAX_RUN, seq, seq)
    row = connection.execute(
        "SELECT first, last, attempt, 0.0 FROM ready"
        " WHERE queue = ? AND rank = ? AND first BETWEEN ? AND ? AND last >= ?",
        (queue.id, rank, *near),
    ).fetchone()
    if row is None:
        row = connection.execute(
            "SELECT first, last, attempt, due FROM delayed WHERE first BETWEEN ? AND ? AND last >= ?", near
        ).fetchone()
    return None if row is None else Run(*row)


def take_out(connection: sqlite3.Connection, queue: Queue, run: Run, seq: int, rank: int) -> None:
    """Take one message out of its run, and leave the rest there."""
    rest = [(low, high) for low, high in ((run.first, seq - 1), (seq + 1, run.last)) if low <= high]
    if run.due:
        connection.execute("DELETE FROM delayed WHERE first = ?", (run.first,))
        rows = [(*each, queue.id, run.due, rank, run.attempt) for each in rest]
        connection.executemany("INSERT INTO delayed VALUES (?, ?, ?, ?, ?, ?)", rows)
        return
    connection.execute("DELETE FROM ready WHERE queue = ? AND rank = ? AND first = ?", (queue.id, rank, run.first))
    connection.executemany(
        "INSERT INTO ready VALUES (?, ?, ?, ?, ?)", [(queue.id, rank, *each, run.attempt) for each in rest]
    )
