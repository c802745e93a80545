# SPDX-License-Identifier: Apache-2.0
"""What the exceptions of Google's client mean for a queue and its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from queuekit.backend import ErrorClass, ErrorCode
from queuekit.backends._google import errors
from queuekit.backends._google.errors import status_of

NOT_FOUND = ErrorClass(ErrorCode.NOT_FOUND, scope="queue", sent="no", detail="the queue does not exist")
NO_PERMISSION = ErrorClass(
    ErrorCode.ACCESS_DENIED,
    scope="queue",
    sent="no",
    detail="the credentials do not allow this call on the queue, or not to act as its service account; see the cause",
)
_TOO_LARGE = ErrorClass(ErrorCode.TOO_LARGE, sent="no", detail="the task is larger than the queue takes")
_REFUSED = ErrorClass(
    ErrorCode.INVALID_MESSAGE, sent="no", detail="the service refused the task as it is; see the cause"
)
STATUSES: Mapping[str, ErrorClass] = errors.statuses(not_found=NOT_FOUND, no_permission=NO_PERMISSION)

_NO_QUEUE = ("queue does not exist", "queue no longer exists")


class DifferentSettingsError(Exception):
    """The queue exists, with other settings than those that it should be made with."""


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, DifferentSettingsError):
        return replace(errors.EXISTS, detail=str(error))
    what = errors.classify(error, STATUSES)
    # A task for a queue that is not there is refused as a precondition that does not hold.
    return NOT_FOUND if what is errors.CANNOT and any(each in str(error).lower() for each in _NO_QUEUE) else what


def of_task(error: Exception) -> ErrorClass:
    """What it means that a task could not be created, for that task alone where it can be told."""
    if status_of(error) in {"INVALID_ARGUMENT", "OUT_OF_RANGE"}:
        return replace(_TOO_LARGE if "too large" in str(error).lower() else _REFUSED, raw=error)
    return replace(classify(error), raw=error)
