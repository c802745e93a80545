# SPDX-License-Identifier: Apache-2.0
"""When a failed task is tried again, and when it is given up."""

from __future__ import annotations

from typing import Any, NamedTuple

from queuekit.testing.emulators.cloud_tasks._messages import seconds_of


class RetryRule(NamedTuple):
    """A retry config whose every field is set.

    Attributes:
        max_attempts: The first one included; -1 for no limit.
        max_retry_s: Since the first attempt; 0 for no limit.
        min_backoff_s: Before the first retry.
        max_backoff_s: Before any.
        max_doublings: How often the wait doubles before it grows by equal steps.
    """

    max_attempts: int
    max_retry_s: float
    min_backoff_s: float
    max_backoff_s: float
    max_doublings: int

    @classmethod
    def of(cls, config: Any) -> RetryRule:
        """Read a `RetryConfig`."""
        return cls(
            config.max_attempts,
            seconds_of(config.max_retry_duration),
            seconds_of(config.min_backoff),
            seconds_of(config.max_backoff),
            config.max_doublings,
        )

    def wait_s(self, attempts: int) -> float:
        """How long a task waits that has failed so often: doubling, then by equal steps, then always the longest."""
        retries = attempts - 1
        doublings = min(retries, self.max_doublings)
        if doublings > 64:  # beyond every duration, and soon beyond every float
            return self.max_backoff_s if self.min_backoff_s else 0.0
        step_s = self.min_backoff_s * 2.0**doublings
        return min(self.max_backoff_s, step_s * (1 + retries - doublings))

    def exhausted(self, attempts: int, since_first_s: float) -> bool:
        """Whether there is no further attempt: what is limited must all be used up, not the first of it."""
        if self.max_attempts < 0 and not self.max_retry_s:
            return False
        tried = self.max_attempts < 0 or attempts >= self.max_attempts
        return tried and since_first_s >= self.max_retry_s
