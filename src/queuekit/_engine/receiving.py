# SPDX-License-Identifier: Apache-2.0
"""The receiving engine of one queue: a poll thread that fills a buffer, and takers that empty it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

from queuekit._engine import metadata
from queuekit._engine.control import Control, DeadLetterRoute
from queuekit._engine.flow import Flow
from queuekit._engine.guard import Guard
from queuekit._engine.held import RUNNING, WAITING, Held, weights
from queuekit._engine.journal import Journal
from queuekit._engine.shutdown import Standing
from queuekit._engine.waits import FullJitter, planned_wait_s
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError, QueueKitError
from queuekit.backend import Action, Backend, IncomingMessage, Interruptible


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSettings:
    """How a receiver works; every value was checked against the capabilities before.

    Attributes:
        lease_s: The length of a lease.
        max_lease_s: How long a delivery may be kept in all.
        keep_leases: Whether leases are extended.
        prefetch: Most deliveries that may wait beyond those that are waited for.
        prefetch_by_pace: Whether fewer wait where they are taken slowly.
        max_in_flight: Most deliveries leased and unsettled.
        max_bytes: Most bytes of them.
        poll_s: Longest wait of one poll.
        linger_s: How long a settlement may wait for others.
        budget_s: Longest time of one call.
    """

    lease_s: float = 60.0
    max_lease_s: float = 43_200.0
    keep_leases: bool = True
    prefetch: int = 100
    prefetch_by_pace: bool = False
    max_in_flight: int = 1000
    max_bytes: int = 256 << 20
    poll_s: float = 20.0
    linger_s: float = 0.02
    budget_s: float = 30.0


class Receiver:
    """Leases messages of one queue ahead of those who take them, and settles what they record.

    Threads start at the first take. Everything is guarded by one lock, held for moments only.

    Args:
        backend: The open backend.
        guard: The way to it.
        clock: Time and chance.
        journal: Where to count and log.
        settings: How to work.
        dead_letters: Where dead letters go; None where the backend stores them in one step.
        lost: Called with each running delivery whose lease was lost.

    Concurrency:
        Safe from any thread.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        guard: Guard,
        clock: Clock,
        journal: Journal,
        settings: ReceiverSettings,
        dead_letters: DeadLetterRoute | None = None,
        lost: Callable[[Held], None] = lambda _: None,
    ) -> None:
        can = backend.capabilities
        self._backend, self._guard, self._clock, self._journal = backend, guard, clock, journal
        self._settings = settings
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._poll_wanted = threading.Condition(self._lock)
        self._buffer: deque[Held] = deque()
        self._flow = Flow(
            batch=can.max_receive,
            prefetch=settings.prefetch,
            max_in_flight=settings.max_in_flight,
            max_bytes=settings.max_bytes,
            by_pace=settings.prefetch_by_pace,
        )
        self._demand = 0
        self._callbacks: list[Callable[[], None]] = []
        self._polling = False
        self._asked = False
        self._stopping = False
        self._closed = False
        self._failure: QueueKitError | None = None
        self._outage: QueueKitError | None = None
        self._backoff = FullJitter(clock.random, least_s=0.1, most_s=10.0)
        self._poll_thread: threading.Thread | None = None
        self._pace_from = (clock.monotonic(), 0)
        self.control = Control(
            guard=guard,
            can=can,
            clock=clock,
            journal=journal,
            lock=self._lock,
            lease_s=settings.lease_s,
            max_lease_s=settings.max_lease_s,
            keep_leases=settings.keep_leases,
            linger_s=min(settings.linger_s, settings.lease_s / 10),
            budget_s=settings.budget_s,
            dead_letters=dead_letters,
            finished=self._finished,
            lost=lost,
            starts_in_s=self._pace,
            released=lambda: self._flow.tighten(clock.monotonic()),
        )

    # Taking

    def take(self, timeout_s: float | None) -> Held | None:
        """The next delivery, waiting for at most ``timeout_s``; None when there was none.

        Raises:
            ClosedError: The receiver was stopped.
            QueueKitError: Polling failed in a way that another try cannot mend, or the service could not be
                reached during the whole wait.
        """
        with self._lock:
            return self._pop() or self._wait_for_one(timeout_s)

    def take_now(self) -> Held | None:
        """The next delivery that is here already, or None. Raises as `take` does."""
        with self._lock:
            held = self._pop()
            if held is None:
                self._raise_if_over()
            return held

    def take_many(self, most: int, timeout_s: float | None) -> list[Held]:
        """Up to ``most`` deliveries, waiting for the first. Raises as `take` does."""
        with self._lock:
            first = self._pop()
            if first is None:
                first = self._wait_for_one(timeout_s, demand=most)
            if first is None:
                return []
            taken = [first]
            while len(taken) < most and (held := self._pop()) is not None:
                taken.append(held)
            return taken

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, from any thread, when `take_now` is worth trying again.

        It counts as one that waits, until it is called or given to `forget`.
        """
        with self._lock:
            if self._buffer or self._stopping or self._failure is not None:
                call_now = True
            else:
                call_now = False
                self._callbacks.append(callback)
                self._demand += 1
                self._ask_for_more()
        if call_now:
            callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back a `when_ready` that was not called."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
                self._demand -= 1

    def _pop(self) -> Held | None:
        buffer = self._buffer
        # Once stopping, what waits is given back: nobody begins it.
        while buffer and not self._stopping:
            held = buffer.popleft()
            if held.state is not WAITING:
                continue
            held.state = RUNNING
            self.control.running += 1
            flow = self._flow
            flow.taken += 1
            if len(buffer) == flow.refill_at:
                self._poll_wanted.notify()
            return held
        return None

    def _wait_for_one(self, timeout_s: float | None, *, demand: int = 1) -> Held | None:
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        self._raise_if_over()
        self._demand += demand
        try:
            self._ask_for_more()
            while True:
                left_s = None if deadline is None else deadline - self._clock.monotonic()
                if left_s is not None and left_s <= 0:
                    self._give_up()
                    return None
                self._clock.wait(self._arrived, left_s)
                held = self._pop()
                if held is not None:
                    return held
                self._raise_if_over()
        finally:
            self._demand -= demand

    def give_up(self) -> None:
        """To be called by who looked for a delivery with `take_now` for as long as it wanted.

        Raises:
            QueueKitError: The service could not be reached meanwhile.
        """
        with self._lock:
            self._raise_if_over()
            self._give_up()

    def _give_up(self) -> None:
        if self._outage is not None:
            raise copy(self._outage) from self._outage
        if not self._polling:
            # No poll has begun for this taker, who was gone before the poll thread could see it: one does
            # now, so that asking without waiting finds something the next time.
            self._asked = True
            self._ask_for_more()

    def _ask_for_more(self) -> None:
        self._start()
        if not self.control.running:
            self.control.flush()
        if not self._polling:
            self._poll_wanted.notify()

    def _raise_if_over(self) -> None:
        if self._failure is not None:
            # A copy: the same exception raised in many threads would gather all their tracebacks.
            raise copy(self._failure) from self._failure
        if self._stopping:
            msg = "the consumer is closed; open a new one"
            raise ClosedError(msg, queue=self._guard.queue, operation="receive")

    # Polling

    def _start(self) -> None:
        if self._poll_thread is None:
            name = self._guard.queue
            self.control.start(name)
            self._poll_thread = threading.Thread(target=self._poll_forever, name=f"queuekit-poll-{name}", daemon=True)
            self._poll_thread.start()

    def _poll_forever(self) -> None:
        failures = 0
        while want := self._next_poll():
            began = self._clock.monotonic()
            try:
                batch = self._guard.receive(
                    max_messages=want, wait_s=self._settings.poll_s, lease_s=self._settings.lease_s
                )
            except QueueKitError as error:
                failures += 1
                if not self._after_failure(error, failures):
                    return
                continue
            if failures:
                failures = 0
                self._resumed()
            self._admit(batch, began)

    def _next_poll(self) -> int:
        with self._lock:
            self._polling = False
            self._arrived_if_stopping()
            while not self._stopping:
                demand = max(self._demand, self._asked)
                want = self._flow.want(demand=demand, waiting=len(self._buffer))
                if want > 0:
                    self._polling, self._asked = True, False
                    self._flow.polled(self._clock.monotonic())
                    return want
                self._clock.wait(self._poll_wanted, None)
            self._arrived_if_stopping()
            return 0

    def _arrived_if_stopping(self) -> None:
        if self._stopping:
            self._arrived.notify_all()

    def _admit(self, batch: Sequence[IncomingMessage], began: float) -> None:
        if not batch:
            return
        now = self._clock.monotonic()
        fallback = began + self._settings.max_lease_s
        leases = {
            until: self.control.first_lease(until if until is not None else fallback, began, now)
            for until in {message.lease_until for message in batch}
        }
        group = [Held(message, leases[message.lease_until]) for message in batch]
        expired = self._expired(group)
        sizes = weights(group)
        with self._lock:
            if not self._stopping and not expired and self._flow.admits_all(len(group), sum(sizes)):
                self._flow.add(sizes)
                self._buffer.extend(group)
            else:
                self._admit_singly(group, sizes, expired)
            self.control.track(group, leases.values())
            self._wake_takers(len(self._buffer))
            callbacks = self._take_callbacks()
        if expired:
            self._journal.note("delivery.expired", count=len(expired))
        for callback in callbacks:
            callback()

    def _admit_singly(self, group: list[Held], sizes: list[int], expired: set[Held]) -> None:
        for held, size in zip(group, sizes, strict=True):
            fits = self._flow.admits(size)
            self._flow.add((size,))
            if held in expired:
                self.control.record_locked(held, Action.ACK)
            elif self._stopping or not fits:
                self.control.record_locked(held, Action.RELEASE)
            else:
                self._buffer.append(held)

    def _expired(self, group: list[Held]) -> set[Held]:
        ending = [held for held in group if metadata.EXPIRES in held.message.metadata]
        if not ending:
            return set()
        wall = self._clock.time()
        return {held for held in ending if _is_past(held.message.metadata[metadata.EXPIRES], wall)}

    def _wake_takers(self, count: int) -> None:
        if count and self._demand:
            self._arrived.notify(count)

    def _take_callbacks(self) -> list[Callable[[], None]]:
        callbacks, self._callbacks = self._callbacks, []
        self._demand -= len(callbacks)
        return callbacks

    def _after_failure(self, error: QueueKitError, failures: int) -> bool:
        """Log an outage once, wait, and go on; False when no other try can mend it."""
        callbacks: list[Callable[[], None]] = []
        with self._lock:
            stopping = self._stopping
            first, self._outage = self._outage is None, error
            if stopping or not error.retryable:
                self._polling = False
                self._arrived.notify_all()
            if not error.retryable and not stopping:
                self._failure = error
                callbacks = self._take_callbacks()
        for callback in callbacks:
            callback()
        if first and not stopping:
            self._journal.note("receive.failed", str(error))
        if stopping or not error.retryable:
            return False
        wait_s = planned_wait_s(self._backoff, failures, error, fallback=self._backoff)
        until = self._clock.monotonic() + wait_s
        with self._lock:
            while not self._stopping and (left_s := until - self._clock.monotonic()) > 0:
                self._clock.wait(self._poll_wanted, left_s)
        return True

    def _resumed(self) -> None:
        with self._lock:
            self._outage = None
        self._journal.note("receive.resumed")

    def _finished(self, count: int, size: int) -> None:
        self._flow.remove(count, size)
        if not self._polling:
            self._poll_wanted.notify()
        self._arrived_if_stopping()

    def _pace(self) -> Callable[[Held], float]:
        """How soon waiting deliveries will probably be taken, from how fast others were."""
        now = self._clock.monotonic()
        since, taken = self._pace_from
        self._flow.relax(now, 10 * self._settings.lease_s)
        rate = (self._flow.taken_in_all - taken) / max(now - since, 1e-9)
        self._pace_from = (now, self._flow.taken_in_all)
        positions = {id(held): index for index, held in enumerate(self._buffer)}
        demand = self._demand
        return lambda held: 0.0 if demand else (positions.get(id(held), 0) / rate if rate else float("inf"))

    # Stopping

    def stop_polling(self) -> None:
        """Ask for no more messages; a poll in flight is interrupted where that can be. Idempotent."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            self._poll_wanted.notify_all()
            self._arrived.notify_all()
            callbacks = self._take_callbacks()
        for callback in callbacks:
            callback()
        if isinstance(self._backend, Interruptible):
            self._backend.interrupt()

    def release_waiting(self) -> int:
        """Give back every delivery that nobody has taken."""
        with self._lock:
            waiting = [held for held in self._buffer if held.state is WAITING]
            self._buffer.clear()
            for held in waiting:
                self.control.record_locked(held, Action.RELEASE)
            self.control.flush()
        if waiting:
            self._journal.note("delivery.released", count=len(waiting))
        return len(waiting)

    def release_running(self) -> None:
        """Give back everything that was taken and is unsettled."""
        with self._lock:
            self.control.release_running()

    def standing(self) -> Standing:
        """What is still open."""
        with self._lock:
            return Standing(
                polling=self._polling,
                waiting=sum(held.state is WAITING for held in self._buffer),
                running=self.control.running,
                unsent=int(self.control.unsent()),
            )

    def await_change(self, until: float) -> None:
        """Wait until something finished, or until that time."""
        with self._lock:
            left_s = until - self._clock.monotonic()
            if left_s > 0:
                self._clock.wait(self._arrived, min(left_s, 0.05) if self._polling else left_s)

    def close(self, *, timeout_s: float) -> None:
        """Stop the threads. What is not settled by now comes back when its lease ends. Idempotent."""
        self.stop_polling()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.control.stop(timeout_s)
        if self._poll_thread is not None and self._poll_thread is not threading.current_thread():
            self._poll_thread.join(timeout_s)


def _is_past(text: str, wall: float) -> bool:
    expires_at = metadata.read_instant(text)
    return expires_at is not None and expires_at <= wall
