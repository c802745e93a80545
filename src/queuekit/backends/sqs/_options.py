# SPDX-License-Identifier: Apache-2.0
"""What stands in an SQS URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta

from queuekit.backend import InvalidURLError, Opening, Range

FORMS = ("sqs://REGION/QUEUE", "sqs://ACCOUNT@REGION/QUEUE", "sqs://REGION/QUEUE.fifo")
FIFO = ".fifo"

_REGION = re.compile(r"[a-z0-9](-?[a-z0-9])+", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.fifo)?", re.ASCII)
_LONGEST_NAME = 80
_ENDPOINT = re.compile(r"https?://[^/\s?#@]+/?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsOptions:
    """The options of an SQS URL.

    Attributes:
        endpoint: Where the service is, such as ``http://localhost:5000`` for a local server; empty for AWS's own
            address of the region.
        fair: For standard queues: send the ordering key as the message group, which marks the tenant that a
            message belongs to, so that one tenant with many messages does not keep the others waiting. Nothing is
            ordered by it.
        poll: The longest wait of one receive; it never takes longer than half of the lease. A stop waits for the one
            in progress, so a shorter one stops sooner; an empty receive costs as much as any other.
        answer_timeout: The longest that the service may take to answer, beside what it was asked to wait.
        retention: For ``create``: how long the service keeps a message before it drops it.
        max_receives: For ``create``: after how many receives the service itself moves a message to the dead-letter
            queue. More than any handler's ``max_attempts``, as the service counts messages that a stop gave back too.
    """

    endpoint: str = ""
    fair: bool = False
    poll: timedelta = field(
        default=timedelta(seconds=20), metadata={"range": Range(timedelta(seconds=1), timedelta(seconds=20))}
    )
    answer_timeout: timedelta = field(
        default=timedelta(seconds=10), metadata={"range": Range(timedelta(seconds=0.1), timedelta(minutes=5))}
    )
    retention: timedelta = field(
        default=timedelta(days=14), metadata={"range": Range(timedelta(minutes=1), timedelta(days=14))}
    )
    max_receives: int = field(default=100, metadata={"range": Range(1, 1000)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a service is. Backends with equal ones share clients.

    Attributes:
        region: AWS's name of the region.
        endpoint: See `SqsOptions`.
        connect_s: Longest time for connecting.
        answer_s: Longest time for an answer.
        poll_s: How much longer the answer to a receive may take.
    """

    region: str
    endpoint: str
    connect_s: float
    answer_s: float
    poll_s: float


def place_of(opening: Opening) -> Place:
    """The service of a URL.

    Raises:
        InvalidURLError: The URL names no region or several, or holds something that cannot be.
    """
    url, options = opening.url, opening.options
    if len(url.hosts) != 1 or url.hosts[0].port is not None or not _REGION.fullmatch(url.hosts[0].name):
        msg = f"an sqs URL names one AWS region where others have a host, such as eu-west-1; the form is {FORMS[0]}"
        raise InvalidURLError(msg)
    if url.password is not None or (url.user is not None and not _ACCOUNT.fullmatch(url.user)):
        msg = f"what stands before the '@' of an sqs URL is an account of 12 digits; the form is {FORMS[1]}"
        raise InvalidURLError(msg)
    if options.endpoint and not _ENDPOINT.fullmatch(options.endpoint):
        msg = "the option 'endpoint' of an sqs URL is an http or https address without a path, a query or a login"
        raise InvalidURLError(msg)
    if options.fair and opening.queue.endswith(FIFO):
        msg = "the option 'fair' is for standard queues; a FIFO queue takes one group after the other by itself"
        raise InvalidURLError(msg)
    return Place(
        region=url.hosts[0].name,
        endpoint=options.endpoint,
        connect_s=opening.connect_timeout_s,
        answer_s=options.answer_timeout.total_seconds(),
        poll_s=options.poll.total_seconds(),
    )


def checked_name(queue: str) -> str:
    """The name of a queue as SQS takes it.

    Raises:
        InvalidURLError: It does not.
    """
    if f"{FIFO}-" in queue:
        msg = "a FIFO queue takes no ?lanes=, as its order would not hold over several queues; use a standard queue"
        raise InvalidURLError(msg)
    if len(queue) > _LONGEST_NAME or not _NAME.fullmatch(queue):
        msg = (
            f"SQS names a queue by 1 to {_LONGEST_NAME} letters, digits, '-' and '_', and a FIFO queue ends in "
            f"{FIFO}; {queue!r} is not one"
        )
        raise InvalidURLError(msg)
    return queue
