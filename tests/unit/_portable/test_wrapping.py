# SPDX-License-Identifier: Apache-2.0
"""What stands around a handler's function sees how each attempt ends, and can end it otherwise."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import queuekit as qk
from queuekit._portable.retry import DeadLetter, Retry
from queuekit._portable.wrapping import AsyncCall, Call, awaited, compose


def must_not_wait(value: Awaitable[Any]) -> Any:
    pytest.fail("nothing was to be waited for")


class Noting:
    """Notes what goes in, and how it ends."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self._name, self._log = name, log

    def around(self, call: Call) -> Call:
        def wrapped(payload: Any) -> Any:
            self._log.append((self._name, payload))
            try:
                return call(payload)
            except BaseException as error:
                self._log.append((self._name, type(error).__name__))
                raise

        return wrapped

    def aaround(self, call: AsyncCall) -> AsyncCall:
        async def wrapped(payload: Any) -> Any:
            self._log.append((self._name, payload))
            try:
                return await call(payload)
            except BaseException as error:
                self._log.append((self._name, type(error).__name__))
                raise

        return wrapped


def run(function: Callable[[Any], Any], log: list[Any], *, is_async: bool) -> Any:
    wrappers = [Noting("outer", log), Noting("inner", log)]

    async def acall(payload: Any) -> Any:
        return function(payload)

    chosen = acall if is_async else function
    call = compose(chosen, wrappers, is_async=is_async, wait_for=must_not_wait)
    return asyncio.run(awaited(call("x"))) if is_async else call("x")


def test_without_wrappers_the_call_is_the_function_itself() -> None:
    def function(payload: Any) -> None:
        """Never called."""

    assert compose(function, (), is_async=False, wait_for=must_not_wait) is function


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_first_wrapper_is_the_outermost(is_async: bool) -> None:
    log: list[Any] = []
    assert run(str.upper, log, is_async=is_async) == "X"
    assert log == [("outer", "x"), ("inner", "x")]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "value",
    [Retry(), Retry, DeadLetter("no"), (each for each in ())],
    ids=["instance", "class", "dead letter", "generator"],
)
def test_a_returned_failure_is_raised_through_the_wrappers(value: Any, is_async: bool) -> None:
    log: list[Any] = []
    with pytest.raises((Retry, DeadLetter, qk.UsageError)) as caught:
        run(lambda _payload: value, log, is_async=is_async)
    assert [each for _, each in log[2:]] == [type(caught.value).__name__] * 2


def test_a_shared_retry_does_not_gather_the_tracebacks_of_its_uses() -> None:
    shared = Retry()
    lengths = []
    for _ in range(3):
        with pytest.raises(Retry):
            run(lambda _payload: shared, [], is_async=False)
        depth, frame = 0, shared.__traceback__
        while frame is not None:
            depth, frame = depth + 1, frame.tb_next
        lengths.append(depth)
    assert len(set(lengths)) == 1


def test_wrappers_see_the_end_of_an_awaitable_that_a_sync_handler_returned() -> None:
    log: list[Any] = []

    async def later() -> Retry:
        log.append("ran")
        return Retry()

    call = compose(
        lambda _payload: later(),
        [Noting("only", log)],
        is_async=False,
        wait_for=lambda value: asyncio.run(awaited(value)),
    )
    with pytest.raises(Retry):
        call("x")
    assert log == [("only", "x"), "ran", ("only", "Retry")]
