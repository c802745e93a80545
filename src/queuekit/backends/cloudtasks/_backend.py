# SPDX-License-Identifier: Apache-2.0
"""The Cloud Tasks backend itself: each message is one task, and many are created at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from queuekit.backend import (
    Accepted,
    BackendSpec,
    Capabilities,
    Duplicate,
    ErrorClass,
    ErrorCode,
    Finding,
    HttpAuth,
    HttpRequest,
    IncomingMessage,
    Opening,
    OutgoingMessage,
    QueueStats,
    Rejected,
    ScheduledRequest,
    SendOutcome,
    Settlement,
    SettleOutcome,
    Unknown,
    Unsupported,
    Wanted,
)
from queuekit.backends._counting import Calls
from queuekit.backends._google.errors import UnlessStatus, status_of
from queuekit.backends._per_process import PerProcess
from queuekit.backends.cloudtasks import _diagnosing, _errors, _managing, _messages
from queuekit.backends.cloudtasks._clients import Made, as_call_error, call_errors, clients_of, types
from queuekit.backends.cloudtasks._options import FORMS, CloudTasksOptions, name_of, place_of
from queuekit.backends.cloudtasks._tasks import Writer

_AT_ONCE = 50
"""Creates on their way at once; a connection has room for 100."""
_LONGEST_DELAY_S = 30 * 86_400.0
_DEDUP_S = 3600.0
"""How long a name is taken at least after its task is done; the documents name an hour, and up to a day."""


def _unfit(detail: str, code: ErrorCode = ErrorCode.UNSUPPORTED) -> ErrorClass:
    return ErrorClass(code, sent="no", detail=detail)


_NO_TARGET = _unfit("the queue has nobody to push messages to; give its URL a ?target=")
_LONG_DELAY = _unfit("Cloud Tasks keeps a delay of 30 days at most")
_NOT_ORDERED = _unfit("Cloud Tasks orders nothing; use a queue that takes ordering keys")
_NO_PRIORITY = _unfit("Cloud Tasks has no priorities; ?lanes= makes them of several queues")
_NO_ROOM = _unfit(
    "attributes and metadata of a message become headers, which have 80 KB together on Cloud Tasks",
    ErrorCode.TOO_LARGE,
)
_NO_ACCOUNT = _unfit("the request needs a token, and the queue's URL has no ?service_account= that could have one")
_PLAIN = _unfit("the request goes by http, which only an emulator on this host makes; give the URL an ?endpoint=")


_PUSHED = Unsupported("what Cloud Tasks pushes is settled by the answer to its request, and by nothing else")


class PushOnlyError(Exception):
    """Messages cannot be pulled."""


class CloudTasksBackend:
    """One queue.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, opening: Opening) -> None:
        self._options: CloudTasksOptions = opening.options
        self._name = name_of(opening)
        self._clock = opening.clock
        self._place = place_of(opening)
        place = self._place
        self._clients = opening.clients.get(("cloudtasks", place), lambda: clients_of(place), PerProcess.close)
        self._calls = Calls()
        self._writer = Writer(self._name, self._options)
        self._capabilities = _queue(self._options)

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._capabilities

    def api_calls(self) -> Mapping[str, int]:
        """How often each operation of the service was asked for since this backend was opened."""
        return self._calls.read()

    def probe(self) -> Capabilities:
        """Ask for the queue's settings. See `Backend.probe`.

        Raises:
            Exception: The SDK's own, for another reason than a permission that is missing.
        """
        settings = self._settings()
        if settings is None:
            return replace(self._capabilities, assumed=frozenset({"native_max_attempts"}))
        return replace(self._capabilities, native_max_attempts=settings.max_dispatches or None)

    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:
        """See `Diagnosable.diagnose`."""
        settings = self._settings()
        return [_diagnosing.NOT_ASKED] if settings is None else _diagnosing.diagnose(settings, wanted)

    def size(self, message: OutgoingMessage) -> int:
        """See `Backend.size`."""
        return self._writer.size(types(), message)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Create a task for each message, all at once. See `Backend.send`."""
        made = self._clients.get()
        begun = [self._begin(made, message, timeout_s) for message in batch]
        return [
            Rejected(call, message.message_id)
            if isinstance(call, ErrorClass)
            else _outcome(call, message.message_id, named=message.dedup_id is not None)
            for message, call in zip(batch, begun, strict=True)
        ]

    def refusal_of(self, auth: HttpAuth) -> str:
        """See `HttpSchedulable.refusal_of`."""
        lacks = auth.kind != "none" and not self._options.service_account
        return "has no ?service_account= for the token that its requests need" if lacks else ""

    def size_http(self, request: HttpRequest, auth: HttpAuth) -> int:
        """Bytes of the task of a request. See `HttpSchedulable.size_http`."""
        return self._writer.size_of_request(types(), request, auth)

    def schedule_http(self, batch: Sequence[ScheduledRequest], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Create a task for each request to another service, all at once. See `HttpSchedulable`."""
        begun = [self._begin_request(each, timeout_s) for each in batch]
        return [
            Rejected(call, each.message_id)
            if isinstance(call, ErrorClass)
            else _outcome(call, each.message_id, named=False)
            for each, call in zip(batch, begun, strict=True)
        ]

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> NoReturn:  # noqa: ARG002 - as every backend has it
        """Never: the service pushes.

        Raises:
            PushOnlyError: Always.
        """
        msg = "Cloud Tasks pushes its messages to the queue's target; they cannot be received"
        raise PushOnlyError(msg)

    def read_pushed(self, pushed: Mapping[str, Any]) -> IncomingMessage:
        """A message as the request that the service makes: ``headers``, by name in lower case, and ``body``.

        Nothing but the answer settles it. See `PushCodec`.

        Raises:
            ValueError: The request names no task.
        """
        headers: Mapping[str, str] = pushed["headers"]
        name = headers.get("x-cloudtasks-taskname", "")
        if not name:
            msg = "the request names no task"
            raise ValueError(msg)
        return _messages.read(headers, pushed["body"], name)

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:  # noqa: ARG002 - as above
        """Nothing can be settled by a call: the answer to the pushed request does that."""
        return [_PUSHED] * len(batch)

    def classify(self, error: BaseException) -> ErrorClass:
        """See `Backend.classify`."""
        if isinstance(error, PushOnlyError):
            return _unfit(str(error))
        return _errors.classify(error)

    def close(self) -> None:
        """See `Backend.close`."""

    def create(self) -> None:
        """Make the queue. See `Admin.create`."""
        _managing.create(self._call, self._name, self._options)

    def delete(self) -> None:
        """Remove the queue; its name cannot be used again for three days. See `Admin.delete`."""
        with UnlessStatus("NOT_FOUND"):
            self._call("delete_queue", {"name": self._name})

    def exists(self) -> bool:
        """See `Admin.exists`."""
        with UnlessStatus("NOT_FOUND"):
            self._call("get_queue", {"name": self._name})
            return True
        return False

    def purge(self) -> None:
        """Remove every message, those that are being handled too; within a minute. See `Admin.purge`."""
        self._call("purge_queue", {"name": self._name})

    def stats(self) -> QueueStats:
        """Nothing: the service counts no tasks. See `Admin.stats`."""
        return QueueStats()

    def pause(self) -> None:
        """See `Pausable.pause`."""
        self._call("pause_queue", {"name": self._name})

    def resume(self) -> None:
        """See `Pausable.resume`."""
        self._call("resume_queue", {"name": self._name})

    def is_paused(self) -> bool:
        """See `Pausable.is_paused`."""
        return _managing.settings_of(self._call("get_queue", {"name": self._name})).paused

    def _begin(self, made: Made, message: OutgoingMessage, timeout_s: float) -> Any:
        """A call that is on its way, or why there is none."""
        error = self._refusal(message)
        if error is not None:
            return error
        headers = _messages.headers_of(message)
        if _messages.length_of(headers) > _messages.MOST_BYTES:
            return _NO_ROOM
        due = self._clock.time() + message.delay_s if message.delay_s else None
        return self._create(made, self._writer.task(made.types, message, headers, due), timeout_s)

    def _begin_request(self, wanted: ScheduledRequest, timeout_s: float) -> Any:
        """As `_begin`, for a request to another service."""
        if wanted.auth.kind != "none" and not self._options.service_account:
            return _NO_ACCOUNT
        if self._place.secure and not wanted.request.url.startswith("https://"):
            return _PLAIN
        made = self._clients.get()
        task = self._writer.request(made.types, wanted.request, wanted.due, wanted.auth)
        return self._create(made, task, timeout_s)

    def _refusal(self, message: OutgoingMessage) -> ErrorClass | None:
        if not self._options.target:
            return _NO_TARGET
        if message.delay_s > _LONGEST_DELAY_S:
            return _LONG_DELAY
        if message.priority:
            return _NO_PRIORITY
        return _NOT_ORDERED if message.ordering_key is not None else None

    def _create(self, made: Made, task: Any, timeout_s: float) -> Any:
        self._calls.count("CreateTask")
        return made.create(self._name, task, self._timeout(timeout_s))

    def _settings(self) -> _managing.Settings | None:
        """The queue's settings; None where they may not be asked for."""
        with UnlessStatus("PERMISSION_DENIED"):
            return _managing.settings_of(self._call("get_queue", {"name": self._name}))
        return None

    def _call(self, method: str, request: Mapping[str, Any]) -> Any:
        """Make a call about the queue itself. What it answers comes without the wrapper of Google's client."""
        self._calls.count("".join(part.capitalize() for part in method.split("_")))
        client = self._clients.get().client
        answer = getattr(client, method)(request=request, retry=None, timeout=self._timeout(self._place.answer_s))
        return None if answer is None else type(answer).pb(answer)

    def _timeout(self, timeout_s: float) -> float:
        return max(0.001, min(timeout_s, self._place.answer_s))


