# SPDX-License-Identifier: Apache-2.0
"""A task that is kept, and one attempt at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from queuekit.testing.emulators.cloud_tasks._messages import FULL, Task, seconds_of, stamp
from queuekit.testing.emulators.cloud_tasks._names import short
from queuekit.testing.emulators.cloud_tasks._refusing import Code, code_of
from queuekit.testing.emulators.cloud_tasks._requests import Request


@dataclass(slots=True, eq=False)
class Entry:
    """A task and what the service remembers of it.

    Attributes:
        task: The message, without its body, as the basic view shows it.
        body: Of its request.
        number: Counts the tasks of the emulator.
        created: When.
        named: Whether the caller named it.
        executions: Answers of its target below 500.
        previous: The HTTP status of the last attempt; 0 without an answer.
        reason: Why it is retried.
        due: When it is to be dispatched; None while it is running or gone.
        running: Attempts that have not ended.
        gone: Whether it was done, given up or deleted.
    """

    task: Any
    body: bytes
    number: int
    created: float
    named: bool
    executions: int = 0
    previous: int = 0
    reason: str = ""
    due: float | None = None
    running: int = 0
    gone: bool = False

    def show(self, view: int) -> Any:
        """A copy as it is answered."""
        shown = Task()
        shown.CopyFrom(self.task)
        if view == FULL:
            shown.view = FULL
            if self.body:
                shown.http_request.body = self.body
        return shown

    def begin(self, now: float) -> None:
        """Count one more attempt, which is dispatched now."""
        task = self.task
        task.dispatch_count += 1
        task.last_attempt.Clear()
        task.last_attempt.schedule_time.CopyFrom(task.schedule_time)
        stamp(task.last_attempt.dispatch_time, now)
        if not task.HasField("first_attempt"):
            stamp(task.first_attempt.dispatch_time, now)
        self.due = None
        self.running += 1

    def note(self, ending: Ending, *, attempt: int, now: float) -> None:
        """Note how an attempt ended."""
        task = self.task
        self.running -= 1
        self.previous = ending.status or 0
        self.reason = ending.reason
        if ending.status is not None:
            task.response_count += 1
            self.executions += ending.status < 500
        if attempt == task.dispatch_count:
            stamp(task.last_attempt.response_time, now)
            task.last_attempt.response_status.code = ending.code
            task.last_attempt.response_status.message = f"{ending.code.name}({ending.code:d}): {ending.reason}"

    def headers(self) -> dict[str, str]:
        """What the service tells of the attempt that has just begun."""
        task = self.task
        about = {
            "X-CloudTasks-QueueName": task.name.split("/")[5],
            "X-CloudTasks-TaskName": short(task.name),
            "X-CloudTasks-TaskRetryCount": str(task.dispatch_count - 1),
            "X-CloudTasks-TaskExecutionCount": str(self.executions),
            "X-CloudTasks-TaskETA": f"{seconds_of(task.last_attempt.schedule_time):.6f}",
        }
        if task.dispatch_count > 1:
            about["X-CloudTasks-TaskPreviousResponse"] = str(self.previous)
            about["X-CloudTasks-TaskRetryReason"] = self.reason
        return about


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended.

    Attributes:
        status: The answer's HTTP status; None without one.
        code: What that is called.
        reason: In a few words.
        retry_after_s: What the target asked for.
    """

    status: int | None
    code: Code
    reason: str
    retry_after_s: float = 0.0

    @classmethod
    def answered(cls, status: int, retry_after_s: float = 0.0) -> Ending:
        """The target answered."""
        return cls(status, code_of(status), f"HTTP status code {status}", retry_after_s)

    @property
    def succeeded(self) -> bool:
        """Whether the task is done."""
        return self.code is Code.OK


@dataclass(slots=True, eq=False)
class Attempt:
    """A request that is to be sent.

    Attributes:
        entry: Of this task.
        queue: The queue's name.
        count: Which attempt it is, from 1.
        request: What is sent.
        deadline: When it is given up.
        forced_at: When `RunTask` asked for it; None for a dispatch by schedule.
        number: Counts the attempts of the emulator; the book gives it.
    """

    entry: Entry
    queue: str
    count: int
    request: Request
    deadline: float
    forced_at: float | None = None
    number: int = -1

    @property
    def title(self) -> str:
        """The queue's id and the task's, and which attempt it is."""
        return f"{short(self.queue)}/{short(self.entry.task.name)}, attempt {self.count}"
