# SPDX-License-Identifier: Apache-2.0
"""The backend interface: what a queue service must do for queuekit, and what it may expect in return.

A backend is a small object with blocking methods. The engine above it owns every thread, retry, budget,
batch and clock decision; a backend turns one call into one request to its service and says, entry by
entry, what came of it. The contract suite (`queuekit.testing.contract`) judges it.

**What every backend keeps**

- One outcome per entry, by position (K1). An exception from `send` or `settle` means that nothing is known
  about any entry (K4); whatever is known better is an outcome.
- No retries and no waiting beyond ``wait_s`` (K2): the SDK's own retries are set to one attempt.
- No splitting (K3): the engine never passes more than `Capabilities` allow.
- A handle belongs to one delivery. Two deliveries of one message have different handles (K5).
- `receive` returns at most ``max_messages``, and may return fewer or none (K6). What arrives after `close`
  is given back or comes again by lease (K7).
- Settling one entry never touches another (K8). An action that the service lacks answers `Unsupported`
  before any I/O (K9).
- Every method may be called from several threads at once (K10). No state lives in the class or module (K11).
- Raw errors are attached, never turned into text only (K12). Nothing is created unasked (K13), except where
  `Capabilities.queues` is ``implicit``.
- Nothing that was passed in is kept after returning, but for the values of messages, which are immutable.

The wire structs are named tuples, because one of each is made per message: they are immutable, and cost a
quarter of a frozen dataclass (docs/adr/0002).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from queuekit._values.capability import Capabilities, Support
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.diagnosis import Wanted
from queuekit._values.errors import InvalidURLError
from queuekit._values.finding import Finding
from queuekit._values.http import HttpAuth, HttpRequest
from queuekit._values.moving import Move, MoveStatus
from queuekit._values.options import Range, Size
from queuekit._values.outcome import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    AllAccepted,
    Duplicate,
    ErrorClass,
    ErrorCode,
    Failed,
    LeaseLost,
    NotAttempted,
    Rejected,
    SendOutcome,
    Settled,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit._values.url import Host, QueueURL

__all__ = [
    "LEASE_LOST",
    "SETTLED",
    "SPI_VERSION",
    "Accepted",
    "Action",
    "Admin",
    "AllAccepted",
    "Backend",
    "BackendSpec",
    "Cancellable",
    "Capabilities",
    "ClientPool",
    "Clock",
    "Diagnosable",
    "Duplicate",
    "ErrorClass",
    "ErrorCode",
    "Failed",
    "Finding",
    "Handle",
    "Host",
    "HttpAuth",
    "HttpPublishable",
    "HttpRequest",
    "HttpSchedulable",
    "IncomingMessage",
    "Interruptible",
    "InvalidURLError",
    "LeaseLost",
    "Metered",
    "Move",
    "MoveStatus",
    "Moving",
    "NotAttempted",
    "Opening",
    "OutgoingMessage",
    "Pausable",
    "Peekable",
    "PushCodec",
    "QueueStats",
    "QueueURL",
    "Range",
    "Recreating",
    "Redrivable",
    "Rejected",
    "SendOutcome",
    "SettleOutcome",
    "Settled",
    "Settlement",
    "Size",
    "StoredMessage",
    "Support",
    "SystemClock",
    "Unknown",
    "Unsupported",
    "Waitable",
    "Wanted",
]

SPI_VERSION = 1
"""Raised when a backend written for an older version would break; checked when a backend is opened."""

Handle: TypeAlias = Hashable
"""Opaque: made by `Backend.receive`, given back to `Backend.settle`, never shown or compared with an id."""

T = TypeVar("T")


class OutgoingMessage(NamedTuple):
    """One message on its way to the service.

    Attributes:
        message_id: The message's id; printable ASCII, kept over copies, dead letters and redrives.
        body: The user's bytes, unchanged.
        attributes: The user's attributes. Names are unique whatever their case.
        metadata: queuekit's own, name to text. Often one shared mapping for many messages; never changed.
            A backend stores it beside the attributes so that neither can be taken for the other.
        delay_s: Deliver no earlier than this many seconds from now; 0 is at once.
        ordering_key: See `Capabilities.ordering`.
        dedup_id: See `Capabilities.dedup_window_s`.
        priority: 0 to 9, higher first.
    """

    message_id: str
    body: bytes
    attributes: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}
    delay_s: float = 0.0
    ordering_key: str | None = None
    dedup_id: str | None = None
    priority: int = 0


class IncomingMessage(NamedTuple):
    """One delivery as the service made it.

    Attributes:
        handle: What `Backend.settle` needs to settle this delivery.
        message_id: As sent; the service's own id for a message that queuekit did not send.
        body: As sent.
        attributes: As sent.
        metadata: As sent; empty for a message that queuekit did not send.
        attempt: How often the service has delivered this message, from 1; None where it does not say.
        enqueued_at: When the service took it, in seconds since the epoch, UTC; None where it does not say.
        lease_until: When the lease ends, on the Clock's monotonic scale; None where the lease is bound to
            the connection. On the safe side: the clock is read before the request, or on the service.
        ordering_key: As sent.
        priority: As sent.
        received_at: When the service made this delivery, by the clock of ``enqueued_at``; None for this host's.
        died_on: URL of the queue from which the service itself moved it here, as a dead letter; None where it did
            not, or does not say.
        entry_id: The service's own id for this message, equal in all its deliveries, where ``enqueued_at`` does not
            tell it from another one with the same ``message_id``; None where it does.
    """

    handle: Handle
    message_id: str
    body: bytes
    attributes: Mapping[str, str]
    metadata: Mapping[str, str]
    attempt: int | None
    enqueued_at: float | None
    lease_until: float | None
    ordering_key: str | None = None
    priority: int = 0
    received_at: float | None = None
    died_on: str | None = None
    entry_id: str | None = None


class StoredMessage(NamedTuple):
    """A message as `Peekable.peek` sees it, without leasing it.

    Attributes:
        message_id: As sent.
        body: As sent.
        attributes: As sent.
        metadata: As sent.
        state: ``ready``, ``delayed`` (not due yet, or held behind its ordering key), ``leased``, or ``done``
            where it was acknowledged and is kept to be looked at.
        attempt: Deliveries so far; 0 before the first.
        enqueued_at: When the service took it, in seconds since the epoch, UTC.
        due_at: When it may be delivered, in seconds since the epoch, UTC.
        ordering_key: As sent.
        priority: As sent.
        cursor: Pass it as ``after`` to go on behind this message.
        done_at: When it was acknowledged, in seconds since the epoch, UTC; None while it is not done.
    """

    message_id: str
    body: bytes
    attributes: Mapping[str, str]
    metadata: Mapping[str, str]
    state: Literal["ready", "delayed", "leased", "done"]
    attempt: int
    enqueued_at: float
    due_at: float
    ordering_key: str | None
    priority: int
    cursor: str
    done_at: float | None = None


class Action(Enum):
    """The five things that can be done with a delivery."""

    ACK = "ack"
    """Done: remove it."""
    RETRY = "retry"
    """Failed: deliver it again after ``delay_s``, and count the attempt."""
    RELEASE = "release"
    """Not tried: deliver it again after ``delay_s``, and do not count the attempt where that can be."""
    EXTEND = "extend"
    """Keep it: the lease ends ``lease_s`` from now, whatever was left of the old one."""
    DEAD = "dead"
    """Store ``dead`` in the queue's own dead-letter queue and remove the original, in one step."""


