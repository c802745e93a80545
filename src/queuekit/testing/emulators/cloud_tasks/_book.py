# SPDX-License-Identifier: Apache-2.0
"""All that the service knows. Pure: the time is given, and what is to be sent is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any

from queuekit.testing.emulators.cloud_tasks._attempts import Attempt, Ending, Entry
from queuekit.testing.emulators.cloud_tasks._checking import new_task
from queuekit.testing.emulators.cloud_tasks._line import Line
from queuekit.testing.emulators.cloud_tasks._messages import Empty, seconds_of, stamp
from queuekit.testing.emulators.cloud_tasks._names import check_location, location_of, mismatch, queue_of
from queuekit.testing.emulators.cloud_tasks._refusing import Code, Refused, invalid
from queuekit.testing.emulators.cloud_tasks._settings import new_queue, updated_queue
from queuekit.testing.emulators.cloud_tasks._store import SQLiteStore, Store

_QUEUE_NAME_KEPT_S = 3 * 86_400
_ROUNDING_S = 1e-6
_TOO_RECENT = (
    "The task cannot be created because a task with this name existed too recently. For more information about task "
    "de-duplication see https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create"
    "#body.request_body.FIELDS.task."
)
_NO_QUEUE = "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
_GONE_TASK = (
    "The task no longer exists, though a task with this name existed recently. The task either successfully "
    "completed or was deleted."
)
# The sentences above, and the codes beside them, are those that users of the service have reported.


class Book:
    """Queues, tasks, and the attempts that are on their way.

    Args:
        store: Where changes go.
        new_id: Makes the id of a task that the caller did not name.
        plain_with_token: Whether a URL with ``http`` may be called with a token.

    Concurrency:
        One thread at a time.
    """

    def __init__(self, store: Store, new_id: Callable[[], str], plain_with_token: Callable[[str], bool]) -> None:
        self._store = store
        self._new_id = new_id
        self._plain_with_token = plain_with_token
        self._lines: dict[str, Line] = {}
        self._taken: dict[str, float] = {}
        self._numbers = count(1)
        self._running: dict[int, tuple[Attempt, Line]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._begun_numbers = count()

    def load(self, store: SQLiteStore, now: float) -> None:
        """Begin with what a store has kept."""
        for queue in store.queues():
            self._lines[queue.name] = Line(queue, self._store, now)
        for queue_name, name, until in store.names():
            if queue_name:
                self._lines[queue_name].keep_name(name, until)
            else:
                self._taken[name] = until
        last = 0
        for queue_name, entry in store.tasks():
            self._lines[queue_name].add(entry, seconds_of(entry.task.schedule_time))
            last = entry.number
        self._numbers = count(last + 1)

    # Queues

    def create_queue(self, parent: str, given: Any, now: float) -> Any:
        """Make a queue.

        Raises:
            Refused: It is there, was there not long ago, or a setting is wrong.
        """
        check_location(parent)
        if location_of(given.name) != parent:
            raise invalid("Invalid resource field value in the request.")
        if given.name in self._lines:
            raise Refused(Code.ALREADY_EXISTS, "Queue already exists")
        if self._taken.get(given.name, now) > now:
            raise Refused(
                Code.FAILED_PRECONDITION,
                "The queue cannot be created because a queue with this name existed too recently.",
            )
        queue = new_queue(given)
        if self._taken.pop(given.name, None) is not None:
            self._store.drop_name(given.name)
        self._lines[queue.name] = Line(queue, self._store, now)
        self._store.put_queue(queue)
        return queue

    def get_queue(self, name: str) -> Any:
        """A queue's settings.

        Raises:
            Refused: There is no such queue.
        """
        return self.line(name).queue

    def queues(self, location: str) -> list[Any]:
        """The queues of a location, by name.

        Raises:
            Refused: The location's name has another form.
        """
        within = check_location(location) + "/queues/"
        return [line.queue for name, line in sorted(self._lines.items()) if name.startswith(within)]

    def update_queue(self, given: Any, mask: Any, now: float) -> Any:
        """Change a queue, or make it.

        Raises:
            Refused: A setting is wrong, or the queue was deleted not long ago.
        """
        location = location_of(given.name)
        line = self._lines.get(given.name)
        if line is None:
            return self.create_queue(location, given, now)
        line.configure(updated_queue(line.queue, given, mask), now)
        return line.queue

    def delete_queue(self, name: str, now: float) -> Any:
        """Remove a queue with its tasks.

        Raises:
            Refused: There is no such queue.
        """
        location_of(name)
        line = self._lines.pop(name, None)
        if line is None:
            raise Refused(Code.NOT_FOUND, "Requested entity was not found.")
        line.clear(now)
        self._store.drop_queue(name)
        self._taken[name] = now + _QUEUE_NAME_KEPT_S
        self._store.put_name("", name, self._taken[name])
        return Empty()

    def set_state(self, name: str, state: int, now: float) -> Any:
        """Pause or resume a queue.

        Raises:
            Refused: There is no such queue.
        """
        line = self.line(name)
        line.queue.state = state
        line.configure(line.queue, now)
        return line.queue

    def purge_queue(self, name: str, now: float) -> Any:
        """Remove all tasks of a queue.

        Raises:
            Refused: There is no such queue.
        """
        line = self.line(name)
        line.clear(now)
        stamp(line.queue.purge_time, now)
        line.configure(line.queue, now)
        return line.queue

    def line(self, name: str) -> Line:
        """A queue.

        Raises:
            Refused: There is no such queue.
        """
        location_of(name)
        line = self._lines.get(name)
        if line is None:
            raise Refused(Code.NOT_FOUND, _NO_QUEUE)
        return line

    # Tasks

    def create_task(self, parent: str, given: Any, view: int, now: float) -> Any:
        """Take a task.

        Raises:
            Refused: It is beyond a limit, its name is taken, or there is no such queue.
        """
        location_of(parent)
        if given.name and queue_of(given.name) != parent:
            raise mismatch(parent, given.name.rpartition("/tasks/")[0])
        line = self._lines.get(parent)
        if line is None:
            raise self._no_queue_to_create_in(parent, now)
        if given.name in line.entries:
            raise Refused(Code.ALREADY_EXISTS, "Requested entity already exists")
        if line.is_taken(given.name, now):
            raise Refused(Code.ALREADY_EXISTS, _TOO_RECENT)
        task, body = new_task(given, now, plain_with_token=self._plain_with_token)
        task.name = given.name or self._unused(line, now)
        entry = Entry(task, body, next(self._numbers), now, bool(given.name))
        due = seconds_of(task.schedule_time)
        line.add(entry, due if due > now + _ROUNDING_S else now)
        self._store.put_task(parent, entry)
        return entry.show(view)

    def get_task(self, name: str, view: int, now: float) -> Any:
        """A task.

        Raises:
            Refused: There is no such task any more, or there never was.
        """
        return self._find(name, now)[1].show(view)

    def delete_task(self, name: str, now: float) -> Any:
        """Remove a task; an attempt that is on its way goes on.

        Raises:
            Refused: There is no such task any more, or there never was.
        """
        line, entry = self._find(name, now)
        line.remove(entry, now)
        return Empty()

    def run_task(self, name: str, view: int, now: float) -> tuple[Any, Attempt]:
        """Dispatch a task at once, whatever the queue allows.

        Raises:
            Refused: There is no such task any more, or there never was.
        """
        line, entry = self._find(name, now)
        attempt = self._begun(line, line.begin(entry, now, forced=True))
        return entry.show(view), attempt

    def _find(self, name: str, now: float) -> tuple[Line, Entry]:
        line = self._lines.get(queue_of(name))
        entry = None if line is None else line.entries.get(name)
        if line is None or entry is None:
            recent = line is not None and line.is_taken(name, now)
            raise Refused(Code.NOT_FOUND, _GONE_TASK if recent else "Task does not exist.")
        return line, entry

    def _no_queue_to_create_in(self, parent: str, now: float) -> Refused:
        recent = self._taken.get(parent, now) > now
        gone = "The queue no longer exists, though a queue with this name existed recently."
        return Refused(Code.FAILED_PRECONDITION, gone if recent else "Queue does not exist.")

    def _unused(self, line: Line, now: float) -> str:
        while True:
            name = f"{line.queue.name}/tasks/{self._new_id()}"
            if name not in line.entries and not line.is_taken(name, now):
                return name

    # Attempts

    def due(self, now: float) -> Iterator[Attempt]:
        """Begin what is due."""
        for line in list(self._lines.values()):
            for attempt in line.due(now):
                yield self._begun(line, attempt)

    def overdue(self, now: float) -> Iterator[Attempt]:
        """End what has had no answer by its deadline; whoever waits for the answer is to stop."""
        reason = "no answer within the dispatch deadline"
        while (deadline := self._first_deadline()) is not None and deadline <= now:
            attempt, _ = self._running[heappop(self._deadlines)[1]]
            self.ended(attempt, Ending(None, Code.DEADLINE_EXCEEDED, reason), now)
            yield attempt

    def ended(self, attempt: Attempt, ending: Ending, now: float) -> bool:
        """Note how an attempt ended; False if it had ended before."""
        _, line = self._running.pop(attempt.number, (None, None))
        if line is None:
            return False
        line.ended(attempt, ending, now)
        return True

    def next_event(self, now: float) -> float | None:
        """When there is something to do, apart from calls and answers that come in."""
        events = [self._first_deadline(), *(line.next_event(now) for line in self._lines.values())]
        return min((event for event in events if event is not None), default=None)

    def busy(self, now: float, *, time_passes: bool) -> bool:
        """Whether something is on its way or is to be done now; where time passes, also what waits for a token."""
        if self._running or (time_passes and any(line.behind(now) for line in self._lines.values())):
            return True
        event = self.next_event(now)
        return event is not None and event <= now

    def _begun(self, line: Line, attempt: Attempt) -> Attempt:
        attempt.number = next(self._begun_numbers)
        self._running[attempt.number] = (attempt, line)
        heappush(self._deadlines, (attempt.deadline, attempt.number))
        return attempt

    def _first_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._running:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None
