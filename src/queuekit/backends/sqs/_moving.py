# SPDX-License-Identifier: Apache-2.0
"""The service's own tasks that move dead letters back to the queues that it took them from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, get_args

from queuekit.backend import Move, MoveStatus

Call: TypeAlias = Callable[..., Mapping[str, Any]]
"""Makes a call: the operation, and its parameters by name."""

_LISTED: Final = 10
"""The most that the service tells."""


def start(call: Call, arn: str, per_second: int | None) -> None:
    """Begin a task.

    It names no destination, so that each message goes back to the queue that the service took it from. One that was
    sent to the dead-letter queue by a program came from none, and the task fails there.
    """
    pace = {} if per_second is None else {"MaxNumberOfMessagesPerSecond": per_second}
    call("StartMessageMoveTask", SourceArn=arn, **pace)


def read(call: Call, arn: str) -> Sequence[tuple[str, Move]]:
    """The latest tasks, the newest first: the handle of each that is running, and what it did so far."""
    answer = call("ListMessageMoveTasks", SourceArn=arn, MaxResults=_LISTED)
    return [(each.get("TaskHandle", ""), _move(each)) for each in answer.get("Results") or ()]


def cancel(call: Call, arn: str) -> int | None:
    """Stop the task that runs; how many messages it has moved, which stay so. None where none runs."""
    running = [handle for handle, move in read(call, arn) if move.status == "running" and handle]
    if not running:
        return None
    answer = call("CancelMessageMoveTask", TaskHandle=running[0])
    return int(answer.get("ApproximateNumberOfMessagesMoved") or 0)


def _move(raw: Mapping[str, Any]) -> Move:
    status: Any = str(raw.get("Status", "")).lower()
    started = raw.get("StartedTimestamp")
    return Move(
        status=status if status in get_args(MoveStatus) else "unknown",
        moved=raw.get("ApproximateNumberOfMessagesMoved"),
        total=raw.get("ApproximateNumberOfMessagesToMove"),
        per_second=raw.get("MaxNumberOfMessagesPerSecond"),
        started_at=None if started is None else started / 1000,
        reason=raw.get("FailureReason") or "",
    )
