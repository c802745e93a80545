# SPDX-License-Identifier: Apache-2.0
"""The sending side."""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar, Unpack

from queuekit._engine.batching import BatchLimits
from queuekit._engine.calls import Sender
from queuekit._engine.codec import codec_for
from queuekit._engine.composing import Composer
from queuekit._engine.ordered_sends import OrderedSends, key_of
from queuekit._engine.outbox import Outbox, Parcel
from queuekit._engine.tally import SendTally, read_only
from queuekit._portable.link import BackendOpener, Link, Require, open_link, seconds, whole_number
from queuekit._portable.middleware import Middleware, SendMiddleware, Told, checked, sent_and_told, telling, unsent
from queuekit._portable.opened import Opened
from queuekit._portable.report import SendReport, accepted
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.errors import ClosedError, InvalidURLError, QueueKitError
from queuekit._values.message import Message, SendOptions, message_of
from queuekit._values.outcome import Accepted, Duplicate, ErrorClass, ErrorCode, Rejected, SendOutcome
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import DEAD_SUFFIX, Opener, queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import OutgoingMessage

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T", default=bytes)

_EXIT_FLUSH_S = 2.0
_CLOSE_FLUSH_S = 30.0
_LAST_CALL_S = 1.0


class Producer(Opened, Generic[T]):
    """Sends messages to one queue.

    `send` and `send_many` run on the caller's own thread and have the service's answer when they return.
    `asend` and `send_soon` hand the message to one engine thread, which gathers what comes in meanwhile
    into batches.

    Args:
        url: The queue's URL; by default ``QUEUEKIT_URL``, else a SQLite file in the current folder.
        payload: The type of the payloads: ``bytes``, ``str``, or anything that pydantic describes.
        queue: The queue's name, where the URL leaves it out.
        message_type: The type that messages carry unless they name one; picks the handler.
        timeout: Time budget of one send, tries and waits together. 30 s outlasts a failover.
        linger: How long `asend` and `send_soon` may hold a message back to fill a batch. 0 never waits.
        max_pending: Most messages that may wait in `asend` and `send_soon`; beyond that they block.
        require: Features that the queue must have, from `queuekit.backend.Capabilities.missing`.
        middleware: What every message and every outcome passes through, the outermost first.
        clock: Time and chance; a virtual one for tests.
        **options: URL options of the backend, under the same names.

    Raises:
        SetupError: The URL, an option or the backend's installation is wrong, or a required feature is
            missing. Nothing was connected to.
        EncodeError: Values of the payload type cannot be sent, as they hold a secret.
        UsageError: A length or number is out of range.

    Concurrency:
        Safe from any thread and any event loop. After a fork, the child opens afresh at its first call.

    Examples:
        ```python
        with Producer("memory://emails", payload=str) as emails:
            emails.send("hello", ordering_key="ada")
        ```
    """

    def __init__(
        self,
        url: str | QueueURL | None = None,
        *,
        payload: TypeForm[T] = bytes,  # type: ignore[assignment]  # it is T's own default
        queue: str | None = None,
        message_type: str | None = None,
        timeout: timedelta = timedelta(seconds=30),
        linger: timedelta = timedelta(0),
        max_pending: int = 10_000,
        require: Require = (),
        middleware: Sequence[Middleware] = (),
        clock: Clock | None = None,
        _opener: BackendOpener | None = None,
        **options: Any,
    ) -> None:
        self._owns_opener = _opener is None
        self._opener: BackendOpener = _opener or Opener(clock or SystemClock())
        self._link: Link = open_link(url, queue, options, opener=self._opener, require=require)
        _refuse_dead_letter_queue(self._link)
        self._arguments = (options, require)
        self._middleware = checked(middleware)
        self._codec = codec_for(payload)
        self._message_type = message_type
        self._budget_s = seconds("timeout", timeout, least=0.001)
        self._linger_s = seconds("linger", linger)
        self._max_pending = whole_number("max_pending", max_pending, least=1)
        self._closed = False
        self._build()

    def _build(self) -> None:
        link = self._link
        self._pid = os.getpid()
        self._tally = SendTally()
        self._composer: Composer[T] = Composer(
            self._codec,
            link.backend,
            link.clock,
            default_type=self._message_type,
            queue=link.shown,
            excess=link.guard.excess,
        )
        self._composer.use(link.capabilities)
        self._sender = Sender(link.guard, link.clock, budget_s=self._budget_s)
        can = link.backend.capabilities
        limits = BatchLimits.of(can)
        self._ordered = OrderedSends(self._sender, limits, link.backend.size, ordered=can.ordering != "none")
        self._hooks = SendMiddleware.of(self._middleware, queue=link.shown, journal=link.journal, clock=link.clock)
        self._outbox = Outbox(
            self._ordered,
            limits,
            link.backend.size,
            link.clock,
            linger_s=self._linger_s,
            max_pending=self._max_pending,
            name=link.shown,
            tally=self._tally,
        )
        # At the end of the interpreter, and when the producer was dropped without close.
        self._finalizer = weakref.finalize(
            self, _flush_at_exit, self._outbox, link, self._pid, warn=self._owns_opener
        )

    def send(self, payload: T | Message[T], **options: Unpack[SendOptions]) -> Accepted | Duplicate:
        """Send one message and wait until the queue has it.

        Args:
            payload: A value of the payload type, or a `Message` with options of its own.
            **options: As in `Message`; not together with a `Message`.

        Raises:
            InvalidMessageError: An option that no queue can carry. Correct it.
            MessageTooLargeError: Too many bytes. Send a reference to the data.
            EncodeError: The payload is not of the declared type.
            UnsupportedError: An option that this queue has not; the message names the remedy.
            UnavailableError: The service did not answer within the budget. The message may have been sent
                (``code`` and the cause tell); sending again may duplicate it.
            ThrottledError: The service was still too busy at the end of the budget. Send later.
            QueueFullError: The queue has no room. Drain it, then send again.
            AccessDeniedError: The credentials do not allow it.
            QueueNotFoundError: The queue does not exist.
            ClosedError: The producer was closed.

        Concurrency:
            Safe from any thread; blocks the calling one.
        """
        self._ready("send()", "asend()")
        self._link.learn(self._composer.use)
        message, told = self._begin(message_of(payload, options))
        composed = self._compose(message, told)
        self._tally.given()
        send = self._ordered.send_one
        outcome = send(composed) if told is None else sent_and_told(send, composed, told)
        self._tally.answered((outcome,))
        return accepted(outcome, self._link.shown)

    def send_many(self, payloads: Iterable[T | Message[T]]) -> SendReport:
        """Send many messages, in as few calls as the service allows, and report on each.

        What cannot be sent is answered for by name, and does not stop the rest. When a message with an
        ordering key fails, later ones of that key are not attempted, so that none overtakes it: in this call,
        and in every later one of this producer, until `resume_key`.

        Args:
            payloads: Values of the payload type, `Message` objects, or both.

        Returns:
            One outcome per input, in order. `SendReport.raise_for_failures` turns failures into an error.

        Raises:
            ClosedError: The producer was closed.

        Concurrency:
            Safe from any thread; blocks the calling one.
        """
        self._ready("send_many()", "asend_many()")
        # A copy, because the report goes on pointing at what was given, and callers empty their lists.
        given = list(payloads)
        if given:
            self._link.learn(self._composer.use)
        if self._hooks is None:
            return SendReport(self._send_all(given), given, self._link.shown)
        with self._hooks.begin_all([message_of(each, {}) for each in given]) as begun:
            return SendReport(begun.tell(self._send_all(begun.messages)), given, self._link.shown)

    def _send_all(self, given: Sequence[T | Message[T]]) -> Sequence[SendOutcome]:
        self._tally.given(len(given))
        outcomes = self._ordered.send_all(given, self._composer.compose_many(given))
        self._tally.answered(outcomes)
        return outcomes

    async def asend(self, payload: T | Message[T], **options: Unpack[SendOptions]) -> Accepted | Duplicate:
        """As `send`, suspending instead of blocking; concurrent calls share batches.

        Raises:
            QueueKitError: As `send` does.

        Concurrency:
            Safe from any event loop. Cancelling stops the wait, not the send.
        """
        await self._aready()
        loop = asyncio.get_running_loop()
        if self._link.may_learn:
            await loop.run_in_executor(None, self._link.learn, self._composer.use)
        message, told = self._begin(message_of(payload, options))
        composed = self._compose(message, told, pausing=True)
        future: asyncio.Future[SendOutcome] = loop.create_future()
        parcel = Parcel(composed, future, told)
        with telling(told, message):
            while not self._outbox.put_now(parcel):
                await self._outbox.await_room()
        return accepted(await future, self._link.shown)

    async def asend_many(self, payloads: Iterable[T | Message[T]]) -> SendReport:
        """As `send_many`, on a thread of the loop's executor.

        Raises:
            ClosedError: The producer was closed.
        """
        await self._aready()
        given = list(payloads)
        # Middleware on that thread sees the caller's context, such as its trace.
        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(None, lambda: run(self.send_many, given))

    def send_soon(self, payload: T | Message[T], **options: Unpack[SendOptions]) -> Future[SendOutcome]:
        """Hand one message over and go on; it has been accepted when the future says so.

        Blocks while ``max_pending`` messages wait; it never drops one. `close` waits for all of them.

        Returns:
            A future of the message's outcome; it never raises for a failed send.

        Raises:
            QueueKitError: As `send` does for what can be known before any I/O.
        """
        self._ready("send_soon()", "asend()")
        self._link.learn(self._composer.use)
        message, told = self._begin(message_of(payload, options))
        composed = self._compose(message, told)
        future: Future[SendOutcome] = Future()
        with telling(told, message):
            self._outbox.put(Parcel(composed, future, told))
        return future

    def resume_key(self, key: str) -> bool:
        """Let messages of an ordering key go on, after one of them failed.

        A failure that could be overlooked pauses its key for this producer: one in the report of `send_many`,
        or of `asend` or `send_soon`. Later messages of the key are answered with `NotAttempted` (`send` and
        `asend` raise `RefusedError`), so that none overtakes the one that failed. Call this, then send what
        failed again, in order; or leave it out, and go on.

        Returns:
            Whether the key was paused.
        """
        return self._ordered.paused.resume(key)

    @property
    def paused_keys(self) -> frozenset[str]:
        """The ordering keys that wait for `resume_key`.

        At most about 10,000 are kept apart; while there are so many, every key waits.
        """
        return self._ordered.paused.names()

    def counts(self) -> Mapping[str, int]:
        """How many messages were to be sent so far, and what became of them.

        ``sent`` is always the sum of ``accepted``, ``duplicate``, ``rejected``, ``unknown`` (the answer was
        lost), ``not_attempted`` and ``pending`` (no answer yet). The other keys are the names that the log
        uses, and ``api.NAME`` for each operation of a service that charges by the call.
        """
        return read_only(self._tally.counts(), self._link.counts())

    def close(self) -> None:
        """Send what `asend` and `send_soon` still hold, then give everything back.

        Idempotent. What the service has not answered after 30 s is `Unknown`, what could not be handed to
        it by then is `NotAttempted`, and one log line counts both.
        """
        if self._closed or self._pid != os.getpid():
            self._closed = True
            return
        self._closed = True
        if self._outbox.close(_CLOSE_FLUSH_S):
            # Whoever waits between two tries stops waiting; a call that hangs is waited for no more.
            self._sender.close()
            self._outbox.close(_LAST_CALL_S)
        left = self._outbox.give_up()
        if left:
            self._link.journal.note("send.unflushed", f"{left} messages had no outcome at close", count=left)
        self._finalizer.detach()
        self._link.journal.note("producer.closed", totals=self.counts())
        self._sender.close()
        self._link.close()
        if self._owns_opener:
            self._opener.close()

    def _rest(self, timeout_s: float) -> int:
        """Send what is held and end the thread until the next message; how many have no outcome by then."""
        if self._closed or self._pid != os.getpid():
            return 0
        left = self._outbox.rest(timeout_s)
        if left:
            self._link.journal.note("send.unflushed", f"{left} messages had no outcome in time", count=left)
        return left

    def _ready(self, blocking: str = "", twin: str = "", *, vet: bool = True) -> None:
        if self._closed:
            msg = "the producer is closed; open a new one"
            raise ClosedError(msg, queue=self._link.shown, operation="send")
        if self._pid != os.getpid():
            self._reopen()
        if blocking:
            self._link.warn_in_loop(blocking, twin)
        if vet and self._link.unvetted:
            self._link.ensure()
            self._composer.use(self._link.capabilities)

    def _reopen(self) -> None:
        """In a forked child: threads, sockets and locks are the parent's, so nothing of them is used."""
        options, require = self._arguments
        if self._owns_opener:
            self._opener = Opener(self._opener.clock)
        self._finalizer.detach()
        self._link = open_link(self._link.url, None, options, opener=self._opener, require=require)
        self._build()

    def _begin(self, message: Message[T]) -> tuple[Message[T], Told | None]:
        return (message, None) if self._hooks is None else self._hooks.begin(message)

    def _compose(self, message: Message[T], told: Told | None, *, pausing: bool = False) -> OutgoingMessage:
        """One message; one that is refused before any I/O counts as rejected.

        Raises:
            QueueKitError: It cannot be sent.
        """
        try:
            return self._composer.compose(message)
        except QueueKitError as error:
            self._tally.given()
            self._tally.answered([_REFUSED])
            if told is not None:
                told(unsent(error, message.message_id))
            key = key_of(message)
            if pausing and key is not None:
                self._ordered.pause([key])
            raise


_REFUSED = Rejected(ErrorClass(ErrorCode.INVALID_MESSAGE, sent="no", detail="refused before any I/O"))


def _flush_at_exit(outbox: Outbox, link: Link, pid: int, *, warn: bool) -> None:
    if pid != os.getpid():
        return
    if warn:
        warnings.warn(f"the producer to {link.shown} was not closed", ResourceWarning, stacklevel=2)
    if outbox.unsent():
        left = outbox.close(_EXIT_FLUSH_S)
        if left:
            link.journal.note("send.unflushed", f"{left} messages had no outcome at exit; call close()", count=left)


def _refuse_dead_letter_queue(link: Link) -> None:
    if queue_name(link.url, find_spec(link.url.scheme)).endswith(DEAD_SUFFIX):
        msg = f"{link.shown} is a dead-letter queue; only queuekit sends to it. Name a queue without {DEAD_SUFFIX!r}"
        raise InvalidURLError(msg, queue=link.shown, operation="open")
