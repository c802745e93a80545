# SPDX-License-Identifier: Apache-2.0
"""What a user puts around every send and every handling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from queuekit._engine.composing import rejection
from queuekit._engine.journal import Journal
from queuekit._portable.context import Current, current
from queuekit._portable.wrapping import AsyncCall, Call, Wrapper
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError, QueueKitError, UsageError
from queuekit._values.message import Message
from queuekit._values.outcome import ErrorClass, ErrorCode, NotAttempted, SendOutcome, Unknown
from queuekit.backend import OutgoingMessage

Told = Callable[[SendOutcome], None]
"""Takes the outcome of one message, once."""

_NOT_SENT = ErrorClass(ErrorCode.CLOSED, retryable=True, sent="no", detail="it was never handed to the service")

_INTERRUPTED = ErrorClass(ErrorCode.UNKNOWN, detail="interrupted before the service had answered")


class Middleware:
    """Derive from it, and override what you need: each method does nothing by itself.

    For what concerns every message alike: trace context, tenant names, audit. It sees what users send, in every
    way of sending, and what handlers run for. It does not see the copies that queuekit makes itself: dead
    letters and what is redriven.

    Concurrency:
        Every method may be called from several threads and event loops at once, and must not block for long:
        on an event loop it would hold up every other handler.

    Examples:
        ```python
        from dataclasses import replace

        class Tenant(Middleware):
            def before_send(self, message, *, queue):
                return replace(message, attributes={**message.attributes, "tenant": "acme"})

        with Producer("memory://orders", payload=str, middleware=[Tenant()]) as orders:
            orders.send("tea")
        with Consumer("memory://orders", payload=str) as consumer:
            assert consumer.receive(timeout=5).attributes["tenant"] == "acme"
        ```
    """

    def before_send(self, message: Message[Any], *, queue: str) -> Message[Any]:  # noqa: ARG002 - for subclasses
        """Called before a message is checked and encoded; returns what is to be sent instead.

        What it raises reaches the caller, and then nothing is sent, in `Producer.send_many` no message of the
        call.

        Args:
            message: What the caller sends. Its ``message_id`` is always set.
            queue: The queue's redacted URL.

        Returns:
            The same message, or a changed copy, as from `dataclasses.replace`.
        """
        return message

    def after_send(self, message: Message[Any], outcome: SendOutcome, *, queue: str) -> None:
        """Called once for each message that passed `before_send`, when its outcome is known.

        On the caller's thread for `Producer.send` and `Producer.send_many`, else on the one that sends. What it
        raises is logged as ``middleware.failed``, and changes nothing.

        Args:
            message: As it was sent.
            outcome: What became of it.
            queue: The queue's redacted URL.
        """

    def handling(self, delivery: Current) -> AbstractContextManager[None]:  # noqa: ARG002 - for subclasses
        """Entered before a handler runs and left when it has ended, once for each attempt.

        Every failure is raised through it, also a `Retry` or `DeadLetter` that was returned, and a cancellation
        where the worker stops. What it raises counts as the handler's own; what it swallows counts as success.
        With batch handlers each message of the batch has one, entered in a context of its own.

        Args:
            delivery: What the handler runs for; the same as `queuekit.current()`.
        """
        return nullcontext()


def checked(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """A user's middleware.

    Raises:
        UsageError: An entry is no instance of `Middleware`.
    """
    given = tuple(middleware)
    for each in given:
        if not isinstance(each, Middleware):
            name = each.__name__ if isinstance(each, type) else type(each).__name__
            msg = f"middleware takes instances of classes that derive from Middleware and has {name}"
            raise UsageError(msg)
    return given


def _overriding(middleware: Sequence[Middleware], name: str) -> list[Middleware]:
    return [each for each in middleware if getattr(type(each), name) is not getattr(Middleware, name)]


class Handling(Wrapper):
    """One middleware's `handling` around a handler's function.

    Args:
        middleware: Whose.
    """

    def __init__(self, middleware: Middleware) -> None:
        self.enter = middleware.handling

    def around(self, call: Call) -> Call:
        """The call of a sync handler."""

        def handling(payload: Any) -> Any:
            with self.enter(current()):
                return call(payload)

        return handling

    def aaround(self, call: AsyncCall) -> AsyncCall:
        """The call of an async handler."""

        async def handling(payload: Any) -> Any:
            with self.enter(current()):
                return await call(payload)

        return handling


def handlings(middleware: Sequence[Middleware]) -> tuple[Handling, ...]:
    """What stands around handlers; nothing of middleware that only looks at sends."""
    return tuple(Handling(each) for each in _overriding(middleware, "handling"))


class SendMiddleware:
    """The sending side of some middleware, for one producer.

    Args:
        middleware: The outermost first.
        queue: The queue's redacted URL.
        journal: Where to count and log what fails.
        clock: For the ids of messages.
    """

    def __init__(self, middleware: Sequence[Middleware], *, queue: str, journal: Journal, clock: Clock) -> None:
        self._before = _overriding(middleware, "before_send")
        self._after = _overriding(middleware, "after_send")[::-1]
        self._queue, self._journal, self._clock = queue, journal, clock

    @classmethod
    def of(
        cls, middleware: Sequence[Middleware], *, queue: str, journal: Journal, clock: Clock
    ) -> SendMiddleware | None:
        """None where no middleware looks at sends, so that sending costs nothing more."""
        made = cls(middleware, queue=queue, journal=journal, clock=clock)
        return made if made._before or made._after else None

    def begin(self, message: Message[Any]) -> tuple[Message[Any], Told]:
        """The message to send, and who is to be told its outcome, exactly once.

        Raises:
            UsageError: A `before_send` returned something else than a message.
            Exception: What a `before_send` raised.
        """
        if message.message_id is None:
            message = replace(message, message_id=self._clock.token_bytes(16).hex())
        for each in self._before:
            message = each.before_send(message, queue=self._queue)
            if not isinstance(message, Message):
                msg = f"{type(each).__name__}.before_send returned {type(message).__name__}; return a Message"
                raise UsageError(msg, queue=self._queue, operation="send")
        sent = message
        return sent, lambda outcome: self._tell(sent, outcome)

    @contextmanager
    def begin_all(self, messages: Sequence[Message[Any]]) -> Iterator[Begun]:
        """As `begin` for many; when one is refused, those that passed are told that they were not sent.

        When the block fails, which sends them, they are told that nobody knows.
        """
        begun = Begun()
        try:
            for message in messages:
                begun.add(*self.begin(message))
        except BaseException as error:
            begun.tell([unsent(error, message.message_id) for message in begun.messages])
            raise
        try:
            yield begun
        except BaseException:
            begun.tell([Unknown(_INTERRUPTED, message.message_id or "") for message in begun.messages])
            raise

    def _tell(self, message: Message[Any], outcome: SendOutcome) -> None:
        for each in self._after:
            try:
                each.after_send(message, outcome, queue=self._queue)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                    raise
                self._journal.note("middleware.failed", f"{type(each).__name__}.after_send", error=error)


class Begun:
    """Messages that passed `before_send`, and who is to be told of each.

    Attributes:
        messages: What is to be sent.
    """

    def __init__(self) -> None:
        self.messages: list[Message[Any]] = []
        self._told: list[Told] = []

    def add(self, message: Message[Any], told: Told) -> None:
        """One more."""
        self.messages.append(message)
        self._told.append(told)

    def tell(self, outcomes: Sequence[SendOutcome]) -> Sequence[SendOutcome]:
        """Tell each its outcome, once; returns them."""
        told, self._told = self._told, []
        for tell, outcome in zip(told, outcomes, strict=bool(told)):
            tell(outcome)
        return outcomes


def sent_and_told(
    send: Callable[[OutgoingMessage], SendOutcome], message: OutgoingMessage, told: Told
) -> SendOutcome:
    """Send one message and tell its outcome, also where sending was interrupted."""
    try:
        outcome = send(message)
    except BaseException:
        told(Unknown(_INTERRUPTED, message.message_id))
        raise
    told(outcome)
    return outcome


@contextmanager
def telling(told: Told | None, message: Message[Any]) -> Iterator[None]:
    """Tell that a message was not sent when the block fails."""
    try:
        yield
    except BaseException as error:
        if told is not None:
            told(unsent(error, message.message_id))
        raise


def unsent(error: BaseException, message_id: str | None) -> SendOutcome:
    """The outcome of a message that an error kept from being sent."""
    if isinstance(error, QueueKitError) and not isinstance(error, ClosedError):
        return rejection(error, message_id or "")
    return NotAttempted(_NOT_SENT, message_id or "")