class Settlement(NamedTuple):
    """One entry of a settle batch.

    Attributes:
        handle: From the `IncomingMessage`.
        action: What to do.
        delay_s: For RETRY and RELEASE.
        lease_s: For EXTEND.
        dead: For DEAD, the complete dead letter as the engine built it.
    """

    handle: Handle
    action: Action
    delay_s: float = 0.0
    lease_s: float = 0.0
    dead: OutgoingMessage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How many messages a queue holds. A number that the service does not tell is None, never 0.

    Attributes:
        ready: Could be received now.
        delayed: Not due yet, or held behind their ordering key.
        leased: With a consumer now.
        dead: In the queue's own dead-letter queue.
        done: Acknowledged, and kept to be looked at.
    """

    ready: int | None = None
    delayed: int | None = None
    leased: int | None = None
    dead: int | None = None
    done: int | None = None


class Backend(Protocol):
    """One queue of one service, opened from a URL. Opening makes no I/O; the first call connects."""

    @property
    def capabilities(self) -> Capabilities:
        """What the queue can do as far as the URL tells; no I/O."""
        ...

    def probe(self) -> Capabilities:
        """Ask the service what the queue can really do, and that it can be reached.

        A field that the service would not tell keeps its static value and is named in
        `Capabilities.assumed`. Must not create, change or consume anything, except to make the structures
        of an ``implicit`` queue.

        Raises:
            Exception: The SDK's own, unwrapped; `classify` will be asked what it means.
        """
        ...

    def size(self, message: OutgoingMessage) -> int:
        """Bytes that the service will count for this message, its encoding and metadata included. Pure."""
        ...

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Hand one batch to the service and say what became of each entry.

        The engine never passes an empty batch, nor more entries or bytes than `Capabilities` allow. The
        result has the length and the order of ``batch``. `Accepted` means that the service confirmed it.
        Retrying is the engine's work: report the entries that failed, and return. A batch that was
        accepted whole, with no ids of the service's own, is cheapest answered by `AllAccepted`.

        Args:
            batch: Homogeneous where `Capabilities.one_key_per_send` says so.
            timeout_s: What is left of the engine's time budget; no call may outlive it by much.

        Raises:
            Exception: The SDK's own, unwrapped, when the call failed as a whole.
        """
        ...

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease up to ``max_messages`` messages, waiting up to ``wait_s`` seconds for the first.

        Returns as soon as there is at least one, best first (higher priority, then order of sending).
        Blocks only on the service's own primitive or on one that `Interruptible` or `close` can wake, and
        holds no connection or lock meanwhile that `send` or `settle` needs.

        Args:
            max_messages: At least 1.
            wait_s: 0 answers at once.
            lease_s: How long the messages are to be ours alone; within `Capabilities` bounds.

        Raises:
            Exception: The SDK's own, unwrapped. No message may be leased by a call that raises, but for
                what the lease brings back.
        """
        ...

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Carry out one batch of settlements and say what became of each.

        An ended or superseded handle answers `LeaseLost`, a handle that was never ours too; neither raises
        nor touches another entry. Batches have one action and one length unless
        `Capabilities.mixed_settles`; no handle stands twice in a batch.

        Args:
            batch: Not empty.
            timeout_s: As for `send`.

        Raises:
            Exception: The SDK's own, unwrapped, when the call failed as a whole.
        """
        ...

    def classify(self, error: BaseException) -> ErrorClass:
        """Say what an exception raised by one of these methods means. Pure; never raises.

        Whatever the backend does not know is ``ErrorClass(ErrorCode.UNKNOWN)``, not retryable.
        """
        ...

    def close(self) -> None:
        """Give back every resource and wake a blocked `receive`, which then returns nothing.

        Idempotent. Later calls of other methods may raise anything; the engine makes none.
        """
        ...


