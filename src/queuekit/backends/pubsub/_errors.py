# SPDX-License-Identifier: Apache-2.0
"""What the exceptions of Google's clients mean for a topic and its subscription."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from queuekit.backend import ErrorClass, ErrorCode
from queuekit.backends._google import errors

PERMANENT = "PERMANENT_"
TRANSIENT = "TRANSIENT_"
LEASE_IS_OVER = "PERMANENT_FAILURE_INVALID_ACK_ID"

NOT_FOUND = ErrorClass(
    ErrorCode.NOT_FOUND, scope="queue", sent="no", detail="the topic or the subscription does not exist"
)
NO_PERMISSION = ErrorClass(
    ErrorCode.ACCESS_DENIED, scope="queue", sent="no", detail="the credentials do not allow this call on the queue"
)
STATUSES: Mapping[str, ErrorClass] = errors.statuses(not_found=NOT_FOUND, no_permission=NO_PERMISSION)


class DamagedAnswerError(Exception):
    """What arrived is no answer to what was asked."""


class DifferentSettingsError(Exception):
    """The topic or the subscription exists, with other settings than those that it should be made with."""


class OtherTopicError(Exception):
    """The subscription is one of another topic than the URL names."""


def classify(error: BaseException) -> ErrorClass:
    """See `Backend.classify`."""
    if isinstance(error, DamagedAnswerError):
        return replace(errors.DOWN, detail=str(error))
    if isinstance(error, DifferentSettingsError):
        return replace(errors.EXISTS, detail=str(error))
    if isinstance(error, OtherTopicError):
        return ErrorClass(ErrorCode.REFUSED, scope="queue", sent="no", detail=str(error))
    return errors.classify(error, STATUSES)


def of_ack_ids(error: BaseException) -> Mapping[str, str]:
    """What the service says of single leases that a call could not settle: the id of the lease to what happened.

    Empty where the call failed as a whole.
    """
    details: Any = getattr(error, "details", None)
    told = [getattr(each, "metadata", None) or {} for each in details] if isinstance(details, (list, tuple)) else []
    return {
        ack_id: what
        for metadata in told
        for ack_id, what in dict(metadata).items()
        if what.startswith((PERMANENT, TRANSIENT))
    }
