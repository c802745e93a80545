# SPDX-License-Identifier: Apache-2.0
"""The thread that polls one queue: when, for how many, and what it does about outages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from queuekit._engine.inbox import Inbox
from queuekit._engine.rate import Rate, TokenBucket
from queuekit._engine.station import Station
from queuekit._engine.threads import Threads
from queuekit._engine.waits import FullJitter, planned_wait_s
from queuekit._values.errors import QueueKitError, ThrottledError
from queuekit.backend import Backend, IncomingMessage, Recreating

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


class Poller:
    """Polls while somebody wants messages, there is room for them, and the rate allows it.

    Args:
        station: What the parts of a receiver share.
        backend: Asked whether its queue had to be made anew.
        inbox: Knows who waits.
        settings: How to poll.
        wanted: Notified when it is time to look whether to poll.
        admit: Called with what a poll brought and when it began.
        end: Called with a failure that no other try can mend; nothing is polled any more.

    Concurrency:
        One thread; the rest under the station's lock.
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
        self._lock, self._flow, self._pulse = station.lock, station.flow, station.pulses["poll"]
        self._inbox, self._settings, self._wanted = inbox, settings, wanted
        self._admit, self._end = admit, end
        self._bucket = None if settings.rate is None else TokenBucket(settings.rate, self._clock.monotonic())
        self._backoff = FullJitter(self._clock.random, least_s=0.1, most_s=_LONGEST_BACKOFF_S)
        self._recreating = backend if isinstance(backend, Recreating) else None
        self._recreated = 0
        self._full_since: tuple[float, int] | None = None
        self._told_full = False

    def start(self, threads: Threads) -> None:
        """Start the thread."""
        threads.start("poll", self._poll_forever)

    def _poll_forever(self) -> None:
        failures = 0
        while want := self._next_poll():
            began = self._clock.monotonic()
            self._pulse.beat(began + self._settings.poll_s)
            try:
                batch = self._guard.receive(
                    max_messages=want, wait_s=self._settings.poll_s, lease_s=self._settings.lease_s
                )
            except QueueKitError as error:
                failures += 1
                self._came(0)
                if not self._after_failure(error, failures):
                    break
                continue
            self._came(len(batch))
            if failures:
                failures = 0
                self._resumed()
            if self._recreating is not None:
                self._report_loss(self._recreating)
            self._admit(batch, began)
        self._pulse.beat(float("inf"))

    def _came(self, count: int) -> None:
        now = self._clock.monotonic()
        self._pulse.beat(now)
        if self._bucket is not None:
            with self._lock:
                self._bucket.settle(count, now)

    def _next_poll(self) -> int:
        inbox = self._inbox
        with self._lock:
            inbox.polling = False
            self._arrived_if_stopping()
            while not inbox.stopping:
                want, again_s = self._want()
                if want:
                    inbox.polling, inbox.asked = True, False
                    self._flow.polled(self._clock.monotonic())
                    return want
                self._wait(again_s)
            self._arrived_if_stopping()
            return 0

    def _want(self) -> tuple[int, float | None]:
        """How many to poll for now; for none, in how many seconds to look again."""
        inbox = self._inbox
        if inbox.paused:
            return 0, None
        want = self._flow.want(demand=max(inbox.demand, inbox.asked), waiting=len(inbox.buffer))
        if not want:
            return 0, self._while_full() if self._flow.is_full else None
        self._full_since, self._told_full = None, False
        if self._bucket is None:
            return want, None
        now = self._clock.monotonic()
        allowed = self._bucket.take(want, now)
        return allowed, None if allowed else self._bucket.wait_s(now)

    def _while_full(self) -> float | None:
        """Say so once when nothing was settled for a lease, and everything that may be in flight is."""
        now, settled = self._clock.monotonic(), self._flow.removed
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

    def _wait(self, timeout_s: float | None) -> None:
        self._pulse.beat(float("inf") if timeout_s is None else self._clock.monotonic() + timeout_s)
        self._clock.wait(self._wanted, timeout_s)

    def _arrived_if_stopping(self) -> None:
        if self._inbox.stopping:
            self._inbox.arrived.notify_all()

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
                self._wait(left_s)
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
