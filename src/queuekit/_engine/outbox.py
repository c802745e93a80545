# SPDX-License-Identifier: Apache-2.0
"""Sends on behalf of callers that do not block: one thread gathers their messages into batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from queuekit._engine.batching import BatchLimits, SendBatcher
from queuekit._engine.ordered_sends import OrderedSends, not_attempted
from queuekit._engine.tally import SendTally
from queuekit._engine.turns import TurnBatcher
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError
from queuekit._values.outcome import AllAccepted, ErrorClass, ErrorCode, NotAttempted, SendOutcome, Unknown
from queuekit.backend import OutgoingMessage

_GIVEN_UP = ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, detail="closed before the service had answered")
_NOT_SENT = ErrorClass(ErrorCode.CLOSED, retryable=True, sent="no", detail="closed before it could be sent")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message, and who learns its outcome.

    Attributes:
        message: What is sent.
        future: A thread's, or an event loop's.
        told: Called with the outcome first, also when the future was cancelled; it must not raise.
    """

    message: OutgoingMessage
    future: Future[SendOutcome] | asyncio.Future[SendOutcome]
    told: Callable[[SendOutcome], None] | None = None


class Outbox:
    """Batches the messages of `asend` and `send_soon`, and resolves their futures.

    The thread starts at the first message. One thread sends, so messages of one key stay in order.

    Args:
        sender: Sends one batch and answers for each message; knows the keys that wait.
        limits: Of one batch.
        size: Bytes of a message, asked only where the limits have a size.
        clock: Time.
        linger_s: How long a batch may wait for more.
        max_pending: Most messages that may be gathered; beyond that callers wait.
        name: For the thread.
        tally: Counts what became of the messages.

    Concurrency:
        Safe from any thread.
    """

    def __init__(
        self,
        sender: OrderedSends,
        limits: BatchLimits,
        size: Callable[[OutgoingMessage], int],
        clock: Clock,
        *,
        linger_s: float,
        max_pending: int,
        name: str,
        tally: SendTally,
    ) -> None:
        self._sender, self._clock, self._name, self._tally = sender, clock, name, tally
        self._size = size if limits.size is not None else lambda _: 0
        batcher: type[SendBatcher[Parcel] | TurnBatcher[Parcel]] = (
            TurnBatcher[Parcel] if limits.one_per_key else SendBatcher[Parcel]
        )
        self._batcher = batcher(limits, linger_s=linger_s, max_pending=max_pending)
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._room_callbacks: list[Callable[[], None]] = []
        self._sending: list[Parcel] = []
        self._closing = self._resting = False
        self._thread: threading.Thread | None = None

    def put(self, parcel: Parcel) -> None:
        """Take a message, waiting while too many are pending.

        Raises:
            ClosedError: The outbox was closed.
        """
        with self._lock:
            while not self._closing and not self._batcher.has_room():
                self._clock.wait(self._room, None)
            taken = self._add(parcel)
        if not taken:
            self._refuse([parcel])

    def put_now(self, parcel: Parcel) -> bool:
        """Take a message if there is room for it.

        Raises:
            ClosedError: The outbox was closed.
        """
        with self._lock:
            if not self._closing and not self._batcher.has_room():
                return False
            taken = self._add(parcel)
        if not taken:
            self._refuse([parcel])
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, from any thread, when `put_now` is worth trying again."""
        with self._lock:
            full = not self._closing and not self._batcher.has_room()
            if full:
                self._room_callbacks.append(callback)
        if not full:
            callback()

    async def await_room(self) -> None:
        """Suspend until `put_now` is worth trying again."""
        loop, room = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # A loop that was closed meanwhile has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(room.set)

        self.when_room(wake)
        await room.wait()

    def unsent(self) -> int:
        """How many messages have no outcome yet."""
        with self._lock:
            return len(self._batcher) + len(self._sending)

    def close(self, timeout_s: float) -> int:
        """Send what is gathered, take nothing more, and end the thread.

        Returns:
            How many messages had no outcome when the time was over. Idempotent.
        """
        with self._lock:
            self._closing = True
            self._batcher.flush()
            self._wanted.notify_all()
            self._room.notify_all()
            callbacks, self._room_callbacks = self._room_callbacks, []
        for callback in callbacks:
            callback()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return self.unsent()

    def rest(self, timeout_s: float) -> int:
        """Send what is gathered and end the thread, until the next message.

        Returns:
            How many messages had no outcome when the time was over; they are sent all the same.
        """
        with self._lock:
            thread, self._resting = self._thread, True
            self._wanted.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        with self._lock:
            self._resting = False
        return self.unsent()

    def give_up(self) -> int:
        """Answer for every message that has no outcome yet, after `close` ran out of time.

        What was not handed to the service was not attempted; of what is with it now nothing is known. The
        thread may still be in its call; its answer comes too late.

        Returns:
            How many messages that were.
        """
        with self._lock:
            unknown, self._sending = self._sending, []
            waiting = self._batcher.drain()
        self._resolve(unknown, [Unknown(_GIVEN_UP, parcel.message.message_id) for parcel in unknown])
        self._resolve(waiting, [NotAttempted(_NOT_SENT, parcel.message.message_id) for parcel in waiting])
        return len(unknown) + len(waiting)

    def _add(self, parcel: Parcel) -> bool:
        """Take a message; False where its key waits, so that its answer is known.

        Raises:
            ClosedError: The outbox was closed.
        """
        if self._closing:
            msg = "the producer is closed; open a new one"
            raise ClosedError(msg, operation="send")
        message = parcel.message
        self._tally.given()
        if self._sender.paused and self._sender.paused.holds(message.ordering_key):
            return False
        self._batcher.add(parcel, size=self._size(message), key=message.ordering_key, now=self._clock.monotonic())
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._send_forever, name=f"queuekit-send-{self._name}", daemon=True
            )
            self._thread.start()
        if not self._sending:
            self._wanted.notify()
        return True

    def _send_forever(self) -> None:
        while batch := self._next_batch():
            outcomes = self._sender.send([parcel.message for parcel in batch])
            with self._lock:
                mine, self._sending = self._sending, []
                overtaking = self._overtaking(outcomes)
            if mine:  # else somebody gave up waiting for this answer, and gave one
                self._resolve(mine, outcomes)
            self._refuse(overtaking)

    def _overtaking(self, outcomes: Sequence[SendOutcome]) -> list[Parcel]:
        """Take out what waits here behind a message that failed, before anybody hears of it and resumes the key."""
        paused = self._sender.paused
        if not paused or type(outcomes) is AllAccepted:
            return []
        return self._batcher.remove(lambda parcel: paused.holds(parcel.message.ordering_key))

    def _refuse(self, parcels: Sequence[Parcel]) -> None:
        if parcels:
            self._resolve(parcels, [not_attempted(parcel.message.message_id) for parcel in parcels])

    def _resolve(self, batch: Sequence[Parcel], outcomes: Sequence[SendOutcome]) -> None:
        self._tally.answered(outcomes)
        _resolve(batch, outcomes)

    def _next_batch(self) -> list[Parcel] | None:
        callbacks: list[Callable[[], None]] = []
        with self._lock:
            while True:
                now = self._clock.monotonic()
                if self._resting:
                    self._batcher.flush()
                batch = self._batcher.take(now)
                if batch is not None:
                    self._sending = batch
                    self._room.notify_all()
                    callbacks, self._room_callbacks = self._room_callbacks, []
                    break
                if self._closing:
                    return None
                if self._resting and not len(self._batcher):
                    self._thread = None
                    return None
                due = self._batcher.due_at()
                self._clock.wait(self._wanted, None if due is None else max(0.0, due - now))
        for callback in callbacks:
            callback()
        return batch


def _resolve(batch: Sequence[Parcel], outcomes: Sequence[SendOutcome]) -> None:
    """Resolve threads' futures here, and those of each event loop in one call on that loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[SendOutcome], SendOutcome]]] = {}
    for parcel, outcome in zip(batch, outcomes, strict=True):
        if parcel.told is not None:
            parcel.told(outcome)
        future = parcel.future
        if isinstance(future, Future):
            if future.set_running_or_notify_cancel():
                future.set_result(outcome)
        else:
            by_loop.setdefault(future.get_loop(), []).append((future, outcome))
    for loop, answers in by_loop.items():
        # A loop that was closed meanwhile has nobody left who waits for the answer.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_set_results, answers)


def _set_results(answers: list[tuple[asyncio.Future[SendOutcome], SendOutcome]]) -> None:
    for future, outcome in answers:
        if not future.done():
            future.set_result(outcome)