@runtime_checkable
class Admin(Protocol):
    """Make, remove, empty and count a queue; only ever called because a user asked."""

    def create(self) -> None:
        """Make the queue. Idempotent with the same settings."""
        ...

    def delete(self) -> None:
        """Remove the queue, its messages and its own dead-letter queue."""
        ...

    def exists(self) -> bool:
        """Whether the queue exists; asking does not make it."""
        ...

    def purge(self) -> int | None:
        """Remove every message, but for what is leased unless `Capabilities.purges_leased` says otherwise.

        Returns how many, or None where the service hides it.
        """
        ...

    def stats(self) -> QueueStats:
        """Count the messages. Exact, approximate or unknown as `Capabilities.depth` says."""
        ...


@runtime_checkable
class Peekable(Protocol):
    """Look at messages without leasing them."""

    def peek(self, *, limit: int, after: str = "", done: bool = False) -> Sequence[StoredMessage]:
        """Up to ``limit`` messages in order of sending, from behind the cursor ``after``.

        Args:
            limit: At least 1.
            after: Empty begins with the oldest.
            done: Look at the messages that were acknowledged and kept, and at no others.
        """
        ...


@runtime_checkable
class Redrivable(Protocol):
    """Move dead letters back in one step; implemented by the backend of the dead-letter queue."""

    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """For each entry, remove the dead letter with its ``message_id`` and store it in the source queue.

        Both happen in one step. The source is the queue whose own dead-letter queue this is. A dead letter
        that is leased, or gone, answers `LeaseLost` and nothing is stored.
        """
        ...


