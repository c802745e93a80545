# SPDX-License-Identifier: Apache-2.0
"""One queue: its tasks by due time, its pace, and the names that cannot be used again yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

from queuekit.testing.emulators.cloud_tasks._attempts import Attempt, Ending, Entry
from queuekit.testing.emulators.cloud_tasks._backoff import RetryRule
from queuekit.testing.emulators.cloud_tasks._messages import RUNNING, seconds_of, stamp
from queuekit.testing.emulators.cloud_tasks._pace import Pace
from queuekit.testing.emulators.cloud_tasks._requests import request_of
from queuekit.testing.emulators.cloud_tasks._store import Store

NAME_KEPT_S = 24 * 3600
_RETENTION_S = 31 * 86_400
_TOO_MUCH = frozenset({429, 503})


class Line:
    """A queue and its tasks. Pure: the time is given, and nothing is sent.

    Args:
        queue: The message.
        store: Where changes go.
        now: The time.
    """

    def __init__(self, queue: Any, store: Store, now: float) -> None:
        self.queue = queue
        self.entries: dict[str, Entry] = {}
        self._store = store
        self._taken: dict[str, float] = {}
        self._by_due: list[tuple[float, int, Entry]] = []
        self._by_age: deque[Entry] = deque()
        self._running = 0
        self._pace = Pace(queue.rate_limits.max_dispatches_per_second, now)

    def configure(self, queue: Any, now: float) -> None:
        """Go on with other settings."""
        self.queue = queue
        self._pace.configure(queue.rate_limits.max_dispatches_per_second, now)
        self._store.put_queue(queue)

    def is_taken(self, name: str, now: float) -> bool:
        """Whether a task of this name was there not long ago."""
        return self._taken.get(name, now) > now

    def add(self, entry: Entry, due: float) -> None:
        """Take a task in."""
        self.entries[entry.task.name] = entry
        self._by_age.append(entry)
        self._schedule(entry, due)

    def keep_name(self, name: str, until: float) -> None:
        """Do not take a task of that name before then."""
        self._taken[name] = until

    def remove(self, entry: Entry, now: float) -> None:
        """A task is done, given up or deleted; an attempt that is on its way goes on."""
        entry.gone, entry.due = True, None
        del self.entries[entry.task.name]
        self._store.drop_task(entry)
        self._forget_names(now)
        if entry.named:
            self.keep_name(entry.task.name, now + NAME_KEPT_S)
            self._store.put_name(self.queue.name, entry.task.name, now + NAME_KEPT_S)

    def clear(self, now: float) -> None:
        """Remove every task."""
        for entry in list(self.entries.values()):
            self.remove(entry, now)

    def due(self, now: float) -> Iterator[Attempt]:
        """Begin attempts at what is due, as fast as the queue allows."""
        self._expire(now)
        while self._first() is not None and self._may_run() and self._by_due[0][0] <= now and self._pace.take(now):
            entry = heappop(self._by_due)[2]
            self._running += 1
            yield self.begin(entry, now)

    def begin(self, entry: Entry, now: float, *, forced: bool = False) -> Attempt:
        """Begin an attempt, whatever the queue allows."""
        entry.begin(now)
        self._store.put_attempt(entry)
        target = self.queue.http_target if self.queue.HasField("http_target") else None
        request = request_of(entry.task, entry.body, target, entry.headers())
        return Attempt(
            entry,
            self.queue.name,
            entry.task.dispatch_count,
            request,
            now + seconds_of(entry.task.dispatch_deadline),
            now if forced else None,
        )

    def ended(self, attempt: Attempt, ending: Ending, now: float) -> None:
        """An attempt has ended: the task is done, tried again later, or given up."""
        if attempt.forced_at is None:
            self._running -= 1
        self._judge_pace(ending, now)
        entry = attempt.entry
        if entry.gone:
            return
        entry.note(ending, attempt=attempt.count, now=now)
        task = entry.task
        rule = RetryRule.of(task.retry_config if task.HasField("retry_config") else self.queue.retry_config)
        since_first_s = now - seconds_of(task.first_attempt.dispatch_time)
        if ending.succeeded or rule.exhausted(task.dispatch_count, since_first_s):
            self.remove(entry, now)
            return
        begun = now if attempt.forced_at is None else attempt.forced_at
        due = max(begun + rule.wait_s(task.dispatch_count), now + ending.retry_after_s)
        stamp(task.schedule_time, due)
        self._store.put_attempt(entry)
        if not entry.running:
            self._schedule(entry, due)

    def next_event(self, now: float) -> float | None:
        """When there is something to do, apart from what may come in; in the past, where there is already."""
        while self._by_age and self._by_age[0].gone:
            self._by_age.popleft()
        expires = self._by_age[0].created + _RETENTION_S if self._by_age else None
        first = self._first()
        if first is None or not self._may_run():
            return expires
        dispatched = max(first, self._pace.ready_at(now))
        return dispatched if expires is None else min(dispatched, expires)

    def behind(self, now: float) -> bool:
        """Whether a task is due that is not paused."""
        first = self._first()
        return first is not None and first <= now and self.queue.state == RUNNING

    def _schedule(self, entry: Entry, due: float) -> None:
        # Not read from the message: what is due now would be due a fraction of a microsecond later.
        entry.due = due
        heappush(self._by_due, (due, entry.number, entry))

    def _first(self) -> float | None:
        while self._by_due and self._by_due[0][2].due != self._by_due[0][0]:
            heappop(self._by_due)  # it is gone, or has another time by now
        return self._by_due[0][0] if self._by_due else None

    def _may_run(self) -> bool:
        most: int = self.queue.rate_limits.max_concurrent_dispatches
        return self.queue.state == RUNNING and self._running < most

    def _expire(self, now: float) -> None:
        while self._by_age and (self._by_age[0].gone or self._by_age[0].created + _RETENTION_S <= now):
            entry = self._by_age.popleft()
            if not entry.gone:
                self.remove(entry, now)

    def _forget_names(self, now: float) -> None:
        # They are in the order of their times; one at each removal is enough to keep up.
        name = next(iter(self._taken), None)
        if name is not None and self._taken[name] <= now:
            del self._taken[name]
            self._store.drop_name(name)

    def _judge_pace(self, ending: Ending, now: float) -> None:
        if ending.status in _TOO_MUCH:
            self._pace.slow_down(now)
        elif ending.succeeded:
            self._pace.speed_up(now)
