# SPDX-License-Identifier: Apache-2.0
"""Deliveries that wait for somebody to take them, and those who wait for a delivery."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy

from queuekit._engine.flow import Flow
from queuekit._engine.held import RUNNING, WAITING, Held
from queuekit._engine.lanes import KeyLanes
from queuekit._engine.leading import DEPUTY_LOOKS_S, Lead
from queuekit._engine.prospects import Prospects
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError, QueueKitError
from queuekit.backend import IncomingMessage


class Inbox:
    """Hands deliveries over: whole polls go in, one at a time comes out.

    Args:
        lock: The receiver's lock.
        clock: Time.
        flow: Counts what is in flight.
        queue: The queue's redacted URL, for errors.
        wanted: Called when half of what was fetched ahead is taken, and when all is, lock held.
        somebody_waits: Called when a taker finds nothing, lock held.
        lead: Which of several threads takes, where they take in turn.
        prospects: How fast deliveries were taken lately.
        lanes: Keeps the messages of a key apart, where the service does not.
        expired: Called with a delivery whose time was over before anybody took it, lock held.

    Attributes:
        ends: When deliveries that wait expire, in seconds since the epoch, for those that do.
        demand: How many takers wait.
        polls: How many polls are in flight.
        asked: Whether somebody asked without waiting, so that one poll is due.
        stopping: Whether nothing is to be taken any more.
        paused: Whether nothing is to be polled for now.
        failure: What ended the polling for good.
        outage: What the last poll failed with, while polls fail.

    Concurrency:
        Safe from any thread; the attributes are guarded by the lock.
    """

    def __init__(
        self,
        lock: threading.RLock,
        clock: Clock,
        flow: Flow,
        *,
        queue: str,
        wanted: Callable[[], None],
        somebody_waits: Callable[[], None],
        lead: Lead,
        prospects: Prospects,
        lanes: KeyLanes | None = None,
        expired: Callable[[Held], None],
    ) -> None:
        self._lock, self._clock, self._flow, self._queue = lock, clock, flow, queue
        self._wanted, self._somebody_waits, self._lead, self._lanes = wanted, somebody_waits, lead, lanes
        # A with statement takes twice as long to take a lock, and messages are taken one by one.
        self._acquire, self._release = lock.acquire, lock.release
        self.arrived = threading.Condition(lock)
        self.buffer: deque[Held] = deque()
        self.ends: dict[Held, float] = {}
        self._expired = expired
        self.demand = 0
        self.polls = 0
        self.asked = False
        self.stopping = False
        self.paused = False
        self.failure: QueueKitError | None = None
        self.outage: QueueKitError | None = None
        self._now = clock.monotonic
        self._callbacks: dict[Callable[[], None], int] = {}
        self._prospects = prospects

    def take(self, timeout_s: float | None) -> Held | None:
        """The next delivery, waiting for at most ``timeout_s``; None when there was none.

        Raises:
            ClosedError: The receiver was stopped.
            QueueKitError: Polling failed in a way that another try cannot mend, or the service could not be
                reached during the whole wait.
        """
        self._acquire()
        try:
            return self._pop() or self._wait_for_one(timeout_s)
        finally:
            self._release()

    def take_in_turn(self) -> Held:
        """The next delivery, for one of several threads that run handlers; quick ones are run by one thread.

        Raises:
            ClosedError: The receiver was stopped.
            QueueKitError: Polling failed in a way that another try cannot mend.
        """
        me, lead = threading.get_ident(), self._lead
        self._acquire()
        try:
            held = self._pop() if lead.may_take(me) else None
            if held is None:
                held = self._await_turn(me)
            lead.leader = me
            if self.demand and self.buffer and not (lead.deputy or lead.called):
                lead.called = True
                self.arrived.notify()
            return held
        finally:
            self._release()

    def take_now(self) -> Held | None:
        """The next delivery that is here already, or None. Raises as `take` does."""
        self._acquire()
        try:
            held = self._pop()
            if held is None:
                self._raise_if_over()
            return held
        finally:
            self._release()

    def take_many(self, most: int, timeout_s: float | None, *, with_key: bool = False) -> list[Held]:
        """Up to ``most`` deliveries, waiting for the first. Raises as `take` does.

        Args:
            most: How many at most.
            timeout_s: How long to wait for the first; None is without limit.
            with_key: Whether several messages of one ordering key may be among them, in order. Whoever takes
                them so must begin none of a key after an earlier one of it failed, and release it instead.
        """
        with self._lock:
            first = self._pop()
            if first is None:
                first = self._wait_for_one(timeout_s, demand=most)
            if first is None:
                return []
            taken = [first]
            while len(taken) < most and (held := self._pop()) is not None:
                taken.append(held)
            if with_key and self._lanes is not None:
                self._take_along(self._lanes, taken, most)
            return taken

    def take_along(self, head: Held, most: int, fits: Callable[[IncomingMessage], bool]) -> list[Held]:
        """Those of the same key behind a delivery that was taken, to go into one batch with it, in order.

        Args:
            head: What was taken.
            most: How many at most.
            fits: Whether one may go with it; none behind one that may not does.
        """
        with self._lock:
            return [] if self._lanes is None or self.stopping else self._along(self._lanes, head, most, fits)

    def _take_along(self, lanes: KeyLanes, taken: list[Held], most: int) -> None:
        for head in tuple(taken):
            taken += self._along(lanes, head, most - len(taken), lambda _: True)

    def _along(self, lanes: KeyLanes, head: Held, most: int, fits: Callable[[IncomingMessage], bool]) -> list[Held]:
        along = lanes.take_along(head, most, self._now(), fits)
        for held in along:
            held.state = RUNNING
        self._flow.running += len(along)
        self._flow.taken += len(along)
        return along

    def when_ready(self, callback: Callable[[], None], wanted: int = 1) -> None:
        """Have ``callback`` called once, from any thread, when `take_now` is worth trying again.

        It counts as ``wanted`` that wait, until it is called or given to `forget`.
        """
        with self._lock:
            if self.buffer or self.stopping or self.failure is not None:
                call_now = True
            else:
                call_now = False
                self._callbacks[callback] = wanted
                self.demand += wanted
                self._somebody_waits()
        if call_now:
            callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back a `when_ready` that was not called."""
        with self._lock:
            self.demand -= self._callbacks.pop(callback, 0)

    def _pop(self) -> Held | None:
        buffer = self.buffer
        # Once stopping, what waits is given back: nobody begins it.
        while buffer and not self.stopping:
            held = buffer.popleft()
            if self.ends and self._is_over(held):
                continue
            # After a pause of the whole process, what waits may be somebody else's; the keeper gives it up.
            if held.state is not WAITING or held.lease.until <= self._now():
                continue
            held.state = RUNNING
            flow = self._flow
            flow.running += 1
            flow.taken += 1
            # Who waits for one that another has taken does not ask again; the empty buffer asks for them.
            if not buffer or len(buffer) == flow.refill_at:
                self._wanted()
            return held
        return None

    def _is_over(self, held: Held) -> bool:
        """Whether a delivery expired while it waited; it is then handed to `expired`."""
        end = self.ends.pop(held, None)
        if end is None or end > self._clock.time() or held.state is not WAITING:
            return False
        self._expired(held)
        return True

    def _wait_for_one(self, timeout_s: float | None, *, demand: int = 1) -> Held | None:
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        self._raise_if_over()
        self.demand += demand
        try:
            while True:
                self._somebody_waits()
                left_s = None if deadline is None else deadline - self._clock.monotonic()
                if left_s is not None and left_s <= 0:
                    self._give_up()
                    return None
                self._clock.wait(self.arrived, left_s)
                held = self._pop()
                if held is not None:
                    return held
                self._raise_if_over()
        finally:
            self.demand -= demand

    def _await_turn(self, me: int) -> Held:
        lead = self._lead
        self._raise_if_over()
        if lead.leader == me:
            lead.leader = None
        self.demand += 1
        try:
            while True:
                if lead.may_take(me) and (held := self._pop()) is not None:
                    return held
                if self.buffer and not lead.deputy:
                    self._stand_by(lead, me)
                else:
                    if not self.buffer:
                        self._somebody_waits()
                    self._clock.wait(self.arrived, None)
                lead.called = False
                self._raise_if_over()
        finally:
            self.demand -= 1

    def _stand_by(self, lead: Lead, me: int) -> None:
        """Wait for a moment; who led, and took nothing meanwhile, leads no more."""
        taken, lead.deputy = self._flow.taken_in_all, True
        try:
            self._clock.wait(self.arrived, DEPUTY_LOOKS_S)
        finally:
            lead.deputy = False
        if self._flow.taken_in_all == taken:
            lead.leader = me

    def give_up(self) -> None:
        """To be called by who looked for a delivery with `take_now` for as long as it wanted.

        Raises:
            QueueKitError: The service could not be reached meanwhile.
        """
        with self._lock:
            self._raise_if_over()
            self._give_up()

    def _give_up(self) -> None:
        if not self.polling:
            # No poll has begun for this taker, who was gone before the poll thread could see it: one does
            # now, so that asking without waiting finds something the next time, also after an outage.
            self.asked = True
            self._somebody_waits()
        if self.outage is not None:
            raise copy(self.outage) from self.outage

    def _raise_if_over(self) -> None:
        if self.failure is not None:
            # A copy: the same exception raised in many threads would gather all their tracebacks.
            raise copy(self.failure) from self.failure
        if self.stopping:
            msg = "the consumer is closed; open a new one"
            raise ClosedError(msg, queue=self._queue, operation="receive")

    @property
    def polling(self) -> bool:
        """Whether a poll is in flight that can still bring something."""
        return self.polls > 0 and self.failure is None

    @property
    def closed(self) -> bool:
        """Whether what a poll brings now goes back at once."""
        return self.stopping or self.paused

    def put(self, group: Iterable[Held]) -> None:
        """Deliveries that may be taken. Lock held; wake the takers afterwards."""
        self.buffer.extend(group)

    def wake(self) -> list[Callable[[], None]]:
        """Wake as many takers as there are deliveries; the callbacks returned are to be called, lock not held."""
        if self.buffer and self.demand:
            self.arrived.notify(self._lead.call(len(self.buffer)))
        return self.take_callbacks()

    def take_callbacks(self) -> list[Callable[[], None]]:
        """Those who wait by callback; they are to be called, lock not held."""
        callbacks, self._callbacks = self._callbacks, {}
        self.demand -= sum(callbacks.values())
        return list(callbacks)

    def waiting(self) -> int:
        """How many deliveries wait. Lock held."""
        kept_back = 0 if self._lanes is None else self._lanes.waiting()
        return kept_back + sum(held.state is WAITING for held in self.buffer)

    def empty(self) -> list[Held]:
        """Take out everything that waits, to be given back. Lock held."""
        waiting = [held for held in self.buffer if held.state is WAITING]
        self.buffer.clear()
        self.ends.clear()
        if self._lanes is not None:
            for head in tuple(waiting):
                waiting += self._lanes.failed(head)
            waiting += self._lanes.empty()
        return waiting

    def pace(self, relax_after_s: float) -> Callable[[Held], float]:
        """How soon waiting deliveries will probably be taken, from how fast others were."""
        now = self._clock.monotonic()
        self._flow.relax(now, relax_after_s)
        rate = self._prospects.look(now, self._flow.taken_in_all)
        positions = {id(held): index for index, held in enumerate(self.buffer)}
        demand = self.demand
        return lambda held: 0.0 if demand else (positions.get(id(held), 0) / rate if rate else float("inf"))