@runtime_checkable
class Metered(Protocol):
    """Counts its calls, where the service charges by the call."""

    def api_calls(self) -> Mapping[str, int]:
        """How often each operation was asked for since the backend was opened, answered or not; no I/O."""
        ...


@runtime_checkable
class Moving(Protocol):
    """The service itself moves dead letters back, by tasks; implemented by the backend of the dead-letter queue."""

    def start_move(self, *, per_second: int | None = None) -> None:
        """Begin a task that moves every message back to the queue from which the service took it.

        Args:
            per_second: The most in a second, 1 to 500; None leaves it to the service.
        """
        ...

    def moves(self) -> Sequence[Move]:
        """The latest tasks, the newest first."""
        ...

    def cancel_move(self) -> int | None:
        """Stop the task that runs; about how many messages it has moved, which stay so. None where none runs."""
        ...


@runtime_checkable
class PushCodec(Protocol):
    """Reads messages that the service hands over by itself, as AWS Lambda does those of SQS."""

    def read_pushed(self, pushed: Mapping[str, Any]) -> IncomingMessage:
        """One delivery, read as `Backend.receive` would. No I/O; the service's SDK need not be installed.

        Its handle is one for `Backend.settle`, which answers `Unsupported` where `Capabilities.pushes` is
        ``answered``. Its ``lease_until`` is None unless ``pushed`` tells it.

        Args:
            pushed: One message in the form in which the service's own API answers a receive, such as SQS's
                ``{"MessageId": …, "ReceiptHandle": …, "Body": …}``, or the request where it only pushes.

        Raises:
            Exception: It is no message of this service.
        """
        ...


@runtime_checkable
class HttpPublishable(Protocol):
    """A message can be sent to the queue by one HTTP request, which another service makes later."""

    @property
    def http_auth(self) -> HttpAuth:
        """The token that such a request needs. No I/O."""
        ...

    def as_http(self, message: OutgoingMessage) -> HttpRequest:
        """The request that sends this message as `Backend.send` would, but for its delay, which is over by then.

        Pure. Making it twice may send the message twice. Its answer is 2xx if, and only if, the message is there.
        """
        ...


@runtime_checkable
class HttpSchedulable(Protocol):
    """Makes HTTP requests at their time, and again until one is answered with 2xx: a ``delay_via=`` of itself.

    `Capabilities.max_delay_s` is the longest that a request can wait, `Capabilities.max_message_bytes` the most
    bytes of its URL, headers and body.
    """

    def schedule_http(
        self, request: HttpRequest, due: float, auth: HttpAuth, *, message_id: str, timeout_s: float
    ) -> SendOutcome:
        """Have the request made no earlier than ``due``. `Accepted` means that the service has confirmed it.

        Args:
            request: What is to be requested.
            due: Seconds since the epoch, UTC, by this host.
            auth: The token that the service is to add; `Rejected` where it cannot make such a one.
            message_id: Of the message, for the outcome; no name of the request, as a retry has the same id.
            timeout_s: As for `Backend.send`.

        Raises:
            Exception: The SDK's own, unwrapped; `Backend.classify` will be asked what it means.
        """
        ...


@runtime_checkable
class Cancellable(Protocol):
    """Take back a message that nobody has begun."""

    def cancel(self, message_id: str) -> bool:
        """Remove the message if it is not leased and no attempt of it counts; False when it is too late or unknown.

        A delivery that was released, where a release does not count, leaves the message as if it had never
        been delivered.
        """
        ...


