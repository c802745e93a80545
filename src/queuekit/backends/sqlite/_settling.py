# SPDX-License-Identifier: Apache-2.0
"""Carrying out settlements. Everything here runs in one write transaction per batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Action,
    ErrorClass,
    ErrorCode,
    Failed,
    OutgoingMessage,
    Settled,
    Settlement,
    SettleOutcome,
)
from queuekit.backends.sqlite import _retention
from queuekit.backends.sqlite._claiming import Moment
from queuekit.backends.sqlite._places import (
    DEAD_SUFFIX,
    Queue,
    Share,
    Spot,
    make_queue,
    pack_lease,
    place,
    remove,
    unpack_lease,
)

_NO_LETTER = Failed(
    ErrorClass(ErrorCode.INVALID_MESSAGE, sent="no", detail="a DEAD settlement without a dead letter")
)


_HANDLE = (int, int)
"""A handle is the lease's id and the message's number; whatever else looks like that is in no lease."""


class _Lease:
    """The live parts of one lease: the end of each, and what it holds."""

    def __init__(self, connection: sqlite3.Connection, queue: Queue, lease: int, now: float) -> None:
        self.id = lease
        self.parts: dict[float, dict[int, Share]] = {}
        if 0 <= lease < 1 << 63:  # else it is no id of ours, and SQLite could not take it
            rows = connection.execute(
                "SELECT until, runs FROM lease WHERE id = ? AND until > ? AND queue = ?", (lease, now, queue.id)
            )
            self.parts = {until: unpack_lease(runs) for until, runs in rows}
        self.touched: set[float] = set()
        self._stored = frozenset(self.parts)

    def take(self, seq: int) -> Share | None:
        """What the lease knows of a message, which it then holds no more; None if it did not hold it."""
        for until, part in self.parts.items():
            if (share := part.pop(seq, None)) is not None:
                self.touched.add(until)
                return share
        return None

    def put(self, until: float, seq: int, share: Share) -> None:
        """Hold a message until another time."""
        self.parts.setdefault(until, {})[seq] = share
        self.touched.add(until)

    def save(self, connection: sqlite3.Connection, queue: Queue) -> None:
        """Write what changed."""
        for until in self.touched:
            part = self.parts[until]
            if not part:
                connection.execute("DELETE FROM lease WHERE id = ? AND until = ?", (self.id, until))
            elif until in self._stored:
                connection.execute(
                    "UPDATE lease SET held = ?, runs = ? WHERE id = ? AND until = ?",
                    (*pack_lease(sorted(part.items())), self.id, until),
                )
            else:
                connection.execute(
                    "INSERT INTO lease VALUES (?, ?, ?, ?, ?)",
                    (self.id, until, queue.id, *pack_lease(sorted(part.items()))),
                )


class Settler:
    """One batch of settlements of one queue.

    Args:
        connection: In a write transaction.
        queue: The queue that the settlements were given to.
        now: One reading of both clocks, for the whole batch.
        retention: What is kept of messages that are done, and for how long dead letters are.
    """

    def __init__(
        self, connection: sqlite3.Connection, queue: Queue, now: Moment, retention: _retention.Retention
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._now = now
        self._retention = retention
        self._leases: dict[int, _Lease] = {}
        self._gone: list[tuple[int, int]] = []
        self._done: list[tuple[int, int]] = []
        self._back: list[tuple[int, Spot]] = []
        self._letters: list[OutgoingMessage] = []
        self.changed = False
        """Whether something may be received earlier than a waiting consumer thinks."""

    @property
    def buried(self) -> bool:
        """Whether a dead letter was stored."""
        return bool(self._letters)

    def settle(self, batch: Sequence[Settlement]) -> list[SettleOutcome]:
        """Carry out a batch, entry by entry."""
        outcomes: list[SettleOutcome] = []
        keeping = self._retention.done_s is not None
        ack = Action.ACK  # looked up on its class for each entry, a member costs ten times as much
        for settlement in batch:
            handle = settlement.handle
            if not isinstance(handle, tuple) or tuple(map(type, handle)) != _HANDLE:
                outcomes.append(LEASE_LOST)
                continue
            token, seq = handle
            lease = self._leases.get(token)
            if lease is None:
                lease = self._leases[token] = _Lease(self._connection, self._queue, token, self._now.monotonic)
            if settlement.action is not ack:
                outcomes.append(self._settle(settlement, lease, seq))
            elif (share := lease.take(seq)) is None:
                outcomes.append(LEASE_LOST)
            else:
                self._gone.append((seq, share[2]))
                if keeping:
                    self._done.append((seq, share[1]))
                outcomes.append(SETTLED)
        self._save()
        return outcomes

    def _save(self) -> None:
        for lease in self._leases.values():
            lease.save(self._connection, self._queue)
        if self._done:
            self._done.sort()
            _retention.keep_done(self._connection, self._queue, self._done, self._now.utc, self._retention)
        if self._gone:
            self._gone.sort()
            self.changed |= remove(self._connection, self._queue, self._gone, self._now.utc)
        if self._back:
            self._back.sort()
            place(self._connection, self._queue.id, self._back, self._now.utc)
            self.changed = True
        if self._letters:
            dead = make_queue(self._connection, self._queue.name + DEAD_SUFFIX, self._queue.subscription)
            _retention.add_letters(self._connection, dead, self._letters, self._now.utc, self._retention)
        if self._gone:
            _retention.forget_gone(self._connection, self._queue)

    def _settle(self, settlement: Settlement, lease: _Lease, seq: int) -> SettleOutcome:
        _, action, delay_s, lease_s, dead = settlement
        if action is Action.DEAD and dead is None:
            return _NO_LETTER
        share = lease.take(seq)
        if share is None:
            return LEASE_LOST
        if action is Action.EXTEND:
            return self._extend(lease, seq, share, lease_s)
        if action is Action.DEAD and dead is not None:
            self._gone.append((seq, share[2]))
            self._letters.append(dead)
            return SETTLED
        return self._give_back(seq, share, delay_s, counted=action is Action.RETRY)

    def _extend(self, lease: _Lease, seq: int, share: Share, lease_s: float) -> SettleOutcome:
        until = self._now.monotonic + lease_s
        lease.put(until, seq, share)
        self.changed = True  # it may end earlier than before
        return Settled(lease_until=until)

    def _give_back(self, seq: int, share: Share, delay_s: float, *, counted: bool) -> SettleOutcome:
        rank, attempt, _ = share
        due = self._now.utc + delay_s if delay_s else 0.0
        self._back.append((seq, (rank, due, attempt if counted else attempt - 1)))
        return Settled(applied_delay_s=delay_s)
