# SPDX-License-Identifier: Apache-2.0
"""The thread that keeps the leases of what is in flight. It never polls, and never sends a settlement."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence

from queuekit._engine.guard import error_from
from queuekit._engine.held import DONE, PARKED, RECORDED, RUNNING, Held, Lease, weights
from queuekit._engine.leases import Beat, LeaseKeeper
from queuekit._engine.station import Station
from queuekit._engine.threads import Threads
from queuekit._values.errors import AlreadySettledError, LeaseLostError, UnsupportedError
from queuekit._values.outcome import LEASE_LOST, LeaseLost, Settled, Unsupported
from queuekit.backend import Action, Settlement


class LeaseThread:
    """Extends leases when the keeper says so, and gives up deliveries whose lease was lost.

    Args:
        station: What the parts of a receiver share.
        keeper: Decides.
        release: Records the release of a waiting delivery, lock held.
        gone: Called with deliveries that are in flight no more, lock held.
        lost: Called with each delivery that somebody took and whose lease was lost, lock not held.
        starts_in_s: Says when a waiting delivery will probably be taken, lock held.
    """

    def __init__(
        self,
        station: Station,
        *,
        keeper: LeaseKeeper,
        release: Callable[[Held], None],
        gone: Callable[[Sequence[Held]], None],
        lost: Callable[[Held], None],
        starts_in_s: Callable[[], Callable[[Held], float]],
    ) -> None:
        self._guard, self._can, self._clock = station.guard, station.can, station.clock
        self._journal, self._lock, self._flow = station.journal, station.lock, station.flow
        self._keeper, self._budget_s, self._tally = keeper, station.budget_s, station.tally
        self._release, self._gone, self._lost, self._starts_in_s = release, gone, lost, starts_in_s
        self._beat_wanted = threading.Condition(station.lock)
        self._pulse = station.pulses["leases"]
        self._stopping = False

    def start(self, threads: Threads) -> None:
        """Start the thread."""
        threads.start("leases", self._keep_forever)

    def stop(self) -> None:
        """Ask the thread to end. Lock held."""
        self._stopping = True
        self._beat_wanted.notify_all()

    def first_lease(self, until: float, received_at: float, now: float) -> Lease:
        """The lease of deliveries that just arrived."""
        return self._keeper.first_lease(until, received_at, now)

    def track(self, group: list[Held], leases: Iterable[Lease]) -> None:
        """Keep the leases of deliveries that just arrived. Lock held."""
        before = self._keeper.next_at()
        self._keeper.track(group, leases)
        # Woken for every poll, the lease thread would look in vain nearly every time.
        if before is None or self._keeper.next_at() != before:
            self._beat_wanted.notify()

    def watch(self, group: Iterable[Held]) -> None:
        """Keep the leases of deliveries whose settlement waits for another try. Lock held."""
        if self._keeper.watch(group):
            self._beat_wanted.notify()

    def abandon(self, held: Held) -> None:
        """Keep the lease of a delivery no longer: its handler hangs. It comes back when the lease ends."""
        with self._lock:
            if held.state is RUNNING and not held.lease.abandoned:
                self._flow.running -= 1
                self._keeper.abandon(held)
                self._beat_wanted.notify()

    def extend(self, held: Held, by_s: float) -> float:
        """Extend one lease on the caller's thread; returns the new end, in monotonic seconds.

        Raises:
            LeaseLostError: The delivery is not ours any more.
            AlreadySettledError: Its settlement is recorded.
            UnsupportedError: The service has no lease to extend.
            QueueKitError: The service did not answer or refused; the old lease still runs.
        """
        if held.lease_lost:
            raise self._lease_lost_error()
        if held.settlement is not None:
            raise AlreadySettledError("this delivery was settled before", queue=self._guard.queue, operation="extend")
        outcome = self._guard.settle(
            [Settlement(held.message.handle, Action.EXTEND, 0.0, by_s)], timeout_s=self._budget_s
        )[0]
        if isinstance(outcome, Settled):
            return self._set_leases([(held, outcome)], by_s)
        if isinstance(outcome, LeaseLost):
            self._lose([held])
            raise self._lease_lost_error()
        if isinstance(outcome, Unsupported):
            msg = f"{self._guard.queue} has no lease to extend; {outcome.detail}"
            raise UnsupportedError(msg, queue=self._guard.queue, operation="extend")
        failure = error_from(outcome.error, queue=self._guard.queue, operation="extend")
        raise failure

    def _keep_forever(self) -> None:
        while (beat := self._next_beat()) is not None:
            self._carry_out(beat)

    def _carry_out(self, beat: Beat) -> None:
        if beat.lost:
            self._lose(beat.lost)
        if beat.at_limit:
            self._journal.note("lease.at_limit", "kept for as long as may be", count=len(beat.at_limit))
        step = self._can.max_settle_batch
        for start in range(0, len(beat.extend), step):
            self._extend(beat.extend[start : start + step])

    def _next_beat(self) -> Beat | None:
        with self._lock:
            while not self._stopping:
                now = self._clock.monotonic()
                self._pulse.beat(now)
                at = self._keeper.next_at()
                if at is not None and at <= now:
                    beat = self._keeper.beat(now, self._starts_in_s())
                    for held in beat.release:
                        self._release(held)
                    if beat.release:
                        self._flow.tighten(now)
                    return beat
                self._pulse.beat(math.inf if at is None else at)
                self._clock.wait(self._beat_wanted, None if at is None else at - now)
            self._pulse.beat(math.inf)
        return None

    def _extend(self, batch: list[Held]) -> None:
        self._pulse.beat(self._clock.monotonic())
        lease_s = self._keeper.lease_s
        entries = [Settlement(held.message.handle, Action.EXTEND, 0.0, lease_s) for held in batch]
        outcomes = self._guard.settle(entries, timeout_s=min(self._budget_s, lease_s))
        self._set_leases([(h, o) for h, o in zip(batch, outcomes, strict=True) if isinstance(o, Settled)], lease_s)
        self._lose([held for held, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, LeaseLost)])
        failed = [h for h, o in zip(batch, outcomes, strict=True) if not isinstance(o, (Settled, LeaseLost))]
        with self._lock:
            self._keeper.failed(failed, self._clock.monotonic())

    def _set_leases(self, extended: Sequence[tuple[Held, Settled]], lease_s: float) -> float:
        now = self._clock.monotonic()
        until = now
        with self._lock:
            for held, outcome in extended:
                until = outcome.lease_until if outcome.lease_until is not None else now + lease_s
                self._keeper.extended(held, until, now)
            self._beat_wanted.notify()
        return until

    def _lose(self, batch: Sequence[Held]) -> None:
        """Mark deliveries as not ours any more. A settlement that is on its way gets its own answer."""
        with self._lock:
            gone = [held for held in batch if held.state < RECORDED]
            running = [held for held in gone if held.state is RUNNING]
            worked_on = [held for held in gone if held.state in {RUNNING, PARKED}]
            for held in gone:
                held.lease_lost = True
                held.state = DONE
                held.outcome = LEASE_LOST
            self._flow.running -= sum(not held.lease.abandoned for held in running)
            self._keeper.forget(gone)
            self._flow.remove(len(gone), sum(weights(gone)))
            self._tally.lost(len(gone))
            self._gone(gone)
        if gone:
            self._journal.note("lease.lost", "the message may be delivered again", count=len(gone))
        for held in worked_on:
            self._lost(held)

    def _lease_lost_error(self) -> LeaseLostError:
        msg = "the lease was lost; stop working on this delivery, somebody else may have it"
        return LeaseLostError(msg, queue=self._guard.queue, operation="extend")
