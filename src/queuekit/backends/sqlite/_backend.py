# SPDX-License-Identifier: Apache-2.0
"""The SQLite backend itself: each method is one transaction, and a word to whoever waits."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from queuekit.backend import (
    LEASE_LOST,
    Accepted,
    Action,
    AllAccepted,
    BackendSpec,
    Capabilities,
    Duplicate,
    ErrorClass,
    ErrorCode,
    Finding,
    IncomingMessage,
    Opening,
    OutgoingMessage,
    QueueStats,
    Rejected,
    SendOutcome,
    Settlement,
    SettleOutcome,
    StoredMessage,
    Support,
    Unsupported,
    Wanted,
)
from queuekit.backends.sqlite import _claiming, _diagnosing, _errors, _managing, _places, _retention
from queuekit.backends.sqlite._claiming import Claim, Moment, Outlook
from queuekit.backends.sqlite._database import MAX_LEASE_S, Database
from queuekit.backends.sqlite._options import FORMS, SQLiteOptions, file_of
from queuekit.backends.sqlite._places import DEAD_SUFFIX, Queue
from queuekit.backends.sqlite._retention import Retention
from queuekit.backends.sqlite._settling import Settler

MAX_BATCH = 500
"""Measured: beyond a few hundred messages a batch gains little, and it holds the write lock for longer."""

_FORGET_DEDUP = """
    DELETE FROM dedup WHERE queue = :queue AND dedup_id IN (
        SELECT dedup_id FROM dedup WHERE queue = :queue AND until <= :now ORDER BY until LIMIT :limit
    )