@runtime_checkable
class Pausable(Protocol):
    """Stop handing out messages of the queue, to everybody, until it is resumed.

    Sends and settlements go on. A pause outlives every process as the messages do, and ends with `resume` or with
    the queue.
    """

    def pause(self) -> None:
        """Pause the queue, which is made if it is ``implicit``; a paused one stays so. Waiting receives wait on."""
        ...

    def resume(self) -> None:
        """Hand out messages again, also to receives that are waiting now; of a queue that is not paused, nothing."""
        ...

    def is_paused(self) -> bool:
        """Whether the queue is paused; asking does not make it."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A `Backend.receive` in progress can be ended early."""

    def interrupt(self) -> None:
        """Make every `Backend.receive` that is waiting now return what it has, soon. Never raises."""
        ...


@runtime_checkable
class Recreating(Protocol):
    """An ``implicit`` queue that notices when its structures were removed under it."""

    def recreated(self) -> int:
        """How often, since this backend was opened, the queue that it had used was found gone. No I/O."""
        ...


@runtime_checkable
class Diagnosable(Protocol):
    """Judge the queue's own settings: what of them can lose messages, or will surprise."""

    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:
        """Ask the service for its settings, and say what is good to know about them.

        Called after `Backend.probe`. May take several calls to the service, and changes nothing. What the
        service does not let be asked is a finding of its own, a ``note`` that says so; what follows from
        `Capabilities` alone is said by the engine, except that a loss which is found here takes the place of
        what ``durability`` says.

        Args:
            wanted: How the queue is going to be worked, to be held against the service's own limits.

        Raises:
            Exception: The SDK's own, unwrapped, when the service could not be reached.
        """
        ...


@runtime_checkable
class Waitable(Protocol):
    """Wait for a change of the queue without taking anything from it."""

    def wait_for_change(self, timeout_s: float) -> bool:
        """Block until something may be ready, or the time is over. True means: look again."""
        ...


class ClientPool:
    """Shares SDK clients and connections among the backends of one owner; closed last.

    Keyed by whatever decides that two backends can share: scheme, authority, credentials.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[Hashable, tuple[Any, Callable[[Any], None]]] = {}

    def get(self, key: Hashable, make: Callable[[], T], close: Callable[[T], None]) -> T:
        """The client kept under ``key``, made by ``make`` at the first call.

        Raises:
            Exception: Whatever ``make`` raises; nothing is kept then.
        """
        with self._lock:
            if key not in self._clients:
                self._clients[key] = (make(), close)
            client: T = self._clients[key][0]
            return client

    def close(self) -> None:
        """Close every client, the youngest first. Idempotent."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client, close in reversed(clients):
            close(client)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Everything that a backend is opened with.

    Attributes:
        url: The queue's whole URL.
        queue: The queue's name, from the URL's slot.
        options: An instance of the spec's options class.
        clock: The only source of time and chance.
        clients: Where shared clients live.
        connect_timeout_s: Longest time for connecting.
        call_timeout_s: Longest time for one call, beside what it may wait for messages.
    """

    url: QueueURL
    queue: str
    options: Any
    clock: Clock = field(default_factory=SystemClock)
    clients: ClientPool = field(default_factory=ClientPool)
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """What an entry point of the group ``queuekit.backends`` names: how URLs of a scheme are opened.

    Attributes:
        open: Makes the backend; no I/O. Raises `InvalidURLError` for a URL that it cannot read.
        options: A frozen dataclass with one field per URL option, all with defaults. Where ``slot`` is
            ``option``, the option ``queue`` is read before and is not a field.
        slot: Where the queue's name stands: the ``host`` of the URL, the last part of the ``path``, or the
            ``option`` called ``queue``.
        path_parts: With ``slot="path"``, how many parts of the path stand before the queue's name.
        forms: The URL forms, for messages and documents, such as ``memory://QUEUE``.
        places: Names of the options without which a URL may mean another queue, such as ``space``.
        spi_version: The `SPI_VERSION` that the backend was written for.
    """

    open: Callable[[Opening], Backend]
    options: type[Any]
    slot: Literal["host", "path", "option"]
    forms: tuple[str, ...]
    path_parts: int = 0
    places: tuple[str, ...] = ()
    spi_version: int = SPI_VERSION
