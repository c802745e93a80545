# SPDX-License-Identifier: Apache-2.0
"""The Redis backend itself: each method is one function in the server; only waiting blocks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from queuekit.backend import (
    Accepted,
    AllAccepted,
    BackendSpec,
    Capabilities,
    Duplicate,
    ErrorClass,
    ErrorCode,
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
)
from queuekit.backends.redis import _errors, _managing, _messages
from queuekit.backends.redis._connections import Connections
from queuekit.backends.redis._options import FORMS, RedisOptions, address_of
from queuekit.backends.redis._probing import look
from queuekit.backends.redis._scripts import keys_of, load
from queuekit.backends.redis._settling import Fresh, Plan
from queuekit.backends.redis._watching import BLOCK_S, Watches

MAX_BATCH = 500
"""The server does nothing else meanwhile: so many small messages take it about a millisecond."""

TAKEN_BYTES = 8 << 20
"""About how much one receive brings, by the largest message of the last ones."""

_DEAD_SUFFIX = ".dead"
_YEAR_S = 365 * 86_400.0
_FULL = ErrorClass(ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no", detail="max_messages is reached")
_NOT_DEAD = Unsupported(f"only a dead-letter queue, whose name ends in {_DEAD_SUFFIX}, can be redriven")


_DETOURS = 8
"""How often all of a receive is done in the server, after somebody was quicker than a claim."""


class _Next(NamedTuple):
    """Where the next plain messages are, and how to know that it is still so."""

    born: bytes
    cursor: bytes
    epoch: bytes


class RedisBackend:
    """One queue in one server.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, opening: Opening) -> None:
        self._queue: str = opening.queue
        self._options: RedisOptions = opening.options
        self._clock = opening.clock
        self._timeout_s = opening.call_timeout_s
        address = address_of(opening.url, self._options, opening.connect_timeout_s)
        self._connections = opening.clients.get(("redis", address), lambda: Connections(address), Connections.close)
        self._keys = keys_of(self._queue)
        self._is_dead = self._queue.endswith(_DEAD_SUFFIX)
        other = self._queue.removesuffix(_DEAD_SUFFIX) if self._is_dead else self._queue + _DEAD_SUFFIX
        self._other = keys_of(other)
        """The keys of the dead-letter queue, or of the queue that this is the dead-letter queue of."""
        self._window_us = _messages.to_us(self._options.dedup_window.total_seconds())
        self._special = self._options.max_messages is not None
        self._largest = 1 << 20  # until it is known better
        self._pid = 0
        self._name = ""
        self._numbers = itertools.count()
        self._watches = Watches(self._connections, self._keys.wake, address.answer_s)
        self._born: bytes | None = None
        self._recreated = 0
        self._fresh = Fresh()
        self._writer = _messages.PlainWriter()
        self._next: _Next | None = None
        self._detours = 0
        self._capabilities = _capabilities(self._options.dedup_window.total_seconds())

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._capabilities

    def probe(self) -> Capabilities:
        """Ask the server what it is and what it keeps. See `Backend.probe`."""
        return look(self._connections, self._capabilities, timeout_s=self._timeout_s)

    def size(self, message: OutgoingMessage) -> int:
        """See `Backend.size`."""
        size = len(message.body)
        for mapping in (message.attributes, message.metadata):
            for name, value in mapping.items():
                size += len(name.encode(errors="surrogatepass")) + len(value.encode(errors="surrogatepass"))
        return size

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Store a batch in one step. See `Backend.send`."""
        if self._special or not all(map(_messages.is_plain, batch)):
            return self._send_any(batch, timeout_s)
        keys = self._keys
        if len(batch) == 1:
            # It needs no function to be one step; who waits is told right behind it.
            self._connections.call_together(
                ("XADD", keys.plain, "*", *self._writer.write(batch)),
                ("XADD", keys.wake, "MAXLEN", "1", "*", "w", ""),
                timeout_s=timeout_s,
            )
            return AllAccepted([batch[0][0]])
        self._connections.run(
            load("send_plain"),
            (keys.plain, keys.meta, keys.wake),
            self._token(),
            *self._writer.write(batch),
            timeout_s=timeout_s,
        )
        return AllAccepted([message[0] for message in batch])

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease messages, waiting for the first. See `Backend.receive`."""
        stops = self._watches.stops
        until = self._clock.monotonic() + wait_s
        while True:
            messages, event_s, seen = self._take(max_messages, lease_s)
            now = self._clock.monotonic()
            if messages or now >= until:
                return messages
            if not self._watches.wait(min(until - now, event_s), seen, stops, now):
                return []

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Carry out a batch in one step. See `Backend.settle`."""
        plan = Plan(batch, self._fresh, is_dead=self._is_dead)
        now = self._clock.monotonic()
        if plan.is_empty:
            return plan.outcomes([], now)
        keys = self._keys.all + self._other.all
        answer = self._connections.run(load("settle"), keys, self._token(), *plan.arguments(), timeout_s=timeout_s)
        return plan.outcomes(answer, now)

    def classify(self, error: BaseException) -> ErrorClass:
        """See `Backend.classify`."""
        return _errors.classify(error)

    def close(self) -> None:
        """See `Backend.close`."""
        self._watches.close()

    def interrupt(self) -> None:
        """See `Interruptible.interrupt`."""
        self._watches.stop()

    def wait_for_change(self, timeout_s: float) -> bool:
        """See `Waitable.wait_for_change`."""
        stops, until = self._watches.stops, self._clock.monotonic() + timeout_s
        while True:
            seen = self._last_change()
            if self.stats().ready:
                return True
            now = self._clock.monotonic()
            if now >= until or not self._watches.wait(min(until - now, BLOCK_S), seen, stops, now):
                return False

    def create(self) -> None:
        """See `Admin.create`."""
        self._call("HSETNX", self._keys.meta, "born", self._token())

    def delete(self) -> None:
        """See `Admin.delete`."""
        keys = self._keys.all if self._is_dead else self._keys.all + self._other.all
        self._call("UNLINK", *keys)

    def exists(self) -> bool:
        """See `Admin.exists`."""
        return bool(self._call("EXISTS", self._keys.meta, self._keys.plain))

    def purge(self) -> int:
        """See `Admin.purge`."""
        return _managing.purge(self._run)

    def stats(self) -> QueueStats:
        """See `Admin.stats`."""
        stats = _managing.count(self._run_with_other)
        return replace(stats, dead=0) if self._is_dead else stats

    def peek(self, *, limit: int, after: str = "", done: bool = False) -> Sequence[StoredMessage]:
        """Look at messages; none is ever kept when it is done. See `Peekable.peek`."""
        return [] if done else _managing.peek(self._run, limit, after)

    def cancel(self, message_id: str) -> bool:
        """See `Cancellable.cancel`."""
        return _managing.cancel(self._run, message_id)

    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """See `Redrivable.redrive`."""
        if not self._is_dead:
            return [_NOT_DEAD] * len(batch)

        def run(name: str, *args: Any) -> Any:
            keys = self._keys.all + self._other.all
            return self._connections.run(load(name), keys, *args, timeout_s=timeout_s)

        return _managing.redrive(run, batch, self._token())

    def recreated(self) -> int:
        """See `Recreating.recreated`."""
        return self._recreated

    def _call(self, *command: Any) -> Any:
        return self._connections.call(*command, timeout_s=self._timeout_s)

    def _run(self, name: str, *args: Any) -> Any:
        return self._connections.run(load(name), self._keys.all, *args, timeout_s=self._timeout_s)

    def _run_with_other(self, name: str, *args: Any) -> Any:
        keys = self._keys.all + self._other.all
        return self._connections.run(load(name), keys, *args, timeout_s=self._timeout_s)

    def _token(self) -> str:
        """A name that nobody else has, in any process; as the scripts take it, it begins with a ``t``."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._name = f"t{self._clock.token_bytes(8).hex()}-"
        return f"{self._name}{next(self._numbers)}"

    def _send_any(self, batch: Sequence[OutgoingMessage], timeout_s: float) -> Sequence[SendOutcome]:
        arguments: list[Any] = [self._token(), str(self._window_us), str(self._options.max_messages or 0)]
        for message in batch:
            dedup_id = message.dedup_id
            dedup = b"" if dedup_id is None else b"=" + dedup_id.encode("utf-8", "surrogatepass")
            arguments += (message.message_id, *_messages.write_any(message), dedup)
        firsts = self._connections.run(load("send"), self._keys.all, *arguments, timeout_s=timeout_s)
        if firsts == b"full":
            return [Rejected(_FULL, message.message_id) for message in batch]
        return [
            Duplicate(message.message_id, first.decode("ascii", "replace")) if first else Accepted(message.message_id)
            for message, first in zip(batch, firsts, strict=True)
        ]

    def _take(self, max_messages: int, lease_s: float) -> tuple[Sequence[IncomingMessage], float, bytes]:
        """What is ready; where nothing is, in how many seconds something will be, and the last change seen."""
        token = self._token()
        want = min(max_messages, MAX_BATCH, max(1, TAKEN_BYTES // self._largest))
        if self._next is not None and (messages := self._claim(self._next, want, lease_s, token)):
            return messages, 0.0, b""
        seed = str(self._clock.random.getrandbits(30)) if self._options.priorities == "weighted" else ""
        now = self._clock.monotonic()
        answer = self._run("take", str(want), str(_messages.to_us(lease_s)), token, token, seed)
        self._notice(answer[0])
        self._next = None
        if isinstance(answer[1], int):
            return (), answer[1] / 1e6 if answer[1] >= 0 else BLOCK_S, answer[2]
        born, run, taken, epoch = answer
        messages = self._admit(run, token, now + lease_s)
        if taken:
            messages += _messages.read_taken(taken, token, now + lease_s)
            self._learn(messages)
            messages.sort(key=_best_first)
        elif self._detours:
            self._detours -= 1
        elif len(run) == want:
            self._next = _Next(born, run[-1][0], epoch)
        return messages, 0.0, b""

    def _claim(self, after: _Next, want: int, lease_s: float, token: str) -> list[IncomingMessage]:
        """Read what comes next, and lease it if nobody was quicker; a script that reads costs several times more."""
        self._next = None
        run = self._call("XRANGE", self._keys.plain, b"(" + after.cursor, "+", "COUNT", str(want))
        if not run:
            return []
        now = self._clock.monotonic()
        first, last = run[0][0], run[-1][0]
        claimed = self._connections.run(
            load("claim"),
            self._keys.claimed,
            *after,
            first,
            last,
            str(len(run)),
            str(_messages.to_us(lease_s)),
            token,
            timeout_s=self._timeout_s,
        )
        if not claimed:
            self._detours = _DETOURS
            return []
        if len(run) == want:
            self._next = after._replace(cursor=last)
        return self._admit(run, token, now + lease_s)

    def _admit(self, run: Sequence[Any], token: str, lease_until: float) -> list[IncomingMessage]:
        if run:
            self._fresh.add(token, {entry_id for entry_id, _ in run})
        messages = _messages.read_run(run, token, lease_until)
        self._learn(messages)
        return messages

    def _learn(self, messages: Sequence[IncomingMessage]) -> None:
        """How large messages are here, so that the next receive brings no more than it should."""
        if messages:
            self._largest = max(*map(_length, messages), self._largest // 8, 1)

    def _notice(self, born: bytes) -> None:
        """Count when the queue is not the one that was used before."""
        if self._born is not None and self._born != born:
            self._recreated += 1
        self._born = born

    def _last_change(self) -> bytes:
        found = self._call("XREVRANGE", self._keys.wake, "+", "-", "COUNT", "1")
        last: bytes = found[0][0] if found else b"0-0"
        return last


def _length(message: IncomingMessage) -> int:
    return len(message[2])


def _best_first(message: IncomingMessage) -> tuple[int, tuple[int, int]]:
    handle: Any = message.handle
    return -message.priority, _messages.order_of(handle[1])


def _capabilities(dedup_window_s: float) -> Capabilities:
    return Capabilities(
        queues="implicit",
        durability="disk",
        max_message_bytes=16 << 20,
        max_send_batch=MAX_BATCH,
        max_send_batch_bytes=32 << 20,
        atomic_send=True,
        max_receive=MAX_BATCH,
        max_settle_batch=MAX_BATCH,
        mixed_settles=True,
        min_lease_s=0.001,
        max_lease_s=43_200.0,
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
        priority_levels=10,
        long_poll=True,
        admin=True,
        peek=True,
        purge=True,
        depth="exact",
        cancel=True,
    )


SPEC = BackendSpec(open=RedisBackend, options=RedisOptions, slot="option", forms=FORMS)