"""
_YEAR_S = 365 * 86_400.0
_FULL = ErrorClass(ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no", detail="max_messages is reached")
_NO_DEAD_OF_DEAD = Unsupported("a dead-letter queue has no dead-letter queue of its own")
_NOT_DEAD = Unsupported(f"only a dead-letter queue, whose name ends in {DEAD_SUFFIX}, can be redriven")


class _QueueFullError(Exception):
    """The batch does not fit."""


class SQLiteBackend:
    """One queue in one file, or one subscription of it.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, opening: Opening) -> None:
        self._queue: str = opening.queue
        self._options: SQLiteOptions = opening.options
        self._subscription = self._options.subscription
        self._clock = opening.clock
        self._timeout_s = opening.call_timeout_s
        self._path = path = file_of(opening.url)
        self._database = opening.clients.get(
            ("sqlite", path, self._options.durability, self._options.max_size),
            lambda: Database(path, self._options, opening.clock),
            Database.close,
        )
        self._database.retain()
        self._is_dead = self._queue.endswith(DEAD_SUFFIX)
        self._window_s = self._options.dedup_window.total_seconds()
        keep_done = self._options.keep_done
        self._retention = Retention(
            done_s=None if keep_done is None else keep_done.total_seconds(),
            done_max=self._options.keep_done_max,
            dead_letter_s=self._options.dead_letter_retention.total_seconds(),
        )
        self._tidy_at = 0.0
        self._interrupts = 0
        self._flowing = False
        self._used: tuple[int, int] | None = None
        self._recreated = 0
        self._closed = False
        self._capabilities = _capabilities(self._window_s, subscribed=bool(self._subscription))

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._capabilities

    def probe(self) -> Capabilities:
        """Open the file, making it and the subscription if need be. See `Backend.probe`."""
        if self._subscription:
            self._subscribe()
            return self._capabilities
        with self._database.reading(self._timeout_s) as connection:
            alone = len(_places.find_queues(connection, self._queue)) <= 1
        return self._capabilities if alone else replace(self._capabilities, copies="fanout")

    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:  # noqa: ARG002 - a file has no limits of this kind
        """See `Diagnosable.diagnose`."""
        return _diagnosing.diagnose(self._path, self._options.durability, os.environ)

    def size(self, message: OutgoingMessage) -> int:
        """See `Backend.size`."""
        size = len(message.body)
        for mapping in (message.attributes, message.metadata):
            for name, value in mapping.items():
                size += len(name.encode(errors="surrogatepass")) + len(value.encode(errors="surrogatepass"))
        return size

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Store a batch in one transaction. See `Backend.send`."""
        try:
            with self._database.writing(timeout_s, growing=True) as connection:
                firsts = self._store(connection, batch)
        except _QueueFullError:  # raised in the transaction, so that it is rolled back
            return [Rejected(_FULL, message.message_id) for message in batch]
        self._database.changed(self._queue)
        if not firsts:
            return AllAccepted([message.message_id for message in batch])
        return [
            Duplicate(message.message_id, firsts[index]) if index in firsts else Accepted(message.message_id)
            for index, message in enumerate(batch)
        ]

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease messages, waiting for the first. See `Backend.receive`."""
        interrupts = self._interrupts
        # Where there was something just now, the look before the claim is saved.
        if self._flowing and (messages := self._claim(max_messages, lease_s)):
            return messages
        if self._look_as_consumer().ready and (messages := self._claim(max_messages, lease_s)):
            return messages
        self._tidy_when_idle()
        if wait_s <= 0:
            return []
        until = self._clock.monotonic() + wait_s
        while self._wait(until, interrupts):
            if messages := self._claim(max_messages, lease_s):
                return messages
        return []

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Carry out a batch in one transaction. See `Backend.settle`."""
        if self._is_dead and any(each.action is Action.DEAD for each in batch):
            return self._settle_without_dead(batch, timeout_s)
        with self._database.writing(timeout_s) as connection:
            queue = self._find(connection) or Queue(-1, self._queue, self._subscription, 0, 0, 0, 0, None)
            settler = Settler(connection, queue, self._now(), self._retention)
            outcomes = settler.settle(batch)
            self._tidy(connection)
        if settler.changed:
            self._database.changed(self._queue)
        if settler.buried:
            self._database.changed(self._queue + DEAD_SUFFIX)
        return outcomes

    def classify(self, error: BaseException) -> ErrorClass:
        """See `Backend.classify`."""
        return _errors.classify(error)

    def close(self) -> None:
        """See `Backend.close`."""
        if not self._closed:
            self._closed = True
            self._database.signal(self._queue).set()
            self._database.release()

    def interrupt(self) -> None:
        """See `Interruptible.interrupt`."""
        self._interrupts += 1
        self._database.signal(self._queue).set()

    def wait_for_change(self, timeout_s: float) -> bool:
        """See `Waitable.wait_for_change`."""
        return self._wait(self._clock.monotonic() + timeout_s, self._interrupts)

    def create(self) -> None:
        """See `Admin.create`."""
        if self._subscription:
            self._subscribe()
            return
        with self._database.writing(self._timeout_s) as connection:
            _places.make_queue(connection, self._queue)

    def delete(self) -> None:
        """Remove the subscription; or the queue itself, with all its subscriptions. See `Admin.delete`."""
        names = [self._queue] if self._is_dead else [self._queue, self._queue + DEAD_SUFFIX]
        everything = not self._subscription and not self._is_dead
        with self._database.writing(self._timeout_s) as connection:
            for name in names:
                for queue in _places.find_queues(connection, name):
                    if everything or queue.subscription == self._subscription:
                        _managing.delete(connection, queue)
        # Who waits must look, or it would not know that the queue was gone if it is soon made again.
        self._database.changed(self._queue)

    def exists(self) -> bool:
        """See `Admin.exists`."""
        with self._database.reading(self._timeout_s) as connection:
            return self._find(connection) is not None

    def purge(self) -> int:
        """See `Admin.purge`."""
        with self._database.writing(self._timeout_s) as connection:
            queue = self._find(connection)
            if queue is None:
                return 0
            removed = _managing.purge(connection, queue, self._now())
            _retention.forget_gone(connection, queue)
            return removed

    def stats(self) -> QueueStats:
        """See `Admin.stats`."""
        with self._database.reading(self._timeout_s) as connection:
            return _managing.count(connection, self._queue, self._subscription, self._now())

    def peek(self, *, limit: int, after: str = "", done: bool = False) -> Sequence[StoredMessage]:
        """See `Peekable.peek`."""
        look = _managing.peek_done if done else _managing.peek
        with self._database.reading(self._timeout_s) as connection:
            queue = self._find(connection)
            if queue is None:
                return []
            return look(connection, queue, limit=limit, after=int(after or 0), now=self._now())

    def cancel(self, message_id: str) -> bool:
        """Remove every copy of which no attempt counts, from every subscription. See `Cancellable.cancel`."""
        with self._database.reading(self._timeout_s) as connection:
            found = {
                queue.id: _managing.find_candidates(connection, queue, message_id)
                for queue in _places.find_queues(connection, self._queue)
            }
        if not any(found.values()):
            return False
        removed = False
        with self._database.writing(self._timeout_s) as connection:
            for queue in _places.find_queues(connection, self._queue):
                candidates = found.get(queue.id, [])
                removed |= _managing.cancel(connection, queue, candidates, message_id, self._now())
        self._database.changed(self._queue)
        return removed

    def pause(self) -> None:
        """See `Pausable.pause`."""
        with self._database.writing(self._timeout_s) as connection:
            if self._subscription and not self._is_dead:
                _places.subscribe(connection, self._queue, self._subscription)
            queue = _places.make_queue(connection, self._queue, self._subscription)
            _places.pause(connection, queue, paused=True)

    def resume(self) -> None:
        """See `Pausable.resume`."""
        with self._database.writing(self._timeout_s) as connection:
            queue = self._find(connection)
            if queue is None or not queue.paused:
                return
            _places.pause(connection, queue, paused=False)
        self._database.changed(self._queue)

    def is_paused(self) -> bool:
        """See `Pausable.is_paused`."""
        with self._database.reading(self._timeout_s) as connection:
            queue = self._find(connection)
            return queue is not None and bool(queue.paused)

    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """See `Redrivable.redrive`."""
        if not self._is_dead:
            return [_NOT_DEAD] * len(batch)
        with self._database.writing(timeout_s) as connection:
            dead = self._find(connection)
            if dead is None:
                return [LEASE_LOST] * len(batch)
            outcomes = _managing.redrive(connection, dead, batch, self._now())
            _retention.forget_gone(connection, dead)
        self._database.changed(self._queue, self._queue.removesuffix(DEAD_SUFFIX))
        return outcomes

    def recreated(self) -> int:
        """See `Recreating.recreated`."""
        return self._recreated

    def _now(self) -> Moment:
        return Moment(self._clock.time(), self._clock.monotonic())

    def _find(self, connection: sqlite3.Connection) -> Queue | None:
        return _places.find_queue(connection, self._queue, self._subscription)

    def _subscribe(self) -> None:
        with self._database.writing(self._timeout_s) as connection:
            _places.subscribe(connection, self._queue, self._subscription)

    def _look(self) -> Outlook:
        with self._database.reading(self._timeout_s, once=True) as connection:
            outlook = _claiming.look(connection, self._queue, self._subscription, self._now())
        if self._used is None:
            self._used = None if outlook.queue is None else (outlook.queue, 0)
        elif outlook.queue != self._used[0]:
            self._notice(None)
        return outlook

    def _notice(self, found: tuple[int, int] | None) -> None:
        """Remember the queue's id and its next number, and count when it is not the queue that was used before.

        Ids are given again, but a queue that was made anew counts its messages from the beginning.
        """
        used, self._used = self._used, found
        if used is not None and (found is None or found[0] != used[0] or found[1] < used[1]):
            self._recreated += 1

    def _look_as_consumer(self) -> Outlook:
        """Look, and see to it that the place gets what is sent: from the first look on, and if it was deleted."""
        outlook = self._look()
        if not outlook.known and not self._is_dead:
            self._subscribe()
        return outlook

    def _claim(self, max_messages: int, lease_s: float) -> list[IncomingMessage]:
        with self._database.writing(self._timeout_s) as connection:
            self._tidy(connection)  # before, because what is leased is spared
            now = self._now()
            queue = self._find(connection)
            if queue is not None or self._used is not None:
                self._notice(None if queue is None else (queue.id, queue.next))
            if queue is None or queue.paused:
                messages = []
            else:
                messages = self._take(connection, queue, max_messages, now, lease_s)
        self._flowing = bool(messages)
        if messages:
            # A consumer that waits must know that this lease may end before anything else happens.
            self._database.signal(self._queue).set()
        return messages

    def _take(
        self, connection: sqlite3.Connection, queue: Queue, limit: int, now: Moment, lease_s: float
    ) -> list[IncomingMessage]:
        if not queue.received and not self._is_dead:  # it was deleted, and made again by a send
            _places.subscribe(connection, self._queue, self._subscription)
        lease = self._database.next_lease(connection)
        claim = Claim(connection, queue, now, now.monotonic + lease_s, lease)
        if self._options.priorities == "weighted":
            return claim.take_weighted(limit, self._clock)
        return claim.take_best(limit)

    def _tidy(self, connection: sqlite3.Connection) -> None:
        """Now and then, remove what was kept for long enough; as a small part of a transaction."""
        now = self._clock.monotonic()
        if now >= self._tidy_at:
            more = _retention.tidy(connection, self._now())
            self._tidy_at = now if more else now + _retention.TIDY_EVERY_S

    def _tidy_when_idle(self) -> None:
        if self._clock.monotonic() < self._tidy_at:
            return
        with self._database.reading(self._timeout_s, once=True) as connection:
            untidy = _retention.is_untidy(connection, self._clock.time())
        if not untidy:
            self._tidy_at = self._clock.monotonic() + _retention.TIDY_EVERY_S
            return
        with self._database.writing(self._timeout_s) as connection:
            self._tidy(connection)

    def _wait(self, until: float, interrupts: int) -> bool:
        """Wait until something may be claimed; False when the time is over, or another interruption came."""
        signal = self._database.signal(self._queue)
        with self._database.listening():
            while not self._closed and interrupts == self._interrupts:
                seen = signal.count
                outlook = self._look_as_consumer()
                if outlook.ready:
                    return True
                if self._clock.monotonic() >= until:
                    return False
                signal.wait(self._clock, seen, until if outlook.until is None else min(until, outlook.until))
        return False

    def _store(self, connection: sqlite3.Connection, batch: Sequence[OutgoingMessage]) -> dict[int, str]:
        """Store what is no duplicate; return which entries are, each with the id of the first.

        Raises:
            _QueueFullError: The queue would hold more than it may.
        """
        now = self._clock.time()
        if self._is_dead:  # a dead letter of one subscription is none of another's
            queue = _places.make_queue(connection, self._queue, self._subscription)
            audience = [queue]
        else:
            queue, audience = _places.find_audience(connection, self._queue)
        firsts: dict[int, str] = {}
        if self._window_s and any(message.dedup_id is not None for message in batch):
            firsts = self._recall(connection, queue, batch, now)
            batch = [message for index, message in enumerate(batch) if index not in firsts]
        limit = self._options.max_messages
        if limit is not None and batch and any(each.held + len(batch) > limit for each in audience):
            raise _QueueFullError
        for each in audience if batch else ():
            if self._is_dead:
                _retention.add_letters(connection, each, batch, now, self._retention)
            else:
                _places.add(connection, each, batch, now)
        self._tidy(connection)
        return firsts

    def _recall(
        self, connection: sqlite3.Connection, queue: Queue, batch: Sequence[OutgoingMessage], now: float
    ) -> dict[int, str]:
        """Remember the batch's dedup ids; return which entries are duplicates, with the id of the first."""
        connection.execute(_FORGET_DEDUP, {"queue": queue.id, "now": now, "limit": MAX_BATCH})
        firsts: dict[int, str] = {}
        for index, message in enumerate(batch):
            if message.dedup_id is None:
                continue
            found = connection.execute(
                "SELECT message_id FROM dedup WHERE queue = ? AND dedup_id = ? AND until > ?",
                (queue.id, message.dedup_id, now),
            ).fetchone()
            if found is not None:
                firsts[index] = found[0]
                continue
            connection.execute(
                "INSERT OR REPLACE INTO dedup VALUES (?, ?, ?, ?)",
                (queue.id, message.dedup_id, now + self._window_s, message.message_id),
            )
        return firsts

    def _settle_without_dead(self, batch: Sequence[Settlement], timeout_s: float) -> list[SettleOutcome]:
        rest = [each for each in batch if each.action is not Action.DEAD]
        settled = iter(self.settle(rest, timeout_s=timeout_s) if rest else ())
        return [_NO_DEAD_OF_DEAD if each.action is Action.DEAD else next(settled) for each in batch]


