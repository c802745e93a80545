# SPDX-License-Identifier: Apache-2.0
"""The receiving engine of one queue: threads that poll, and what becomes of what it brings."""

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
from queuekit._engine.held import WAITING, Held, weights
from queuekit._engine.inbox import Inbox
from queuekit._engine.journal import Journal
from queuekit._engine.lanes import KeyLanes
from queuekit._engine.leading import Lead
from queuekit._engine.leases import STARTS_WITHIN_LEASES
from queuekit._engine.polling import Poller, PollSettings, roles
from queuekit._engine.prospects import Prospects
from queuekit._engine.pulse import Pulse
from queuekit._engine.rate import Rate
from queuekit._engine.shutdown import Standing
from queuekit._engine.station import Station
from queuekit._engine.tally import ReceiveTally, Timing
from queuekit._engine.threads import Threads
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import BackendBugError, QueueKitError
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
        rate: How many messages may come in a stretch of time; None is without limit.
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
    rate: Rate | None = None


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
        self.bridge: Bridge = Bridge(can, guard.fits)
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
        self._lanes = None if can.ordering != "per_key" or can.one_in_flight_per_key else KeyLanes()
        self._tally = ReceiveTally()
        self._inbox = Inbox(
            self._lock,
            clock,
            self._flow,
            queue=guard.queue,
            wanted=self._poll_wanted.notify,
            somebody_waits=self._somebody_waits,
            lead=Lead(self._tally.handling),
            prospects=Prospects(clock.monotonic(), STARTS_WITHIN_LEASES * settings.lease_s),
            lanes=self._lanes,
            expired=self._expired,
        )
        self.pulses: Mapping[str, Pulse] = {name: Pulse() for name in (*roles(can.max_polls), "settle", "leases")}
        self._closed = False
        self._threads: Threads | None = None
        station = self._make_station(can)
        self.control = self._make_control(station, lost)
        self._poller = Poller(
            station,
            backend,
            self._inbox,
            PollSettings(settings.poll_s, settings.lease_s, settings.rate),
            wanted=self._poll_wanted,
            admit=self._admit,
            end=self._end,
        )
        # The methods themselves: one of them runs for every message.
        self.take = self._inbox.take
        self.take_in_turn = self._inbox.take_in_turn
        self.take_now = self._inbox.take_now
        self.take_many, self.take_along = self._inbox.take_many, self._inbox.take_along
        self.when_ready, self.forget = self._inbox.when_ready, self._inbox.forget
        self.give_up = self._inbox.give_up

    def _make_station(self, can: Capabilities) -> Station:
        return Station(
            guard=self._guard,
            can=can,
            clock=self._clock,
            journal=self._journal,
            lock=self._lock,
            flow=self._flow,
            tally=self._tally,
            pulses=self.pulses,
            lanes=self._lanes,
            budget_s=self._settings.budget_s,
        )

    def _make_control(self, station: Station, lost: Callable[[Held], None]) -> Control:
        settings = self._settings
        return Control(
            station,
            lease_s=settings.lease_s,
            max_lease_s=settings.max_lease_s,
            keep_leases=settings.keep_leases,
            linger_s=min(settings.linger_s, settings.lease_s / 10),
            most_parked=(settings.max_in_flight // 2, settings.max_bytes // 2),
            copies=self.copies,
            gone=self._gone,
            ready=self._ready,
            lost=lost,
            starts_in_s=lambda: self._inbox.pace(10 * settings.lease_s),
        )

    def _somebody_waits(self) -> None:
        self._start()
        if not self._flow.running:
            self.control.settles.flush()
        self._poller.call()

    def _start(self) -> None:
        if self._threads is None:
            self._threads = Threads(self._guard.queue, self._broken)
            self.control.start(self._threads)
            self._poller.start(self._threads)

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
            self._inbox.arrived.notify_all()
            callbacks = self._inbox.take_callbacks()
        for callback in callbacks:
            callback()

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
        exceptions, ends = self._arrivals.look(group, self._clock.time())
        sizes = weights(group)
        first_sent = batch[0].enqueued_at
        with self._lock:
            self._tally.received += len(batch)
            if first_sent is not None:
                self._tally.age.add(self._clock.time() - first_sent)
            admitted = group
            if not (self._inbox.closed or exceptions) and self._flow.admits_all(len(group), sum(sizes)):
                self._flow.add(sizes)
            else:
                admitted = self._admit_singly(group, sizes, exceptions)
            if ends:
                self._inbox.ends.update({held: end for held, end in ends.items() if held.state is WAITING})
            self._inbox.put(admitted if self._lanes is None else self._in_lanes(self._lanes, admitted))
            self.control.leases.track(group, leases.values())
            if len(admitted) < len(group) and not self._flow.running:
                # Nobody runs who could record more, so what goes back at once need not wait for company.
                self.control.settles.flush()
            callbacks = self._inbox.wake()
        if exceptions:
            self._note_exceptions(list(exceptions.values()))
        for callback in callbacks:
            callback()

    def _admit_singly(
        self, group: list[Held], sizes: list[int], exceptions: Mapping[Held, Onward | None]
    ) -> list[Held]:
        settles = self.control.settles
        admitted: list[Held] = []
        # A message that goes back must not be overtaken by a later one of its key that finds room.
        gone_back: set[str] = set()
        for held, size in zip(group, sizes, strict=True):
            key = held.message.ordering_key
            fits = self._flow.admits(size) and key not in gone_back
            self._flow.add((size,))
            onward = exceptions.get(held)
            if onward is not None and not self._inbox.closed:
                settles.send_on(held, onward)
            elif held in exceptions and onward is None:
                settles.record(held, Action.ACK)
            elif self._inbox.closed or not fits:
                settles.record(held, Action.RELEASE, 0.0 if onward is None else onward.delay_s)
                if key is not None:
                    gone_back.add(key)
            else:
                admitted.append(held)
        return admitted

    def _in_lanes(self, lanes: KeyLanes, group: list[Held]) -> list[Held]:
        takeable, refused = lanes.admit(group)
        for held in refused:
            self.control.settles.record(held, Action.RELEASE)
        return takeable

    def _note_exceptions(self, exceptions: Sequence[Onward | None]) -> None:
        expired = exceptions.count(None)
        if expired:
            self._journal.note("delivery.expired", count=expired)
        if expired < len(exceptions):
            self._journal.note("delivery.hopped", count=len(exceptions) - expired)

    def _expired(self, held: Held) -> None:
        """Its time was over while it waited. Counted only: the lock is held, and a log line takes its time."""
        self._journal.count("delivery.expired")
        self.control.settles.record(held, Action.ACK)
        if not self._flow.running:
            self.control.settles.flush()

    def _gone(self) -> None:
        self._poller.call()
        if self._inbox.stopping:
            self._inbox.arrived.notify_all()

    def _ready(self, group: Sequence[Held]) -> Sequence[Callable[[], None]]:
        self._inbox.put(group)
        return self._inbox.wake()

    def pause(self) -> None:
        """Poll no more until `resume`, and give back what nobody has begun; what runs goes on."""
        with self._lock:
            self._inbox.paused = True
        self._give_back()

    def resume(self) -> None:
        """Poll again after `pause`."""
        with self._lock:
            self._inbox.paused = False
            self._poll_wanted.notify()

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
        self._give_back()

    def _give_back(self) -> None:
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

    @property
    def running(self) -> int:
        """How many deliveries are with a handler now."""
        return self._flow.running

    @property
    def taken(self) -> int:
        """How many deliveries were taken so far."""
        return self._flow.taken_in_all

    def counts(self) -> dict[str, int]:
        """What was received so far and what became of it; see `queuekit._engine.tally.RECEIVED`."""
        with self._lock:
            return self._tally.counts(self._flow.count)

    def timings(self) -> dict[str, Timing]:
        """How long the first message of each poll had been in the queue, and how long handlers took."""
        with self._lock:
            return {"queue_age": self._tally.age.read(), "handler_time": self._tally.handling.read()}

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
