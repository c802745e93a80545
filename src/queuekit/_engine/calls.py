# SPDX-License-Identifier: Apache-2.0
"""Sends through the guard, retried inside one time budget: only the entries that failed, never the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from queuekit._engine.guard import Guard
from queuekit._engine.pacing import RetryPace
from queuekit._engine.waits import FullJitter, planned_wait_s
from queuekit._values.clock import Clock
from queuekit._values.errors import QueueKitError
from queuekit._values.outcome import (
    Accepted,
    AllAccepted,
    Duplicate,
    ErrorClass,
    NotAttempted,
    Rejected,
    SendOutcome,
    Unknown,
)
from queuekit.backend import OutgoingMessage


class Sender:
    """Sends batches, retries what can be retried, and answers for every message.

    Args:
        guard: The way to the backend.
        clock: Time and chance.
        budget_s: Longest time that one `send` may take, tries and waits together.

    Concurrency:
        Safe from any thread; a call blocks the thread it is made on. `close` wakes the waiting ones.
    """

    def __init__(self, guard: Guard, clock: Clock, *, budget_s: float) -> None:
        self._guard = guard
        self._clock = clock
        self._budget_s = budget_s
        self._wait = FullJitter(clock.random, least_s=0.02, most_s=5.0)
        self._pace = RetryPace()
        self._closing = threading.Condition()
        self._closed = False

    def send(self, batch: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send one batch that is within the backend's limits. One outcome per message, in order."""
        deadline = self._clock.monotonic() + self._budget_s
        outcomes = self._guard.send(batch, timeout_s=self._budget_s)
        if type(outcomes) is AllAccepted or set(map(type, outcomes)) == {Accepted}:
            return outcomes
        return self._try_again(batch, list(outcomes), deadline)

    def close(self) -> None:
        """Let no call wait for another try: what is open then is reported as it stands."""
        with self._closing:
            self._closed = True
            self._closing.notify_all()

    def _try_again(
        self, batch: Sequence[OutgoingMessage], outcomes: list[SendOutcome], deadline: float
    ) -> list[SendOutcome]:
        attempt = 1
        while retry := [index for index, outcome in enumerate(outcomes) if _retryable(outcome)]:
            error = _first_error(outcomes[index] for index in retry)
            if not self._pause(attempt, error, deadline):
                break
            left_s = max(deadline - self._clock.monotonic(), 0.001)
            fresh = self._guard.send([batch[index] for index in retry], timeout_s=left_s)
            for index, outcome in zip(retry, fresh, strict=True):
                outcomes[index] = _after_another_try(outcomes[index], outcome)
            attempt += 1
        return outcomes

    def _pause(self, attempt: int, error: ErrorClass, deadline: float) -> bool:
        """Wait before the next try; False when the budget does not reach that far, or at close."""
        wait_s = planned_wait_s(self._wait, attempt, error.raw or QueueKitError(error.detail), fallback=self._wait)
        now = self._clock.monotonic()
        # On top of what the service asked for, so that its callers do not all come back at one moment.
        until = now + wait_s + (error.retry_after_s or 0.0)
        with self._closing:
            until = max(until, self._pace.next_at(now))
            if until >= deadline:
                return False
            self._pace.take(now)
            while not self._closed and (left_s := until - self._clock.monotonic()) > 0:
                self._clock.wait(self._closing, left_s)
            return not self._closed


def _retryable(outcome: SendOutcome) -> bool:
    return not isinstance(outcome, (Accepted, Duplicate)) and outcome.error.retryable


def _first_error(outcomes: Iterable[SendOutcome]) -> ErrorClass:
    return next(outcome.error for outcome in outcomes if not isinstance(outcome, (Accepted, Duplicate)))


def _after_another_try(before: SendOutcome, after: SendOutcome) -> SendOutcome:
    # Once an answer was lost, a later refusal does not prove that the first try was not accepted.
    if isinstance(before, Unknown) and isinstance(after, (NotAttempted, Rejected)):
        return Unknown(after.error, before.message_id)
    return after
