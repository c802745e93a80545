# SPDX-License-Identifier: Apache-2.0
"""Making, removing, emptying and counting queues."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from queuekit.backend import ErrorCode, QueueStats
from queuekit.backends.sqs._errors import DifferentSettingsError, classify
from queuekit.backends.sqs._options import FIFO, SqsOptions
from queuekit.backends.sqs._probing import Redrive, redrive_of

Call: TypeAlias = Callable[..., Mapping[str, Any]]
"""Makes a call: the operation, and its parameters by name."""

_DEAD = "-dead"
_LONGEST_NAME = 80
_LONGEST_RETENTION_S = 14 * 86_400
_OPTIONS = {
    "MessageRetentionPeriod": "retention (MessageRetentionPeriod)",
    "RedrivePolicy": "max_receives (RedrivePolicy)",
}


def dead_name(queue: str) -> str:
    """The queue that `create` makes for the dead letters of another; of the same kind, as the service demands."""
    stem, fifo, _ = queue.partition(FIFO)
    return stem[: _LONGEST_NAME - len(fifo) - len(_DEAD)] + _DEAD + fifo


def create(call: Call, queue: str, options: SqsOptions) -> None:
    """Make the queue, the queue of its dead letters, and the policies that join them.

    Raises:
        DifferentSettingsError: The queue exists, with other settings.
    """
    fifo = {"FifoQueue": "true"} if queue.endswith(FIFO) else {}
    dead = _create_if_missing(call, dead_name(queue), {"MessageRetentionPeriod": str(_LONGEST_RETENTION_S), **fifo})
    told = call("GetQueueAttributes", QueueUrl=dead, AttributeNames=["All"])["Attributes"]
    arn = told["QueueArn"]
    policy = {"deadLetterTargetArn": arn, "maxReceiveCount": options.max_receives}
    wanted = {
        "MessageRetentionPeriod": str(int(options.retention.total_seconds())),
        "ReceiveMessageWaitTimeSeconds": "20",
        "VisibilityTimeout": "60",
        "RedrivePolicy": json.dumps(policy),
        **fifo,
    }
    try:
        call("CreateQueue", QueueName=queue, Attributes=wanted)
    except Exception as error:
        if classify(error).code is ErrorCode.EXISTS:
            raise DifferentSettingsError(_differences(call, queue, wanted)) from error
        raise
    if not told.get("RedriveAllowPolicy"):
        allowed = {"redrivePermission": "byQueue", "sourceQueueArns": [f"{arn.rpartition(':')[0]}:{queue}"]}
        call("SetQueueAttributes", QueueUrl=dead, Attributes={"RedriveAllowPolicy": json.dumps(allowed)})


def _create_if_missing(call: Call, queue: str, settings: Mapping[str, str]) -> str:
    """The address of a queue that may have any settings when it is there already."""
    try:
        answer = call("CreateQueue", QueueName=queue, Attributes=settings)
    except Exception as error:
        if classify(error).code is not ErrorCode.EXISTS:
            raise
        answer = call("GetQueueUrl", QueueName=queue)
    url: str = answer["QueueUrl"]
    return url


def _differences(call: Call, queue: str, wanted: Mapping[str, str]) -> str:
    url = call("GetQueueUrl", QueueName=queue)["QueueUrl"]
    have = call("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"]).get("Attributes") or {}
    names = [name for name, text in wanted.items() if name != "RedrivePolicy" and have.get(name) != text]
    policy = redrive_of(have)
    if policy is None or policy.max_receives != json.loads(wanted["RedrivePolicy"])["maxReceiveCount"]:
        names.append("RedrivePolicy")
    told = ", ".join(_OPTIONS.get(name, name) for name in names)
    return f"the queue exists, and differs in {told or 'some setting'}; change it there, or open it as it is"


def delete(call: Call, queue: str, url: str, settings: Mapping[str, str]) -> None:
    """Remove the queue, and its dead letters where `create` made the queue that they are in."""
    redrive = redrive_of(settings)
    if redrive is not None and redrive.name == dead_name(queue):
        _delete_dead(call, redrive)
    call("DeleteQueue", QueueUrl=url)


def _delete_dead(call: Call, redrive: Redrive) -> None:
    try:
        dead = call("GetQueueUrl", QueueName=redrive.name, QueueOwnerAWSAccountId=redrive.account)
        call("DeleteQueue", QueueUrl=dead["QueueUrl"])
    except Exception as error:  # its class is made at run time, so that only its code tells which it is
        # An earlier try may have ended here; the queue itself is to be removed all the same.
        if classify(error).code is not ErrorCode.NOT_FOUND:
            raise


def count(settings: Mapping[str, str]) -> QueueStats:
    """The three numbers that the service tells; each is late by up to a minute."""
    return QueueStats(
        ready=_told(settings, ""), delayed=_told(settings, "Delayed"), leased=_told(settings, "NotVisible")
    )


def _told(settings: Mapping[str, str], state: str) -> int | None:
    text = settings.get(f"ApproximateNumberOfMessages{state}", "")
    return int(text) if text.isascii() and text.isdigit() else None
