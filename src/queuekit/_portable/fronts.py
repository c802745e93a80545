# SPDX-License-Identifier: Apache-2.0
"""The ways to run an app's handlers without a worker, where their messages are pushed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from queuekit._portable.callers import Auth
from queuekit._portable.link import seconds, whole_number
from queuekit._portable.registering import Registering
from queuekit._values.errors import UsageError
from queuekit._wiring.doors import find_door

if TYPE_CHECKING:
    from queuekit._portable.doorway import Doorway


class LambdaFunction(Protocol):
    """What AWS Lambda calls with each event."""

    def __call__(self, event: Mapping[str, Any], context: object = None) -> dict[str, list[dict[str, str]]]:
        """Run the messages of one event through their handlers; see `App.aws_lambda`."""
        ...


class PushApplication(Protocol):
    """An ASGI 3 application that messages are pushed to; see `App.asgi`."""

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Take one request, or the server's lifespan."""
        ...

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Check every queue at the start, and drain at the end.

        A server does that by itself for the application that it runs. A framework in which this one is mounted mostly
        does not pass it on: give it this, as its ``lifespan=``.
        """
        ...

    def drain(self, *, at_once: bool = False) -> None:
        """Take no more messages, which then come again, and let handlers see `Current.draining`.

        What has not begun comes again, too. With ``at_once`` the end does not wait for what runs, either.
        """
        ...


class Fronts(Registering):
    """The front doors of an `App` beside its worker."""

    @abstractmethod
    def _doorway(self) -> Doorway:
        """The app's side of a new front door."""

    def aws_lambda(
        self, *, margin: timedelta = timedelta(seconds=5), report: Literal["items", "raise"] = "items"
    ) -> LambdaFunction:
        """A function for AWS Lambda, to be mapped to the SQS queues that handlers name.

        It is called with an event and a context, runs the same handlers as a worker would, and answers which
        messages are to come again. Queues are known by their ARN: a handler's queue is the one of that name.

        Args:
            margin: How much of the function's time is kept back. No handler begins in it, those that run have half
                of it to end, and what is left is for settling.
            report: ``"items"`` answers which messages failed; the event source mapping must have
                ``ReportBatchItemFailures``. ``"raise"`` removes those that are done and raises where one failed,
                which needs the permission to delete and nothing of the mapping.

        Raises:
            UsageError: The margin or the way to report is none.

        Concurrency:
            One event at a time. Between two events no thread runs.
        """
        if report not in {"items", "raise"}:
            msg = f"report must be 'items' or 'raise' and is {report!r}"
            raise UsageError(msg)
        margin_s = seconds("margin", margin)
        made: LambdaFunction = find_door("aws_lambda")(self._doorway(), margin_s=margin_s, report=report)
        return made

    def asgi(
        self,
        *,
        auth: Auth,
        deadline: timedelta | None = None,
        max_body: int = 14 * 2**20,
        max_bodies: int = 32 * 2**20,
        max_requests: int = 1000,
        body_timeout: timedelta = timedelta(seconds=10),
        queues: Sequence[str] | None = None,
    ) -> PushApplication:
        """An ASGI 3 application for messages that a service pushes over HTTP; run it by any server, or mount it.

        It runs the same handlers as a worker would, and answers each request when its message is done: 204. Whatever
        else it answers lets the message come again. A request names its queue by the subscription in it; a path below
        the place where the application is mounted, if there is one, must name the same queue.

        Args:
            auth: Who may push: `queuekit.push.OIDC`, or `queuekit.push.NoAuth` for this host alone.
            deadline: For how long whoever pushes waits for the answer, such as the ack deadline of a push
                subscription. By default each queue is asked; where it does not tell, it is 10 s, the shortest that
                there is. Handlers have nearly that long.
            max_body: Most bytes of a request; the default, 14 MiB, takes what Pub/Sub can send at most: 10 MB, in
                base64. What is larger is answered by 413.
            max_bodies: Most bytes of all requests that are here at once, 32 MiB, so that a burst cannot take the
                host's memory; what is beyond is answered by 429, and comes again.
            max_requests: Most requests at once, those that wait for a free handler included; beyond 1000 as before.
            body_timeout: How long a body may take to arrive, 10 s: a client that dribbles holds its place for no
                longer.
            queues: Only these, as the handlers name them; None for all whose messages are pushed.

        Raises:
            UsageError: Something is out of range, or ``auth`` is missing. At the start of the server, when the
                application's lifespan begins, also that no handler's queue is one whose messages are pushed.
            QueueKitError: At the start, a queue cannot be worked as it is, or does not exist; correct it, and start
                again. One that only does not answer then is asked again when its first message comes.

        Concurrency:
            Sync handlers run on threads, ``concurrency`` at once; async handlers on the server's own event loop.

        Examples:
            ```python
            from queuekit import App
            from queuekit.push import NoAuth

            app = App("memory://")
            endpoint = app.asgi(auth=NoAuth())
            ```
        """
        if not (hasattr(auth, "judge") and hasattr(auth, "learn")):
            msg = "auth= says who may push: queuekit.push.OIDC(…), or queuekit.push.NoAuth() for this host alone"
            raise UsageError(msg)
        options = find_door("asgi_options")(
            deadline_s=None if deadline is None else seconds("deadline", deadline, least=1.0),
            max_body=whole_number("max_body", max_body, least=1),
            max_bodies=whole_number("max_bodies", max_bodies, least=max_body),
            max_requests=whole_number("max_requests", max_requests, least=1),
            body_timeout_s=seconds("body_timeout", body_timeout, least=0.001),
            queues=None if queues is None else frozenset(queues),
        )
        made: PushApplication = find_door("asgi")(self._doorway(), auth=auth, options=options)
        return made
