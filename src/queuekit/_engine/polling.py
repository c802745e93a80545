# SPDX-License-Identifier: Apache-2.0
"""The threads that poll one queue: when, for how many, and what they do about outages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from queuekit._engine.growth import Growth
from queuekit._engine.inbox import Inbox
from queuekit._engine.pulse import Pulse
from queuekit._engine.rate import Rate, TokenBucket
from queuekit._engine.station import Station
from queuekit._engine.threads import Threads
from queuekit._engine.waits import FullJitter, planned_wait_s
from queuekit._values.errors import QueueKitError, ThrottledError
from queuekit.backend import Backend, IncomingMessage, Recreating

_ROLE = "poll"
_LONGEST_BACKOFF_S = 4.0
"""Work goes on at most that much later than the service does; many workers still do not come back at one moment."""


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How to poll.

    Attributes:
        poll_s: Longest wait of one poll.
        lease_s: The length of a lease.
        rate: How many messages may come in a stretch of time; None is without limit.
    """

    poll_s: float
    lease_s: float
    rate: Rate | None


def roles(most: int) -> Sequence[str]:
    """The names of the threads that may poll at once."""
    return [_ROLE, *(f"{_ROLE}-{number}" for number in range(2, most + 1))]


class Poller:
    """Polls while somebody wants messages, there is room for them, and the rate allows it.

    There is one poll at a time, and several while `Growth` allows them; threads for those are started when they are
    first needed.

    Args:
        station: What the parts of a receiver share.
        backend: Asked whether its queue had to be made anew.
        inbox: Knows who waits.
        settings: How to poll.
        wanted: Notified when it is time to look whether to poll.
        admit: Called with what a poll brought and when it began.
        end: Called with a failure that no other try can mend; nothing is polled any more.

    Concurrency:
        Its own threads; what they share is guarded by the station's lock.
    """

    def __init__(
        self,
        station: Station,
        backend: Backend,
        inbox: Inbox,
        settings: PollSettings,
        *,
        wanted: threading.Condition,
        admit: Callable[[Sequence[IncomingMessage], float], None],
        end: Callable[[QueueKitError], None],
    ) -> None:
        self._guard, self._clock, self._journal = station.guard, station.clock, station.journal
        self._lock, self._flow, self._pulses = station.lock, station.flow, station.pulses
        self._inbox, self._settings, self._wanted = inbox, settings, wanted
        self._admit, self._end = admit, end
        self._growth = Growth(batch=station.can.max_receive, most=station.can.max_polls)
        self._not_started = deque(roles(station.can.max_polls))
        self._threads: Threads | None = None
        self._idle = 0
        self._coming = 0
        self._bucket = None if settings.rate is None else TokenBucket(settings.rate, self._clock.monotonic())
        self._backoff = FullJitter(self._clock.random, least_s=0.1, most_s=_LONGEST_BACKOFF_S)
        self._failures = 0
        self._resume_at = -float("inf")
        self._recreating = backend if isinstance(backend, Recreating) else None
        self._recreated = 0
        self._full_since: tuple[float, int] | None = None
        self._told_full = False

    def start(self, threads: Threads) -> None:
        """Start the first thread; the others are started among the same."""
        self._threads = threads
        self._start_one(threads)

    def call(self) -> None:
        """Have somebody look whether to poll, if one more poll may begin. Lock held."""
        if not self._inbox.polling:
            self._wanted.notify()
        elif self._inbox.polls < self._growth.allowed and self._wanted_now():
            self._call_another()

    def _start_one(self, threads: Threads) -> None:
        role = self._not_started.popleft()
        threads.start(role, lambda: self._poll_forever(self._pulses[role]))

    def _poll_forever(self, pulse: Pulse) -> None:
        want = came = 0
        try:
            while want := self._next_poll(pulse, want, came):
                came, failures = 0, self._failures
                began = self._clock.monotonic()
                pulse.beat(began + self._settings.poll_s)
                try:
                    batch = self._guard.receive(
                        max_messages=want, wait_s=self._settings.poll_s, lease_s=self._settings.lease_s
                    )
                except QueueKitError as error:
                    if not self._after_failure(error):
                        break
                    continue
                came = len(batch)
                pulse.beat(self._clock.monotonic())
                self._after_success(failures)
                self._admit(batch, began)
        finally:
            with self._lock:
                self._ended(want, came)
            pulse.beat(float("inf"))

    def _next_poll(self, pulse: Pulse, asked: int, came: int) -> int:
        """How many to poll for next, after a poll for so many; 0 is never again."""
        inbox = self._inbox
        with self._lock:
            self._ended(asked, came)
            while not inbox.stopping:
                want, again_s = self._want()
                if want:
                    self._began(want)
                    return want
                self._wait(pulse, again_s)
            return 0

    def _ended(self, asked: int, came: int) -> None:
        """A poll is over, and what it brought is where it belongs."""
        if not asked:
            return
        self._inbox.polls -= 1
        self._coming -= asked
        self._growth.ended(asked=asked, came=came)
        if self._bucket is not None:
            self._bucket.settle(came, self._clock.monotonic(), of=asked)
        if self._inbox.stopping:
            self._inbox.arrived.notify_all()

    def _began(self, want: int) -> None:
        self._flow.polled(self._clock.monotonic(), coming=self._coming)
        self._inbox.polls += 1
        self._inbox.asked = False
        self._coming += want
        self.call()

    def _call_another(self) -> None:
        if self._idle:
            self._wanted.notify()
        elif self._not_started and self._threads is not None:
            try:
                self._start_one(self._threads)
            except RuntimeError:
                # The system gives no more threads: those that poll go on.
                self._not_started.clear()

    def _want(self) -> tuple[int, float | None]:
        """How many to poll for now; for none, in how many seconds to look again."""
        inbox, now = self._inbox, self._clock.monotonic()
        if inbox.paused or inbox.failure is not None or inbox.polls >= self._growth.allowed:
            return 0, None
        if now < self._resume_at:
            return 0, self._resume_at - now
        want = self._wanted_now()
        if not want:
            return 0, self._while_full(now) if self._flow.is_full else None
        self._full_since, self._told_full = None, False
        return (want, None) if self._bucket is None else self._at_rate(self._bucket, want, now)

    def _wanted_now(self) -> int:
        inbox = self._inbox
        demand = max(inbox.demand, inbox.asked)
        return self._flow.want(demand=demand, waiting=len(inbox.buffer), coming=self._coming)

    def _at_rate(self, bucket: TokenBucket, want: int, now: float) -> tuple[int, float | None]:
        if self._coming and not bucket.has(want, now):
            return 0, None  # beside another poll only for as many as a poll can bring
        allowed = bucket.take(want, now)
        return allowed, None if allowed else bucket.wait_s(now)

    def _while_full(self, now: float) -> float | None:
        """Say so once when nothing was settled for a lease, and everything that may be in flight is."""
        settled = self._flow.removed
        if self._full_since is None or self._full_since[1] != settled:
            self._full_since, self._told_full = (now, settled), False
        left_s = self._full_since[0] + self._settings.lease_s - now
        if left_s > 0:
            return left_s
        if not self._told_full:
            self._told_full = True
            detail = (
                f"{self._flow.count} deliveries are in flight, the most allowed, and none was settled for a lease"
            )
            self._journal.note("flow.stalled", detail)
        return None

    def _wait(self, pulse: Pulse, timeout_s: float | None) -> None:
        pulse.beat(float("inf") if timeout_s is None else self._clock.monotonic() + timeout_s)
        self._idle += 1
        try:
            self._clock.wait(self._wanted, timeout_s)
        finally:
            self._idle -= 1

    def _after_failure(self, error: QueueKitError) -> bool:
        """Log an outage once, and poll again after a while; False when no other try can mend it."""
        inbox = self._inbox
        with self._lock:
            if inbox.stopping:
                inbox.outage = error
                return False
            first, inbox.outage = inbox.outage is None, error
            # Polls that run at once fail at once, for one reason.
            now = self._clock.monotonic()
            self._failures += self._resume_at <= now
            if error.retryable:
                self._resume_at = max(self._resume_at, now + self._wait_s(error))
        if first:
            self._journal.note("receive.failed", str(error))
        if not error.retryable:
            self._end(error)
            return False
        return True

    def _wait_s(self, error: QueueKitError) -> float:
        """How long to poll no more after a failure. Lock held."""
        wait_s = planned_wait_s(self._backoff, self._failures, error, fallback=self._backoff)
        asked_s = error.retry_after_s if isinstance(error, ThrottledError) else None
        return wait_s + (asked_s or 0.0)

    def _after_success(self, failures: int) -> None:
        """An outage is over with a poll that began in it; what began before tells nothing."""
        if failures:
            with self._lock:
                resumed = failures == self._failures
                if resumed:
                    self._failures, self._inbox.outage = 0, None
            if resumed:
                self._journal.note("receive.resumed")
        if self._recreating is not None:
            self._report_loss(self._recreating)

    def _report_loss(self, backend: Recreating) -> None:
        if (found := backend.recreated()) != self._recreated:
            with self._lock:
                lost, self._recreated = found - self._recreated, max(found, self._recreated)
            if lost > 0:
                self._journal.note("queue.recreated", "it was gone; what it held may be lost", count=lost)
