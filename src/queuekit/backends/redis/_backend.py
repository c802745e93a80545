# SPDX-License-Identifier: Apache-2.0
"""The Redis backend itself: each method is one function in the server; only waiting blocks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from queuekit.backend import (
    Accepted,
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
from queuekit.backends.redis import _diagnosing, _errors, _managing, _messages
from queuekit.backends.redis._connections import Connections
from queuekit.backends.redis._options import FORMS, RedisOptions, rate_of, target_of
from queuekit.backends.redis._probing import look
from queuekit.backends.redis._scripts import DEAD_SUFFIX, keys_at, keys_of, load, named_by
from queuekit.backends.redis._settling import Fresh, Plan
from queuekit.backends.redis._watching import BLOCK_S, Watches

MAX_BATCH = 500
"""The server does nothing else meanwhile: so many small messages take it about a millisecond."""

TAKEN_BYTES = 8 << 20
"""About how much one receive brings, by the largest message of the last ones."""

_YEAR_S = 365 * 86_400.0
_FULL = ErrorClass(ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no", detail="max_messages is reached")
_NOT_DEAD = Unsupported(f"only a dead-letter queue, whose name ends in {DEAD_SUFFIX}, can be redriven")


_DETOURS = 8
"""How often all of a receive is done in the server, after somebody was quicker than a claim."""


_TIDY_EVERY_S = 60.0
_MEND_EVERY_S = 5.0
_MEND_PAGES = 20

_TOKEN, _RESUME = 1, 2
"""What must come before anything is handed out: a token of the rate, or the end of a pause."""
_PAUSED_REST_S = 0.1


class _Next(NamedTuple):
    """Where the next plain messages are, and how to know that it is still so."""

    born: bytes
    cursor: bytes
    epoch: bytes


class _Outlook(NamedTuple):
    """Why nothing was handed out.

    Attributes:
        until_s: In how many seconds something may be; only a change can help before.
        seen: The last change that was seen, of each stream that tells of changes.
        lacks: What must come first.
    """

    until_s: float
    seen: Sequence[bytes]
    lacks: int


_READY = _Outlook(0.0, (), 0)


class RedisBackend:
    """One queue in one server, or one subscription of it.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, opening: Opening) -> None:
        self._queue: str = opening.queue
        self._options: RedisOptions = opening.options
        self._clock = opening.clock
        self._timeout_s = opening.call_timeout_s
        target = target_of(opening.url, self._options, opening.connect_timeout_s)
        shared = opening.clients.get(("redis", target), lambda: Connections(target, opening.clock), Connections.close)
        self._is_dead = self._queue.endswith(DEAD_SUFFIX)
        self._subscription = self._options.subscription
        self._keys = keys_of(self._queue, self._subscription)
        self._connections = shared.for_key(self._keys.meta)
        self._root = keys_of(self._queue)
        self._sent_to = self._keys if self._is_dead else self._root
        """A dead letter of one subscription is none of another's; all else is for every subscription."""
        self._window_us = _messages.to_us(self._options.dedup_window.total_seconds())
        self._kept = _kept(self._options)
        rate = rate_of(self._options)
        self._rate = ("", "", "") if rate is None else tuple(map(str, rate))
        self._named = named_by(
            self._queue,
            self._subscription,
            keeps_done=self._options.keep_done is not None,
            has_rate=rate is not None,
        )
        self._special = self._options.max_messages is not None or self._is_dead
        self._tidy_at = 0.0
        self._mend_at = 0.0
        self._mended: bytes = b""
        self._largest = 1 << 20  # until it is known better
        self._pid = 0
        self._name = ""
        self._numbers = itertools.count()
        wakes = dict.fromkeys((self._keys.wake, self._sent_to.wake))
        self._watches = Watches(self._connections, tuple(wakes), target.address.answer_s)
        self._born: bytes | None = None
        self._recreated = 0
        self._fresh = Fresh()
        self._writer = _messages.PlainWriter()
        self._next: _Next | None = None
        self._detours = 0
        self._capabilities = _capabilities(
            self._options.dedup_window.total_seconds(),
            subscribed=bool(self._subscription),
            plaintext=target.plaintext,
        )

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._capabilities

    def probe(self) -> Capabilities:
        """Ask the server what it is and what it keeps; make the subscription. See `Backend.probe`."""
        found = look(self._connections, self._keys.meta, self._capabilities, timeout_s=self._timeout_s)
        if self._subscription:
            self._subscribe()
            return found
        alone = not self._call("HEXISTS", self._keys.subs, "fanned")
        return found if alone else replace(found, copies="fanout")

    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:  # noqa: ARG002 - the server has no limits of this kind
        """See `Diagnosable.diagnose`."""
        return _diagnosing.diagnose(self._call)

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
        keys = self._sent_to
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
        recreated, rests = self._recreated, False
        self._tidy()
        while True:
            messages, outlook = self._take(max_messages, lease_s)
            if not messages:
                self._mend()
            now = self._clock.monotonic()
            # That something is gone is told at once, and not when the wait is over.
            if messages or now >= until or self._recreated != recreated:
                return messages
            left_s, seen = min(until - now, outlook.until_s), outlook.seen
            # What is sent meanwhile helps neither a rate nor a pause.
            if outlook.lacks == _TOKEN or (rests and outlook.lacks == _RESUME):
                left_s, seen = min(left_s, BLOCK_S if outlook.lacks == _TOKEN else _PAUSED_REST_S), ()
            rests = outlook.lacks == _RESUME and not rests
            if not self._watches.wait(left_s, seen, stops, now):
                return []

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Carry out a batch in one step. See `Backend.settle`."""
        plan = Plan(batch, self._fresh, is_dead=self._is_dead, kept=self._kept)
        now = self._clock.monotonic()
        if plan.is_empty:
            return plan.outcomes([], now)
        keys = self._named.burying if plan.buries else self._named.settling
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
            seen = self._last_changes()
            if self.stats().ready and not self.is_paused():
                return True
            now = self._clock.monotonic()
            if now >= until or not self._watches.wait(min(until - now, BLOCK_S), seen, stops, now):
                return False

    def create(self) -> None:
        """Make the queue, or the subscription. See `Admin.create`."""
        if self._subscription:
            self._subscribe()
            return
        self._call("HSETNX", self._keys.meta, "born", self._token())

    def delete(self) -> None:
        """Remove the subscription; or the queue itself, with all its subscriptions. See `Admin.delete`."""
        _managing.delete(self._run)

    def exists(self) -> bool:
        """See `Admin.exists`."""
        if self._subscription:
            return bool(self._call("HEXISTS", self._root.subs, self._keys.start))
        return bool(self._call("EXISTS", self._keys.meta, self._keys.plain))

    def purge(self) -> int:
        """See `Admin.purge`."""
        return _managing.purge(self._run)

    def stats(self) -> QueueStats:
        """See `Admin.stats`."""
        stats = _managing.count(self._run)
        return replace(stats, dead=0) if self._is_dead else stats

    def peek(self, *, limit: int, after: str = "", done: bool = False) -> Sequence[StoredMessage]:
        """See `Peekable.peek`."""
        return (_managing.peek_done if done else _managing.peek)(self._run, limit, after)

    def cancel(self, message_id: str) -> bool:
        """Remove every copy of which no attempt counts, from every subscription. See `Cancellable.cancel`."""
        # The queue itself first: what is given to its subscriptions meanwhile is found there.
        removed = [_managing.cancel(partial(self._run_at, self._root.all), message_id)]
        for start in self._call("HKEYS", self._root.subs):
            if b"/" in start:
                keys = keys_at(start.decode()).all
                removed.append(_managing.cancel(partial(self._run_at, keys), message_id))
        return any(removed)

    def pause(self) -> None:
        """See `Pausable.pause`."""
        self._run("pause", self._token(), "1")

    def resume(self) -> None:
        """See `Pausable.resume`."""
        self._run("pause", self._token(), "0")

    def is_paused(self) -> bool:
        """See `Pausable.is_paused`."""
        return bool(self._call("HEXISTS", self._keys.meta, "paused"))

    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """See `Redrivable.redrive`."""
        if not self._is_dead:
            return [_NOT_DEAD] * len(batch)

        def run(name: str, *args: Any) -> Any:
            return self._connections.run(load(name), self._named.everything, *args, timeout_s=timeout_s)

        return _managing.redrive(run, batch, self._token())

    def recreated(self) -> int:
        """See `Recreating.recreated`."""
        return self._recreated

    def _call(self, *command: Any) -> Any:
        return self._connections.call(*command, timeout_s=self._timeout_s)

    def _run(self, name: str, *args: Any) -> Any:
        return self._run_at(self._named.everything, name, *args)

    def _run_at(self, keys: tuple[str, ...], name: str, *args: Any) -> Any:
        return self._connections.run(load(name), keys, *args, timeout_s=self._timeout_s)

    def _subscribe(self) -> None:
        self._run("subscribe", self._token())

    def _token(self) -> str:
        """A name that nobody else has, in any process; as the scripts take it, it begins with a ``t``."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._name = f"t{self._clock.token_bytes(8).hex()}-"
        return f"{self._name}{next(self._numbers)}"

    def _send_any(self, batch: Sequence[OutgoingMessage], timeout_s: float) -> Sequence[SendOutcome]:
        limit = str(self._options.max_messages or 0)
        arguments: list[Any] = [self._token(), str(self._window_us), limit, self._kept[2]]
        for message in batch:
            dedup_id = message.dedup_id
            dedup = b"" if dedup_id is None else b"=" + dedup_id.encode("utf-8", "surrogatepass")
            arguments += (message.message_id, *_messages.write_any(message), dedup)
        firsts: Any = b"again"
        while firsts == b"again":  # each time, some more was given to the subscriptions
            firsts = self._connections.run(load("send"), self._named.sending, *arguments, timeout_s=timeout_s)
        if firsts == b"full":
            return [Rejected(_FULL, message.message_id) for message in batch]
        return [
            Duplicate(message.message_id, first.decode("ascii", "replace")) if first else Accepted(message.message_id)
            for message, first in zip(batch, firsts, strict=True)
        ]

    def _take(self, max_messages: int, lease_s: float) -> tuple[Sequence[IncomingMessage], _Outlook]:
        """What is ready, and where nothing is, why."""
        token = self._token()
        want = min(max_messages, MAX_BATCH, max(1, TAKEN_BYTES // self._largest))
        if self._next is not None and (messages := self._claim(self._next, want, lease_s, token)):
            return messages, _READY
        seed = str(self._clock.random.getrandbits(30)) if self._options.priorities == "weighted" else ""
        now = self._clock.monotonic()
        lease_us = str(_messages.to_us(lease_s))
        answer = self._run_at(self._named.receiving, "take", str(want), lease_us, token, token, seed, *self._rate)
        self._notice(answer[0])
        self._next = None
        if isinstance(answer[1], int):
            return (), _Outlook(answer[1] / 1e6 if answer[1] >= 0 else BLOCK_S, answer[2], answer[3])
        born, run, taken, epoch = answer
        messages = self._admit(run, token, now + lease_s)
        if taken:
            messages += _messages.read_taken(taken, token, now + lease_s)
            self._learn(messages)
            messages.sort(key=_best_first)
        elif self._detours:
            self._detours -= 1
        elif epoch and len(run) == want:
            self._next = _Next(born, run[-1][0], epoch)
        return messages, _READY

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

    def _tidy(self) -> None:
        """Now and then, remove what was kept for long enough."""
        now = self._clock.monotonic()
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_EVERY_S
            _managing.tidy(self._run)

    def _mend(self) -> None:
        """Now and then, where nothing is ready, look for what an eviction has left behind."""
        if self._clock.monotonic() < self._mend_at:
            return
        pages = _MEND_PAGES
        while pages:
            self._mended, restored = self._run("mend", self._mended)
            pages = 0 if not self._mended else pages if restored else pages - 1
        self._mend_at = self._clock.monotonic() + _MEND_EVERY_S

    def _last_changes(self) -> list[bytes]:
        found = [self._call("XREVRANGE", key, "+", "-", "COUNT", "1") for key in self._watches.keys]
        return [each[0][0] if each else b"0-0" for each in found]


def _length(message: IncomingMessage) -> int:
    return len(message[2])


def _best_first(message: IncomingMessage) -> tuple[int, tuple[int, int]]:
    handle: Any = message.handle
    return -message.priority, _messages.order_of(handle[1])


def _kept(options: RedisOptions) -> tuple[str, str, str]:
    """How long what is done is kept, the most of it, and how long what is dead is kept."""
    done_s = 0.0 if options.keep_done is None else options.keep_done.total_seconds()
    dead_s = options.dead_letter_retention.total_seconds()
    return str(_messages.to_us(done_s)), str(options.keep_done_max), str(_messages.to_us(dead_s))


def _capabilities(dedup_window_s: float, *, subscribed: bool, plaintext: bool) -> Capabilities:
    return Capabilities(
        queues="implicit",
        durability="disk",
        plaintext=plaintext,
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
        fanout=True,
        copies="fanout" if subscribed else "private",
        long_poll=True,
        admin=True,
        peek=True,
        purge=True,
        depth="exact",
        cancel=True,
        pause=True,
    )


SPEC = BackendSpec(open=RedisBackend, options=RedisOptions, slot="option", forms=FORMS, places=("database",))
