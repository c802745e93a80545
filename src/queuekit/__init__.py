# SPDX-License-Identifier: Apache-2.0
"""One producer and one consumer interface over many queue services; the backend is picked by a URL."""

from queuekit._portable.app import App
from queuekit._portable.consumer import Consumer
from queuekit._portable.context import Current, current
from queuekit._portable.dead_letters import DeadLetters, DeadMessage, RedriveReport
from queuekit._portable.delivery import Delivery
from queuekit._portable.handler import Handler
from queuekit._portable.link import CheckReport
from queuekit._portable.producer import Producer
from queuekit._portable.report import SendReport
from queuekit._portable.retry import DeadLetter, Retry, RetryPolicy
from queuekit._portable.worker import ExitCode
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
    UnsupportedError,
    UsageError,
)
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
    "Duplicate",
    "EncodeError",
    "ErrorClass",
    "ErrorCode",
    "ExitCode",
    "Handler",
    "InvalidMessageError",
    "InvalidURLError",
    "LeaseLostError",
    "Message",
    "MessageTooLargeError",
    "NotAttempted",
    "PartialFailureError",
    "Producer",
    "ProviderError",
    "QueueExistsError",
    "QueueFullError",
    "QueueKitError",
    "QueueNotFoundError",
    "QueueURL",
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
    "UnavailableError",
    "Unknown",
    "UnknownSchemeError",
    "UnsupportedError",
    "UsageError",
    "current",
]
