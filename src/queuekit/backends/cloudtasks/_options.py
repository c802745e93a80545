# SPDX-License-Identifier: Apache-2.0
"""What stands in a Cloud Tasks URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta

from queuekit._values.hosts import is_loopback
from queuekit.backend import InvalidURLError, Opening, Range, Size
from queuekit.backends._google.urls import ADDRESS, Place, project_of
from queuekit.backends.cloudtasks._targets import check_target

FORMS = ("cloudtasks://PROJECT/LOCATION/QUEUE",)
SERVICE = "cloudtasks.googleapis.com"
MOST_BYTES = 1 << 20

_LOCATION = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_QUEUE = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudTasksOptions:
    """The options of a Cloud Tasks URL.

    Attributes:
        target: The address that the service calls for each message: ``https``, and not one of a private network,
            which the service could not reach. With an ``endpoint`` on this host, any. Without it nothing can be
            sent here, but requests to other services can be scheduled.
        service_account: The account, of the queue's project, whose identity token goes with each call; without it
            calls have no token.
        audience: What the token is for; the target where this is empty.
        endpoint: ``localhost:8123`` for an emulator on this host, which is reached without TLS and without
            credentials; empty for Google's own address.
        answer_timeout: The longest that the service may take to answer.
        dispatch_deadline: How long a target may take for a call before it has failed; longer than the timeout of
            any handler.
        queue_backoff: Whether what failed is answered as failed, so that the queue's own back-off says when it comes
            again; without it each retry is a new task, due when the handler's policy says.
        max_size: The largest task; less than 1 MiB for a queue of the old limit of 100 KiB.
        rate: For ``create``: dispatches a second at most.
        max_concurrent: For ``create``: calls at once at most.
        max_dispatches: For ``create``: after how many calls the service itself gives a task up and drops it, without
            a trace. With 0 it never does before the task's 31 days are over.
        min_backoff: For ``create``: the service's own wait before it calls again.
        max_backoff: For ``create``: up to how long that grows; at least ``min_backoff``.
    """

    target: str = ""
    service_account: str = ""
    audience: str = ""
    endpoint: str = ""
    answer_timeout: timedelta = field(
        default=timedelta(seconds=10), metadata={"range": Range(timedelta(seconds=0.1), timedelta(minutes=5))}
    )
    dispatch_deadline: timedelta = field(
        default=timedelta(minutes=10), metadata={"range": Range(timedelta(seconds=15), timedelta(minutes=30))}
    )
    queue_backoff: bool = False
    max_size: Size = field(default=MOST_BYTES, metadata={"range": Range(1024, MOST_BYTES)})
    rate: float = field(default=500.0, metadata={"range": Range(0.001, 500.0)})
    max_concurrent: int = field(default=1000, metadata={"range": Range(1, 5000)})
    max_dispatches: int = field(default=0, metadata={"range": Range(0, 1_000_000)})
    min_backoff: timedelta = field(
        default=timedelta(seconds=1), metadata={"range": Range(timedelta(seconds=1), timedelta(days=1))}
    )
    max_backoff: timedelta = field(
        default=timedelta(hours=1), metadata={"range": Range(timedelta(seconds=1), timedelta(days=1))}
    )


def name_of(opening: Opening) -> str:
    """The queue's whole name.

    Raises:
        InvalidURLError: The URL names no project, no location, or something that the service would not take.
    """
    url = opening.url
    project = project_of(url, FORMS[0])
    location, _, queue = url.path.strip("/").partition("/")
    if not _LOCATION.fullmatch(location) or queue != opening.queue:
        msg = f"the path of a cloudtasks URL is a location and a queue; the form is {FORMS[0]}"
        raise InvalidURLError(msg)
    if not _QUEUE.fullmatch(queue):
        msg = f"Cloud Tasks names a queue by 1 to 100 letters, digits and '-'; {queue!r} is not one"
        raise InvalidURLError(msg)
    _check(opening.options)
    return f"projects/{project}/locations/{location}/queues/{queue}"


def place_of(opening: Opening) -> Place:
    """The service that a URL means.

    Raises:
        InvalidURLError: The endpoint is none, or is not on this host.
    """
    options: CloudTasksOptions = opening.options
    found = ADDRESS.fullmatch(options.endpoint) if options.endpoint else None
    if options.endpoint and (found is None or found["port"] is None or not is_loopback(found["host"])):
        msg = (
            "the endpoint of a cloudtasks URL is an emulator on this host, such as localhost:8123: what is sent "
            "there is neither encrypted nor signed"
        )
        raise InvalidURLError(msg)
    return Place(
        address=options.endpoint or f"{SERVICE}:443",
        secure=not options.endpoint,
        connect_s=opening.connect_timeout_s,
        answer_s=options.answer_timeout.total_seconds(),
    )


def _check(options: CloudTasksOptions) -> None:
    if options.target:
        check_target(options.target, anywhere=bool(options.endpoint), signed=bool(options.service_account))
    if options.audience and not options.service_account:
        msg = "the option 'audience' of a cloudtasks URL needs 'service_account', whose token it is for"
        raise InvalidURLError(msg)
    if options.max_backoff < options.min_backoff:
        msg = "the option 'max_backoff' of a cloudtasks URL must not be shorter than 'min_backoff'"
        raise InvalidURLError(msg)
