# SPDX-License-Identifier: Apache-2.0
"""The error tree: one root, depth three, a class only where a caller would write different code for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from queuekit._values.finding import Finding


class QueueKitError(Exception):
    """The root of everything that queuekit raises.

    Args:
        message: The fact, then the remedy. Never a body, a handle or a credential.
        queue: The queue's URL in redacted form, where one is known.
        operation: What was being done: ``send``, ``receive``, ``settle``, ``extend``, ``open`` …
        code: The classification behind the error; the class's own by default.
        retryable: Whether doing the same again can succeed. A fact about the error, decided with the
            classification; the class's own by default.

    The service's own exception, where there was one, is the ``__cause__``.
    """

    default_code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        queue: str | None = None,
        operation: str | None = None,
        code: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.queue = queue
        self.operation = operation
        self.code: str = code or self.default_code
        self.retryable: bool = self.default_retryable if retryable is None else retryable

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only state does not survive the default reduction, which calls cls(*args).
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(cls: type[QueueKitError], args: tuple[Any, ...], state: dict[str, Any]) -> QueueKitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class SetupError(QueueKitError):
    """Something is wrong with how queuekit was set up; raised while opening, never while running."""

    default_code = "setup"


class InvalidURLError(SetupError):
    """A queue URL, or an option in one, is malformed, misspelt or out of range. Correct the URL."""

    default_code = "invalid_url"


class UnknownSchemeError(SetupError):
    """No backend is registered for the URL's scheme. The message names the nearest known one."""

    default_code = "unknown_scheme"


class BackendMissingError(SetupError):
    """The backend exists but its packages are not installed. The message holds the install command."""

    default_code = "backend_missing"


class UnsupportedError(SetupError):
    """The backend cannot do what was asked, and queuekit will not pretend. The message names the remedy."""

    default_code = "unsupported"


class UnsafeSettingsError(SetupError):
    """The queue's own settings can lose accepted messages, and ``strict=true`` refuses that. Correct the settings.

    Args:
        message: Each finding with its remedy.
        findings: What was found, each a `Finding`.
        **context: As for `QueueKitError`.
    """

    default_code = "unsafe_settings"

    def __init__(self, message: str, *, findings: Sequence[Finding], **context: Any) -> None:
        super().__init__(message, **context)
        self.findings: tuple[Finding, ...] = tuple(findings)


class UsageError(QueueKitError):
    """The caller used queuekit wrongly. Never retried: correct the call."""

    default_code = "usage"


class ClosedError(UsageError):
    """The object was closed. Open a new one."""

    default_code = "closed"


class AlreadySettledError(UsageError):
    """This delivery was settled before. Settle each delivery once."""

    default_code = "already_settled"


class InvalidMessageError(UsageError):
    """A message, or one of its options, can be carried by no backend. Correct the message."""

    default_code = "invalid_message"


class MessageTooLargeError(InvalidMessageError):
    """The encoded message is larger than the queue takes.

    Args:
        message: The fact, then the remedy.
        size: Bytes that the service would count.
        limit: Bytes that it takes.
        **context: As for `QueueKitError`.
    """

    default_code = "too_large"

    def __init__(self, message: str, *, size: int, limit: int, **context: Any) -> None:
        super().__init__(message, **context)
        self.size = size
        self.limit = limit


class CodecError(QueueKitError):
    """A payload and its bytes could not be turned into each other."""

    default_code = "codec"


class EncodeError(CodecError):
    """The payload is not of the declared type, or would not survive the way there and back."""

    default_code = "encode"


class DecodeError(CodecError):
    """The body is not what the declared payload type expects.

    A worker dead-letters such a message with its raw bytes; a `Consumer` raises this where the payload is
    read, and the delivery can still be settled.
    """

    default_code = "decode"


class ProviderError(QueueKitError):
    """The service answered badly or not at all."""

    default_code = "provider"


class UnavailableError(ProviderError):
    """The service could not be reached, or did not answer in time. Trying again later can succeed."""

    default_code = "unavailable"
    default_retryable = True


class ThrottledError(ProviderError):
    """The service asked us to slow down.

    Args:
        message: The fact, then the remedy.
        retry_after_s: Seconds that the service asked for, where it said.
        **context: As for `QueueKitError`.
    """

    default_code = "throttled"
    default_retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.retry_after_s = retry_after_s


class AccessDeniedError(ProviderError):
    """The credentials are missing, wrong, or lack a permission."""

    default_code = "access_denied"


class QueueNotFoundError(ProviderError):
    """The queue does not exist, and queuekit does not create queues unasked."""

    default_code = "not_found"


class QueueExistsError(ProviderError):
    """A queue of that name exists with other settings."""

    default_code = "exists"


class QueueFullError(ProviderError):
    """The queue or its disk has no room. Drain it or give it room; then the same call can succeed."""

    default_code = "queue_full"
    default_retryable = True


class RefusedError(ProviderError):
    """The service declined, for a reason that has no better word."""

    default_code = "refused"


class BackendBugError(QueueKitError):
    """A backend broke its contract. Report it to the backend's author; it is never retried."""

    default_code = "backend_bug"


class LeaseLostError(QueueKitError):
    """The delivery is not ours any more; somebody else may have it. Stop working on it."""

    default_code = "lease_lost"


class PartialFailureError(QueueKitError):
    """Some messages of a batch failed. Raised only where an exception is asked for, as by ``raise_for_failures()``.

    Args:
        message: How many of how many failed, and the first reason.
        failures: One outcome per message that was not accepted, in the order given; of received messages, their ids.
        **context: As for `QueueKitError`.
    """

    default_code = "partial_failure"

    def __init__(self, message: str, *, failures: Sequence[Any], **context: Any) -> None:
        super().__init__(message, **context)
        self.failures: tuple[Any, ...] = tuple(failures)
