# SPDX-License-Identifier: Apache-2.0
"""Going on with a coroutine that has begun, in a context of its own."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, final


@final
class Turn:
    """Await it to let everything else on the event loop run that is ready."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


@final
class Resumed:
    """The rest of a coroutine whose first step was taken already; await it in the task that took that step.

    Whatever the coroutine waits for, the task waits for; what reaches the task, such as a cancellation,
    reaches the coroutine.

    Args:
        coroutine: What has begun.
        context: What it runs in; the task's own stays as it is.
        waits_for: What the first step came to.
    """

    __slots__ = ("_context", "_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], context: Context, waits_for: Any) -> None:
        self._coroutine, self._context, self._waits_for = coroutine, context, waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, run, waits_for = self._coroutine, self._context.run, self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    run(coroutine.close)
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's to catch
                    waits_for = run(coroutine.throw, error)
                else:
                    waits_for = run(coroutine.send, sent)
        except StopIteration:
            return
