# SPDX-License-Identifier: Apache-2.0
"""Workers of one queue in a single thread on a virtual clock: one seed is one history, to the last bit.

The receiver, its policies and the settling and leasing of a worker are the engine's own, stepped by events
in place of their threads. What a simulation does not have is the threads themselves, the event loop, and
the child processes.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, MutableSet, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, cast

from queuekit._engine import metadata as meta
from queuekit._engine.held import Held
from queuekit._engine.pulse import Pulse
from queuekit._engine.receiving import ReceiverSettings
from queuekit._engine.shutdown import ShutdownPlan, Step
from queuekit._portable.intake import Intake
from queuekit._portable.link import BackendOpener, open_link
from queuekit._portable.retry import Judge, RetryPolicy, Verdict
from queuekit._values.clock import Clock, Random
from queuekit._values.errors import ClosedError, QueueKitError
from queuekit.backend import IncomingMessage

_POLL_EVERY_S = 1.0


class Simulation:
    """Events in order of time, and of their making where times are equal.

    Args:
        clock: The one clock of everything.
        pass_time: Lets time pass.

    Attributes:
        clock: The clock.
        trace: What happened, in order; equal for equal seeds.
    """

    def __init__(self, clock: Clock, pass_time: Callable[[float], None]) -> None:
        self.clock: Clock = clock
        self.trace: list[str] = []
        self._pass_time = pass_time
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    @property
    def random(self) -> Random:
        """The clock's chance, so that one seed decides everything."""
        return self.clock.random

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have something done so much later."""
        heapq.heappush(self._events, (self.clock.monotonic() + delay_s, next(self._numbers), action))

    def note(self, text: str) -> None:
        """Write down that something happened."""
        self.trace.append(f"{self.clock.monotonic():.6f} {text}")

    def run(self, over: Callable[[], bool], *, limit_s: float) -> bool:
        """Let events happen until it is over; False when it was not within the limit."""
        end = self.clock.monotonic() + limit_s
        while not over():
            if not self._events or self._events[0][0] > end:
                return False
            at, _number, action = heapq.heappop(self._events)
            self._pass_time(max(0.0, at - self.clock.monotonic()))
            action()
        return True

    def digest(self) -> str:
        """A short name for the whole trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class Work(NamedTuple):
    """What a handler does with a delivery.

    Attributes:
        takes_s: How long it runs.
        result: What it returns, or raises where that is an exception.
    """

    takes_s: float = 0.0
    result: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """What the workers of a simulation have in common.

    Attributes:
        url: The queue.
        work: Says what a handler does with a delivery.
        slots: Handlers at once.
        lease_s: The lease.
        prefetch: Most deliveries that wait.
        policy: The handler's retry policy.
        drain_s: How long handlers may go on after a request to stop.
    """

    url: str
    work: Callable[[Held], Work]
    slots: int = 2
    lease_s: float = 10.0
    prefetch: int = 4
    policy: RetryPolicy = RetryPolicy()  # noqa: RUF009 - it is frozen
    drain_s: float = 30.0


