# SPDX-License-Identifier: Apache-2.0
"""One producer and one consumer interface over many queue services; the backend is picked by a URL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuekit._engine.rate import Rate
    from queuekit._engine.tally import Timing
    from queuekit._portable.app import App
    from queuekit._portable.batches import Batch, BatchEntry, BatchResult
    from queuekit._portable.consumer import Consumer
    from queuekit._portable.context import Current, current
    from queuekit._portable.creating import acreate_queue, create_queue
    from queuekit._portable.dead_letters import DeadLetters
    from queuekit._portable.dead_messages import DeadMessage, PurgeReport, RedriveReport
    from queuekit._portable.delivery import Delivery
    from queuekit._portable.doctoring import adoctor, doctor
    from queuekit._portable.events import Event
    from queuekit._portable.handler import BatchHandler, Handler
    from queuekit._portable.idempotent import Idempotency
    from queuekit._portable.link import CheckReport
    from queuekit._portable.middleware import Middleware
    from queuekit._portable.producer import Producer
    from queuekit._portable.report import SendReport
    from queuekit._portable.retry import DeadLetter, Retry, RetryPolicy
    from queuekit._portable.worker import ExitCode
    from queuekit._values.diagnosis import Diagnosis
    from queuekit._values.errors import (
        AccessDeniedError,
        AlreadySettledError,
        BackendBugError,
        BackendMissingError,
        ClosedError,
        CodecError,
        DecodeError,
        EncodeError,
        InvalidMessageError,
        InvalidURLError,
        LeaseLostError,
        MessageTooLargeError,
        PartialFailureError,
        ProviderError,
        QueueExistsError,
        QueueFullError,
        QueueKitError,
        QueueNotFoundError,
        RefusedError,
        SetupError,
        ThrottledError,
        UnavailableError,
        UnknownSchemeError,
        UnsafeSettingsError,
        UnsupportedError,
        UsageError,
    )
    from queuekit._values.finding import Finding
    from queuekit._values.message import Message, SendOptions
    from queuekit._values.outcome import (
        Accepted,
        Duplicate,
        ErrorClass,
        ErrorCode,
        NotAttempted,
        Rejected,
        SendOutcome,
        Unknown,
    )
    from queuekit._values.url import QueueURL

__all__ = [
    "Accepted",
    "AccessDeniedError",
    "AlreadySettledError",
    "App",
    "BackendBugError",
    "BackendMissingError",
    "Batch",
    "BatchEntry",
    "BatchHandler",
    "BatchResult",
    "CheckReport",
    "ClosedError",
    "CodecError",
    "Consumer",
    "Current",
    "DeadLetter",
    "DeadLetters",
    "DeadMessage",
    "DecodeError",
    "Delivery",
    "Diagnosis",
    "Duplicate",
    "EncodeError",
    "ErrorClass",
    "ErrorCode",
    "Event",
    "ExitCode",
    "Finding",
    "Handler",
    "Idempotency",
    "InvalidMessageError",
    "InvalidURLError",
    "LeaseLostError",
    "Message",
    "MessageTooLargeError",
    "Middleware",
    "NotAttempted",
    "PartialFailureError",
    "Producer",
    "ProviderError",
    "PurgeReport",
    "QueueExistsError",
    "QueueFullError",
    "QueueKitError",
    "QueueNotFoundError",
    "QueueURL",
    "Rate",
    "RedriveReport",
    "RefusedError",
    "Rejected",
    "Retry",
    "RetryPolicy",
    "SendOptions",
    "SendOutcome",
    "SendReport",
    "SetupError",
    "ThrottledError",
    "Timing",
    "UnavailableError",
    "Unknown",
    "UnknownSchemeError",
    "UnsafeSettingsError",
    "UnsupportedError",
    "UsageError",
    "acreate_queue",
    "adoctor",
    "create_queue",
    "current",
    "doctor",
]

# Each name is imported at its first use, because the engine is not needed by whoever only imports
# queuekit: a plug-in of a test runner, a command line, a module that sends on one path (docs/adr/0008).
_HOMES = {
    "Rate": "queuekit._engine.rate",
    "Timing": "queuekit._engine.tally",
    "App": "queuekit._portable.app",
    "Batch": "queuekit._portable.batches",
    "BatchEntry": "queuekit._portable.batches",
    "BatchHandler": "queuekit._portable.handler",
    "BatchResult": "queuekit._portable.batches",
    "Consumer": "queuekit._portable.consumer",
    "Current": "queuekit._portable.context",
    "current": "queuekit._portable.context",
    "DeadLetters": "queuekit._portable.dead_letters",
    "DeadMessage": "queuekit._portable.dead_messages",
    "PurgeReport": "queuekit._portable.dead_messages",
    "RedriveReport": "queuekit._portable.dead_messages",
    "Delivery": "queuekit._portable.delivery",
    "acreate_queue": "queuekit._portable.creating",
    "adoctor": "queuekit._portable.doctoring",
    "create_queue": "queuekit._portable.creating",
    "doctor": "queuekit._portable.doctoring",
    "Handler": "queuekit._portable.handler",
    "Idempotency": "queuekit._portable.idempotent",
    "CheckReport": "queuekit._portable.link",
    "Producer": "queuekit._portable.producer",
    "SendReport": "queuekit._portable.report",
    "DeadLetter": "queuekit._portable.retry",
    "Retry": "queuekit._portable.retry",
    "RetryPolicy": "queuekit._portable.retry",
    "Event": "queuekit._portable.events",
    "Middleware": "queuekit._portable.middleware",
    "ExitCode": "queuekit._portable.worker",
    "Diagnosis": "queuekit._values.diagnosis",
    "Finding": "queuekit._values.finding",
    "AccessDeniedError": "queuekit._values.errors",
    "AlreadySettledError": "queuekit._values.errors",
    "BackendBugError": "queuekit._values.errors",
    "BackendMissingError": "queuekit._values.errors",
    "ClosedError": "queuekit._values.errors",
    "CodecError": "queuekit._values.errors",
    "DecodeError": "queuekit._values.errors",
    "EncodeError": "queuekit._values.errors",
    "InvalidMessageError": "queuekit._values.errors",
    "InvalidURLError": "queuekit._values.errors",
    "LeaseLostError": "queuekit._values.errors",
    "MessageTooLargeError": "queuekit._values.errors",
    "PartialFailureError": "queuekit._values.errors",
    "ProviderError": "queuekit._values.errors",
    "QueueExistsError": "queuekit._values.errors",
    "QueueFullError": "queuekit._values.errors",
    "QueueKitError": "queuekit._values.errors",
    "QueueNotFoundError": "queuekit._values.errors",
    "RefusedError": "queuekit._values.errors",
    "SetupError": "queuekit._values.errors",
    "ThrottledError": "queuekit._values.errors",
    "UnavailableError": "queuekit._values.errors",
    "UnknownSchemeError": "queuekit._values.errors",
    "UnsafeSettingsError": "queuekit._values.errors",
    "UnsupportedError": "queuekit._values.errors",
    "UsageError": "queuekit._values.errors",
    "Message": "queuekit._values.message",
    "SendOptions": "queuekit._values.message",
    "Accepted": "queuekit._values.outcome",
    "Duplicate": "queuekit._values.outcome",
    "ErrorClass": "queuekit._values.outcome",
    "ErrorCode": "queuekit._values.outcome",
    "NotAttempted": "queuekit._values.outcome",
    "Rejected": "queuekit._values.outcome",
    "SendOutcome": "queuekit._values.outcome",
    "Unknown": "queuekit._values.outcome",
    "QueueURL": "queuekit._values.url",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
