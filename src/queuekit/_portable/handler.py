# SPDX-License-Identifier: Apache-2.0
"""A registered handler: still a plain function, and a typed way to send to itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args, get_type_hints

from typing_extensions import Unpack

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


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How one queue is worked; handlers on one queue must agree on it.

    Attributes:
        concurrency: Most handlers running at once; None is 10 for sync handlers and 100 for async ones.
        lease: How long a message is ours alone; it is extended while its handler runs.
        prefetch: How many messages may wait here for a free slot; None follows the pace of the handlers.
        dead_letter: A queue's URL, or ``discard``; None is the store's own dead-letter queue.
    """

    concurrency: int | None = None
    lease: timedelta = timedelta(seconds=60)
    prefetch: int | None = None
    dead_letter: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: A value is out of range.
        """
        seconds("lease", self.lease, least=0.001)
        for name, least in (("concurrency", 1), ("prefetch", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                msg = f"{name} must be a whole number of at least {least} and is {value!r}"
                raise UsageError(msg)


class SendingApp(Protocol):
    """What a handler needs of its app: a producer for its own queue."""

    def producer_for(self, handler: Handler[Any, Any]) -> Producer[Any]:
        """The app's producer for the handler's queue; opened once."""
        ...


@dataclass(eq=False)
class Handler(Generic[T, R]):
    """A function that handles the messages of a queue. Made by `App.handler`.

    Calling it calls the function, as in a unit test. `send` and its kin put a payload into its queue.

    Attributes:
        function: The decorated function.
        app: The app that it belongs to.
        queue: The queue's name, or a full URL.
        payload: The type of the function's parameter.
        message_type: The type of the messages that it handles.
        default: Whether it takes messages without a type.
        retry: When a failed attempt is followed by another.
        timeout_s: How long one attempt may take; None for no limit.
        on_dead: What becomes of an ordering key whose message has used up its attempts.
        options: How its queue is worked.
        wrappers: What stands around the function while it handles a message, the outermost first.
    """

    function: Callable[[T], R]
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
        # Names and docstring only: a decorator's attributes, such as tenacity's `retry`, would overwrite ours.
        functools.update_wrapper(self, self.function, updated=())
        if self.on_dead not in get_args(OnDead):
            msg = f"on_dead must be 'skip' or 'hold' and is {self.on_dead!r}"
            raise UsageError(msg)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)

    def __call__(self, payload: T) -> R:
        """Call the function itself; nothing is sent."""
        return self.function(payload)

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


def check_agreement(new: Handler[Any, Any], old: Handler[Any, Any]) -> None:
    """Refuse two handlers that could not share one queue, and one worker of it.

    Raises:
        UsageError: They take the same messages, or differ in what the queue has once.
    """
    queue = new.queue
    if new.message_type == old.message_type:
        msg = f"two handlers take messages of type {new.message_type!r} on {queue!r}; give one another message_type="
        raise UsageError(msg)
    if new.options != old.options:
        msg = f"the handlers of {queue!r} disagree on concurrency, lease, prefetch or dead_letter; give all the same"
        raise UsageError(msg)
    if new.is_async != old.is_async:
        msg = f"{queue!r} has sync and async handlers; make them all one, or use two queues"
        raise UsageError(msg)
    if new.default and old.default:
        msg = f"two handlers of {queue!r} are the default; keep one"
        raise UsageError(msg)
