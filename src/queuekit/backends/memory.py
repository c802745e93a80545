# SPDX-License-Identifier: Apache-2.0
"""Queues in this process's memory: honest leases, fencing, delays, order and dead letters, and no durability.

This is the reference that the other backends are compared with: every answer is exact.

**What is shared.** The process has one table of spaces, each a set of named queues under one lock, so that
a dead letter moves between two queues in one step. `reset` empties the table in place: backends that are
open go on with empty queues. A queue uses the clock of the backend whose first call made it; a test that
brings a clock of its own resets first, or takes a space of its own.

**After a fork** the child has the queues as they were, under fresh locks: whatever was accepted before is
then in both processes. Nothing is lost when the parent ends, as it does where a daemon is started; a child
that consumes a queue which its parent consumes too delivers the parent's backlog a second time.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from math import inf
from typing import Literal, TypeVar

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    Action,
    AllAccepted,
    BackendSpec,
    Capabilities,
    Clock,
    ErrorClass,
    ErrorCode,
    Finding,
    IncomingMessage,
    InvalidURLError,
    Opening,
    OutgoingMessage,
    QueueStats,
    Range,
    Rejected,
    SendOutcome,
    Settlement,
    SettleOutcome,
    StoredMessage,
    Support,
    Unsupported,
    Wanted,
)
from queuekit.backends import _memory_idempotency
from queuekit.backends._memory_queue import PRIORITIES, MemoryQueue, Retention

T = TypeVar("T")

_DEAD_SUFFIX = ".dead"
_TIDY_EVERY_S = 60.0
_YEAR_S = 365 * 86400.0
_MAX_BATCH = 1000
# Measured: what belongs to 200 messages is freed again before Python's garbage collector looks at it.
_MAX_RECEIVE = 200
_FULL = ErrorClass(ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no")
_GONE = Finding(
    severity="loss",
    code="volatile",
    text="the queue is kept in the memory of this process",
    remedy="use a queue that is kept on disk, such as sqlite:///FILE",
    loses="everything, when the process ends",
)
_NO_DEAD = Unsupported("a dead-letter queue has no dead-letter queue of its own")
_NO_SOURCE = Unsupported("only a queue whose name ends in .dead has a source to redrive to")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """The options of a memory URL.

    Attributes:
        space: Queues of different spaces share nothing, whatever their names.
        subscription: Receive as this subscription: it gets a copy of every message that is sent to the queue
            after its first use. Without one, messages are shared by everybody who receives.
        dedup_window: How long a dedup id is remembered; 0 switches deduplication off.
        max_messages: Most messages that the queue holds, leased ones included; a send that does not fit is
            refused whole. Dead letters and redriven messages are always taken.
        priorities: ``strict``: a message of higher priority always comes first. ``weighted``: each one comes from
            a priority drawn by its weight, the priority plus one, so that none is ever starved.
        keep_done: How long acknowledged messages are kept to be looked at; without it they are removed at once.
        keep_done_max: The most of them that are kept, the latest ones.
        dead_letter_retention: How long a dead letter is kept, counted from when it became one.
    """

    space: str = ""
    subscription: str = ""
    dedup_window: timedelta = field(
        default=timedelta(hours=1), metadata={"range": Range(timedelta(0), timedelta(days=7))}
    )
    max_messages: int | None = field(default=None, metadata={"range": Range(1, 1 << 62)})
    priorities: Literal["strict", "weighted"] = "strict"
    keep_done: timedelta | None = field(
        default=None, metadata={"range": Range(timedelta(seconds=1), timedelta(days=3650))}
    )
    keep_done_max: int = field(default=10_000, metadata={"range": Range(1, 1_000_000)})
    dead_letter_retention: timedelta = field(
        default=timedelta(days=14), metadata={"range": Range(timedelta(minutes=1), timedelta(days=3650))}
    )


class _Space:
    """Queues under one lock, so that a message moves between two of them in one step."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.queues: dict[str, dict[str, MemoryQueue]] = {}  # by name and subscription; "" is the queue itself

    def find(self, name: str, subscription: str) -> MemoryQueue | None:
        """The queue, or its subscription, where there is one. Called under the lock."""
        found = self.queues.get(name)
        return None if found is None else found.get(subscription)

    def queue(self, name: str, subscription: str, clock: Clock) -> MemoryQueue:
        """The queue, or its subscription, made where there is none. Called under the lock."""
        subscriptions = self.queues.setdefault(name, {})
        found = subscriptions.get(subscription)
        if found is None:
            found = subscriptions[subscription] = MemoryQueue(clock, self.lock, next(_QUEUE_NUMBERS))
        return found

    def audience(self, name: str, clock: Clock) -> tuple[MemoryQueue, list[MemoryQueue]]:
        """The queue, made if need be, and all that get what is sent to it. Called under the lock.

        The queue itself is one of them from its first receive on, and while there is no other.
        """
        queue = self.queue(name, "", clock)
        return queue, [each for each in self.queues[name].values() if each.received] or [queue]

    def renew_lock(self) -> None:
        """Go on in the child of a fork, where no other thread lives."""
        self.lock = threading.RLock()
        for subscriptions in self.queues.values():
            for queue in subscriptions.values():
                queue.renew_lock(self.lock)

    def drop(self, name: str, subscription: str | None) -> None:
        """Forget a subscription, or with None the queue and all of them; who waits stops. Called under the lock."""
        subscriptions = self.queues.get(name, {})
        for each in list(subscriptions) if subscription is None else [subscription]:
            queue = subscriptions.pop(each, None)
            if queue is not None:
                queue.gone = True
                queue.wake()
        if not subscriptions:
            self.queues.pop(name, None)


