# SPDX-License-Identifier: Apache-2.0
"""What stands around a handler's function. Composed once per handler, run inside the handler boundary."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from queuekit._portable.retry import failure_in

Call = Callable[[Any], Any]
"""Takes the payload. What it raises is how the attempt failed; when it returns, the work is done."""
AsyncCall = Callable[[Any], Awaitable[Any]]
"""As `Call`, for handlers on an event loop."""


class Wrapper(Protocol):
    """Stands around a handler's function, for every message of the handler.

    The inner call returns when the handler's work is done, and raises for everything else: what the function
    raised, a `Retry` or `DeadLetter` that it returned, a cancellation. Whatever a wrapper raises counts as
    the handler's own, and a wrapper that returns without calling acks the message. The delivery is
    `queuekit.current()`.

    Concurrency:
        ``around`` and ``aaround`` are called once, while the worker starts. The calls that they return run
        for many messages at once.
    """

    def around(self, call: Call) -> Call:
        """The call of a sync handler, run on a thread; it may block."""
        ...

    def aaround(self, call: AsyncCall) -> AsyncCall:
        """The call of an async handler, run on the event loop; it must not block."""
        ...


def compose(
    function: Callable[[Any], Any],
    wrappers: Sequence[Wrapper],
    *,
    is_async: bool,
    wait_for: Callable[[Awaitable[Any]], Any],
) -> Call:
    """A handler's function inside its wrappers; the function itself where there are none.

    Args:
        function: What the user wrote.
        wrappers: The outermost first.
        is_async: Whether it is a coroutine function.
        wait_for: Waits on a thread for an awaitable that a sync function returned.
    """
    if not wrappers:
        return function
    if is_async:
        acall = _acall(function)
        for wrapper in reversed(wrappers):
            acall = wrapper.aaround(acall)
        return acall
    call = _call(function, wait_for)
    for wrapper in reversed(wrappers):
        call = wrapper.around(call)
    return call


def _call(function: Callable[[Any], Any], wait_for: Callable[[Awaitable[Any]], Any]) -> Call:
    def call(payload: Any) -> Any:
        value = function(payload)
        # Wrappers see the end of the work, not the promise of it.
        return _succeeded(wait_for(value) if inspect.isawaitable(value) else value)

    return call


def _acall(function: Callable[[Any], Any]) -> AsyncCall:
    async def acall(payload: Any) -> Any:
        return _succeeded(await awaited(function(payload)))

    return acall


def _succeeded(value: Any) -> Any:
    """The value, unless it stands for a failure, which is raised so that wrappers see it."""
    failure = None if value is None else failure_in(value)
    if failure is None:
        return value
    # A `Retry` may be one object for the whole program, and would gather the tracebacks of all its uses.
    raise failure.with_traceback(None)


async def awaited(value: Awaitable[Any]) -> Any:
    """What an awaitable comes to, also where it answers with another one."""
    answer = await value
    while inspect.isawaitable(answer):
        answer = await answer
    return answer


def waiting_on(loop: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[Awaitable[Any]], Any]:
    """Makes a function that waits, on a thread, for an awaitable that runs on a loop.

    Args:
        loop: Gives the loop, made at first need.
    """

    def wait_for(value: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(awaited(value), loop()).result()

    return wait_for
