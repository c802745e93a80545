# SPDX-License-Identifier: Apache-2.0
"""How functions become handlers, by queue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from queuekit._engine.rate import Rate
from queuekit._portable.batches import Batch, OnError
from queuekit._portable.handler import (
    AnyHandler,
    BatchHandler,
    BatchOptions,
    Handler,
    OnDead,
    QueueOptions,
    batch_payload_type,
    check_agreement,
    payload_type,
)
from queuekit._portable.idempotent import Idempotency, Once, once
from queuekit._portable.link import BackendOpener, seconds
from queuekit._portable.producer import Producer
from queuekit._portable.retry import RetryPolicy
from queuekit._portable.wrapping import Wrapper
from queuekit._values.clock import Clock
from queuekit._values.errors import InvalidURLError, UsageError
from queuekit._wiring.opening import DEAD_SUFFIX

T = TypeVar("T")
R = TypeVar("R")


class Registering(ABC):
    """The decorators of an `App`, and the handlers that they made.

    Args:
        wrappers: What stands around every handler, the outermost first.
        opener: Opens the stores of idempotent handlers.
        clock: Time.
    """

    def __init__(self, *, wrappers: Sequence[Wrapper], opener: BackendOpener, clock: Clock) -> None:
        self._wrappers, self._opener, self._clock = tuple(wrappers), opener, clock
        self._handlers: dict[str, list[AnyHandler]] = {}
        self._onces: list[Once] = []

    @abstractmethod
    def _subscription(self) -> str | None:
        """The subscription that the app was given beside its URL, for queues named by their name alone."""

    @abstractmethod
    def producer_for(self, handler: AnyHandler) -> Producer[Any]:
        """The app's own producer for a handler's queue."""

    def handler(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        lease: timedelta = timedelta(seconds=60),
        prefetch: int | None = None,
        rate: Rate | None = None,
        timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        dead_letter: str | None = None,
        message_type: str | None = None,
        default: bool = False,
        on_dead: OnDead = "skip",
        idempotent: Idempotency | str | None = None,
    ) -> Callable[[Callable[[T], R]], Handler[T, R]]:
        """Make a function the handler of a queue's messages.

        The function takes one payload, annotated with its type. Returning nothing acks the message; an
        exception retries it by policy; `Retry` and `DeadLetter`, returned or raised, do as they say.

        Args:
            queue: The queue's name, put into the app's URL, or a full URL.
            concurrency: Most handlers running at once; 10 for sync functions, 100 for async ones.
            lease: How long a message is ours alone before it comes back by itself; it is extended while
                the handler runs, so this bounds the wait after a crash.
            prefetch: How many messages may wait for a free slot; by default as many as start in a fifth of
                a second, and none where giving them back would cost them an attempt.
            rate: How many messages may begin in a stretch of time, in one worker; nothing is fetched ahead
                then, unless ``prefetch`` says so. None is without limit.
            timeout: How long one attempt may take; None is without limit.
            retry: When a failed attempt is followed by another; by default 5 attempts.
            dead_letter: A queue's URL for dead letters, or ``"discard"``; by default the store's own,
                or the one that the service has for the queue.
            message_type: The type of messages that this handler takes; by default the function's name.
            default: Whether messages without a type come here, where a queue has several handlers.
            on_dead: What becomes of an ordering key whose message has used up its attempts. ``"skip"``: the
                message is a dead letter, and the key goes on. ``"hold"``: it stays, is tried again at the longest
                wait of its policy, and its key waits.
            idempotent: Does the handler's work once by key, remembered in a store: the store's URL, or an
                `Idempotency` with more to say. By default a message that is delivered again runs again.

        Raises:
            UsageError: The function cannot be a handler, or handlers on this queue disagree.
            InvalidURLError: The queue's name ends in ``.dead``.
        """
        options = QueueOptions(
            concurrency=concurrency, lease=lease, prefetch=prefetch, rate=rate, dead_letter=dead_letter
        )
        timeout_s = _checked(queue, timeout)

        def register(function: Callable[[T], R]) -> Handler[T, R]:
            payload = payload_type(function)
            name = message_type or function.__name__
            made = Handler(
                function=function,
                app=self,
                queue=queue,
                payload=payload,
                message_type=name,
                default=default,
                retry=retry or RetryPolicy(),
                timeout_s=timeout_s,
                options=options,
                wrappers=(*self._wrappers, *self._once(queue, name, options, idempotent)),
                on_dead=on_dead,
            )
            self._add(made)
            return made

        return register

    def batch_handler(
        self,
        queue: str,
        *,
        max_size: int = 100,
        max_wait: timedelta = timedelta(seconds=1),
        concurrency: int | None = None,
        strict: bool = False,
        on_error: OnError = "retry",
        lease: timedelta = timedelta(seconds=60),
        prefetch: int | None = None,
        rate: Rate | None = None,
        timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        dead_letter: str | None = None,
        message_type: str | None = None,
        default: bool = False,
        on_dead: OnDead = "skip",
        idempotent: None = None,
    ) -> Callable[[Callable[[Batch[T]], R]], BatchHandler[T, R]]:
        """Make a function the handler of a queue's messages, many at once.

        The function takes one `Batch`, annotated with the type of its payloads. Returning nothing acks what it
        did not settle itself; a `BatchResult` names what failed; an exception fails all that is not settled.
        Of an ordering key, what comes after a failed message is released, so that its order is kept.

        Args:
            queue: The queue's name, put into the app's URL, or a full URL. Its other handlers, for other
                message types, must take batches too.
            max_size: Most messages of a batch, up to 10,000.
            max_wait: How long the first message of a batch waits for others, its lease kept.
            concurrency: Most batches at once; None is 1.
            strict: Whether a message that the function neither settles nor names has failed, with one log line,
                instead of being acked.
            on_error: What follows an exception. ``"retry"``: each message that is not settled has failed.
                ``"bisect"``: the function is called again with one half of them and then with the other, and so
                on, until those that cannot be handled are alone. ``"one_by_one"``: it is called again with each
                alone. Both call it again for messages that it may have handled already.
            lease: As for `handler`.
            prefetch: As for `handler`; it counts messages.
            rate: As for `handler`; it counts messages.
            timeout: How long one batch may take, calls after an exception included; None is without limit.
            retry: As for `handler`; it counts for each message.
            dead_letter: As for `handler`.
            message_type: As for `handler`.
            default: As for `handler`.
            on_dead: As for `handler`.
            idempotent: Refused, as a batch has no key of its own: use `handler`, or have the function write so
                that a second time changes nothing.

        Raises:
            UsageError: The function cannot be a batch handler, it is to be idempotent, a number is out of range, or
                handlers on this queue disagree.
            InvalidURLError: The queue's name ends in ``.dead``.
        """
        options = QueueOptions(
            concurrency=concurrency, lease=lease, prefetch=prefetch, rate=rate, dead_letter=dead_letter
        )
        if idempotent is not None:
            msg = (
                "a batch handler takes no idempotent=, as a batch has no key of its own; use app.handler(…), "
                "or have the function write so that a second time changes nothing"
            )
            raise UsageError(msg, operation="open")
        batch = BatchOptions(max_size=max_size, max_wait=max_wait, strict=strict, on_error=on_error)
        timeout_s = _checked(queue, timeout)

        def register(function: Callable[[Batch[T]], R]) -> BatchHandler[T, R]:
            payload = batch_payload_type(function)
            made = BatchHandler(
                function=function,
                app=self,
                queue=queue,
                payload=payload,
                message_type=message_type or function.__name__,
                default=default,
                retry=retry or RetryPolicy(),
                timeout_s=timeout_s,
                options=options,
                batch=batch,
                wrappers=self._wrappers,
                on_dead=on_dead,
            )
            self._add(made)
            return made

        return register

    def _once(
        self, queue: str, message_type: str, options: QueueOptions, idempotent: Idempotency | str | None
    ) -> Sequence[Wrapper]:
        """The innermost of a handler's wrappers, where its work is done once by key."""
        if idempotent is None:
            return ()
        made = once(
            idempotent,
            queue=queue,
            subscription=None if "://" in queue else self._subscription(),
            message_type=message_type,
            lease_s=options.lease.total_seconds(),
            clock=self._clock,
            open_store=self._opener.open_store,
        )
        self._onces.append(made)
        return (made,)

    @property
    def handlers(self) -> Sequence[AnyHandler]:
        """Every registered handler, in the order of registration by queue."""
        return tuple(each for group in self._handlers.values() for each in group)

    def _add(self, handler: AnyHandler) -> None:
        group = self._handlers.setdefault(handler.queue, [])
        for other in group:
            check_agreement(handler, other)
        group.append(handler)


def _checked(queue: str, timeout: timedelta | None) -> float | None:
    """The timeout in seconds.

    Raises:
        InvalidURLError: The queue is for dead letters.
        UsageError: The timeout is too short.
    """
    if queue.endswith(DEAD_SUFFIX):
        msg = f"the name {queue!r} belongs to a dead-letter queue; choose one that does not end in {DEAD_SUFFIX!r}"
        raise InvalidURLError(msg)
    return None if timeout is None else seconds("timeout", timeout, least=0.001)