class _Spaces:
    """Every space of the process, and what happens to them in a fork."""

    def __init__(self) -> None:
        self.by_name: dict[str, _Space] = {}
        self._forking = threading.Lock()
        self._held: list[_Space] = []

    def reset(self) -> None:
        for space in list(self.by_name.values()):
            with space.lock:
                for name in list(space.queues):
                    space.drop(name, None)

    def before_fork(self) -> None:
        # A fork in the midst of another thread's change would copy half of it.
        self._forking.acquire()
        for space in list(self.by_name.values()):
            space.lock.acquire()
            self._held.append(space)

    def after_fork_in_parent(self) -> None:
        while self._held:
            self._held.pop().lock.release()
        self._forking.release()

    def after_fork_in_child(self) -> None:
        self._forking = threading.Lock()
        self._held.clear()
        for space in self.by_name.values():
            space.renew_lock()


_QUEUE_NUMBERS = count(1)
_SPACES = _Spaces()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_SPACES.before_fork,
        after_in_parent=_SPACES.after_fork_in_parent,
        after_in_child=_SPACES.after_fork_in_child,
    )


def reset() -> None:
    """Empty every space: messages, leases, dedup ids and done work are gone, and waiting receives return."""
    _SPACES.reset()
    _memory_idempotency.reset()


