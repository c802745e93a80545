# SPDX-License-Identifier: Apache-2.0
"""One producer and one consumer interface over many queue services; the backend is picked by a URL."""

from queuekit._portable.consumer import Consumer
from queuekit._portable.dead_letters import DeadLetters, DeadMessage, RedriveReport
from queuekit._portable.delivery import Delivery
from queuekit._portable.link import CheckReport
from queuekit._portable.producer import Producer
from queuekit._portable.report import SendReport
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
from queuekit._values.outcome import Accepted, Duplicate, ErrorClass, ErrorCode, NotAttempted, Rejected, SendOutcome, Unknown
from queuekit._values.url import QueueURL
