# SPDX-License-Identifier: Apache-2.0
"""The HTTP door: what is answered to what is pushed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import BaseModel

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import OutgoingMessage, Peekable, StoredMessage, SystemClock
from queuekit.push import NoAuth
from queuekit.testing.clock import VirtualClock

from .forms import FORMS
from .pushes import Client, Got, pushed_app, served, wrapped

LIMIT_S = 20.0


class Order(BaseModel):
    number: int


@pytest.fixture
def app(clock: VirtualClock) -> Iterator[qk.App]:
    with pushed_app(clock) as made:
        yield made


def push(app: qk.App, body: bytes, **request: Any) -> Got:
    """The answer to one request."""
    got: Got = served(app.asgi(auth=NoAuth()), lambda client: client.post(body, **request))
    return got


def dead_letters() -> list[StoredMessage]:
    return stored("dead")


DEAD = "memory://dead?space=shop"


def test_a_message_that_is_done_is_answered_by_204(app: qk.App) -> None:
    seen: list[tuple[Order, int | None, str]] = []

    @app.handler("orders")
    def handle(order: Order) -> None:
        seen.append((order, qk.current().attempt, qk.current().message_id))

    got = push(app, wrapped('{"number": 7}', attempt=3, message_id="m-1"))
    assert (got.status, got.body) == (204, b"")
    assert "content-length" not in got.headers
    assert seen == [(Order(number=7), 3, "m-1")]


def test_our_messages_come_whole(app: qk.App) -> None:
    seen: list[Any] = []

    @app.handler("orders", message_type="order")
    def handle(body: bytes) -> None:
        running = qk.current()
        seen.append((body, running.message_id, dict(running.attributes), running.attempt, running.ordering_key))

    message = OutgoingMessage(
        "one", b"\x00\xff", {"tenant": "acme"}, {"v": "1", "type": "order", "base": "2"}, ordering_key="k"
    )
    assert push(app, wrapped(message)).status == 204
    assert seen == [(b"\x00\xff", "one", {"tenant": "acme"}, 3, "k")]


OUTCOMES = {"done": 204, "raise": 500, "retry": 500}


@pytest.mark.parametrize("form", FORMS)
def test_each_outcome_has_its_answer(app: qk.App, form: Callable[..., Any]) -> None:
    def run(text: str, attempt: int | None) -> object:
        if text == "raise":
            raise ValueError
        return qk.Retry() if text == "retry" else None

    form(app, "orders", run)

    async def use(client: Client) -> list[int]:
        return [(await client.post(wrapped(text))).status for text in OUTCOMES]

    assert served(app.asgi(auth=NoAuth()), use) == list(OUTCOMES.values())


def test_async_handlers_run_on_the_servers_loop(app: qk.App) -> None:
    loops: list[Any] = []

    @app.handler("orders")
    async def handle(text: str) -> None:
        loops.append(asyncio.get_running_loop())

    async def use(client: Client) -> bool:
        assert (await client.post(wrapped("x"))).status == 204
        return loops == [asyncio.get_running_loop()]

    assert served(app.asgi(auth=NoAuth()), use)


@pytest.mark.parametrize("form", FORMS)
def test_a_dead_letter_is_confirmed_before_the_answer(clock: VirtualClock, form: Callable[..., Any]) -> None:
    with pushed_app(clock) as app:

        def run(text: str, attempt: int | None) -> object:
            raise ValueError(text)

        form(app, "orders", run, dead_letter=DEAD, retry=qk.RetryPolicy(max_attempts=2))
        endpoint = app.asgi(auth=NoAuth())
        assert served(endpoint, lambda client: client.post(wrapped("x", attempt=1))).status == 500
        assert dead_letters() == []
        assert served(endpoint, lambda client: client.post(wrapped("x", attempt=2))).status == 204
    (letter,) = dead_letters()
    assert (letter.body, letter.metadata["dead-attempts"]) == (b"x", "2")


def test_a_dead_letter_that_cannot_be_sent_lets_the_message_come_again(clock: VirtualClock) -> None:
    with pushed_app(clock) as app:

        @app.handler("orders", dead_letter="memory://full?space=shop&max_messages=1")
        def handle(text: str) -> qk.DeadLetter:
            return qk.DeadLetter("no good")

        endpoint = app.asgi(auth=NoAuth())

        async def use(client: Client) -> list[int]:
            return [(await client.post(wrapped(text, message_id=text))).status for text in ("a", "b")]

        assert served(endpoint, use) == [204, 500]
        assert app.counts()["orders"]["dead_letter.failed"] == 1


NO_MESSAGES = {
    "no JSON": b"\xff{",
    "no object": b"[1]",
    "no subscription": b'{"message": {"data": ""}}',
    "a strange subscription": b'{"message": {"data": "", "messageId": "1"}, "subscription": "orders"}',
    "no base64": wrapped("x").replace(base64.b64encode(b"x"), b"!!"),
    "no message": b'{"message": 5, "subscription": "projects/shop/subscriptions/orders"}',
    "no id": b'{"message": {"data": ""}, "subscription": "projects/shop/subscriptions/orders"}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_message_is_kept_with_its_bytes(clock: VirtualClock, name: str) -> None:
    body = NO_MESSAGES[name]
    with pushed_app(clock) as app:

        @app.handler("orders", dead_letter=DEAD)
        def handle(data: bytes) -> None:
            raise AssertionError

        assert push(app, body).status == 204
        assert push(app, body).status == 204
    letters = dead_letters()
    assert {(each.body, each.metadata["dead-reason"]) for each in letters} == {(body, "undecodable")}
    assert len({each.message_id for each in letters}) == 1, "the same bytes have the same id"


def test_what_could_belong_to_two_queues_is_refused(app: qk.App) -> None:
    for queue in ("orders", "emails"):

        @app.handler(queue, dead_letter=DEAD, message_type=queue)
        def handle(data: bytes) -> None:
            raise AssertionError

    assert push(app, b"{").status == 400
    assert push(app, b"{", path="/emails").status == 204
    (letter,) = dead_letters()
    assert letter.metadata["dead-source"] == "pubsub://shop/emails"


def test_a_body_that_the_handlers_type_does_not_fit_is_a_dead_letter(clock: VirtualClock) -> None:
    with pushed_app(clock) as app:

        @app.handler("orders", dead_letter=DEAD)
        def handle(order: Order) -> None:
            raise AssertionError

        assert push(app, wrapped("{}")).status == 204
    assert [each.body for each in dead_letters()] == [b"{}"]


ROUTES: list[tuple[dict[str, Any], dict[str, Any], int | str]] = [
    ({}, {}, "orders"),
    ({"queue": "emails"}, {}, "emails"),
    ({"queue": "emails"}, {"path": "/emails"}, "emails"),
    ({"queue": "emails"}, {"path": "/emails/"}, "emails"),
    ({"queue": "emails"}, {"path": "/orders"}, 404),
    ({}, {"path": "/nothing"}, 404),
    ({}, {"path": "/orders/more"}, 404),
    ({"queue": "nothing"}, {}, 404),
    ({"project": "other"}, {}, 404),
    ({}, {"path": "/queues/orders", "root_path": "/queues"}, "orders"),
    ({}, {"path": "/queues", "root_path": "/queues"}, "orders"),
    ({}, {"path": "/orders", "root_path": "/queues/"}, "orders"),
    ({"queue": "billing", "project": "far"}, {}, "pubsub://far/invoices?subscription=billing"),
    ({"queue": "billing", "project": "far"}, {"path": "/billing"}, "pubsub://far/invoices?subscription=billing"),
    ({"queue": "invoices", "project": "far"}, {}, 404),
]


@pytest.mark.parametrize(("message", "request_", "expected"), ROUTES)
def test_a_request_goes_to_the_queue_that_it_names(
    app: qk.App, message: dict[str, Any], request_: dict[str, Any], expected: int | str
) -> None:
    seen: list[str] = []
    for queue in ("orders", "emails", "pubsub://far/invoices?subscription=billing", "memory://elsewhere"):
        register(app, queue, seen)
    status = push(app, wrapped("x", **message), **request_).status
    assert (seen, status) == ([], expected) if isinstance(expected, int) else ([expected], 204)


def register(app: qk.App, queue: str, seen: list[str]) -> None:
    @app.handler(queue)
    def handle(text: str) -> None:
        seen.append(queue)


def test_a_handler_may_be_registered_after_the_endpoint(app: qk.App) -> None:
    seen: list[str] = []
    register(app, "orders", seen)

    async def use(client: Client) -> int:
        register(app, "emails", seen)
        return (await client.post(wrapped("x", queue="emails"))).status

    assert served(app.asgi(auth=NoAuth()), use) == 204
    assert seen == ["emails"]


def test_an_app_without_a_url_takes_the_project_of_the_request(clock: VirtualClock, monkeypatch: Any) -> None:
    monkeypatch.delenv("QUEUEKIT_URL", raising=False)
    seen: list[str] = []
    with pushed_app(clock, url=None) as app:

        @app.handler("orders")
        def handle(text: str) -> None:
            seen.append(qk.current().queue)

        assert push(app, wrapped("x", project="any")).status == 204
    assert seen == ["pubsub://any/orders"]


UNWRAPPED = {
    "x-goog-pubsub-subscription-name": "projects/shop/subscriptions/orders",
    "x-goog-pubsub-message-id": "77",
    "x-goog-pubsub-publish-time": "2023-11-14T22:13:20Z",
    "x-goog-pubsub-ordering-key": "k",
    "content-type": "text/plain",
    "tenant": "acme",
}


@pytest.mark.parametrize("name", ["projects/shop/subscriptions/orders", "orders"])
def test_an_unwrapped_message_is_the_body_alone(app: qk.App, name: str) -> None:
    seen: list[Any] = []

    @app.handler("orders", message_type="order")
    def handle(data: bytes) -> None:
        running = qk.current()
        seen.append((data, running.message_id, running.ordering_key, running.type, dict(running.attributes)))

    sent = UNWRAPPED | {"x-goog-pubsub-subscription-name": name}
    ours = {"qk": '{"id":"id","meta":{"v":"1","type":"order"},"attrs":{"a":"b"}}'}
    assert push(app, b"\xff\x00", headers=sent).status == 204
    assert push(app, b"x", headers=sent | ours).status == 204
    assert seen == [(b"\xff\x00", "77", "k", None, {}), (b"x", "id", "k", "order", {"a": "b"})]


UNCOUNTED = {"attempts": "none", "copies": "fanout"}


def test_what_nobody_counts_is_refused_by_name(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    for can in (UNCOUNTED, UNCOUNTED | {"assumed": frozenset({"attempts"})}):
        seen: list[str] = []
        with pushed_app(clock, can=can) as app:
            register(app, "orders", seen)
            if "assumed" not in can:
                with pytest.raises(qk.UnsupportedError, match="does not count attempts"):
                    push(app, wrapped("x"))
                continue
            assert push(app, wrapped("x", attempt=None)).status == 500
            assert "does not count attempts" in caplog.text
            assert seen == []
            assert push(app, wrapped("x", attempt=1)).status == 204, "the request says it"
            assert seen == ["orders"]


@pytest.mark.parametrize("form", FORMS)
def test_attempts_that_nobody_counts_are_counted_by_copies_that_wait(
    clock: VirtualClock, form: Callable[..., Any]
) -> None:
    can = {"attempts": "none", "ordering": "none", "push_deadline_s": 60.0}
    with pushed_app(clock, can=can) as app:

        def run(text: str, attempt: int | None) -> object:
            raise ValueError

        form(app, "orders", run, retry=qk.RetryPolicy(max_attempts=5, wait=lambda _state: 7))
        told = asyncio.Event()
        app.listen(lambda _event: application._loop.get().call_soon_threadsafe(told.set), "retried")

        async def use(client: Client) -> tuple[Got, list[StoredMessage]]:
            asking = asyncio.ensure_future(client.post(wrapped("x", attempt=None)))
            await asyncio.wait_for(told.wait(), LIMIT_S)
            assert stored("orders") == []
            assert not asking.done()
            clock.advance(7)
            application.drain()  # wakes what waits; its time has come, too
            return await asking, stored("orders")

        application = app.asgi(auth=NoAuth())
        got, copies = served(application, use)
    assert got.status == 204
    assert [(each.body, each.metadata["base"], each.message_id) for each in copies] == [(b"x", "1", "1")]


def stored(queue: str) -> list[StoredMessage]:
    backend = Opener(SystemClock()).open(qk.QueueURL.parse(f"memory://{queue}?space=shop"))
    assert isinstance(backend, Peekable)
    return list(backend.peek(limit=10))


def test_what_stands_around_handlers_stands_around_them_here_too(clock: VirtualClock) -> None:
    told: list[str] = []

    class Watch(qk.Middleware):
        @contextmanager
        def handling(self, delivery: qk.Current) -> Iterator[None]:
            told.append("before")
            yield
            told.append("after")

    with pushed_app(clock, middleware=[Watch()]) as app:

        @app.handler("orders", idempotent="memory://")
        def handle(text: str) -> None:
            told.append(text)

        app.listen(lambda event: told.append(event.name))

        async def use(client: Client) -> list[int]:
            return [(await client.post(wrapped("x", message_id="same"))).status for _ in range(2)]

        assert served(app.asgi(auth=NoAuth()), use) == [204, 204]
    assert told == ["before", "x", "after", "completed", "before", "after", "completed"]
