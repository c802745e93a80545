# SPDX-License-Identifier: Apache-2.0
"""Sends what is due, on one event loop in a thread of its own.

A loop, because a queue may have thousands of requests on their way that only wait, and because a request that has met
its deadline must end whatever it is doing: a name being resolved, a handshake, half a body.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from queuekit._values.clock import Clock
from queuekit.testing.emulators.cloud_tasks._attempts import Attempt, Ending
from queuekit.testing.emulators.cloud_tasks._exchanging import Answer, BadAnswerError, exchange
from queuekit.testing.emulators.cloud_tasks._refusing import Code
from queuekit.testing.emulators.cloud_tasks._targets import Target, TargetRefused, Targets
from queuekit.testing.emulators.cloud_tasks._tokens import Signer

Ended = Callable[[Attempt, Ending], None]


class Dispatcher:
    """Sends requests and tells what became of them.

    Args:
        targets: Who may be called.
        signer: Makes tokens.
        clock: That of the targets, for a Retry-After with a date.
        context: Makes what TLS needs, once: it reads every authority of the system.
        ended: Told of every attempt that was not cancelled, on the loop's thread.

    Concurrency:
        `send` and `cancel` may be called from any thread, and do not wait.
    """

    def __init__(
        self, *, targets: Targets, signer: Signer, clock: Clock, context: Callable[[], ssl.SSLContext], ended: Ended
    ) -> None:
        self._targets = targets
        self._signer = signer
        self._clock = clock
        self._context = context
        self._ended = ended
        self._loop = asyncio.new_event_loop()
        self._running: dict[Attempt, asyncio.Task[None]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="cloud-tasks-dispatcher", daemon=True)
        self._thread.start()

    def send(self, attempts: list[Attempt]) -> None:
        """Send requests."""
        self._loop.call_soon_threadsafe(self._begin, attempts)

    def cancel(self, attempts: list[Attempt]) -> None:
        """Wait for their answers no more."""
        self._loop.call_soon_threadsafe(self._end, attempts)

    def close(self) -> None:
        """Cancel everything, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._running[attempt] = self._loop.create_task(self._perform(attempt))

    def _end(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            if attempt in self._running:
                self._running[attempt].cancel()

    async def _finish(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _perform(self, attempt: Attempt) -> None:
        try:
            ending = await self._try(attempt)
        finally:
            del self._running[attempt]
        self._ended(attempt, ending)

    async def _try(self, attempt: Attempt) -> Ending:
        try:
            answer = await self._exchange(attempt)
        except TargetRefused as refused:
            return Ending(None, Code.PERMISSION_DENIED, f"not called: {refused}")
        except BadAnswerError as error:
            return Ending(None, Code.UNKNOWN, str(error))
        except (OSError, EOFError, UnicodeError) as error:  # the last is a name that cannot be one of DNS
            return Ending(None, Code.UNAVAILABLE, f"no answer: {str(error) or type(error).__name__}")
        return Ending.answered(answer.status, answer.retry_after_s(self._clock.time()))

    async def _exchange(self, attempt: Attempt) -> Answer:
        request = attempt.request
        target = self._targets.read(request.url)
        context = self._context() if target.scheme == "https" else None
        addresses = [str(target.address)] if target.address is not None else await self._resolve(target)
        return await exchange(request, target, addresses, self._authorization(attempt), context)

    async def _resolve(self, target: Target) -> list[str]:
        # Once: what was checked is what is connected to, so that a name cannot change in between.
        found: list[Any] = await self._loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        return self._targets.check(target, [each[4][0] for each in found])

    def _authorization(self, attempt: Attempt) -> str | None:
        token = attempt.request.token
        if token is None:
            return None
        make = self._signer.oidc if token.kind == "oidc" else self._signer.oauth
        return f"Bearer {make(token.email, token.what_for)}"
