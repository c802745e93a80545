# SPDX-License-Identifier: Apache-2.0
"""What can be done with deliveries that are in flight: one thread settles them, one keeps their leases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from queuekit._engine.copies import Copying, CopyRoute
from queuekit._engine.held import RUNNING, WAITING, Held
from queuekit._engine.lease_thread import LeaseThread
from queuekit._engine.leases import LeaseKeeper
from queuekit._engine.parking import Parking
from queuekit._engine.settle_thread import SettleThread
from queuekit._engine.settling import Settler
from queuekit._engine.station import Station
from queuekit._engine.threads import Threads
from queuekit._values.outcome import Settled
from queuekit.backend import Action, OutgoingMessage


class Record(Protocol):
    """`SettleThread.record`, as an attribute."""

    def __call__(self, held: Held, action: Action, delay_s: float = 0.0, dead: OutgoingMessage | None = None) -> None:
        """Record a settlement."""
        ...


class Control:
    """Carries out settlements and keeps leases for one receiver. Neither ever waits for a poll.

    Args:
        station: What the parts of a receiver share.
        lease_s: The length of a lease.
        max_lease_s: How long a delivery may be kept in all.
        keep_leases: Whether leases are extended.
        linger_s: How long a settlement may wait for others.
        most_parked: Most deliveries, and most bytes of them, whose settlement may wait for its time.
        copies: Sends copies to the queue itself.
        gone: Called when deliveries are in flight no more, lock held.
        ready: Called with deliveries that may be taken now, lock held; what it returns is to be called, lock not
            held.
        lost: Called with each running delivery whose lease was lost, and with each that was settled too late;
            lock not held.
        starts_in_s: Says when a waiting delivery will probably be taken, lock held.

    Attributes:
        settles: The settling side.
        leases: The leasing side.
    """

    def __init__(
        self,
        station: Station,
        *,
        lease_s: float,
        max_lease_s: float,
        keep_leases: bool,
        linger_s: float,
        most_parked: tuple[int, int],
        copies: CopyRoute,
        gone: Callable[[], None],
        ready: Callable[[Sequence[Held]], Sequence[Callable[[], None]]],
        lost: Callable[[Held], None],
        starts_in_s: Callable[[], Callable[[Held], float]],
    ) -> None:
        self._lock, self._flow, self._gone = station.lock, station.flow, gone
        self._lanes, self._ready, self._journal = station.lanes, ready, station.journal
        can, clock = station.can, station.clock
        keep = keep_leases and can.extend != "none"
        self._keeper = LeaseKeeper(
            lease_s=lease_s,
            max_total_s=min(max_lease_s, can.max_lease_total_s or max_lease_s),
            keep=keep,
            random=clock.random,
        )
        self.settles: SettleThread = SettleThread(
            station,
            settler=Settler(batch=can.max_settle_batch, linger_s=linger_s, late_ack=can.late_ack_safe, kept=keep),
            parking=Parking(most=most_parked[0], most_bytes=most_parked[1]),
            holdable_s=self._keeper.holdable_s,
            copies=copies,
            finished=self._finished,
            troubled=lambda group: self.leases.watch(group),  # noqa: PLW0108 - made after this
            lost=lost,
        )
        self.leases: LeaseThread = LeaseThread(
            station,
            keeper=self._keeper,
            release=self._release,
            gone=self._lost,
            lost=lost,
            starts_in_s=starts_in_s,
        )
        # The method itself: it runs for every message.
        self.record: Record = self.settles.record if self._lanes is None else self._record_in_lane

    @property
    def running(self) -> int:
        """How many deliveries are with a handler now."""
        return self._flow.running

    def start(self, threads: Threads) -> None:
        """Start the two threads."""
        self.settles.start(threads)
        self.leases.start(threads)

    def stop(self) -> None:
        """Ask both threads to end. What is recorded and unsent stays unsent."""
        with self._lock:
            self.settles.stop()
            self.leases.stop()

    def stopped(self) -> None:
        """Both threads have ended."""
        with self._lock:
            self.settles.stopped()

    def release_running(self) -> None:
        """Record a release for everything that was taken and is unsettled. Lock held.

        What hangs is left to its lease, so that the attempt counts.
        """
        for held in self._keeper.in_flight:
            if held.state is RUNNING and not held.lease.abandoned:
                self.settles.record(held, Action.RELEASE)
        self.settles.flush()

    def _finished(self, batch: Sequence[Held]) -> Sequence[Callable[[], None]]:
        self._keeper.forget(batch)
        self._gone()
        if self._lanes is None:
            return ()
        following: list[Held] = []
        for held in batch:
            action = None if held.settlement is None else held.settlement.action
            if isinstance(held.outcome, Settled) and action in {Action.ACK, Action.DEAD}:
                next_one = self._lanes.done(held)
                following += () if next_one is None else (next_one,)
            else:
                self._give_back(self._lanes.failed(held))
        return self._ready(following) if following else ()

    def _lost(self, batch: Sequence[Held]) -> None:
        self.settles.answered()
        self._gone()
        if self._lanes is not None:
            for held in batch:
                self._give_back(self._lanes.failed(held))

    def _release(self, held: Held) -> None:
        # Giving back one of a key gives back those behind it, of which some may stand in the same list.
        if held.settlement is None:
            self.record(held, Action.RELEASE)

    def _record_in_lane(
        self, held: Held, action: Action, delay_s: float = 0.0, dead: OutgoingMessage | None = None
    ) -> None:
        """As `SettleThread.record`; what comes again takes those of its key along that nobody has begun."""
        with self._lock:
            self.settles.record(held, action, delay_s, dead)
            if self._lanes is not None and action in {Action.RETRY, Action.RELEASE}:
                self._give_back(self._lanes.failed(held))

    def hold(
        self, held: Held, for_s: float, action: Action, delay_s: float, copying: Copying | None, *, short: bool
    ) -> None:
        """As `SettleThread.hold`; what waits takes those of its key along that nobody has begun."""
        with self._lock:
            self.settles.hold(held, for_s, action, delay_s, copying, short=short)
            if self._lanes is not None:
                self._give_back(self._lanes.failed(held))

    def _give_back(self, group: Sequence[Held]) -> None:
        """Release what was kept back behind a message that comes again. Lock held."""
        unbegun = [held for held in group if held.state is WAITING and held.settlement is None]
        for held in unbegun:
            self.settles.record(held, Action.RELEASE)
        if unbegun:
            self._journal.count("delivery.released", len(unbegun))
