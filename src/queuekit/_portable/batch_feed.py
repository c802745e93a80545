# SPDX-License-Identifier: Apache-2.0
"""Where batch handlers' batches come from: one thread gathers them, while a handler is free to take one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import Protocol, runtime_checkable

from queuekit._portable.batch_running import BatchJob
from queuekit._portable.gathering import BatchLimit, Gatherer
from queuekit._portable.handler import AnyHandler, BatchHandler, handler_for
from queuekit._portable.retry import RELEASE
from queuekit._portable.running import Feed
from queuekit._portable.triage import Job
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError
from queuekit.backend import IncomingMessage


@runtime_checkable
class Accompanied(Protocol):
    """A feed that keeps jobs back behind those of their ordering key, and can let them go together."""

    def take_along(self, job: Job, most: int, fits: Callable[[IncomingMessage], bool]) -> Sequence[Job]:
        """See `IntakeFeed.take_along`."""
        ...


class BatchFeed:
    """Gathers the jobs of one queue into batches.

    Nothing is gathered while all slots are busy, so that what waits can still go to other workers. When the
    queue is closed, an open batch goes to a free slot as it stands; where none is free it is released.

    Args:
        feed: Where jobs come from.
        handlers: The batch handlers of the queue.
        clock: Time.
        name: The queue's redacted URL.

    Attributes:
        name: The same.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, feed: Feed[Job], handlers: Sequence[AnyHandler], clock: Clock, *, name: str) -> None:
        self._feed, self._handlers, self._clock = feed, handlers, clock
        self.name: str = name
        self._gatherer: Gatherer[Job] = Gatherer(
            {
                each.message_type: BatchLimit(each.batch.max_size, each.batch.max_wait.total_seconds())
                for each in handlers
                if isinstance(each, BatchHandler)
            }
        )
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._arrived = False
        self._ready: deque[BatchJob] = deque()
        self._demand = 0
        self._callbacks: dict[Callable[[], None], int] = {}
        self._ended: BaseException | None = None
        self._stopping = self._returning = False
        self._thread: threading.Thread | None = None

    def take(self) -> BatchJob | None:
        """The next batch, waiting for it. Raises as `Feed.take` does."""
        with self._lock:
            self._demand += 1
            self._wanted()
            try:
                while not self._ready and self._ended is None:
                    self._clock.wait(self._changed, None)
            finally:
                self._demand -= 1
            return self._pop()

    def take_now(self) -> BatchJob | None:
        """The next batch that is gathered, or None. Raises as `Feed.take` does."""
        with self._lock:
            return self._pop()

    def when_ready(self, callback: Callable[[], None], wanted: int = 1) -> None:
        """Have ``callback`` called once, from any thread, when `take_now` is worth trying."""
        with self._lock:
            call_now = bool(self._ready) or self._ended is not None
            if not call_now:
                self._callbacks[callback] = wanted
                self._demand += wanted
                self._wanted()
        if call_now:
            callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back a `when_ready`."""
        with self._lock:
            self._demand -= self._callbacks.pop(callback, 0)

    def stop(self) -> None:
        """Gather no more for slots that are busy now: they may never be free again."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()

    def give_back(self) -> None:
        """Release what was gathered and is not handed over, as somebody pauses the queue."""
        with self._lock:
            self._returning = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread, which ends with the feed."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _pop(self) -> BatchJob | None:
        if self._ready:
            return self._ready.popleft()
        if self._ended is not None:
            # A copy: the same exception raised in many threads would gather all their tracebacks.
            raise copy(self._ended) from self._ended
        return None

    def _wanted(self) -> None:
        """Somebody waits for a batch. Lock held."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._gather_forever, name=f"queuekit-gather-{self.name}", daemon=True
            )
            self._thread.start()
        self._changed.notify_all()

    def _gather_forever(self) -> None:
        try:
            while True:
                self._await_demand()
                gathered = self._gather()
                if gathered is None:
                    self._release_open()
                else:
                    self._hand_over(BatchJob(gathered))
        except BaseException as error:  # noqa: BLE001 - the feed was closed or failed for good; the runners decide
            self._end(error)

    def _await_demand(self) -> None:
        with self._lock:
            while self._demand <= len(self._ready) and not self._returning:
                if self._stopping:
                    msg = "the worker stops"
                    raise ClosedError(msg, operation="receive")
                self._clock.wait(self._changed, None)

    def _gather(self) -> Sequence[Job] | None:
        """The next batch; None where all that is gathered goes back."""
        while not self._returning:
            now = self._clock.monotonic()
            job = self._feed.take_now()
            if job is not None:
                group = self._group_of(job.message)
                full = self._gatherer.add(job, group, now)
                for each in () if full is not None else self._along(job, group, self._gatherer.room_of(group)):
                    full = self._gatherer.add(each, group, now)
                if full is not None:
                    return full
                continue
            due = self._gatherer.take_due(now)
            if due is not None:
                return self._filled(due)
            self._await_more()
        return None

    def _group_of(self, message: IncomingMessage) -> str | None:
        handler = handler_for(self._handlers, message.metadata)
        return None if handler is None else handler.message_type

    def _along(self, job: Job, group: str | None, room: int) -> Sequence[Job]:
        """What goes into one batch with a job, of those that must not begin before it is done."""
        if room <= 0 or not isinstance(self._feed, Accompanied):
            return ()
        return self._feed.take_along(job, room, lambda message: self._group_of(message) == group)

    def _filled(self, batch: list[Job]) -> list[Job]:
        """A batch that is due, with what has come meanwhile behind the messages in it."""
        group = self._group_of(batch[0].message)
        for job in tuple(batch):
            batch += self._along(job, group, self._gatherer.size_of(group) - len(batch))
        return batch

    def _release_open(self) -> None:
        with self._lock:
            self._returning = False
        for jobs in self._gatherer.drain():
            for job in jobs:
                job.settle(RELEASE)

    def _await_more(self) -> None:
        self._arrived = False
        self._feed.when_ready(self._wake, self._gatherer.room())
        with self._lock:
            due_at = self._gatherer.due_at()
            while not (self._arrived or self._returning) and (left_s := due_at - self._clock.monotonic()) > 0:
                self._clock.wait(self._changed, None if left_s == float("inf") else left_s)
        self._feed.forget(self._wake)

    def _wake(self) -> None:
        with self._lock:
            self._arrived = True
            self._changed.notify_all()

    def _hand_over(self, batch: BatchJob) -> None:
        with self._lock:
            self._ready.append(batch)
            callbacks = self._changed_for_all()
        for callback in callbacks:
            callback()

    def _end(self, error: BaseException) -> None:
        with self._lock:
            left = [BatchJob(jobs) for jobs in self._gatherer.drain()]
            free = max(0, self._demand - len(self._ready)) if isinstance(error, ClosedError) else 0
            self._ready.extend(left[:free])
            self._ended = error
            callbacks = self._changed_for_all()
        for batch in left[free:]:
            for job in batch.jobs:
                job.settle(RELEASE)
        for callback in callbacks:
            callback()

    def _changed_for_all(self) -> list[Callable[[], None]]:
        """Wake who waits; the callbacks returned are to be called, lock not held. Lock held."""
        callbacks, self._callbacks = self._callbacks, {}
        self._demand -= sum(callbacks.values())
        self._changed.notify_all()
        return list(callbacks)
