# SPDX-License-Identifier: Apache-2.0
"""The HTTP door: an ASGI 3 application that messages are pushed to, and that runs an app's handlers for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Final

from queuekit._engine.journal import Journal
from queuekit._portable.callers import Auth, Caller
from queuekit._portable.doorway import Doorway, Named, ServersLoop
from queuekit._portable.rulings import LEFT, Outcome
from queuekit._values.errors import ProviderError, QueueKitError, ThrottledError, UnavailableError, UsageError
from queuekit._values.url import QueueURL
from queuekit.backend import Action
from queuekit.push import _cloud_tasks_request as cloud_tasks
from queuekit.push import _pubsub_request as pubsub
from queuekit.push._pushed_queue import Parcel, PushedQueue
from queuekit.push._requests import (
    Disconnected,
    Receive,
    Refusal,
    Request,
    Scope,
    Send,
    answer,
    check_form,
    read_body,
    request_of,
)
from queuekit.push._room import Refusals, Room

_LARGE: Final = 256 * 1024
"""What is longer than that is parsed on a thread."""
_SCHEMES: Final = frozenset({cloud_tasks.SCHEME, pubsub.SCHEME})
_CLOSE_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """How an endpoint takes requests; `App.asgi` explains each.

    Attributes:
        deadline_s: For how long whoever pushes waits for the answer; None asks each queue.
        max_body: Most bytes of a request.
        max_bodies: Most bytes of all requests at once.
        max_requests: Most requests at once.
        body_timeout_s: How long a body may take to arrive.
        queues: Only these, as handlers name them; None for all.
    """

    deadline_s: float | None
    max_body: int
    max_bodies: int
    max_requests: int
    body_timeout_s: float
    queues: frozenset[str] | None = None


class PushEndpoint:
    """An ASGI 3 application. Made by `App.asgi`.

    Concurrency:
        On one event loop at a time; handlers on threads, or on that loop.
    """

    def __init__(self, doorway: Doorway, *, auth: Auth, options: EndpointOptions) -> None:
        self._doorway, self._auth, self._options = doorway, auth, options
        self._loop = ServersLoop()
        doorway.loop, doorway.by_answer, doorway.answer_s = self._loop, True, options.deadline_s
        self._journal = Journal("asgi")
        self._refusals = Refusals(self._journal, doorway.clock)
        self._room = Room(options.max_requests, options.max_bodies)
        self._learning: asyncio.Future[None] | None = None
        self._at_once = False
        self._known: list[Named] = []
        self._queues: dict[QueueURL, PushedQueue] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            self._loop.use()
            await self._respond(request_of(scope), receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    def drain(self, *, at_once: bool = False) -> None:
        """Take no more requests: they are answered by 503, and handlers that run see `Current.draining`.

        So is what has not begun. Safe from any thread, and from a signal handler. A new start of the server ends it.

        Args:
            at_once: Do not wait for what runs when the server ends: its messages come again.
        """
        self._at_once = self._at_once or at_once
        self._doorway.stopping = True
        self._loop.wake()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002 - frameworks pass themselves
        """Check every queue at the start, and drain at the end; for frameworks that do not pass on their own.

        Raises:
            QueueKitError: A queue cannot be worked as it is.
        """
        await self._start()
        try:
            yield
        finally:
            await self._stop()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                try:
                    await self._start()
                except QueueKitError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self) -> None:
        """Open every queue.

        Raises:
            UsageError: There is none.
            QueueKitError: One cannot be worked as it is; one that only did not answer now is asked again later.
        """
        self._loop.use()
        self._doorway.stopping = self._at_once = False
        self._look_up()
        if not self._known:
            msg = (
                "no handler names a queue whose messages are pushed over HTTP; name one, as in pubsub://PROJECT/NAME"
            )
            raise UsageError(msg, operation="open")
        for named in self._known:
            if named.url is not None:
                try:
                    await asyncio.to_thread(self._queue(named, named.url).open)
                except (UnavailableError, ThrottledError) as error:
                    self._journal.note("push.unprobed", str(error))
        # On a thread: a queue for delays may have a client that takes its time to be imported.
        await asyncio.to_thread(self._doorway.forward, self._known)
        self._journal.note("push.started", ", ".join(str(each.url or each.name) for each in self._known))

    async def _stop(self) -> None:
        """Let what runs come to its end, but no longer than the app's drain; then close."""
        self.drain()
        clock = self._doorway.clock
        end = clock.monotonic() + self._doorway.drain_s
        await self._emptied()
        if self._room.requests:
            end = min(end, clock.monotonic())
            self._journal.note("push.left", "they come again", count=self._room.requests)
        await asyncio.to_thread(self._doorway.rest, max(end, clock.monotonic() + _CLOSE_S))
        await asyncio.to_thread(self._doorway.close)
        self._journal.note("push.stopped")

    async def _emptied(self) -> None:
        """Wait until no request is left, the drain is over, or nobody wants to wait any more."""
        empty, enough = asyncio.ensure_future(self._room.empty()), asyncio.Event()

        def hurry() -> None:
            if self._at_once:
                enough.set()

        with self._loop.on_wake(hurry):
            hurried = asyncio.ensure_future(enough.wait())
            drain_s = 0.0 if self._at_once else self._doorway.drain_s
            await asyncio.wait({empty, hurried}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        for each in (empty, hurried):
            each.cancel()

    async def _respond(self, request: Request, receive: Receive, send: Send) -> None:
        try:
            outcome = await self._take(request, receive)
        except Disconnected:
            return
        except Refusal as refusal:
            self._refusals.note(refusal.status, refusal.reason)
            text = "" if refusal.status in {401, 403} else refusal.reason
            await answer(send, refusal.status, text, retry_after_s=refusal.retry_after_s)
            return
        if outcome.is_done:
            await answer(send, 204)
        elif outcome.action is Action.RELEASE:
            await answer(send, 503, retry_after_s=max(1, ceil(outcome.delay_s or 0.0)))
        else:
            await answer(send, 500)

    async def _take(self, request: Request, receive: Receive) -> Outcome:
        """What becomes of the message in a request.

        Raises:
            Refusal: It was not handled.
            Disconnected: It did not come whole.
        """
        arrived_at = self._doorway.clock.monotonic()
        if request.method != "POST":
            raise Refusal(405, "messages are pushed by POST")
        await self._admit(request.caller)
        if self._doorway.stopping:
            raise Refusal(503, "the server is stopping", retry_after_s=1)
        options, is_task = self._options, cloud_tasks.is_task(request)
        unwrapped = not is_task and pubsub.is_unwrapped(request)
        check_form(request, most=options.max_body, json=not (unwrapped or is_task))
        guest = self._room.enter()
        try:
            body = await read_body(receive, most=options.max_body, within_s=options.body_timeout_s, grow=guest.grow)
            if is_task:
                parcel = Parcel({"headers": request.headers, "body": body}, body, None, arrived_at)
                return await self._passed(self._route_task(request), parcel)
            pushed = await _read_pushed(request, body, unwrapped=unwrapped)
            queue = self._route(pushed, request.path)
            return await self._passed(queue, Parcel(pushed.message, body, pushed.problem, arrived_at))
        finally:
            guest.leave()

    async def _passed(self, queue: PushedQueue, parcel: Parcel) -> Outcome:
        """What the queue's handlers made of a message.

        Raises:
            Refusal: The queue cannot be worked now, or not as it is.
        """
        try:
            self._doorway.forward(self._known)  # for servers that tell of no start
            return await queue.take(parcel) or LEFT
        except ProviderError as error:
            self._refusals.note(503, str(error))
            raise Refusal(503, "the queue cannot be asked for its settings", retry_after_s=5) from error
        except QueueKitError as error:
            self._refusals.note(500, str(error))
            raise Refusal(500, "the queue cannot be worked as it is; the server's log says why") from error
        except Exception as error:  # the guard: whoever pushes is to push it again, whatever went wrong here
            self._journal.note("push.failed", type(error).__name__, error=error)
            raise Refusal(500, "the server failed; its log says how") from error

    async def _admit(self, caller: Caller) -> None:
        """Let a caller in.

        Raises:
            Refusal: He may not push.
        """
        admission = self._auth.judge(caller)
        if admission.learn:
            learning = self._learn()
            if admission.learn == "now":
                await asyncio.shield(learning)
                admission = self._auth.judge(caller)
        if admission.status != 200:
            again_s = 5 if admission.status == 503 else None
            raise Refusal(admission.status, admission.reason, retry_after_s=again_s)

    def _learn(self) -> asyncio.Future[None]:
        """Have what is needed to judge callers fetched; once at a time, however many wait for it."""
        loop = asyncio.get_running_loop()
        if self._learning is None or self._learning.done() or self._learning.get_loop() is not loop:
            self._learning = loop.run_in_executor(None, self._auth.learn)
        return self._learning

    def _route(self, pushed: pubsub.Pushed, path: str) -> PushedQueue:
        """The queue that a message belongs to.

        Raises:
            Refusal: That is not to be made out, or no handler works it.
        """
        named = self._match(pushed, path)
        if named is None:
            self._look_up()  # a handler may have been registered since
            named = self._match(pushed, path)
        if named is None:
            if pushed.source is None:
                raise Refusal(400, "the body is no message of Pub/Sub, and the path names no queue")
            raise Refusal(404, f"no handler works the subscription {pushed.source.name[:100]!r} at this path")
        if named.url is not None:
            return self._queue(named, named.url)
        if pushed.source is None:
            raise Refusal(400, "the body is no message of Pub/Sub")
        return self._queue(named, pushed.source.url)

    def _route_task(self, request: Request) -> PushedQueue:
        """The queue that a task belongs to.

        Raises:
            Refusal: No handler works it, or it is not to be made out.
        """
        source = cloud_tasks.queue_behind(request)
        named = source.among(self._known, request.path)
        if named is None:
            self._look_up()  # as above
            named = source.among(self._known, request.path)
        if named is None or named.url is None:
            raise Refusal(404, "no handler works this queue")
        return self._queue(named, named.url)

    def _match(self, pushed: pubsub.Pushed, path: str) -> Named | None:
        known = [each for each in self._known if each.url is None or each.url.scheme == pubsub.SCHEME]
        found = [each for each in known if not path or path in {each.name, pubsub.subscription_name(each)}]
        if pushed.source is None:
            # What is no message can be kept where it can only have been meant for one queue.
            return found[0] if len(found) == 1 else None
        return next((each for each in found if pushed.source.is_behind(each)), None)

    def _look_up(self) -> None:
        self._known = [
            each
            for each in self._doorway.queues()
            if (each.url is None or each.url.scheme in _SCHEMES)
            and (self._options.queues is None or each.name in self._options.queues)
        ]

    def _queue(self, named: Named, url: QueueURL) -> PushedQueue:
        if url not in self._queues:
            self._queues[url] = PushedQueue(self._doorway, self._loop, named, url)
        return self._queues[url]


async def _read_pushed(request: Request, body: bytes, *, unwrapped: bool) -> pubsub.Pushed:
    """What a request of Pub/Sub holds; a long one is read on a thread."""
    if unwrapped:
        return pubsub.read_unwrapped(request, body)
    if len(body) < _LARGE:
        return pubsub.read_wrapped(body)
    return await asyncio.to_thread(pubsub.read_wrapped, body)
