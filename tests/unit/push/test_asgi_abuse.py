# SPDX-License-Identifier: Apache-2.0
"""The HTTP door against whoever may not push, or pushes too much; its deadlines, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import SystemClock
from queuekit.push import OIDC, NoAuth
from queuekit.testing.clock import VirtualClock
from queuekit.testing.issuer import LocalIssuer

from .pushes import HEADERS, Client, Got, pushed_app, served, wrapped

LIMIT_S = 20.0
AUDIENCE = "https://worker.example/queues"
ACCOUNT = "pusher@example.com"


@pytest.fixture
def app(clock: VirtualClock) -> Iterator[qk.App]:
    with pushed_app(clock) as made:
        yield made


@pytest.fixture
def seen(app: qk.App) -> list[str]:
    found: list[str] = []

    @app.handler("orders", concurrency=4)
    def handle(text: str) -> None:
        found.append(text)

    return found


@pytest.fixture(scope="module")
def signer() -> Iterator[LocalIssuer]:
    with LocalIssuer(VirtualClock()) as made:
        yield made


@pytest.fixture
def issuer(signer: LocalIssuer, clock: VirtualClock) -> LocalIssuer:
    signer._clock, signer.answer = clock, None
    return signer


@pytest.fixture
def oidc(issuer: LocalIssuer, clock: VirtualClock) -> OIDC:
    return OIDC(
        audience=AUDIENCE, service_account=ACCOUNT, issuer=issuer.url, certs_url=issuer.certs_url, clock=clock
    )


def post(endpoint: Any, body: Any, **request: Any) -> Got:
    got: Got = served(endpoint, lambda client: client.post(body, **request))
    return got


class Unread:
    """A server whose requests' bodies must not be asked for."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def lifespan(self) -> Any:
        return self._application.lifespan()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def refuse() -> Any:
            raise AssertionError

        await self._application(scope, refuse, send)


FORGED = [
    {"x-cloudtasks-queuename": "orders", "x-cloudtasks-taskname": "1", "x-cloudtasks-taskretrycount": "0"},
    {"x-goog-pubsub-subscription-name": "projects/shop/subscriptions/orders", "x-goog-pubsub-message-id": "1"},
    {"authorization": "Basic dXNlcjpwdw=="},
    {"authorization": "Bearer "},
    {"x-appengine-taskname": "1", "user-agent": "Google-Cloud-Tasks"},
    {},
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda each: next(iter(each), "nothing"))
def test_headers_are_no_identity_and_no_body_is_read_for_them(
    app: qk.App, seen: list[str], oidc: OIDC, forged: dict[str, str]
) -> None:
    got = post(Unread(app.asgi(auth=oidc)), wrapped("x"), headers=HEADERS | forged)
    assert (got.status, got.body, got.headers["www-authenticate"]) == (401, b"", "Bearer")
    assert seen == []


def test_the_right_token_lets_in(app: qk.App, seen: list[str], oidc: OIDC, issuer: LocalIssuer) -> None:
    token = {"authorization": f"Bearer {issuer.token(AUDIENCE, ACCOUNT)}"}
    wrong = {"authorization": f"Bearer {issuer.token(AUDIENCE + '/', ACCOUNT)}"}

    async def use(client: Client) -> list[int]:
        return [(await client.post(wrapped("x"), headers=HEADERS | each)).status for each in (wrong, token, token)]

    assert served(app.asgi(auth=oidc), use) == [401, 204, 204]
    assert seen == ["x", "x"]


def test_a_token_that_nobody_can_verify_is_not_believed(
    app: qk.App, seen: list[str], oidc: OIDC, issuer: LocalIssuer
) -> None:
    token = {"authorization": f"Bearer {issuer.token(AUDIENCE, ACCOUNT)}"}
    issuer.answer, issuer.requests = (500, b""), 0

    async def use(client: Client) -> list[Got]:
        return list(await asyncio.gather(*(client.post(wrapped("x"), headers=HEADERS | token) for _ in range(50))))

    answers = served(app.asgi(auth=oidc), use)
    assert {(each.status, each.headers["retry-after"]) for each in answers} == {(503, "5")}
    assert (seen, issuer.requests) == ([], 1)


def test_no_auth_is_for_this_host(app: qk.App, seen: list[str]) -> None:
    for scope in ({"server": ("203.0.113.7", 80)}, {"client": ("203.0.113.7", 5)}, {"server": ("/run/x.sock", None)}):
        assert post(Unread(app.asgi(auth=NoAuth())), wrapped("x"), **scope).status == 403
    assert seen == []


