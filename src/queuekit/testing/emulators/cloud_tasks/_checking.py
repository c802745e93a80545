# SPDX-License-Identifier: Apache-2.0
"""A task that is to be created: its limits, and what is filled in."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from queuekit.testing.emulators.cloud_tasks import _headers
from queuekit.testing.emulators.cloud_tasks._messages import BASIC, POST, WITH_BODY, Task, seconds_of, stamp, truncate
from queuekit.testing.emulators.cloud_tasks._refusing import Code, Refused, invalid
from queuekit.testing.emulators.cloud_tasks._requests import encoded as escape
from queuekit.testing.emulators.cloud_tasks._settings import complete_retries

_SIZE_LIMIT = 1 << 20
_URL_LIMIT = 2083
_HORIZON_S = 30 * 86_400
_DEADLINE_S = 600
_DEADLINES_S = (15, 30 * 60)
_NOT_IN_URLS = re.compile(r"[\x00-\x1f\x7f]")
_OUTPUT_ONLY = ("create_time", "dispatch_count", "response_count", "first_attempt", "last_attempt", "view")


def new_task(given: Any, now: float, *, plain_with_token: Callable[[str], bool]) -> tuple[Any, bytes]:
    """A task to keep, without its body and its name, and the body.

    Args:
        given: What the caller sent.
        now: The time.
        plain_with_token: Whether a URL with ``http`` may be called with a token; the service itself never allows it.

    Raises:
        Refused: It is beyond a limit.
    """
    if given.ByteSize() > _SIZE_LIMIT:
        raise invalid("Task size too large")
    task = Task()
    task.CopyFrom(given)
    for name in _OUTPUT_ONLY:
        task.ClearField(name)
    task.view = BASIC
    stamp(task.create_time, now, nanos=1_000_000_000)
    _check_schedule(task, now)
    _check_request(task, plain_with_token)
    _check_deadline(task)
    if task.HasField("retry_config"):
        complete_retries(task.retry_config)
    body: bytes = task.http_request.body
    task.http_request.ClearField("body")
    return task, body


def _check_schedule(task: Any, now: float) -> None:
    wanted = seconds_of(task.schedule_time) if task.HasField("schedule_time") else now
    if wanted > now + _HORIZON_S:
        shown = datetime.fromtimestamp(wanted, UTC).isoformat()
        raise invalid(
            f"The Task.scheduleTime, {shown}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        )
    if wanted < now or not task.HasField("schedule_time"):
        stamp(task.schedule_time, now)
    truncate(task.schedule_time)


def _check_deadline(task: Any) -> None:
    if not task.HasField("dispatch_deadline"):
        task.dispatch_deadline.seconds = _DEADLINE_S
        return
    least, most = _DEADLINES_S
    if not least <= seconds_of(task.dispatch_deadline) <= most:
        raise invalid(
            "Task.dispatchDeadline is out of range. For HTTP tasks it must be in the interval "
            "[15 seconds, 30 minutes]."
        )
    truncate(task.dispatch_deadline, 1_000_000)


def _check_request(task: Any, plain_with_token: Callable[[str], bool]) -> None:
    match task.WhichOneof("message_type"):
        case "http_request":
            request = task.http_request
        case "app_engine_http_request":
            raise Refused(
                Code.UNIMPLEMENTED, "This emulator has no App Engine; give the task an http_request with a URL."
            )
        case _:
            raise invalid("Task.http_request or Task.app_engine_http_request must be set.")
    request.url = checked_url(request.url)
    request.http_method = request.http_method or POST
    if request.body and request.http_method not in WITH_BODY:
        raise invalid("HttpRequest.body is allowed only if HttpRequest.http_method is POST, PUT or PATCH.")
    _headers.check(request.headers)
    kept = _headers.taken(request.headers)
    request.headers.clear()
    request.headers.update(kept)
    request.headers["User-Agent"] = _headers.USER_AGENT
    _check_token(request, plain_with_token)


def _check_token(request: Any, plain_with_token: Callable[[str], bool]) -> None:
    kind = request.WhichOneof("authorization_header")
    if kind is None:
        return
    if not getattr(request, kind).service_account_email:
        raise invalid(f"HttpRequest.{kind}.service_account_email must be set.")
    if request.url.startswith("http://") and not plain_with_token(request.url):
        raise invalid("HttpRequest.url must start with 'https://' for request with HttpRequest.authorization_header")


def checked_url(url: str) -> str:
    """A URL, encoded where that is needed.

    Raises:
        Refused: It cannot be called.
    """
    if not url:
        raise invalid("HttpRequest.url is required.")
    if not url.lower().startswith(("http://", "https://")):
        raise invalid("HttpRequest.url must begin with 'http://' or 'https://'.")
    if _NOT_IN_URLS.search(url):
        raise invalid("HttpRequest.url must not have control characters.")
    encoded = escape(url)
    if len(encoded) > _URL_LIMIT:
        raise invalid("HttpRequest.url must have at most 2083 characters after encoding.")
    try:
        parts = urlsplit(encoded)
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise invalid("HttpRequest.url is not a valid URL.") from None
    return parts.scheme + encoded[len(parts.scheme) :]
