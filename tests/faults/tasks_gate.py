# SPDX-License-Identifier: Apache-2.0
"""Stands between Google's client and the emulator of Cloud Tasks, and refuses creates as the service does."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import grpc
from google.cloud import tasks_v2

from .gates import Gate

CREATE = "/google.cloud.tasks.v2.CloudTasks/CreateTask"
_BUSY = (
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded."),
    (grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable."),
    (grpc.StatusCode.INTERNAL, "Internal error encountered."),
)


class Refusals(Gate):
    """A create is refused, or not, whatever becomes of those beside it. What is refused never reaches the emulator.

    A few are the sender's fault, and must not be tried again.

    Attributes:
        in_doubt: What was refused in a way that leaves open whether it was stored.

    Args:
        server: The emulator's port.
        chance: Decides.
    """

    def __init__(self, server: int, chance: random.Random) -> None:
        super().__init__(server, {CREATE: self._create})
        self._chance = chance
        self._lock = threading.Lock()
        self.creates = self.refused = 0
        self.passed, self.faults = Counter[str](), Counter[str]()
        self.in_doubt = set[str]()

    def _create(self, method: str, request: bytes, context: Any) -> bytes:
        task: Any = tasks_v2.CreateTaskRequest.pb().FromString(request).task
        text = task.http_request.body.decode()
        with self._lock:
            fault, refused = self._chance.random() < 0.02, self._chance.random() < 0.5
            code, detail = self._chance.choice(_BUSY)
            self.creates += 1
            self.refused += fault or refused
            self.faults.update([text] if fault else ())
            if refused and not fault and code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                self.in_doubt.add(text)
            self.passed.update(() if fault or refused else [text])
        if fault:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "HttpRequest.url is malformed.")
        if refused:
            context.abort(code, detail)
        return self.pass_on(method, request, context)
