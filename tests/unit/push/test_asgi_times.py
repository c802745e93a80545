# SPDX-License-Identifier: Apache-2.0
"""The HTTP door when time is short: slow bodies, a stop with requests in it, and callers who wait for each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import ErrorClass, ErrorCode
from queuekit.push import OIDC, NoAuth, _crew
from queuekit.testing.clock import VirtualClock
from queuekit.testing.issuer import LocalIssuer

from .pushes import HEADERS, Client, Got, PushedOpener, pushed_app, served, wrapped

LIMIT_S = 20.0
AUDIENCE = "https://worker.example/queues"
ACCOUNT = "pusher@example.com"


@pytest.fixture
def app(clock: VirtualClock) -> Iterator[qk.App]:
    with pushed_app(clock, can={"push_deadline_s": 10.0}) as made:
        yield made


@pytest.fixture
def seen(app: qk.App) -> list[str]:
    found: list[str] = []

    @app.handler("orders")
    def handle(text: str) -> None:
        found.append(text)

    return found


class Between:
    """A server, with something that happens before it hands over a body."""

    def __init__(self, application: Any, before_body: Any) -> None:
        self._application, self._before_body = application, before_body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def later() -> Any:
            self._before_body()
            return await receive()

        await self._application(scope, later, send)


@pytest.mark.parametrize(("took_s", "status", "handled"), [(4.9, 204, ["x"]), (5.1, 503, [])])
def test_the_time_that_a_body_took_is_time_of_the_deadline(
    app: qk.App, seen: list[str], clock: VirtualClock, took_s: float, status: int, handled: list[str]
) -> None:
    endpoint = app.asgi(auth=NoAuth())
    slow = Between(endpoint, lambda: clock.advance(took_s))

    got = served(endpoint, lambda _client: Client(slow).post(wrapped("x")))
    assert (got.status, seen) == (status, handled)
    assert got.headers.get("retry-after") == (None if handled else "1")


def test_who_stops_asks_for_no_more_bodies(app: qk.App, seen: list[str]) -> None:
    endpoint = app.asgi(auth=NoAuth())
    asked: list[bool] = []

    async def use(_client: Client) -> Any:
        endpoint.drain()
        return await Client(Between(endpoint, lambda: asked.append(True))).post(wrapped("x"))

    got = served(endpoint, use)
    assert (got.status, got.headers["retry-after"], asked, seen) == (503, "1", [], [])


def test_a_stop_gives_back_what_waits_for_a_free_handler(app: qk.App) -> None:
    gate, begun = threading.Event(), threading.Event()
    seen: list[str] = []

    @app.handler("orders", concurrency=1)
    def handle(text: str) -> None:
        seen.append(text)
        begun.set()
        gate.wait(LIMIT_S)

    endpoint = app.asgi(auth=NoAuth())

    async def use(client: Client) -> list[int]:
        running = asyncio.ensure_future(client.post(wrapped("first")))
        await asyncio.to_thread(begun.wait, LIMIT_S)
        waiting = asyncio.ensure_future(client.post(wrapped("second")))
        await asyncio.sleep(0)
        assert endpoint._room.requests == 2
        endpoint.drain()
        gate.set()
        return [(await each).status for each in (running, waiting)]

    assert served(endpoint, use) == [204, 503]
    assert seen == ["first"]


@pytest.fixture
def counting(clock: VirtualClock) -> Iterator[qk.App]:
    """Its attempts are counted by copies, each of which waits for 30 s."""
    can = {"attempts": "none", "ordering": "none", "push_deadline_s": 60.0}
    with pushed_app(clock, can=can) as app:

        @app.handler("orders", concurrency=1, retry=qk.RetryPolicy(max_attempts=5, wait=lambda _state: 30))
        def handle(text: str) -> None:
            if text == "x":
                raise ValueError

        yield app


async def waiting(client: Client) -> asyncio.Task[Got]:
    """The answer to a message whose copy waits for its time."""
    asking = asyncio.ensure_future(client.post(wrapped("x", attempt=None)))
    await asyncio.sleep(0)
    assert (await client.post(wrapped("y", attempt=None))).status == 204, "which comes after the first"
    return asking


def copies(app: qk.App) -> int:
    opener: Any = app._opener
    return len(list(opener.opened[0]._inner.peek(limit=10)))


def test_a_stop_sends_the_copies_that_wait_for_their_time(counting: qk.App) -> None:
    endpoint = counting.asgi(auth=NoAuth())

    async def use(client: Client) -> tuple[int, int]:
        asking = await waiting(client)
        endpoint.drain()  # and no time passes
        return (await asyncio.wait_for(asking, LIMIT_S)).status, copies(counting)

    assert served(endpoint, use) == (204, 1)


def test_a_copy_that_is_refused_when_its_time_has_come_is_no_end(counting: qk.App) -> None:
    endpoint = counting.asgi(auth=NoAuth())

    async def use(client: Client) -> tuple[int, int]:
        asking = await waiting(client)
        opener: Any = counting._opener
        opener.opened[0].refusal = ErrorClass(ErrorCode.REFUSED, sent="no")
        endpoint.drain()
        return (await asking).status, copies(counting)

    assert served(endpoint, use) == (500, 0)
    assert counting.counts()["orders"]["copy.failed"] == 1


def test_a_copy_that_nobody_confirms_in_time_is_no_end(counting: qk.App, clock: VirtualClock) -> None:
    endpoint = counting.asgi(auth=NoAuth())

    async def use(client: Client) -> int:
        asking = await waiting(client)
        opener: Any = counting._opener
        queue = opener.opened[0]
        queue.may_send.clear()
        endpoint.drain()
        await asyncio.to_thread(queue.sending.wait, LIMIT_S)
        clock.advance(58.5)
        status = (await asking).status
        queue.may_send.set()
        return status

    assert served(endpoint, use) == 500


class Defective(PushedOpener):
    """Has an error in it."""

    def open(self, url: qk.QueueURL, keywords: Mapping[str, Any] | None = None) -> Any:
        raise ZeroDivisionError("a secret")


def test_an_error_of_ours_is_no_answer_that_settles(
    app: qk.App, seen: list[str], clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    app._opener = Defective(clock)
    got = asyncio.run(Client(app.asgi(auth=NoAuth())).post(wrapped("x")))
    assert (got.status, seen) == (500, [])
    assert b"secret" not in got.body
    assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [ZeroDivisionError]


def test_queues_close_after_the_last_answer(app: qk.App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_crew, "_CLOSE_S", 0.0)  # else its own wait for threads would hide that nobody else waits
    gate, begun = threading.Event(), threading.Event()
    opener: Any = app._opener

    @app.handler("orders")
    def handle(text: str) -> None:
        begun.set()
        gate.wait(LIMIT_S)

    endpoint = app.asgi(auth=NoAuth())

    async def run() -> tuple[int, list[bool]]:
        async with endpoint.lifespan():
            running = asyncio.ensure_future(Client(endpoint).post(wrapped("x")))
            await asyncio.to_thread(begun.wait, LIMIT_S)
            (queue,) = opener.opened
            closed = [queue.closed]
            running.add_done_callback(lambda _: closed.append(queue.closed))
            asyncio.get_running_loop().call_later(0.05, gate.set)
        closed.append(queue.closed)
        return (await running).status, closed

    assert asyncio.run(run()) == (204, [False, False, True])


def test_an_endpoint_may_serve_some_of_the_queues(app: qk.App, seen: list[str]) -> None:
    @app.handler("refunds")
    def refund(text: str) -> None:
        seen.append("refunds")

    async def use(client: Client) -> list[int]:
        return [(await client.post(wrapped("x", queue=queue))).status for queue in ("refunds", "orders")]

    assert served(app.asgi(auth=NoAuth(), queues=["orders"]), use) == [404, 204]
    assert seen == ["x"]


class LateKeys(OIDC):
    """The keys come when they may."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.begun, self.may, self.asked = threading.Event(), threading.Event(), 0

    def learn(self) -> None:
        self.asked += 1
        self.begun.set()
        self.may.wait(LIMIT_S)
        super().learn()


def test_who_waits_for_keys_waits_for_one_fetch_and_whoever_leaves_takes_it_from_nobody(
    app: qk.App, seen: list[str], clock: VirtualClock
) -> None:
    with LocalIssuer(clock) as issuer:
        auth = LateKeys(
            audience=AUDIENCE, service_account=ACCOUNT, issuer=issuer.url, certs_url=issuer.certs_url, clock=clock
        )
        token = {"authorization": f"Bearer {issuer.token(AUDIENCE, ACCOUNT)}"}

        async def use(client: Client) -> list[int]:
            first, *rest = [
                asyncio.ensure_future(client.post(wrapped("x"), headers=HEADERS | token)) for _ in range(4)
            ]
            await asyncio.to_thread(auth.begun.wait, LIMIT_S)
            first.cancel()
            await asyncio.wait([first])
            auth.may.set()
            return [(await each).status for each in rest]

        assert served(app.asgi(auth=auth), use) == [204, 204, 204]
    assert (auth.asked, seen) == (1, ["x"] * 3)