class MemoryBackend:
    """One queue of one space, or one subscription of it."""

    def __init__(self, opening: Opening) -> None:
        options: MemoryOptions = opening.options
        self._name = opening.queue
        self._is_dead = self._name.endswith(_DEAD_SUFFIX)
        self._clock = opening.clock
        self._space = _SPACES.by_name.setdefault(options.space, _Space())
        self._window_s = options.dedup_window.total_seconds()
        self._max_messages = options.max_messages
        self._subscription = options.subscription
        self._weighted = options.priorities == "weighted"
        self._retention = Retention(
            done_s=None if options.keep_done is None else options.keep_done.total_seconds(),
            done_max=options.keep_done_max,
            dead_letter_s=options.dead_letter_retention.total_seconds(),
        )
        self._tidy_at = 0.0
        self._sized: tuple[Mapping[str, str], int] = ({}, 0)
        self._interrupts = 0
        self._used: MemoryQueue | None = None
        self._recreated = 0
        self._closed = False
        self.capabilities: Capabilities = _capabilities(self._window_s, subscribed=bool(self._subscription))

    def probe(self) -> Capabilities:
        """Nothing about memory has to be asked, but whether there are subscriptions. Makes one's own."""
        with self._space.lock:
            if self._subscription:
                self._subscribe()
            alone = not any(self._space.queues.get(self._name, {}))
        return self.capabilities if alone else replace(self.capabilities, copies="fanout")

    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:  # noqa: ARG002 - there are no limits of this kind
        """See `Diagnosable.diagnose`."""
        return (_GONE,)

    def size(self, message: OutgoingMessage) -> int:
        """The body, and the names and values of attributes and metadata in UTF-8."""
        metadata, metadata_size = self._sized
        if metadata is not message.metadata:
            metadata_size = _text_size(message.metadata)
            self._sized = (message.metadata, metadata_size)
        return len(message.body) + metadata_size + (_text_size(message.attributes) if message.attributes else 0)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:  # noqa: ARG002
        """Store the batch in one step, or refuse it whole where it does not fit."""
        with self._space.lock:
            queue, audience = self._audience()
            if self._window_s and any(message.dedup_id is not None for message in batch):
                outcomes = queue.without_duplicates(batch)
                new = [each for each, outcome in zip(batch, outcomes, strict=True) if type(outcome) is Accepted]
            else:
                outcomes, new = [], list(batch)
            if new and self._max_messages is not None:
                room = self._max_messages - len(new)
                if any(len(each.entries) > room for each in audience):
                    return [Rejected(_FULL, message.message_id) for message in batch]
            if outcomes:
                queue.remember(new, self._window_s)
            for each in audience:
                if self._is_dead:
                    each.store_letters(new, self._retention.dead_letter_s)
                else:
                    each.store(new)
            self._tidy()
        return outcomes or AllAccepted([message.message_id for message in batch])

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease what is ready, best first; wait for it where nothing is."""
        with self._space.lock:
            self._subscribe()
            self._tidy()
        return self._await(wait_s, lambda queue: queue.take(max_messages, lease_s, weighted=self._weighted)) or []

    def wait_for_change(self, timeout_s: float) -> bool:
        """Wait until a message is ready."""
        return self._await(timeout_s, MemoryQueue.has_ready) or False

    def _await(self, wait_s: float, look: Callable[[MemoryQueue], T]) -> T | None:
        """Look until there is something, the time is over, or `interrupt` or `close` was called."""
        with self._space.lock:
            queue, interrupts = self._place(), self._interrupts
            found = None if self._closed else look(queue)
            if found or wait_s <= 0 or self._closed:
                return found
            deadline = queue.clock.monotonic() + wait_s
            while not found and (left_s := deadline - queue.clock.monotonic()) > 0:
                queue.wait(left_s)
                if queue.gone or self._interrupts != interrupts:
                    return None
                found = look(queue)
            return found

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:  # noqa: ARG002
        """Carry out the batch in one step."""
        if self._is_dead and any(each.action is Action.DEAD for each in batch):
            return self._settle_in_dead_letters(batch)
        with self._space.lock:
            return self._settle(batch)

    def _settle(self, batch: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        queue = self._find()
        if queue is None:
            return [LEASE_LOST] * len(batch)
        outcomes = queue.settle(batch, self._dead_letters, self._retention)
        self._tidy()
        return outcomes

    def _settle_in_dead_letters(self, batch: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        possible = [each for each in batch if each.action is not Action.DEAD]
        with self._space.lock:
            outcomes = iter(self._settle(possible))
        return [_NO_DEAD if each.action is Action.DEAD else next(outcomes) for each in batch]

    def classify(self, error: BaseException) -> ErrorClass:
        """Memory raises nothing of its own."""
        return ErrorClass(ErrorCode.UNKNOWN, raw=error)

    def interrupt(self) -> None:
        """End every receive of this backend that is waiting."""
        with self._space.lock:
            self._interrupts += 1
            queue = self._find()
            if queue is not None:
                queue.wake()

    def close(self) -> None:
        """End every receive that is waiting, or that comes too late; the queue stays as it is."""
        self._closed = True
        self.interrupt()

    def create(self) -> None:
        """Make the queue, or the subscription, as its first use would."""
        with self._space.lock:
            if self._subscription:
                self._subscribe()
            else:
                self._place()

    def delete(self) -> None:
        """Remove the subscription, or the queue with all of them; dead letters and remembered dedup ids too."""
        everything = not self._subscription and not self._is_dead
        with self._space.lock:
            for name in (self._name, self._name + _DEAD_SUFFIX):
                self._space.drop(name, None if everything else self._subscription)

    def exists(self) -> bool:
        """Whether it was made, by `create` or by being used, and not deleted since."""
        with self._space.lock:
            return self._find() is not None

    def purge(self) -> int:
        """Remove every message that is not leased."""
        with self._space.lock:
            queue = self._find()
            if queue is None:
                return 0
            queue.advance()
            return queue.discard(queue.entries.keys() - {each.sequence for each in queue.leases.values()})

    def stats(self) -> QueueStats:
        """Count exactly; a dead-letter queue, which has no dead letters of its own, says 0 of them."""
        with self._space.lock:
            dead_letters = self._space.find(self._name + _DEAD_SUFFIX, self._subscription)
            if dead_letters is not None:
                dead_letters.tidy(inf)
            dead = len(dead_letters.entries) if dead_letters else 0
            queue = self._find()
            if queue is None:
                return QueueStats(ready=0, delayed=0, leased=0, dead=dead, done=0)
            queue.advance()
            queue.tidy(inf)
            leased, delayed = len(queue.leases), queue.not_ready
            ready = len(queue.entries) - leased - delayed
            return QueueStats(ready=ready, delayed=delayed, leased=leased, dead=dead, done=len(queue.done))

    def peek(self, *, limit: int, after: str = "", done: bool = False) -> Sequence[StoredMessage]:
        """Look at messages in order of sending."""
        with self._space.lock:
            queue = self._find()
            if queue is None:
                return []
            return (queue.look_at_done if done else queue.look)(limit, int(after or 0))

    def cancel(self, message_id: str) -> bool:
        """Remove every copy of which no attempt counts, from every subscription; False where there is none."""
        with self._space.lock:
            queues = list(self._space.queues.get(self._name, {}).values())
            return sum(queue.discard(queue.find_untried(message_id)) for queue in queues) > 0

    def pause(self) -> None:
        """Hand out nothing of this queue, or of this subscription."""
        with self._space.lock:
            if self._subscription:
                self._subscribe()
            self._place().paused = True

    def resume(self) -> None:
        """Hand out messages again."""
        with self._space.lock:
            queue = self._find()
            if queue is not None and queue.paused:
                queue.paused = False
                queue.wake()

    def is_paused(self) -> bool:
        """Whether it is paused."""
        with self._space.lock:
            queue = self._find()
            return queue is not None and queue.paused

    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:  # noqa: ARG002
        """Move dead letters back in one step; the source's dedup window and limit do not apply to them.

        Message ids are not unique: an entry takes the oldest dead letter with its id.
        """
        if not self._is_dead:
            return [_NO_SOURCE] * len(batch)
        with self._space.lock:
            queue = self._place()
            queue.advance()
            found = queue.find_unleased(Counter(message.message_id for message in batch))
            left = Counter(queue.entries[each].message.message_id for each in found)
            moved = []
            outcomes: list[SettleOutcome] = []
            for message in batch:
                if left[message.message_id] > 0:
                    moved.append(message)
                left[message.message_id] -= 1
                outcomes.append(SETTLED if left[message.message_id] >= 0 else LEASE_LOST)
            source = self._name.removesuffix(_DEAD_SUFFIX)
            self._space.queue(source, self._subscription, queue.clock).store(moved)
            queue.discard(found)
            return outcomes

    def recreated(self) -> int:
        """How often the queue was deleted while this backend used it."""
        return self._recreated

    def _find(self) -> MemoryQueue | None:
        return self._space.find(self._name, self._subscription)

    def _place(self) -> MemoryQueue:
        queue = self._space.queue(self._name, self._subscription, self._clock)
        if queue is not self._used:
            self._recreated += self._used is not None
            self._used = queue
        return queue

    def _subscribe(self) -> None:
        """Have what is sent from now on; a subscription's queue is made with it."""
        if not self._is_dead:
            self._space.queue(self._name, "", self._clock)
            self._place().received = True

    def _audience(self) -> tuple[MemoryQueue, list[MemoryQueue]]:
        if self._is_dead:  # a dead letter of one subscription is none of another's
            return self._place(), [self._place()]
        if not self._subscription:
            self._place()
        return self._space.audience(self._name, self._clock)

    def _dead_letters(self) -> MemoryQueue:
        return self._space.queue(self._name + _DEAD_SUFFIX, self._subscription, self._place().clock)

    def _tidy(self) -> None:
        """Now and then, remove dead letters that were kept for long enough, though nobody looks at them."""
        now = self._clock.monotonic()
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_EVERY_S
            dead_letters = self._space.find(self._name + _DEAD_SUFFIX, self._subscription)
            if dead_letters is not None:
                dead_letters.tidy()


def _text_size(texts: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in texts.items())


def _capabilities(dedup_window_s: float, *, subscribed: bool) -> Capabilities:
    return Capabilities(
        queues="implicit",
        durability="process",
        max_message_bytes=64 << 20,
        max_send_batch=_MAX_BATCH,
        atomic_send=True,
        max_receive=_MAX_RECEIVE,
        max_settle_batch=_MAX_RECEIVE,
        mixed_settles=True,
        min_lease_s=0.001,
        max_lease_s=43200.0,
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
        priority_levels=PRIORITIES,
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


def _open(opening: Opening) -> MemoryBackend:
    url = opening.url
    if url.user is not None or url.password is not None or url.path:
        msg = "a memory URL has a queue and options only; the form is memory://QUEUE"
        raise InvalidURLError(msg)
    return MemoryBackend(opening)


SPEC = BackendSpec(
    open=_open,
    options=MemoryOptions,
    slot="host",
    forms=("memory://QUEUE", "memory://QUEUE?space=NAME"),
    places=("space",),
)