class SimulatedWorker:
    """One worker.

    Args:
        simulation: Where its events happen.
        name: Names it in the trace.
        opener: Opens its queue.
        crew: How it works.

    Attributes:
        name: Its name.
        running: What its handlers have now.
        stopped: Whether it has drained and closed.
        dead: Whether it was killed.
    """

    def __init__(self, simulation: Simulation, name: str, opener: BackendOpener, crew: Crew) -> None:
        self.name: str = name
        self.running: list[Held] = []
        self.stopped: bool = False
        self._simulation, self._crew, self._clock = simulation, crew, simulation.clock
        link = open_link(crew.url, None, {}, opener=opener)
        settings = ReceiverSettings(lease_s=crew.lease_s, prefetch=crew.prefetch, poll_s=0.0)
        self._intake = Intake(link, settings, dead_letter=None, opener=opener)
        self._judge = Judge(crew.policy, link.capabilities, simulation.clock)
        self._receiver: Any = cast(Any, self._intake.receiver)  # its parts are stepped from here
        self._receiver._threads = _NoThreads()
        # A set iterates by address; here the same seed must give the same order.
        self._receiver.control._keeper.in_flight = _InOrder()
        self.dead: bool = False
        self._paused: dict[str, float] = {}
        self._armed: dict[str, float] = {}
        self._plan: ShutdownPlan | None = None
        self._registered = False
        self._failures = 0
        self._every("poll", _POLL_EVERY_S, self._poll)
        self._later("run", 0.0, self._run)

    def kill(self) -> None:
        """End it as ``kill -9`` does: nothing of it happens any more."""
        self.dead = True
        self._simulation.note(f"{self.name} killed")

    def pause(self, part: str, for_s: float) -> None:
        """Let one part (``poll``, ``run``, ``settle`` or ``leases``) do nothing for so long."""
        self._paused[part] = self._clock.monotonic() + for_s
        self._simulation.note(f"{self.name} {part} paused for {for_s:g} s")

    def stop(self) -> None:
        """Ask it to drain; a second request gives handlers no more time."""
        now = self._clock.monotonic()
        if self._plan is not None:
            self._plan.hurry(now)
            return
        self._simulation.note(f"{self.name} stops")
        self._plan = ShutdownPlan(now=now, drain_s=self._crew.drain_s, flush_s=10.0)
        self._receiver.stop_polling()
        self._later("drain", 0.0, self._drain)

    @property
    def close_by(self) -> float:
        """When it must be closed at the latest, once it was asked to stop."""
        return self._clock.monotonic() if self._plan is None else self._plan.close_at

    def _later(self, part: str, delay_s: float, action: Callable[[], None]) -> None:
        self._simulation.after(delay_s, lambda: self._act(part, action))

    def _every(self, part: str, period_s: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            if not self.stopped:
                self._later(part, period_s, again)

        self._later(part, 0.0, again)

    def _act(self, part: str, action: Callable[[], None]) -> None:
        if self.dead or self.stopped:
            return
        left_s = self._paused.get(part, 0.0) - self._clock.monotonic()
        if left_s > 0:
            self._later(part, left_s, action)
            return
        action()
        self._arm()

    def _arm(self) -> None:
        """Have settlements and leases looked at when they are due."""
        leases, now = self._receiver.control.leases, self._clock.monotonic()
        for part, due, action in (
            ("settle", self._settle_due_at(now), self._settle),
            ("leases", leases._keeper.next_at(), self._beat),
        ):
            if due is not None and due < self._armed.get(part, float("inf")):
                self._armed[part] = due
                self._later(part, max(0.0, due - now), action)

    def _settle_due_at(self, now: float) -> float | None:
        with self._receiver._lock:
            due: float | None = self._receiver.control.settles._due_at(now)
            return due

    def _settle(self) -> None:
        self._armed.pop("settle", None)
        settles, now = self._receiver.control.settles, self._clock.monotonic()
        due = self._settle_due_at(now)
        if due is not None and due <= now:
            settles._send(settles._next_batch())

    def _beat(self) -> None:
        self._armed.pop("leases", None)
        leases = self._receiver.control.leases
        at = leases._keeper.next_at()
        if at is not None and at <= self._clock.monotonic():
            leases._carry_out(leases._next_beat())

    def _poll(self) -> None:
        receiver, inbox = self._receiver, self._receiver._inbox
        if inbox.stopping:
            return
        demand = max(inbox.demand, inbox.asked)
        if receiver._flow.want(demand=demand, waiting=len(inbox.buffer)) <= 0:
            return
        wanted, began = receiver._poller._next_poll(Pulse(), 0, 0), self._clock.monotonic()
        got: Sequence[IncomingMessage] = ()
        try:
            got = self._intake.link.guard.receive(max_messages=wanted, wait_s=0.0, lease_s=self._crew.lease_s)
        except QueueKitError:
            # The engine waits here, up to ten seconds; in a simulation that is a pause of the polling.
            self._failures += 1
            self.pause("poll", min(10.0, 0.1 * 2.0**self._failures))
        else:
            self._failures = 0
            receiver._admit(got, began)
        receiver._poller._ended(wanted, len(got))

    def _run(self) -> None:
        self._registered = False
        try:
            while len(self.running) < self._crew.slots and (held := self._receiver.take_now()) is not None:
                self._begin(held)
        except ClosedError:
            return
        idle = self._crew.slots - len(self.running)
        if idle and not self._registered:
            self._registered = True
            self._receiver.when_ready(self._wake, idle)

    def _wake(self) -> None:
        self._later("run", 0.0, self._run)

    def _begin(self, held: Held) -> None:
        attempt = _attempt_of(held)
        self._simulation.note(f"{self.name} begins {held.message.message_id} attempt {attempt}")
        too_often = self._judge.on_receipt(attempt)
        if too_often is not None:
            self._intake.settle(held, too_often)
            return
        self.running.append(held)
        work = self._crew.work(held)
        self._later("run", work.takes_s, lambda: self._end(held, work.result))

    def _end(self, held: Held, result: object) -> None:
        self.running.remove(held)
        attempt = _attempt_of(held)
        if isinstance(result, BaseException):
            verdict = self._judge.on_error(result, attempt)
        else:
            verdict = self._judge.on_return(result, attempt)
        self._simulation.note(f"{self.name} ends {held.message.message_id}: {_shown(verdict)}")
        self._intake.settle(held, verdict)
        self._receiver.forget(self._wake)
        self._run()

    def _drain(self) -> None:
        plan, receiver = self._plan, self._receiver
        assert plan is not None
        step = plan.next(self._clock.monotonic(), receiver.standing())
        if step is Step.CLOSE:
            self.stopped = True
            self._simulation.note(f"{self.name} stopped")
            self._intake.close(timeout_s=0.0)
            return
        if step is Step.RELEASE_WAITING:
            receiver.release_waiting()
        elif step is Step.CANCEL_RUNNING:
            receiver.release_running()
        elif step is Step.FLUSH:
            with receiver._lock:
                receiver.control.settles.flush()
        self._later("drain", 0.05, self._drain)


def _attempt_of(held: Held) -> int | None:
    """Which attempt a delivery is, with those that copies of the message carry."""
    attempt = held.message.attempt
    return None if attempt is None else attempt + meta.read(held.message.metadata).base


def _shown(verdict: Verdict) -> str:
    return f"{verdict.action.value} {verdict.delay_s:g}"


class _NoThreads:
    """Stands where the receiver keeps its threads."""

    def start(self, role: str, body: Callable[[], None]) -> None:
        """Events do what the threads would."""

    def join(self, timeout_s: float) -> None:
        """There is none."""


class _InOrder(MutableSet[Held]):
    """A set that iterates in the order of adding."""

    def __init__(self) -> None:
        self._members: dict[Held, None] = {}

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Held]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, value: Held) -> None:
        self._members[value] = None

    def discard(self, value: Held) -> None:
        self._members.pop(value, None)

    def update(self, members: Iterable[Held]) -> None:
        self._members.update(dict.fromkeys(members))

    def difference_update(self, members: Iterable[Held]) -> None:
        for member in members:
            self._members.pop(member, None)
