# SPDX-License-Identifier: Apache-2.0
"""A registered handler: still a plain function, and a typed way to send to itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

from typing_extensions import Unpack

from queuekit._engine.metadata import TYPE
from queuekit._engine.rate import Rate
from queuekit._portable.batches import Batch, OnError
from queuekit._portable.link import seconds
from queuekit._portable.producer import Producer
from queuekit._portable.report import SendReport
from queuekit._portable.retry import RetryPolicy
from queuekit._portable.wrapping import Wrapper
from queuekit._values.errors import UsageError
from queuekit._values.message import Message, SendOptions
from queuekit._values.outcome import Accepted, Duplicate, SendOutcome

T = TypeVar("T")
R = TypeVar("R")

OnDead = Literal["skip", "hold"]
"""What becomes of an ordering key whose message has used up its attempts."""

SYNC_CONCURRENCY = 10
ASYNC_CONCURRENCY = 100
BATCH_CONCURRENCY = 1
LARGEST_BATCH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How one queue is worked; handlers on one queue must agree on it.

    Attributes:
        concurrency: Most handlers running at once; None is 10 for sync handlers, 100 for async ones, and one
            batch for batch handlers.
        lease: How long a message is ours alone; it is extended while its handler runs.
        prefetch: How many messages may wait here for a free slot; None follows the pace of the handlers.
        rate: How many messages may begin in a stretch of time; None is without limit.
        dead_letter: A queue's URL, or ``discard``; None is the store's own dead-letter queue.
    """

    concurrency: int | None = None
    lease: timedelta = timedelta(seconds=60)
    prefetch: int | None = None
    rate: Rate | None = None
    dead_letter: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: A value is out of range.
        """
        seconds("lease", self.lease, least=0.001)
        if self.rate is not None and not isinstance(self.rate, Rate):
            msg = f"rate must be a Rate and is {type(self.rate).__name__}; write Rate({self.rate!r})"
            raise UsageError(msg)
        for name, least in (("concurrency", 1), ("prefetch", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                msg = f"{name} must be a whole number of at least {least} and is {value!r}"
                raise UsageError(msg)


class SendingApp(Protocol):
    """What a handler needs of its app: a producer for its own queue."""

    def producer_for(self, handler: AnyHandler) -> Producer[Any]:
        """The app's producer for the handler's queue; opened once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How messages are gathered for a batch handler, and what its failures mean.

    Attributes:
        max_size: Most messages of a batch.
        max_wait: How long the first message of a batch waits for others.
        strict: Whether a message that the handler did not mention has failed.
        on_error: What follows when the handler raises.
    """

    max_size: int = 100
    max_wait: timedelta = timedelta(seconds=1)
    strict: bool = False
    on_error: OnError = "retry"

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: A value is out of range.
        """
        if type(self.max_size) is not int or not 1 <= self.max_size <= LARGEST_BATCH:
            msg = f"max_size must be a whole number from 1 to {LARGEST_BATCH} and is {self.max_size!r}"
            raise UsageError(msg)
        seconds("max_wait", self.max_wait)
        if self.on_error not in get_args(OnError):
            msg = f"on_error must be one of {', '.join(get_args(OnError))} and is {self.on_error!r}"
            raise UsageError(msg)


@dataclass(eq=False, kw_only=True)
class AnyHandler:
    """What handlers of one message and handlers of batches have in common.

    Attributes:
        function: The decorated function.
        app: The app that it belongs to.
        queue: The queue's name, or a full URL.
        payload: The type of the payloads.
        message_type: The type of the messages that it handles.
        default: Whether it takes messages without a type.
        retry: When a failed attempt is followed by another.
        timeout_s: How long one attempt may take; None for no limit.
        options: How its queue is worked.
        on_dead: What becomes of an ordering key whose message has used up its attempts.
        wrappers: What stands around the function while it handles a message, the outermost first.
    """

    function: Callable[..., Any]
    app: SendingApp = field(repr=False)
    queue: str
    payload: Any
    message_type: str
    default: bool
    retry: RetryPolicy
    timeout_s: float | None
    options: QueueOptions
    wrappers: Sequence[Wrapper] = field(default=(), repr=False)
    on_dead: OnDead = "skip"

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: A value is unknown.
        """
        # Names and docstring only: a decorator's attributes, such as tenacity's `retry`, would overwrite ours.
        functools.update_wrapper(cast("Callable[..., Any]", self), self.function, updated=())
        if self.on_dead not in get_args(OnDead):
            msg = f"on_dead must be 'skip' or 'hold' and is {self.on_dead!r}"
            raise UsageError(msg)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)


class _Sending(AnyHandler, Generic[T]):
    """Ways to send one payload, or many, to the handler's queue."""

    def send(self, payload: T | Message[T], **options: Unpack[SendOptions]) -> Accepted | Duplicate:
        """As `Producer.send`, to this handler's queue."""
        return self._producer.send(payload, **options)

    def send_many(self, payloads: Iterable[T | Message[T]]) -> SendReport:
        """As `Producer.send_many`, to this handler's queue."""
        return self._producer.send_many(payloads)

    async def asend(self, payload: T | Message[T], **options: Unpack[SendOptions]) -> Accepted | Duplicate:
        """As `Producer.asend`, to this handler's queue."""
        return await self._producer.asend(payload, **options)

    async def asend_many(self, payloads: Iterable[T | Message[T]]) -> SendReport:
        """As `Producer.asend_many`, to this handler's queue."""
        return await self._producer.asend_many(payloads)

    def send_soon(self, payload: T | Message[T], **options: Unpack[SendOptions]) -> Future[SendOutcome]:
        """As `Producer.send_soon`, to this handler's queue."""
        return self._producer.send_soon(payload, **options)

    @property
    def _producer(self) -> Producer[T]:
        return self.app.producer_for(self)


