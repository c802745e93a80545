# SPDX-License-Identifier: Apache-2.0
"""One answer per message: what became of each entry of a send or of a settlement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Literal, TypeAlias, overload


class ErrorCode(StrEnum):
    """What went wrong, in queuekit's own words; each maps to one class of the error tree."""

    INVALID_MESSAGE = "invalid_message"
    TOO_LARGE = "too_large"
    ENCODE = "encode"
    UNSUPPORTED = "unsupported"
    NOT_FOUND = "not_found"
    EXISTS = "exists"
    ACCESS_DENIED = "access_denied"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    QUEUE_FULL = "queue_full"
    LEASE_LOST = "lease_lost"
    REFUSED = "refused"
    CLOSED = "closed"
    BACKEND_BUG = "backend_bug"
    UNKNOWN = "unknown"


Scope: TypeAlias = Literal["entry", "key", "queue", "connection"]
Sent: TypeAlias = Literal["no", "maybe"]


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """What an error means for queuekit: made by a backend, acted on by the engine.

    Attributes:
        code: The kind of failure.
        retryable: Whether the same call can succeed later.
        scope: What is affected: this entry, its ordering key, the queue, or the whole connection.
        sent: ``no`` where it is proved that the service did not act; ``maybe`` otherwise.
        retry_after_s: Seconds that the service asked us to wait, where it said.
        detail: A short text that is safe to show: never a body, a handle or a credential.
        raw: The service's own exception, kept for ``__cause__``; never compared or printed.
    """

    code: ErrorCode
    retryable: bool = False
    scope: Scope = "entry"
    sent: Sent = "maybe"
    retry_after_s: float | None = None
    detail: str = ""
    raw: BaseException | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The queue has the message, as durably as it promises.

    Attributes:
        message_id: The message's id, chosen by the sender or by queuekit.
        provider_id: The service's own id, where it has another.
    """

    message_id: str
    provider_id: str | None = None


_set_message_id = vars(Accepted)["message_id"].__set__
_set_provider_id = vars(Accepted)["provider_id"].__set__


def _accept(message_id: str) -> Accepted:
    # At half of the constructor's cost.
    accepted = object.__new__(Accepted)
    _set_message_id(accepted, message_id)
    _set_provider_id(accepted, None)
    return accepted


class AllAccepted(Sequence[Accepted]):
    """The outcomes of a batch that was accepted whole: one `Accepted` per message, made when it is looked at.

    Nearly every batch is, and hardly anybody looks at each outcome of one.

    Args:
        message_ids: Of the messages, in order.
    """

    __slots__ = ("_message_ids",)

    def __init__(self, message_ids: Sequence[str]) -> None:
        self._message_ids = message_ids

    def __len__(self) -> int:
        return len(self._message_ids)

    @overload
    def __getitem__(self, index: int) -> Accepted: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Accepted]: ...

    def __getitem__(self, index: int | slice) -> Accepted | Sequence[Accepted]:
        found = self._message_ids[index]
        return _accept(found) if isinstance(found, str) else AllAccepted(found)

    def __iter__(self) -> Iterator[Accepted]:
        return map(_accept, self._message_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"AllAccepted({list(self._message_ids)!r})"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The queue already had a message with this dedup id inside its window; nothing was added.

    Attributes:
        message_id: The id of the message that was *not* added.
        provider_id: The service's id of the message that it has, where it says.
    """

    message_id: str
    provider_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The queue, or queuekit before it, refused this message.

    Sending it again cannot help, unless ``error.retryable`` says so, as it does for a full queue.

    Attributes:
        error: Why.
        message_id: The id of the refused message; empty where it never got one.
    """

    error: ErrorClass
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost: the service may or may not have acted.

    Attributes:
        error: What hid the answer.
        message_id: The id of the message, for a send.
    """

    error: ErrorClass
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class NotAttempted:
    """The message was not handed to the service; sending it again cannot duplicate it.

    Attributes:
        error: What stopped it.
        message_id: The id of the message.
    """

    error: ErrorClass
    message_id: str = ""


SendOutcome: TypeAlias = Accepted | Duplicate | Rejected | Unknown | NotAttempted


@dataclass(frozen=True, slots=True)
class Settled:
    """The service did what the settlement asked.

    Attributes:
        lease_until: For EXTEND, the new end of the lease on the Clock's monotonic scale, in seconds.
        applied_delay_s: For RETRY and RELEASE, the delay that the service really applies, in seconds.
    """

    lease_until: float | None = None
    applied_delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The lease had ended or belonged to somebody else; nothing was done."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The service refused or failed this settlement; the lease may still run.

    Attributes:
        error: Why.
    """

    error: ErrorClass


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The backend has no such action; nothing was sent.

    Attributes:
        detail: What is missing, safe to show.
    """

    detail: str = ""


SettleOutcome: TypeAlias = Settled | LeaseLost | Failed | Unknown | Unsupported

SETTLED = Settled()
LEASE_LOST = LeaseLost()
