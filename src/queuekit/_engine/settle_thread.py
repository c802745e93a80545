# SPDX-License-Identifier: Apache-2.0
"""The thread that sends settlements. It never polls, and never waits between tries."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Final

from queuekit._engine.bridging import Onward
from queuekit._engine.copies import Copying, CopyRoute, detail_of, is_confirmed
from queuekit._engine.held import DONE, PARKED, RECORDED, RUNNING, Held, weights
from queuekit._engine.parking import Parked, Parking
from queuekit._engine.settling import Settler, group_by_call, settlements
from queuekit._engine.station import Station
from queuekit._engine.threads import Threads
from queuekit._values.errors import AlreadySettledError
from queuekit._values.outcome import (
    LEASE_LOST,
    LeaseLost,
    Settled,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit.backend import Action, OutgoingMessage, Settlement

_LONGEST_DEAD_RETRY_S = 600.0
_new = tuple.__new__
# A member looked up on its class costs ten times a global, and this one is looked up per message.
_ACK: Final = Action.ACK


class SettleThread:
    """Records settlements, sends them in batches, and keeps at those that failed while their lease lasts.

    Args:
        station: What the parts of a receiver share.
        settler: Decides.
        parking: Keeps settlements that wait for their time.
        holdable_s: For how long the lease of a delivery could be kept.
        copies: Sends copies to the queue itself.
        finished: Called with deliveries that have their final outcome, lock held; what it returns is to be called,
            lock not held.
        troubled: Called with deliveries whose settlement waits for another try, lock held.
        lost: Called with each delivery that was settled too late, lock not held.
    """

    def __init__(
        self,
        station: Station,
        *,
        settler: Settler,
        parking: Parking,
        holdable_s: Callable[[Held, float], float],
        copies: CopyRoute,
        finished: Callable[[Sequence[Held]], Sequence[Callable[[], None]]],
        troubled: Callable[[Sequence[Held]], None],
        lost: Callable[[Held], None] = lambda _: None,
    ) -> None:
        self._guard, self._can, self._clock = station.guard, station.can, station.clock
        self._journal, self._lock, self._flow = station.journal, station.lock, station.flow
        self._settler, self._budget_s, self._tally = settler, station.budget_s, station.tally
        # For what runs for every message: a with statement takes twice as long to take a lock.
        self._acquire, self._release = station.lock.acquire, station.lock.release
        self._parking, self._holdable_s, self._copies = parking, holdable_s, copies
        self._finished, self._lost = finished, lost
        self._copying: dict[Held, Copying] = {}
        self._settle_wanted = threading.Condition(station.lock)
        self._answered = threading.Condition(station.lock)
        self._waiting_for_answers = 0
        self._pulse, self._troubled = station.pulses["settle"], troubled
        self._late: list[Held] = []
        self._sending_late = False
        self._stopping = self._stopped = False
        self._holding = True

    def start(self, threads: Threads) -> None:
        """Start the thread."""
        threads.start("settle", self._settle_forever)

    def stop(self) -> None:
        """Ask the thread to end; recorded settlements that are unsent stay unsent. Lock held."""
        self._stopping = True
        self._settle_wanted.notify_all()

    def stopped(self) -> None:
        """The thread has ended: nobody need wait for an answer any more. Lock held."""
        self._stopped = True
        for held in self._late:
            held.outcome = LEASE_LOST
        self._answered.notify_all()

    def answered(self) -> None:
        """A delivery has an outcome that did not come from here. Lock held."""
        if self._waiting_for_answers:
            self._answered.notify_all()

    def record(
        self,
        held: Held,
        action: Action,
        delay_s: float = 0.0,
        dead: OutgoingMessage | None = None,
        *,
        park: bool = False,
    ) -> None:
        """Record a settlement; the thread sends it, unless it is parked. The caller may hold the lock.

        Raises:
            AlreadySettledError: A settlement was recorded before.
        """
        self._acquire()
        try:
            if held.settlement is not None:
                msg = "this delivery was settled before; settle each delivery once"
                raise AlreadySettledError(msg, operation=action.value)
            # A tuple of known length is made at half of a named tuple's own cost.
            held.settlement = _new(Settlement, (held.message.handle, action, delay_s, 0.0, dead))
            if held.state is RUNNING and not held.lease.abandoned:
                self._flow.running -= 1
            if held.state is DONE:
                self._record_late(held, action)
                return
            held.state = PARKED if park else RECORDED
            if not park and self._settler.add(held):
                self._settle_wanted.notify()
        finally:
            self._release()

    def handled(self, took_s: float) -> None:
        """A handler took that long."""
        with self._lock:
            self._tally.handling.add(took_s)
            self._tally.handling.sum_up()

    def ack(self, held: Held, took_s: float) -> None:
        """Record the ack of a delivery whose handler took that long; one that was settled meanwhile stays so."""
        self._acquire()
        try:
            self._tally.handling.add(took_s)
            if held.settlement is not None:
                return
            if held.state is not RUNNING or held.lease.abandoned:
                self.record(held, _ACK)
                return
            held.settlement = _new(Settlement, (held.message.handle, _ACK, 0.0, 0.0, None))
            self._flow.running -= 1
            held.state = RECORDED
            if self._settler.add(held):
                self._settle_wanted.notify()
        finally:
            self._release()

    def record_copy(self, held: Held, copying: Copying, action: Action, delay_s: float) -> None:
        """Record that a copy takes the delivery's place: once it is confirmed, the delivery is acked.

        Where it is not, ``action`` is what is done with the delivery. Raises as `record` does.
        """
        with self._lock:
            self.record(held, action, delay_s)
            if held.state is RECORDED:
                self._copying[held] = copying

    def hold(
        self, held: Held, for_s: float, action: Action, delay_s: float, copying: Copying | None, *, short: bool
    ) -> None:
        """Keep the lease of a delivery for so long, and then do as `record` or `record_copy` does.

        At a stop, and after one, it is done at once; ``short`` says whether that comes to less than was asked
        for. Raises as `record` does.
        """
        with self._lock:
            self.record(held, action, delay_s, park=True)
            if held.state is PARKED:
                self._parking.add(Parked(held, copying, short), self._clock.monotonic() + for_s)
                self._settle_wanted.notify()
                if not self._holding:  # it was stopped since `holdable_s` was asked
                    self.unpark()

    def holdable_s(self, held: Held) -> float:
        """For how long `hold` may be asked to keep a delivery."""
        with self._lock:
            if not self._holding or not self._parking.has_room(held):
                return 0.0
            return self._holdable_s(held, self._clock.monotonic())

    def send_on(self, held: Held, onward: Onward) -> None:
        """Let a message go that must not reach a handler yet. Lock held."""
        if onward.copy is not None:
            self.record_copy(held, Copying(onward.copy, self._copies, "copy.failed"), Action.RELEASE, onward.delay_s)
        elif onward.delay_s > 0:
            self.record(held, Action.RELEASE, onward.delay_s)
        else:
            # Given back without a wait it would come again at once.
            self.hold(held, min(onward.left_s, self.holdable_s(held)), Action.RELEASE, 0.0, None, short=False)

    def unpark(self) -> None:
        """Send every settlement that waits for its time, before it, and let none wait from now on. Lock held."""
        self._holding = False
        left = self._parking.empty()
        self._unpark(left)
        short = sum(each.short for each in left)
        if short:
            self._journal.note("retry.shortened", "stopping; no lease is kept any longer", count=short)

    def _unpark(self, parked: Sequence[Parked]) -> None:
        for each in parked:
            each.held.state = RECORDED
            if each.copying is not None:
                self._copying[each.held] = each.copying
            self._settler.add(each.held)
        if parked:
            self._settle_wanted.notify()

    def _record_late(self, held: Held, action: Action) -> None:
        """The lease was lost before: its outcome stands. Only an ack is still sent, once, where it can do no harm."""
        if action is Action.ACK and held.lease_lost and self._can.late_ack_safe:
            held.outcome = None
            self._late.append(held)
            self._settle_wanted.notify()

    def flush(self) -> None:
        """Send what is recorded without waiting for more. Lock held."""
        if self._settler.flush():
            self._settle_wanted.notify()

    def unsent(self) -> bool:
        """Whether a settlement has no outcome yet. Lock held."""
        return not self._idle()

    def _idle(self) -> bool:
        return self._settler.idle() and not self._late and not self._sending_late

    def wait_for(self, held: Held, timeout_s: float | None) -> SettleOutcome | None:
        """Wait for the outcome of a recorded settlement; None when the time is over, or the threads have ended."""
        until_s = math.inf if timeout_s is None else timeout_s
        self._wait(lambda: held.outcome is not None, self._clock.monotonic() + until_s)
        return held.outcome

    def wait_until_sent(self, until: float) -> bool:
        """Wait until every recorded settlement has an outcome; False when the time is over first."""
        return self._wait(self._idle, until)

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

    def _settle_forever(self) -> None:
        while batch := self._next_batch():
            self._send(batch)

    def _send(self, batch: list[Held]) -> None:
        if batch[0].state is DONE:
            self._send_late(batch)
            return
        late = set(self._settler.late(batch, self._clock.monotonic()))
        if late:
            self._answer(list(late), [LEASE_LOST] * len(late))
            batch = [held for held in batch if held not in late]
        if self._copying:
            self._copy(batch, late)
        for part in self._calls(batch):
            self._settle(part)

    def _due_at(self, now: float) -> float | None:
        """When there is a batch to send; None while there is nothing. Lock held."""
        if self._late:
            return now
        self._unpark(self._parking.take(now))
        return _earlier(self._settler.due_at(now), self._parking.due_at())

    def _next_batch(self) -> list[Held]:
        with self._lock:
            while not self._stopping:
                now = self._clock.monotonic()
                self._pulse.beat(now)
                due = self._due_at(now)
                if due is not None and due <= now:
                    return self._take_late() or self._settler.take(now)
                self._pulse.beat(math.inf if due is None else due)
                self._clock.wait(self._settle_wanted, None if due is None else due - now)
            self._pulse.beat(math.inf)
        return []

    def _take_late(self) -> list[Held]:
        late, self._late = self._late, []
        self._sending_late = bool(late)
        return late

    def _send_late(self, batch: list[Held]) -> None:
        acked = 0
        for start in range(0, len(batch), self._can.max_settle_batch):
            part = batch[start : start + self._can.max_settle_batch]
            outcomes = self._guard.settle(settlements(part), timeout_s=self._budget_s)
            with self._lock:
                for held, outcome in zip(part, outcomes, strict=True):
                    held.outcome = outcome if isinstance(outcome, Settled) else LEASE_LOST
                    acked += isinstance(outcome, Settled)
        with self._lock:
            self._sending_late = False
            self.answered()
        if acked:
            self._journal.note("lease.acked_late", "the service took the ack after all", count=acked)

    def _calls(self, batch: list[Held]) -> list[list[Held]]:
        if not batch:
            return []
        return [batch] if self._can.mixed_settles else group_by_call(batch)

    def _settle(self, batch: list[Held]) -> None:
        self._pulse.beat(self._clock.monotonic())
        outcomes = self._guard.settle(settlements(batch), timeout_s=self._budget_s)
        self._answer(batch, outcomes)

    def _copy(self, batch: list[Held], late: set[Held]) -> None:
        """Send the copies, and ack those deliveries whose copy is confirmed; the rest come again, never dropped."""
        with self._lock:
            for held in late:
                self._copying.pop(held, None)
            copying = [(held, self._copying.pop(held)) for held in batch if held in self._copying]
        for route in {each.route for _, each in copying}:
            group = [(held, each) for held, each in copying if each.route is route]
            outcomes = route.copy([each.message for _, each in group])
            for (held, each), outcome in zip(group, outcomes, strict=True):
                if is_confirmed(outcome):
                    held.settlement = Settlement(held.message.handle, Action.ACK)
                else:
                    self._journal.note(each.counted_as(outcome), detail_of(outcome))

    def dead_retry_s(self) -> float:
        """How long a message waits whose dead-letter queue is missing or down: the longest sensible wait."""
        return min(_LONGEST_DEAD_RETRY_S, self._can.max_retry_delay_s)

    def _answer(self, batch: list[Held], outcomes: Sequence[SettleOutcome]) -> None:
        if set(map(type, outcomes)) == {Settled}:
            self._finish(batch, outcomes, settled=True)
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
            if len(final) < len(batch):
                self._troubled([held for held in batch if held.trouble is not None and held.outcome is None])
            self._settle_wanted.notify()
        for outcome in answers:
            self._report(outcome)
        self._finish(final, answers)
        for held, outcome in zip(final, answers, strict=True):
            if isinstance(outcome, LeaseLost):
                self._lost(held)

    def _finish(self, batch: Sequence[Held], outcomes: Sequence[SettleOutcome], *, settled: bool = False) -> None:
        size = sum(weights(batch))
        with self._lock:
            for held, outcome in zip(batch, outcomes, strict=True):
                held.outcome = outcome
                held.state = DONE
            self._settler.settled(len(batch))
            self._flow.remove(len(batch), size)
            self._tally.handling.sum_up()
            if settled:
                self._tally.settled(len(batch))
            else:
                self._tally.answered(outcomes)
            callbacks = self._finished(batch)
            self.answered()
        for callback in callbacks:
            callback()

    def _report(self, outcome: SettleOutcome) -> None:
        if isinstance(outcome, LeaseLost):
            self._journal.note("lease.lost", "settled too late; the message may be delivered again")
        elif isinstance(outcome, Unknown):
            self._journal.note("settle.unknown", outcome.error.detail)
        elif isinstance(outcome, Unsupported):
            self._journal.note("settle.failed", outcome.detail)
        elif not isinstance(outcome, Settled):
            self._journal.note("settle.failed", outcome.error.detail)


def _earlier(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)
