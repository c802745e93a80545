# SPDX-License-Identifier: Apache-2.0
"""An app whose queues are pushed to it in Pub/Sub's form, with memory behind them, and requests to it by hand."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import queuekit as qk
from queuekit._values.capability import Capabilities, Support
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    Backend,
    Clock,
    ErrorClass,
    IncomingMessage,
    OutgoingMessage,
    QueueURL,
    Rejected,
    SendOutcome,
    Settlement,
    SettleOutcome,
    Unsupported,
)
from queuekit.backends.pubsub import _messages


class Pushed:
    """A queue in memory whose messages come by request; only their answers settle them."""

    def __init__(self, inner: Backend, **can: Any) -> None:
        self._inner = inner
        self.can = can
        self.settled: list[Settlement] = []
        self.closed = False
        self.refusal: ErrorClass | None = None
        self.sending, self.may_send = threading.Event(), threading.Event()
        self.may_send.set()

    @property
    def capabilities(self) -> Capabilities:
        fixed = {"pushes": "answered", "receives": False, "queues": "declared", "dead_letters": Support.BRIDGED}
        return replace(self._inner.capabilities, max_delay_s=0.0, dedup_window_s=0.0, **fixed | self.can)

    def probe(self) -> Capabilities:
        if isinstance(error := self.can.get("probe"), Exception):
            raise error
        self._inner.probe()
        return self.capabilities

    def size(self, message: OutgoingMessage) -> int:
        return self._inner.size(message)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        self.sending.set()
        self.may_send.wait(20)
        if self.refusal is not None:
            return [Rejected(self.refusal, each.message_id) for each in batch]
        return self._inner.send(batch, timeout_s=timeout_s)

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        raise NotImplementedError

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        self.settled += batch
        return [Unsupported("pushed")] * len(batch)

    def classify(self, error: BaseException) -> ErrorClass:
        return self._inner.classify(error)

    def close(self) -> None:
        self.closed = True
        self._inner.close()

    def read_pushed(self, pushed: Mapping[str, Any]) -> IncomingMessage:
        return _messages.read_pushed(pushed, None)


class PushedOpener(Opener):
    """Opens queues of Pub/Sub in memory."""

    def __init__(self, clock: Clock, **can: Any) -> None:
        super().__init__(clock)
        self.can = can
        self.opened: list[Pushed] = []

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Any:
        if url.scheme != "pubsub":
            return super().open(url, keywords)
        name = url.path.strip("/")
        made = Pushed(super().open(QueueURL.parse(f"memory://{name}?space={url.hosts[0].name}")), **self.can)
        self.opened.append(made)
        return made


def pushed_app(
    clock: Clock, *, url: str | None = "pubsub://shop", can: Mapping[str, Any] | None = None, **options: Any
) -> qk.App:
    app = qk.App(url, clock=clock, **options)
    app._opener = PushedOpener(clock, **(can or {}))
    return app


class Got(NamedTuple):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


HEADERS = {"content-type": "application/json"}
HERE = ("127.0.0.1", 8080)


class Client:
    """Whoever pushes: calls an ASGI application as a server does."""

    def __init__(self, application: Any, **scope: Any) -> None:
        self._application, self._scope = application, scope

    async def post(
        self,
        body: bytes | Sequence[bytes] = b"",
        *,
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        stall: bool = False,
        **scope: Any,
    ) -> Got:
        parts = [body] if isinstance(body, bytes) else list(body)
        wanted = HEADERS if headers is None else headers
        events: list[Any] = []
        answered = asyncio.Event()

        async def receive() -> Any:
            if parts:
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts) or stall}
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send(event: Any) -> None:
            events.append(event)

        sent = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in wanted.items()],
            "server": HERE,
            "client": ("127.0.0.1", 50000),
        }
        await self._application(sent | self._scope | scope, receive, send)
        answered.set()
        start, end = events
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Got(start["status"], found, end["body"])


def wrapped(
    body: bytes | str | OutgoingMessage,
    *,
    queue: str = "orders",
    project: str = "shop",
    attempt: int | None = 1,
    message_id: str = "1",
    **fields: Any,
) -> bytes:
    """The body of a request that pushes a message."""
    if isinstance(body, OutgoingMessage):
        attributes = _messages.Writer().attributes(body)
        fields = {"attributes": attributes, "orderingKey": body.ordering_key} | fields
        body = body.body
    data = body.encode() if isinstance(body, str) else body
    message = {
        "data": base64.b64encode(data).decode(),
        "messageId": message_id,
        "message_id": message_id,
        "publishTime": "2023-11-14T22:13:20Z",
        "publish_time": "2023-11-14T22:13:20Z",
    } | {name: value for name, value in fields.items() if value is not None}
    whole: dict[str, Any] = {"message": message, "subscription": f"projects/{project}/subscriptions/{queue}"}
    return json.dumps(whole | ({} if attempt is None else {"deliveryAttempt": attempt})).encode()


def served(application: Any, use: Callable[[Client], Any], **scope: Any) -> Any:
    """What came of using an application while its lifespan is on."""

    async def run() -> Any:
        async with application.lifespan():
            return await use(Client(application, **scope))

    return asyncio.run(run())
