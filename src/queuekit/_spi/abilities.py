# SPDX-License-Identifier: Apache-2.0
"""What a backend may do besides: a protocol for each ability, told from the others by `isinstance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from queuekit._spi.messages import IncomingMessage, OutgoingMessage, QueueStats, StoredMessage
from queuekit._values.diagnosis import Wanted
from queuekit._values.finding import Finding
from queuekit._values.http import HttpAuth, HttpRequest, ScheduledRequest
from queuekit._values.moving import Move
from queuekit._values.outcome import ErrorClass, SendOutcome, SettleOutcome


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
        """How often each operation was asked for since the backend was opened, answered or not; no I/O.

        Operations have the service's own names, such as ``ReceiveMessage``. One that was never asked for is missing.
        """
        ...


@runtime_checkable
class Moving(Protocol):
    """The service itself moves dead letters back, by tasks; implemented by the backend of the dead-letter queue.

    Of SQS's, which are meant, `StartMessageMoveTask` tells:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html. One runs at a
    time for a queue. Each method is one call, or two, to the service.
    """

    def start_move(self, *, per_second: int | None = None) -> None:
        """Begin a task that moves every message back to the queue from which the service took it.

        Args:
            per_second: The most in a second, 1 to 500 on SQS; None leaves it to the service, which adapts it.

        Raises:
            Exception: The SDK's own, unwrapped, also where a task runs already.
        """
        ...

    def moves(self) -> Sequence[Move]:
        """The latest tasks, the newest first, as far as the service keeps them; on SQS these are ten.

        Raises:
            Exception: The SDK's own, unwrapped.
        """
        ...

    def cancel_move(self) -> int | None:
        """Stop the task that runs; about how many messages it has moved, which stay so. None where none runs.

        Raises:
            Exception: The SDK's own, unwrapped; the task may run on.
        """
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
class Foreseeing(Protocol):
    """Tells of a message what `Backend.send` would answer without asking the service.

    Asked before a message is kept elsewhere for its delay: what its queue will never take must be refused to whoever
    sends it, and not when nobody is there any more who could be told.
    """

    def refusal(self, message: OutgoingMessage) -> ErrorClass | None:
        """Why the queue would not take the message, as far as that is known here; None where it may. No I/O."""
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

    `Capabilities.max_delay_s` is the longest that a request can wait, `Capabilities.max_message_bytes` the most that
    `size_http` may tell, `Capabilities.max_send_batch` how many are scheduled by one call at most.
    """

    def refusal_of(self, auth: HttpAuth) -> str:
        """Why the service could not add such a token, as the end of "which …"; empty where it can. No I/O."""
        ...

    def size_http(self, request: HttpRequest, auth: HttpAuth) -> int:
        """Bytes of a request as the service will count them. Pure."""
        ...

    def schedule_http(self, batch: Sequence[ScheduledRequest], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Have each request made at its time. `Accepted` means that the service has confirmed it.

        One outcome for each, by position, as for `Backend.send`; `Rejected` for a request whose token the service
        cannot make.

        Args:
            batch: What is to be requested.
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
