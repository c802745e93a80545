# SPDX-License-Identifier: Apache-2.0
"""Which runner fits a queue's handlers; the same in a worker and in its child processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from queuekit._portable.batch_running import BatchJob, BatchLoopRunner, BatchThreadRunner
from queuekit._portable.loop_running import LoopRunner, TaskRunner
from queuekit._portable.running import Feed, ThreadRunner, WorkerThreads
from queuekit._portable.triage import Job, Triage
from queuekit._values.clock import Clock

Runner = WorkerThreads[Any] | TaskRunner[Any]


class RunnerMaker:
    """Makes the runner of one queue.

    Args:
        triage: Picks handlers.
        clock: Time.
        slots: Most handlers, or batches, at once.
        failed: Called with what ended the feed, if it was not a stop.
        hung: Called when a sync handler is past its timeout, with how many are, and how many slots there are.
        name: For the threads.
    """

    def __init__(
        self,
        triage: Triage,
        clock: Clock,
        *,
        slots: int,
        failed: Callable[[BaseException], None],
        hung: Callable[[int, int], None],
        name: str,
    ) -> None:
        self._triage, self._clock, self._slots = triage, clock, slots
        self._failed, self._hung, self._name = failed, hung, name

    def one_by_one(self, feed: Feed[Job], *, is_async: bool) -> Runner:
        """For handlers that take one message."""
        if is_async:
            return LoopRunner(feed, self._triage, slots=self._slots, failed=self._failed)
        return ThreadRunner(
            feed,
            self._triage,
            self._clock,
            slots=self._slots,
            failed=self._failed,
            hung=self._hung,
            name=self._name,
        )

    def in_batches(self, feed: Feed[BatchJob], *, is_async: bool) -> Runner:
        """For handlers that take batches."""
        if is_async:
            return BatchLoopRunner(feed, self._triage, slots=self._slots, failed=self._failed)
        return BatchThreadRunner(
            feed,
            self._triage,
            self._clock,
            slots=self._slots,
            failed=self._failed,
            hung=self._hung,
            name=self._name,
        )