def _outcome(call: Any, message_id: str, *, named: bool) -> SendOutcome:
    try:
        task = call.result()
    except call_errors() as error:
        raised = as_call_error(error)
        if named and status_of(raised) == "ALREADY_EXISTS":
            return Duplicate(message_id)
        what = _errors.of_task(raised)
        return Rejected(what, message_id) if what.sent == "no" else Unknown(what, message_id)
    return Accepted(message_id, task.name.rpartition("/")[2])


def _queue(options: CloudTasksOptions) -> Capabilities:
    return Capabilities(
        queues="declared",
        durability="replicated",
        max_message_bytes=options.max_size,
        max_send_batch=_AT_ONCE,
        attempts="approximate",
        release_counts=True,
        redelivers_unasked=True,
        max_delay_s=_LONGEST_DELAY_S,
        dedup_window_s=_DEDUP_S,
        admin=True,
        purge=True,
        purges_leased=True,
        pause=True,
        receives=False,
        pushes="answered",
        push_deadline_s=options.dispatch_deadline.total_seconds(),
        retries_by_copy=not options.queue_backoff,
    )


def _open(opening: Opening) -> CloudTasksBackend:
    return CloudTasksBackend(opening)


SPEC = BackendSpec(
    open=_open, options=CloudTasksOptions, slot="path", path_parts=1, forms=FORMS, places=("endpoint",)
)
