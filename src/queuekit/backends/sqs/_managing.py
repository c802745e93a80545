# SPDX-License-Identifier: Apache-2.0
"""Making, removing, emptying and counting queues."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from queuekit.backend import QueueStats
from queuekit.backends.sqs._options import FIFO, SqsOptions
from queuekit.backends.sqs._probing import redrive_of

Call: TypeAlias = Callable[..., Mapping[str, Any]]
"""Makes a call: the operation, and its parameters by name."""

_DEAD = "-dead"
_LONGEST_NAME = 80
_LONGEST_RETENTION_S = 14 * 86_400


def dead_name(queue: str) -> str:
    """The queue that `create` makes for the dead letters of another; of the same kind, as the service demands."""
    stem, fifo, _ = queue.partition(FIFO)
    return stem[: _LONGEST_NAME - len(fifo) - len(_DEAD)] + _DEAD + fifo


def create(call: Call, queue: str, options: SqsOptions) -> None:
    """Make the queue, the queue of its dead letters, and the policy that joins them."""
    fifo = {"FifoQueue": "true"} if queue.endswith(FIFO) else {}
    dead = call(
        "CreateQueue",
        QueueName=dead_name(queue),
        Attributes={"MessageRetentionPeriod": str(_LONGEST_RETENTION_S), **fifo},
    )
    told = call("GetQueueAttributes", QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": told["Attributes"]["QueueArn"], "maxReceiveCount": str(options.max_receives)}
    call(
        "CreateQueue",
        QueueName=queue,
        Attributes={
            "MessageRetentionPeriod": str(int(options.retention.total_seconds())),
            "ReceiveMessageWaitTimeSeconds": "20",
            "VisibilityTimeout": "60",
            "RedrivePolicy": json.dumps(policy),
            **fifo,
        },
    )


def delete(call: Call, queue: str, url: str, settings: Mapping[str, str]) -> None:
    """Remove the queue, and its dead letters where `create` made the queue that they are in."""
    redrive = redrive_of(settings)
    if redrive is not None and redrive.name == dead_name(queue):
        dead = call("GetQueueUrl", QueueName=redrive.name, QueueOwnerAWSAccountId=redrive.account)
        call("DeleteQueue", QueueUrl=dead["QueueUrl"])
    call("DeleteQueue", QueueUrl=url)


def count(settings: Mapping[str, str]) -> QueueStats:
    """The three numbers that the service tells; each is late by up to a minute."""
    return QueueStats(
        ready=_told(settings, ""), delayed=_told(settings, "Delayed"), leased=_told(settings, "NotVisible")
    )


def _told(settings: Mapping[str, str], state: str) -> int | None:
    text = settings.get(f"ApproximateNumberOfMessages{state}", "")
    return int(text) if text.isascii() and text.isdigit() else None
