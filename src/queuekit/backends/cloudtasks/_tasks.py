# SPDX-License-Identifier: Apache-2.0
"""Tasks as the service takes them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from queuekit.backend import HttpAuth, HttpRequest, OutgoingMessage
from queuekit.backends.cloudtasks import _messages
from queuekit.backends.cloudtasks._options import CloudTasksOptions

_POST, _PUT = 1, 4
_DUE_BYTES = 16
"""Of a schedule time in a task, at most."""


class Writer:
    """Writes tasks for one queue.

    Args:
        queue: The queue's whole name.
        options: Of its URL.
    """

    def __init__(self, queue: str, options: CloudTasksOptions) -> None:
        self._queue = queue
        self._target = options.target
        self._account = options.service_account
        self._audience = options.audience or options.target
        self._deadline_s = options.dispatch_deadline.total_seconds()

    def size(self, types: Any, message: OutgoingMessage) -> int:
        """Bytes of a message's task, whenever it is due."""
        task = self.task(types, message, _messages.headers_of(message), None)
        size: int = task.ByteSize()
        return size + _DUE_BYTES if message.delay_s else size

    def size_of_request(self, types: Any, wanted: HttpRequest, auth: HttpAuth) -> int:
        """Bytes of the task of a request to another service, whenever it is due."""
        size: int = self.request(types, wanted, None, auth).ByteSize()
        return size + _DUE_BYTES

    def task(self, types: Any, message: OutgoingMessage, headers: Mapping[str, str], due: float | None) -> Any:
        """The task of a message.

        Args:
            types: The module of the service's messages.
            message: The message.
            headers: What carries it beside its body.
            due: When it is dispatched; None is at once.
        """
        task = self._task(types, due)
        if message.dedup_id is not None:
            task.name = f"{self._queue}/tasks/{task_id(message.dedup_id)}"
        request = task.http_request
        request.url, request.http_method, request.body = self._target, _POST, message.body
        request.headers.update(headers)
        if self._account:
            request.oidc_token.service_account_email = self._account
            request.oidc_token.audience = self._audience
        return task

    def request(self, types: Any, wanted: HttpRequest, due: float | None, auth: HttpAuth) -> Any:
        """The task of a request to another service."""
        task = self._task(types, due)
        request = task.http_request
        request.url, request.body = wanted.url, wanted.body
        request.http_method = _PUT if wanted.method == "PUT" else _POST
        request.headers.update(wanted.headers)
        if auth.kind == "oidc":
            request.oidc_token.service_account_email = self._account
            request.oidc_token.audience = auth.scope
        elif auth.kind == "oauth":
            request.oauth_token.service_account_email = self._account
            request.oauth_token.scope = auth.scope
        return task

    def _task(self, types: Any, due: float | None) -> Any:
        task = types.Task.pb()()
        task.dispatch_deadline.FromMilliseconds(math.ceil(self._deadline_s * 1000))
        if due is not None:
            # Rounded up to what the service keeps, as it must not come early.
            task.schedule_time.FromMicroseconds(math.ceil(due * 1_000_000))
        return task


def task_id(dedup_id: str) -> str:
    """The id of the task of a dedup id: hashed, as ids with a common beginning slow the whole queue."""
    return hashlib.sha256(dedup_id.encode()).hexdigest()
