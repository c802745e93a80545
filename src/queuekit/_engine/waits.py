# SPDX-License-Identifier: Apache-2.0
"""Waits between tries: tenacity's vocabulary, one decision at a time."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import Any, Protocol

import tenacity
from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base

from queuekit._values.capability import Capabilities
from queuekit._values.clock import Random

logger = logging.getLogger("queuekit")

_SAME_STEP = 1e-4


class Wait(Protocol):
    """Anything that tenacity takes as ``wait=``."""

    def __call__(self, retry_state: RetryCallState) -> float | int | timedelta:
        """Seconds, or a length, to wait before the next try."""
        ...


class FullJitter(wait_base):
    """Exponential with full jitter: anywhere between the least wait and a bound that doubles each time.

    Full jitter spreads the retries of many messages that failed at once, which is what overloaded
    services need most.

    Args:
        random: Where chance comes from; a Clock's, so that simulations replay.
        least_s: The shortest wait, and half of the first bound.
        most_s: The longest wait.

    Attributes:
        most_s: The longest wait.
    """

    def __init__(self, random: Random, *, least_s: float = 1.0, most_s: float = 600.0) -> None:
        self._random = random
        self._least_s = least_s
        self.most_s: float = most_s

    def bound_s(self, attempt: int) -> float:
        """The longest wait after this attempt; never falls as attempts rise."""
        # Beyond 64 doublings the float would overflow, and the maximum was reached long before.
        return min(self.most_s, self._least_s * 2.0 ** min(attempt, 64))

    def __call__(self, retry_state: RetryCallState) -> float:
        """Seconds to wait after the attempt that just failed."""
        return self._random.uniform(self._least_s, self.bound_s(retry_state.attempt_number))


def planned_wait_s(wait: Wait, attempt: int, error: BaseException, *, fallback: Wait) -> float:
    """Ask a tenacity wait strategy for the wait after one failed attempt.

    The strategy is the user's code: one that raises, or answers with something that is not a finite length
    of at least 0, is replaced by ``fallback`` for this decision, with one log line.

    Args:
        wait: The strategy.
        attempt: Which attempt failed, from 1.
        error: What it failed with.
        fallback: The engine's own strategy, which cannot fail.
    """
    state = _call_state(wait, attempt, error)
    try:
        answer = wait(state)
        seconds = answer.total_seconds() if isinstance(answer, timedelta) else float(answer)
    except Exception:  # the wait is the user's code: its failure must not lose the message
        logger.exception("the retry policy's wait raised; using the default", extra={"action": "retry.wait_failed"})
        return planned_wait_s(fallback, attempt, error, fallback=fallback)
    if not math.isfinite(seconds) or seconds < 0:
        logger.error(
            "the retry policy's wait answered %r; using the default", answer, extra={"action": "retry.wait_failed"}
        )
        return planned_wait_s(fallback, attempt, error, fallback=fallback)
    return seconds


def possible_delay_s(delay_s: float, can: Capabilities) -> float:
    """The delay of a send rounded up to what the service can tell apart, so that nothing comes early."""
    steps = delay_s / can.delay_resolution_s
    if abs(steps - round(steps)) < _SAME_STEP:
        return delay_s
    return math.ceil(steps) * can.delay_resolution_s


def wish_s(wait: Wait, attempt: int) -> float:
    """What a strategy answers for an attempt that failed somehow; 0 where it answers nothing of use."""
    try:
        answer = wait(_call_state(wait, attempt, RuntimeError("an attempt failed")))
        seconds = answer.total_seconds() if isinstance(answer, timedelta) else float(answer)
    except Exception:  # noqa: BLE001 - the wait is the user's code; asking it must not stop a worker
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def possible_retry_s(delay_s: float, can: Capabilities) -> float:
    """The shortest delay of a RETRY that a queue can do and that is no shorter than asked for.

    Where even the longest of the queue is shorter, the caller decides.
    """
    steps = math.ceil(delay_s / can.retry_delay_resolution_s - 1e-9)
    return max(steps * can.retry_delay_resolution_s, can.min_retry_delay_s) if steps else 0.0


def _call_state(wait: Any, attempt: int, error: BaseException) -> RetryCallState:
    state = RetryCallState(Retrying(wait=wait), fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    state.outcome = tenacity.Future.construct(attempt, error, has_exception=True)
    return state
