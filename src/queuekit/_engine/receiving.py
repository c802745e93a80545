# SPDX-License-Identifier: Apache-2.0
"""The receiving engine of one queue: a thread that polls, and what becomes of what it brings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from queuekit._engine.arrivals import Arrivals
from queuekit._engine.bridging import Bridge, Onward
from queuekit._engine.control import Control
from queuekit._engine.copies import CopySender
from queuekit._engine.flow import Flow
from queuekit._engine.guard import Guard
from queuekit._engine.held import Held, weights
from queuekit._engine.inbox import Inbox
from queuekit._engine.journal import Journal
from queuekit._engine.shutdown import Standing
from queuekit._engine.station import Station
from queuekit._engine.tally import ReceiveTally, Timing
from queuekit._engine.threads import Threads
from queuekit._engine.waits import FullJitter, planned_wait_s
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import BackendBugError, QueueKitError, ThrottledError
from queuekit.backend import Action, Backend, IncomingMessage, Interruptible, Recreating


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
        can: What the queue can do, as far as that is known.
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
        can: Capabilities,
        lost: Callable[[Held], None] = lambda _: None,
    ) -> None:
        self._backend, self._guard, self._clock, self._journal = backend, guard, clock, journal
        self.bridge: Bridge = Bridge(can)
        self.copies: CopySender = CopySender(guard, can, backend.size)
        self._arrivals = Arrivals(self.bridge)
        self._settings = settings
        self._lock = threading.RLock()
        self._poll_wanted = threading.Condition(self._lock)
        self._flow = Flow(
            batch=can.max_receive,
            prefetch=settings.prefetch,
            max_in_flight=settings.max_in_flight,
            max_bytes=settings.max_bytes,
            by_pace=settings.prefetch_by_pace,
        )
        self._inbox = Inbox(
            self._lock,
            clock,
            self._flow,
            queue=guard.queue,
            wanted=self._poll_wanted.notify,
            somebody_waits=self._somebody_waits,
        )
        self._tally = ReceiveTally()
        self._closed = False
        self._recreating = backend if isinstance(backend, Recreating) else None
        self._recreated = 0
        self._backoff = FullJitter(clock.random, least_s=0.1, most_s=10.0)
        self._threads: Threads | None = None
        self.control = self._make_control(can, lost)
        # The methods themselves: one of them runs for every message.
        self.take = self._inbox.take
        self.take_now = self._inbox.take_now
        self.take_many = self._inbox.take_many
        self.when_ready = self._inbox.when_ready
        self.forget = self._inbox.forget
        self.give_up = self._inbox.give_up

    def _make_control(self, can: Capabilities, lost: Callable[[Held], None]) -> Control:
        settings = self._settings
        station = Station(
            guard=self._guard,
            can=can,
            clock=self._clock,
            journal=self._journal,
            lock=self._lock,
            flow=self._flow,
            tally=self._tally,
            budget_s=settings.budget_s,
        )
        return Control(
            station,
            lease_s=settings.lease_s,
            max_lease_s=settings.max_lease_s,
            keep_leases=settings.keep_leases,
            linger_s=min(settings.linger_s, settings.lease_s / 10),
            most_parked=(settings.max_in_flight // 2, settings.max_bytes // 2),
            copies=self.copies,
            gone=self._gone,
            lost=lost,
            starts_in_s=lambda: self._inbox.pace(10 * settings.lease_s),
        )

    def _somebody_waits(self) -> None:
        self._start()
        if not self._flow.running:
            self.control.settles.flush()
        if not self._inbox.polling:
            self._poll_wanted.notify()

    def _start(self) -> None:
        if self._threads is None:
            self._threads = Threads(self._guard.queue, self._broken)
            self.control.start(self._threads)
            self._threads.start("poll", self._poll_forever)

    def _broken(self, error: Exception) -> None:
        """A thread of ours has ended: nobody may go on as if it had not."""
        failure = BackendBugError(
            f"receiving from {self._guard.queue} broke down; open it anew, and report this",
            queue=self._guard.queue,
            operation="receive",
        )
        failure.__cause__ = error
        self._end(failure)

    def _end(self, failure: QueueKitError) -> None:
        with self._lock:
            self._inbox.failure = failure
            self._inbox.polling = False
            self._inbox.arrived.notify_all()
            callbacks = self._inbox.take_callbacks()
        for callback in callbacks:
            callback()

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
            if self._recreating is not None:
                self._report_loss(self._recreating)
            self._admit(batch, began)

    def _next_poll(self) -> int:
        with self._lock:
            self._inbox.polling = False
            self._arrived_if_stopping()
            while not self._inbox.stopping:
                demand = max(self._inbox.demand, self._inbox.asked)
                want = self._flow.want(demand=demand, waiting=len(self._inbox.buffer))
                if want > 0:
                    self._inbox.polling, self._inbox.asked = True, False
                    self._flow.polled(self._clock.monotonic())
                    return want
                self._clock.wait(self._poll_wanted, None)
            self._arrived_if_stopping()
            return 0

    def _arrived_if_stopping(self) -> None:
        if self._inbox.stopping:
            self._inbox.arrived.notify_all()

    def _admit(self, batch: Sequence[IncomingMessage], began: float) -> None:
        if not batch:
            return
        now = self._clock.monotonic()
        fallback = began + self._settings.max_lease_s
        leases = {
            until: self.control.leases.first_lease(until if until is not None else fallback, began, now)
            for until in {message.lease_until for message in batch}
        }
        group = [Held(message, leases[message.lease_until]) for message in self._arrivals.counted(batch)]
        exceptions = self._arrivals.exceptions(group, self._clock.time())
        sizes = weights(group)
        first_sent = batch[0].enqueued_at
        with self._lock:
            self._tally.received += len(batch)
            if first_sent is not None:
                self._tally.age.add(self._clock.time() - first_sent)
            if not self._inbox.stopping and not exceptions and self._flow.admits_all(len(group), sum(sizes)):
                self._flow.add(sizes)
                self._inbox.put(group)
            else:
                self._admit_singly(group, sizes, exceptions)
            self.control.leases.track(group, leases.values())
            callbacks = self._inbox.wake()
        if exceptions:
            self._note_exceptions(list(exceptions.values()))
        for callback in callbacks:
            callback()

    def _admit_singly(self, group: list[Held], sizes: list[int], exceptions: Mapping[Held, Onward | None]) -> None:
        settles = self.control.settles
        for held, size in zip(group, sizes, strict=True):
            fits = self._flow.admits(size)
            self._flow.add((size,))
            onward = exceptions.get(held)
            if onward is not None and not self._inbox.stopping:
                settles.send_on(held, onward)
            elif held in exceptions and onward is None:
                settles.record(held, Action.ACK)
            elif self._inbox.stopping or not fits:
                settles.record(held, Action.RELEASE, 0.0 if onward is None else onward.delay_s)
            else:
                self._inbox.put([held])

    def _note_exceptions(self, exceptions: Sequence[Onward | None]) -> None:
        expired = exceptions.count(None)
        if expired:
            self._journal.note("delivery.expired", count=expired)
        if expired < len(exceptions):
            self._journal.note("delivery.hopped", count=len(exceptions) - expired)

    def _after_failure(self, error: QueueKitError, failures: int) -> bool:
        """Log an outage once, wait, and go on; False when no other try can mend it."""
        inbox = self._inbox
        with self._lock:
            stopping = inbox.stopping
            first, inbox.outage = inbox.outage is None, error
            if stopping:
                inbox.polling = False
                inbox.arrived.notify_all()
        if stopping:
            return False
        if first:
            self._journal.note("receive.failed", str(error))
        if not error.retryable:
            self._end(error)
            return False
        wait_s = planned_wait_s(self._backoff, failures, error, fallback=self._backoff)
        asked_s = error.retry_after_s if isinstance(error, ThrottledError) else None
        until = self._clock.monotonic() + wait_s + (asked_s or 0.0)
        with self._lock:
            while not inbox.stopping and (left_s := until - self._clock.monotonic()) > 0:
                self._clock.wait(self._poll_wanted, left_s)
        return True

    def _report_loss(self, backend: Recreating) -> None:
        if (found := backend.recreated()) != self._recreated:
            self._journal.note(
                "queue.recreated", "it was gone; what it held may be lost", count=found - self._recreated
            )
            self._recreated = found

    def _resumed(self) -> None:
        with self._lock:
            self._inbox.outage = None
        self._journal.note("receive.resumed")

    def _gone(self) -> None:
        if not self._inbox.polling:
            self._poll_wanted.notify()
        self._arrived_if_stopping()

    def stop_polling(self) -> None:
        """Ask for no more messages; a poll in flight is interrupted where that can be. Idempotent."""
        with self._lock:
            if self._inbox.stopping:
                return
            self._inbox.stopping = True
            self.control.settles.unpark()
            self._poll_wanted.notify_all()
            self._inbox.arrived.notify_all()
            callbacks = self._inbox.take_callbacks()
        for callback in callbacks:
            callback()
        if isinstance(self._backend, Interruptible):
            self._backend.interrupt()

    def release_waiting(self) -> int:
        """Give back every delivery that nobody has taken."""
        with self._lock:
            waiting = self._inbox.empty()
            for held in waiting:
                self.control.settles.record(held, Action.RELEASE)
            self.control.settles.flush()
        if waiting:
            self._journal.note("delivery.released", count=len(waiting))
        return len(waiting)

    def rest(self) -> None:
        """Send what is recorded, give back what was fetched ahead, and fetch no more until somebody waits."""
        with self._lock:
            if self._inbox.stopping:
                return
            self._flow.rest()
        self.release_waiting()
        # A poll that waits now would lease what comes next, for nobody.
        if isinstance(self._backend, Interruptible):
            self._backend.interrupt()

    def release_running(self) -> None:
        """Give back everything that was taken and is unsettled."""
        with self._lock:
            self.control.release_running()

    def standing(self) -> Standing:
        """What is still open."""
        with self._lock:
            return Standing(
                polling=self._inbox.polling,
                waiting=self._inbox.waiting(),
                running=self._flow.running,
                unsent=int(self.control.settles.unsent()),
            )

    def counts(self) -> dict[str, int]:
        """What was received so far and what became of it; see `queuekit._engine.tally.RECEIVED`."""
        with self._lock:
            return self._tally.counts(self._flow.count)

    def queue_age(self) -> Timing:
        """How long the first message of each poll had been in the queue."""
        with self._lock:
            return self._tally.age.read()

    def await_change(self, until: float) -> None:
        """Wait until something finished, or until that time."""
        with self._lock:
            left_s = until - self._clock.monotonic()
            if left_s > 0:
                self._clock.wait(self._inbox.arrived, min(left_s, 0.05) if self._inbox.polling else left_s)

    def close(self, *, timeout_s: float) -> None:
        """Stop the threads. What is not settled by now comes back when its lease ends. Idempotent."""
        self.stop_polling()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.control.stop()
        if self._threads is not None:
            self._threads.join(timeout_s)
        self.control.stopped()
