# SPDX-License-Identifier: Apache-2.0
"""The one place where a backend is called and its exceptions become queuekit's errors and outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from queuekit._values import errors
from queuekit._values.capability import Capabilities
from queuekit._values.outcome import (
    ErrorClass,
    ErrorCode,
    Failed,
    NotAttempted,
    SendOutcome,
    SettleOutcome,
    Unknown,
)
from queuekit.backend import Backend, IncomingMessage, OutgoingMessage, Settlement

T = TypeVar("T")

_ERRORS: Mapping[ErrorCode, type[errors.QueueKitError]] = {
    ErrorCode.INVALID_MESSAGE: errors.InvalidMessageError,
    ErrorCode.TOO_LARGE: errors.InvalidMessageError,
    ErrorCode.ENCODE: errors.EncodeError,
    ErrorCode.UNSUPPORTED: errors.UnsupportedError,
    ErrorCode.NOT_FOUND: errors.QueueNotFoundError,
    ErrorCode.EXISTS: errors.QueueExistsError,
    ErrorCode.ACCESS_DENIED: errors.AccessDeniedError,
    ErrorCode.UNAVAILABLE: errors.UnavailableError,
    ErrorCode.QUEUE_FULL: errors.QueueFullError,
    ErrorCode.LEASE_LOST: errors.LeaseLostError,
    ErrorCode.REFUSED: errors.RefusedError,
    ErrorCode.CLOSED: errors.ClosedError,
    ErrorCode.BACKEND_BUG: errors.BackendBugError,
    ErrorCode.UNKNOWN: errors.ProviderError,
}


def error_from(error: ErrorClass, *, queue: str, operation: str) -> errors.QueueKitError:
    """The exception of the error tree that says what an `ErrorClass` says, with its cause attached."""
    detail = error.detail or (type(error.raw).__name__ if error.raw is not None else error.code.value)
    text = f"{operation} on {queue} failed: {detail}"
    context: dict[str, Any] = {
        "queue": queue,
        "operation": operation,
        "code": error.code.value,
        "retryable": error.retryable,
    }
    made: errors.QueueKitError
    if isinstance(error.raw, errors.QueueKitError):
        return error.raw
    if error.code is ErrorCode.THROTTLED:
        made = errors.ThrottledError(text, retry_after_s=error.retry_after_s, **context)
    else:
        made = _ERRORS.get(error.code, errors.ProviderError)(text, **context)
    made.__cause__ = error.raw
    return made


class Guard:
    """Calls a backend and keeps its promises for it.

    Args:
        backend: What to call.
        queue: The queue's redacted URL, for errors.

    Concurrency:
        Safe from any thread.
    """

    __slots__ = ("_backend", "queue")

    def __init__(self, backend: Backend, queue: str) -> None:
        self._backend = backend
        self.queue: str = queue

    def excess(self, message: OutgoingMessage) -> tuple[int, int] | None:  # noqa: ARG002 - `DetouringGuard` asks for it
        """Bytes and limit of a message that is too large for where it waits for its time; None for one that fits.

        The queue's own limit is asked for elsewhere.
        """
        return None

    def fits(self, message: OutgoingMessage) -> bool:
        """Whether a message is small enough for where it waits for its time."""
        return self.excess(message) is None

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """One outcome per message, whatever the backend does."""
        return self.send_by(lambda: self._backend.send(batch, timeout_s=timeout_s), batch)

    def send_by(
        self, call: Callable[[], Sequence[SendOutcome]], batch: Sequence[OutgoingMessage]
    ) -> Sequence[SendOutcome]:
        """As `send`, by another call of the backend that answers for these messages."""
        try:
            outcomes = call()
        except Exception as error:  # noqa: BLE001 - the guard: every SDK error ends here
            what = self._classify(error)
            kind = NotAttempted if what.sent == "no" else Unknown
            return [kind(what, message.message_id) for message in batch]
        if (have := _length(outcomes)) != len(batch):
            bug = self._miscount("send", have, len(batch))
            return [Unknown(bug, message.message_id) for message in batch]
        return outcomes

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """One outcome per settlement, whatever the backend does."""
        try:
            outcomes = self._backend.settle(batch, timeout_s=timeout_s)
        except Exception as error:  # noqa: BLE001 - the guard
            what = self._classify(error)
            return [Failed(what) if what.sent == "no" else Unknown(what) for _ in batch]
        if (have := _length(outcomes)) != len(batch):
            bug = self._miscount("settle", have, len(batch))
            return [Unknown(bug) for _ in batch]
        return outcomes

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease messages.

        Raises:
            QueueKitError: What the backend's exception means; ``retryable`` says whether to go on.
        """
        return self.call(
            "receive",
            lambda: self._backend.receive(max_messages=max_messages, wait_s=wait_s, lease_s=lease_s),
        )

    def probe(self) -> Capabilities:
        """Ask the service what the queue can do.

        Raises:
            QueueKitError: What the backend's exception means.
        """
        return self.call("check", self._backend.probe)

    def call(self, operation: str, function: Callable[[], T]) -> T:
        """Run any other call of the backend.

        Raises:
            QueueKitError: What the backend's exception means, raised from it.
        """
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - the guard
            failure = error_from(self._classify(error), queue=self.queue, operation=operation)
            raise failure from (error if failure is not error else None)

    def _classify(self, error: Exception) -> ErrorClass:
        if isinstance(error, errors.QueueKitError):
            return ErrorClass(_code_of(error), error.retryable, "queue", detail=str(error), raw=error)
        try:
            what = self._backend.classify(error)
        except Exception as bug:  # noqa: BLE001 - the guard: classify may not raise, and this one did
            detail = f"classify raised {type(bug).__name__}; report it to the backend's author"
            return ErrorClass(ErrorCode.BACKEND_BUG, detail=detail, raw=error)
        if what.raw is not None:
            return what
        return ErrorClass(
            what.code, what.retryable, what.scope, what.sent, what.retry_after_s, what.detail, raw=error
        )

    def _miscount(self, verb: str, have: int, want: int) -> ErrorClass:
        detail = f"the backend answered {have} outcomes for {want} entries of {verb}; report it to its author"
        return ErrorClass(ErrorCode.BACKEND_BUG, scope="connection", detail=detail)


def _length(outcomes: Any) -> int:
    try:
        return len(outcomes)
    except TypeError:  # a None or a generator: what it says about the entries cannot be known
        return 0


def _code_of(error: errors.QueueKitError) -> ErrorCode:
    try:
        return ErrorCode(error.code)
    except ValueError:
        return ErrorCode.UNKNOWN
