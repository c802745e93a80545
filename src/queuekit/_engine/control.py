# SPDX-License-Identifier: Apache-2.0
"""The two control threads of a receiver: one sends settlements, one keeps leases. Neither ever polls."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from queuekit._engine.guard import Guard, error_from
from queuekit._engine.held import DONE, RECORDED, RUNNING, Held, Lease, weights
from queuekit._engine.journal import Journal
from queuekit._engine.leases import Beat, LeaseKeeper
from queuekit._engine.settling import Settler, group_by_call, settlements
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import AlreadySettledError, LeaseLostError, UnsupportedError
from queuekit._values.outcome import (
    LEASE_LOST,
    Accepted,
    Duplicate,
    LeaseLost,
    SendOutcome,
    Settled,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit.backend import Action, OutgoingMessage, Settlement

_LONGEST_DEAD_RETRY_S = 600.0
_new = tuple.__new__


class DeadLetterRoute(Protocol):
    """Where dead letters go when the backend does not store them itself."""

    def copy(self, letters: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send complete dead letters to their destination; one outcome each. Does not wait between tries."""
        ...


class Control:
    """Carries out settlements and keeps leases for one receiver.

    Args:
        guard: The way to the backend.
        can: What the backend can do.
        clock: Time and chance.
        journal: Where to count and log.
        lock: The receiver's lock; it guards every `Held`.
        lease_s: The length of a lease.
        max_lease_s: How long a delivery may be kept in all.
        keep_leases: Whether leases are extended.
        linger_s: How long a settlement may wait for others.
        budget_s: Longest time of one call.
        dead_letters: Where dead letters go; None where the backend stores them in one step.
        finished: Called with the number and bytes of deliveries that are in flight no more, lock held.
        lost: Called with each running delivery whose lease was lost, lock not held.
        starts_in_s: Says when a waiting delivery will probably be taken, lock held.
        released: Called when waiting deliveries had to be released, lock held.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        can: Capabilities,
        clock: Clock,
        journal: Journal,
        lock: threading.Lock,
        lease_s: float,
        max_lease_s: float,
        keep_leases: bool,
        linger_s: float,
        budget_s: float,
        dead_letters: DeadLetterRoute | None,
        finished: Callable[[int, int], None],
        lost: Callable[[Held], None],
        starts_in_s: Callable[[], Callable[[Held], float]],
        released: Callable[[], None],
    ) -> None:
        self._guard, self._can, self._clock, self._journal = guard, can, clock, journal
        self._lock = lock
        self._budget_s = budget_s
        self._dead_letters = dead_letters
        self._finished, self._lost = finished, lost
        self._starts_in_s, self._released = starts_in_s, released
        self._settler = Settler(batch=can.max_settle_batch, linger_s=linger_s, late_ack=can.late_ack_safe)
        self._keeper = LeaseKeeper(
            lease_s=lease_s,
            max_total_s=min(max_lease_s, can.max_lease_total_s or max_lease_s),
            keep=keep_leases and can.extend != "none",
            random=clock.random,
        )
        self._settle_wanted = threading.Condition(lock)
        self._beat_wanted = threading.Condition(lock)
        self._answered = threading.Condition(lock)
        self._waiting_for_answers = 0
        self._stopping = self._stopped = False
        self._threads: list[threading.Thread] = []
        self.running = 0

    def start(self, name: str) -> None:
        """Start the two threads."""
        for role, body in (("settle", self._settle_forever), ("leases", self._keep_forever)):
            thread = threading.Thread(target=body, name=f"queuekit-{role}-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def record(self, held: Held, action: Action, delay_s: float = 0.0, dead: OutgoingMessage | None = None) -> None:
        """Record a settlement; the settle thread sends it.

        Raises:
            AlreadySettledError: A settlement was recorded before.
        """
        with self._lock:
            self._record(held, action, delay_s, dead)

    def record_locked(self, held: Held, action: Action, delay_s: float = 0.0) -> None:
        """As `record`, for a delivery that nobody settled, with the lock held."""
        self._record(held, action, delay_s, None)

    def _record(self, held: Held, action: Action, delay_s: float, dead: OutgoingMessage | None) -> None:
        if held.settlement is not None:
            msg = "this delivery was settled before; settle each delivery once"
            raise AlreadySettledError(msg, operation=action.value)
        # A tuple of known length is made at half of a named tuple's own cost.
        held.settlement = _new(Settlement, (held.message.handle, action, delay_s, 0.0, dead))
        state = held.state
        if state is RUNNING and not held.lease.abandoned:
            self.running -= 1
        if state is DONE:
            return  # the lease was lost before: its outcome stands, and nothing may be sent
        held.state = RECORDED
        if self._settler.add(held):
            self._settle_wanted.notify()

    def flush(self) -> None:
        """Send what is recorded without waiting for more. Lock held."""
        if self._settler.flush():
            self._settle_wanted.notify()

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

    def abandon(self, held: Held) -> None:
        """Keep the lease of a delivery no longer: its handler hangs. It comes back when the lease ends."""
        with self._lock:
            if held.state is RUNNING and not held.lease.abandoned:
                self.running -= 1
                self._keeper.abandon(held)
                self._beat_wanted.notify()

    def release_running(self) -> None:
        """Record a release for everything that was taken and is unsettled. Lock held.

        What hangs is left to its lease, so that the attempt counts.
        """
        for held in self._keeper.in_flight:
            if held.state is RUNNING and not held.lease.abandoned:
                self._record(held, Action.RELEASE, 0.0, None)
        self.flush()

    def unsent(self) -> bool:
        """Whether a settlement has no outcome yet. Lock held."""
        return not self._settler.idle()

    def wait_for(self, held: Held, timeout_s: float | None) -> SettleOutcome | None:
        """Wait for the outcome of a recorded settlement; None when the time is over, or the threads have ended."""
        until_s = math.inf if timeout_s is None else timeout_s
        self._wait(lambda: held.outcome is not None, self._clock.monotonic() + until_s)
        return held.outcome

    def wait_until_sent(self, until: float) -> bool:
        """Wait until every recorded settlement has an outcome; False when the time is over first."""
        return self._wait(self._settler.idle, until)

    def _wait(self, answered: Callable[[], bool], until: float) -> bool:
        with self._lock:
            self._waiting_for_answers += 1
            try:
                while not answered():
                    left_s = until - self._clock.monotonic()
                    if left_s <= 0 or self._stopped:
                        return False
                    self.flush()
                    self._clock.wait(self._answered, None if left_s == math.inf else left_s)
                return True
            finally:
                self._waiting_for_answers -= 1

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

    def stop(self, timeout_s: float) -> None:
        """End both threads and wait for them. Recorded settlements that are unsent stay unsent."""
        with self._lock:
            self._stopping = True
            self._settle_wanted.notify_all()
            self._beat_wanted.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
        with self._answered:
            self._stopped = True
            self._answered.notify_all()

    # The settle thread

    def _settle_forever(self) -> None:
        while batch := self._next_batch():
            late = set(self._settler.late(batch, self._clock.monotonic()))
            if late:
                self._answer(list(late), [LEASE_LOST] * len(late))
                batch = [held for held in batch if held not in late]
            if self._dead_letters is not None:
                self._copy_dead(batch, self._dead_letters)
            for part in self._calls(batch):
                self._settle(part)

    def _next_batch(self) -> list[Held]:
        with self._lock:
            while not self._stopping:
                now = self._clock.monotonic()
                due = self._settler.due_at(now)
                if due is not None and due <= now:
                    return self._settler.take(now)
                self._clock.wait(self._settle_wanted, None if due is None else due - now)
        return []

    def _calls(self, batch: list[Held]) -> list[list[Held]]:
        if not batch:
            return []
        return [batch] if self._can.mixed_settles else group_by_call(batch)

    def _settle(self, batch: list[Held]) -> None:
        outcomes = self._guard.settle(settlements(batch), timeout_s=self._budget_s)
        self._answer(batch, outcomes)

    def _copy_dead(self, batch: list[Held], route: DeadLetterRoute) -> None:
        """Copy, and only what is confirmed is then acked; the rest is retried, never dropped."""
        dead = [(held, each, each.dead) for held in batch if (each := held.settlement) is not None and each.dead]
        if not dead:
            return
        outcomes = route.copy([letter for _, _, letter in dead])
        for (held, settlement, _), outcome in zip(dead, outcomes, strict=True):
            if isinstance(outcome, (Accepted, Duplicate)):
                held.settlement = settlement._replace(action=Action.ACK, dead=None)
            else:
                retry_s = self.dead_retry_s()
                held.settlement = settlement._replace(action=Action.RETRY, delay_s=retry_s, dead=None)
                self._journal.note("dead_letter.failed", outcome.error.detail)

    def dead_retry_s(self) -> float:
        """How long a message waits whose dead-letter queue is missing or down: the longest sensible wait."""
        return min(_LONGEST_DEAD_RETRY_S, self._can.max_retry_delay_s)

    def _answer(self, batch: list[Held], outcomes: Sequence[SettleOutcome]) -> None:
        if set(map(type, outcomes)) == {Settled}:
            self._finish(batch, outcomes)
            return
        now = self._clock.monotonic()
        final: list[Held] = []
        answers: list[SettleOutcome] = []
        with self._lock:
            for held, outcome in zip(batch, outcomes, strict=True):
                judged = self._settler.judge(held, outcome, now)
                if judged is not None:
                    final.append(held)
                    answers.append(judged)
            self._settler.settled(len(batch) - len(final))
            self._settle_wanted.notify()
        for outcome in answers:
            self._report(outcome)
        self._finish(final, answers)

    def _finish(self, batch: Sequence[Held], outcomes: Sequence[SettleOutcome]) -> None:
        size = sum(weights(batch))
        with self._lock:
            for held, outcome in zip(batch, outcomes, strict=True):
                held.outcome = outcome
                held.state = DONE
            self._settler.settled(len(batch))
            self._keeper.forget(batch)
            self._finished(len(batch), size)
            if self._waiting_for_answers:
                self._answered.notify_all()

    def _report(self, outcome: SettleOutcome) -> None:
        if isinstance(outcome, LeaseLost):
            self._journal.note("lease.lost", "settled too late; the message may be delivered again")
        elif isinstance(outcome, Unknown):
            self._journal.note("settle.unknown", outcome.error.detail)
        elif isinstance(outcome, Unsupported):
            self._journal.note("settle.failed", outcome.detail)
        elif not isinstance(outcome, Settled):
            self._journal.note("settle.failed", outcome.error.detail)

    # The lease thread

    def _keep_forever(self) -> None:
        while (beat := self._next_beat()) is not None:
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
                at = self._keeper.next_at()
                if at is not None and at <= now:
                    beat = self._keeper.beat(now, self._starts_in_s())
                    for held in beat.release:
                        self.record_locked(held, Action.RELEASE)
                    if beat.release:
                        self._released()
                    return beat
                self._clock.wait(self._beat_wanted, None if at is None else at - now)
        return None

    def _extend(self, batch: list[Held]) -> None:
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
            for held in gone:
                held.lease_lost = True
                held.state = DONE
                held.outcome = LEASE_LOST
            self.running -= sum(not held.lease.abandoned for held in running)
            self._keeper.forget(gone)
            self._finished(len(gone), sum(weights(gone)))
            self._answered.notify_all()
        if gone:
            self._journal.note("lease.lost", "the message may be delivered again", count=len(gone))
        for held in running:
            self._lost(held)

    def _lease_lost_error(self) -> LeaseLostError:
        msg = "the lease was lost; stop working on this delivery, somebody else may have it"
        return LeaseLostError(msg, queue=self._guard.queue, operation="extend")