MIB = 2**20
REFUSED: dict[str, tuple[int, Any, dict[str, Any]]] = {
    "GET": (405, b"", {"method": "GET"}),
    "OPTIONS": (405, b"", {"method": "OPTIONS"}),
    "gzip": (415, wrapped("x"), {"headers": HEADERS | {"content-encoding": "gzip"}}),
    "gzip twice": (415, wrapped("x"), {"headers": HEADERS | {"content-encoding": "identity, gzip"}}),
    "a form": (415, wrapped("x"), {"headers": {"content-type": "application/x-www-form-urlencoded"}}),
    "no type": (415, wrapped("x"), {"headers": {}}),
    "text": (415, wrapped("x"), {"headers": {"content-type": "text/plain"}}),
    "told too long": (413, wrapped("x"), {"headers": HEADERS | {"content-length": str(100 * MIB)}}),
    "too long": (413, [b" " * MIB] * 100, {}),
    "too long by one": (413, b" " * (14 * MIB + 1), {}),
    "too slow": (408, wrapped("x"), {"stall": True}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_push_is_refused_and_reaches_no_handler(app: qk.App, seen: list[str], name: str) -> None:
    status, body, request = REFUSED[name]
    patience = {"body_timeout": timedelta(seconds=0.05)} if status == 408 else {}
    endpoint = app.asgi(auth=NoAuth(), **patience)
    got = post(endpoint, body, **request)
    assert (got.status, seen) == (status, [])
    assert endpoint._room.requests == endpoint._room._bytes == 0
    if status == 405:
        assert got.headers["allow"] == "POST"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_types_parameters_and_case_do_not_matter(app: qk.App, seen: list[str], kind: str) -> None:
    assert post(app.asgi(auth=NoAuth()), wrapped("x"), headers={"content-type": kind}).status == 204


def test_a_body_in_many_parts_is_one(app: qk.App, seen: list[str]) -> None:
    parts = [bytes([each]) for each in wrapped("x" * 500_000)[:5000]] + [wrapped("x" * 500_000)[5000:]]
    assert post(app.asgi(auth=NoAuth()), parts).status == 204
    assert seen == ["x" * 500_000]


def resident() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * 4096


def test_ten_thousand_at_once_take_little_memory(app: qk.App, clock: VirtualClock) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)

    @app.handler("orders", concurrency=4)
    def handle(text: str) -> None:
        begun.release()
        gate.wait(LIMIT_S)

    endpoint = app.asgi(auth=NoAuth(), max_requests=100)
    body = wrapped("x" * 10_000)

    async def use(client: Client) -> tuple[list[int], int]:
        first = [asyncio.ensure_future(client.post(body)) for _ in range(100)]
        await asyncio.to_thread(begun.acquire)
        before = resident()
        rest = await asyncio.gather(*(client.post(body) for _ in range(10_000)))
        grown = resident() - before
        assert {(each.status, each.headers["retry-after"]) for each in rest} == {(429, "1")}
        gate.set()
        return [(await each).status for each in first], grown

    statuses, grown = served(endpoint, use)
    assert set(statuses) == {204}
    assert grown <= 64 * MIB


def test_bodies_take_no_more_memory_than_they_may(app: qk.App, seen: list[str]) -> None:
    endpoint = app.asgi(auth=NoAuth(), max_body=MIB, max_bodies=4 * MIB, body_timeout=timedelta(seconds=0.2))

    async def use(client: Client) -> list[int]:
        before = resident()
        slow = [asyncio.ensure_future(client.post(b" " * MIB, stall=True)) for _ in range(100)]
        statuses = sorted([(await each).status for each in slow])
        assert resident() - before <= 64 * MIB
        return statuses

    assert served(endpoint, use) == [408] * 4 + [429] * 96
    assert (endpoint._room._bytes, seen) == (0, [])


def test_refusals_are_told_once_a_minute(
    app: qk.App, seen: list[str], clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(client: Client) -> None:
        for _ in range(50):
            await client.post(method="GET")
        clock.advance(60)
        await client.post(method="GET")

    with caplog.at_level(logging.WARNING, "queuekit"):
        served(app.asgi(auth=NoAuth()), use)
    told = [each for each in caplog.records if getattr(each, "action", "") == "push.refused"]
    assert [getattr(each, "count", 0) for each in told] == [1, 50]


def test_an_async_handler_past_the_deadline_is_cancelled() -> None:
    ended: list[str] = []
    with pushed_app(SystemClock()) as timely:

        @timely.handler("orders")
        async def handle(text: str) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        got = post(timely.asgi(auth=NoAuth(), deadline=timedelta(seconds=2)), wrapped("x"))
        assert timely.counts()["orders"]["delivery.retried"] == 1
    assert (got.status, ended) == (500, ["cancelled"])


def test_a_sync_handler_past_the_deadline_keeps_its_slot(caplog: pytest.LogCaptureFixture) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)
    with pushed_app(SystemClock()) as timely:

        @timely.handler("orders", concurrency=1)
        def handle(text: str) -> None:
            begun.release()
            if text == "hang":
                gate.wait(LIMIT_S)

        async def use(client: Client) -> list[int]:
            hung = (await client.post(wrapped("hang"))).status
            refused = (await client.post(wrapped("next"))).status
            gate.set()
            after = (await client.post(wrapped("last"))).status
            return [hung, refused, after]

        statuses = served(timely.asgi(auth=NoAuth(), deadline=timedelta(seconds=2)), use)
    assert statuses == [500, 500, 204]
    assert [begun.acquire(blocking=False) for _ in range(3)] == [True, True, False], "the second was not begun"
    assert "worker.hung" in {getattr(each, "action", "") for each in caplog.records}


def test_a_deadline_beyond_the_queues_own_is_refused(clock: VirtualClock) -> None:
    with pushed_app(clock, can={"push_deadline_s": 30.0}) as app:
        app.handler("orders")(lambda_handler)
        with pytest.raises(qk.UsageError, match="awaited for 30 s"):
            post(app.asgi(auth=NoAuth(), deadline=timedelta(seconds=31)), wrapped("x"))


def lambda_handler(text: str) -> None:
    """A handler for what never comes."""


def test_a_timeout_that_cannot_be_is_told_once(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    with pushed_app(clock, can={"push_deadline_s": 30.0}) as app:
        app.handler("orders", timeout=timedelta(minutes=5))(lambda_handler)

        async def use(client: Client) -> list[int]:
            return [(await client.post(wrapped("x"))).status for _ in range(3)]

        assert served(app.asgi(auth=NoAuth()), use) == [204] * 3
        assert app.counts()["orders"]["push.deadline_short"] == 1


def test_a_server_that_stops_finishes_what_runs_and_takes_nothing_more(app: qk.App) -> None:
    gate, begun = threading.Event(), threading.Event()
    drained: list[bool] = []

    @app.handler("orders")
    def handle(text: str) -> None:
        begun.set()
        gate.wait(LIMIT_S)
        drained.append(qk.current().draining)

    endpoint = app.asgi(auth=NoAuth())

    async def run() -> list[int]:
        client = Client(endpoint)
        async with endpoint.lifespan():
            running = asyncio.ensure_future(client.post(wrapped("x")))
            await asyncio.to_thread(begun.wait, LIMIT_S)
            endpoint.drain()
            late = await client.post(wrapped("y"))
            asyncio.get_running_loop().call_later(0.05, gate.set)
        return [late.status, (await running).status]

    assert asyncio.run(run()) == [503, 204]
    assert drained == [True]
    assert served(endpoint, lambda client: client.post(wrapped("z"))).status == 204, "it can be started again"


async def live(endpoint: Any) -> list[dict[str, Any]]:
    """What is answered to a server's lifespan."""
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    answers: list[dict[str, Any]] = []

    async def receive() -> Any:
        return next(events)

    async def send(event: Any) -> None:
        answers.append(event)

    await endpoint({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return answers


def test_a_lifespan_is_kept(app: qk.App, seen: list[str]) -> None:
    answers = asyncio.run(live(app.asgi(auth=NoAuth())))
    assert [each["type"] for each in answers] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_server_does_not_start_with_what_cannot_work(clock: VirtualClock, app: qk.App) -> None:
    (answer,) = asyncio.run(live(app.asgi(auth=NoAuth())))
    assert answer["type"] == "lifespan.startup.failed"
    assert "no handler names a queue" in answer["message"]
    app.handler("orders", rate=qk.Rate(5))(lambda_handler)
    (answer,) = asyncio.run(live(app.asgi(auth=NoAuth())))
    assert "have a rate, which only a worker can keep to" in answer["message"]
    with pushed_app(clock, can={"pushes": "settled"}) as other:
        other.handler("orders")(lambda_handler)
        (answer,) = asyncio.run(live(other.asgi(auth=NoAuth())))
        assert "nothing pushes the messages" in answer["message"]


WRONG: list[dict[str, Any]] = [
    {"auth": None},
    {"auth": "token"},
    {"deadline": timedelta(0)},
    {"deadline": 5},
    {"max_body": 0},
    {"max_bodies": 5},
    {"max_requests": 0},
    {"body_timeout": timedelta(0)},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_cannot_be_is_refused(app: qk.App, wrong: dict[str, Any]) -> None:
    with pytest.raises(qk.UsageError):
        app.asgi(**{"auth": NoAuth()} | wrong)


def test_a_websocket_is_closed(app: qk.App, seen: list[str]) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(event: Any) -> None:
        sent.append(event["type"])

    asyncio.run(app.asgi(auth=NoAuth())({"type": "websocket"}, receive, send))
    assert sent == ["websocket.close"]