def _capabilities(dedup_window_s: float, *, subscribed: bool) -> Capabilities:
    return Capabilities(
        queues="implicit",
        durability="disk",
        max_message_bytes=16 << 20,
        max_send_batch=MAX_BATCH,
        max_send_batch_bytes=64 << 20,
        atomic_send=True,
        max_receive=MAX_BATCH,
        max_settle_batch=MAX_BATCH,
        mixed_settles=True,
        min_lease_s=0.001,
        max_lease_s=MAX_LEASE_S,
        extend="absolute",
        fencing="strict",
        late_ack_safe=True,
        attempts="exact",
        release_counts=False,
        max_delay_s=_YEAR_S,
        max_retry_delay_s=_YEAR_S,
        ordering="per_key",
        one_in_flight_per_key=True,
        delay_with_ordering=True,
        dedup_window_s=dedup_window_s,
        dead_letters=Support.NATIVE,
        redrive=Support.NATIVE,
        priority_levels=_places.RANKS,
        fanout=True,
        copies="fanout" if subscribed else "private",
        long_poll=True,
        admin=True,
        peek=True,
        purge=True,
        depth="exact",
        cancel=True,
        pause=True,
        server=f"SQLite {sqlite3.sqlite_version}",
    )


SPEC = BackendSpec(open=SQLiteBackend, options=SQLiteOptions, slot="option", forms=FORMS)