@dataclass(eq=False, kw_only=True)
class Handler(_Sending[T], Generic[T, R]):
    """A function that handles the messages of a queue. Made by `App.handler`.

    Calling it calls the function, as in a unit test. `send` and its kin put a payload into its queue.

    Attributes:
        function: The decorated function.
    """

    function: Callable[[T], R]

    def __call__(self, payload: T) -> R:
        """Call the function itself; nothing is sent."""
        return self.function(payload)


@dataclass(eq=False, kw_only=True)
class BatchHandler(_Sending[T], Generic[T, R]):
    """A function that handles the messages of a queue in batches. Made by `App.batch_handler`.

    Calling it calls the function. `send` and its kin put single payloads into its queue.

    Attributes:
        function: The decorated function.
        batch: How messages are gathered, and what failures mean.
    """

    function: Callable[[Batch[T]], R]
    batch: BatchOptions = BatchOptions()

    def __call__(self, batch: Batch[T]) -> R:
        """Call the function itself; nothing is sent."""
        return self.function(batch)


def slots_of(handlers: Sequence[AnyHandler]) -> int:
    """Most handlers, or batches, of one queue at once."""
    chosen = handlers[0].options.concurrency
    if chosen is not None:
        return chosen
    if isinstance(handlers[0], BatchHandler):
        return BATCH_CONCURRENCY
    return ASYNC_CONCURRENCY if handlers[0].is_async else SYNC_CONCURRENCY


H = TypeVar("H", bound=AnyHandler)


def handler_for(handlers: Sequence[H], metadata: Mapping[str, str]) -> H | None:
    """The handler of a queue that a message goes to; None where no handler takes it."""
    kind = metadata.get(TYPE)
    if kind is None:
        return handlers[0] if len(handlers) == 1 else next((each for each in handlers if each.default), None)
    return next((each for each in handlers if each.message_type == kind), None)


def batch_payload_type(function: Callable[..., Any]) -> Any:
    """The type of the payloads in the one batch that a batch handler takes.

    Raises:
        UsageError: As `payload_type`, or the parameter is no `Batch` of a type.
    """
    hint = payload_type(function)
    if get_origin(hint) is not Batch:
        name = getattr(function, "__qualname__", repr(function))
        msg = f"the batch handler {name} must take a Batch of a type, as in def {name}(batch: qk.Batch[Order])"
        raise UsageError(msg)
    return get_args(hint)[0]


def payload_type(function: Callable[..., Any]) -> Any:
    """The type of the one parameter that a handler takes.

    Raises:
        UsageError: The function is a generator, takes something else than one payload, or has no annotation.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not (callable(function) and hasattr(function, "__name__")):
        msg = f"a handler must be a function with a name and is {function!r}; wrap it in a def"
        raise UsageError(msg)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        msg = f"the handler {name} is a generator, which would never run; use return, or loop inside it"
        raise UsageError(msg)
    parameters = list(inspect.signature(function).parameters.values())
    taken = [each for each in parameters if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}]
    if len(taken) != 1 or any(each.default is each.empty for each in parameters if each is not taken[0]):
        msg = f"the handler {name} must take the payload as its one parameter, as in def {name}(payload: Order)"
        raise UsageError(msg)
    hints = _hints(function, name)
    if taken[0].name not in hints:
        msg = f"the parameter of the handler {name} has no annotation; name the payload's type, bytes for raw"
        raise UsageError(msg)
    return hints[taken[0].name]


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        msg = f"an annotation of the handler {name} cannot be resolved: {error}; import the type at module level"
        raise UsageError(msg) from error


def check_agreement(new: AnyHandler, old: AnyHandler) -> None:
    """Refuse two handlers that could not share one queue, and one worker of it.

    Raises:
        UsageError: They take the same messages, or differ in what the queue has once.
    """
    queue = new.queue
    if new.message_type == old.message_type:
        msg = f"two handlers take messages of type {new.message_type!r} on {queue!r}; give one another message_type="
        raise UsageError(msg)
    if new.options != old.options:
        msg = f"the handlers of {queue!r} disagree on concurrency, lease, prefetch, rate or dead_letter; agree"
        raise UsageError(msg)
    if isinstance(new, BatchHandler) != isinstance(old, BatchHandler):
        msg = f"{queue!r} has handlers of single messages and of batches; make them all one, or use two queues"
        raise UsageError(msg)
    if new.is_async != old.is_async:
        msg = f"{queue!r} has sync and async handlers; make them all one, or use two queues"
        raise UsageError(msg)
    if new.default and old.default:
        msg = f"two handlers of {queue!r} are the default; keep one"
        raise UsageError(msg)
