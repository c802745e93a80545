# SPDX-License-Identifier: Apache-2.0
"""What is read of a request before anybody acts on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import queuekit as qk
from queuekit.push import NoAuth
from queuekit.push._requests import request_of
from queuekit.testing.clock import VirtualClock

from .pushes import pushed_app, wrapped


def scope(**changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "server": ("127.0.0.1", 8080),
        "client": ("127.0.0.1", 50000),
    }
    return known | changes


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/", "", ""),
        ("/orders", "", "orders"),
        ("/queues/orders/", "/queues", "orders"),
        ("/queues/", "/queues/", ""),
        ("/queues", "/queues", ""),
        ("/queuesorders", "/queues", "queuesorders"),
        ("/orders", "/queues", "orders"),  # some servers take the mount's own path away
    ],
)
def test_a_path_counts_from_where_the_application_is_mounted(path: str, root: str, below: str) -> None:
    assert request_of(scope(path=path, root_path=root)).path == below


@pytest.mark.parametrize(
    ("values", "proof"),
    [
        ([], None),
        ([b"Bearer a.b.c"], "Bearer a.b.c"),
        ([b"Bearer a.b.c", b"Bearer a.b.c"], None),
        ([b"Bearer a.b.c", b""], None),
        ([b"", b"Bearer a.b.c"], None),
    ],
)
def test_whoever_proves_twice_who_he_is_proves_nothing(values: list[bytes], proof: str | None) -> None:
    headers = [(b"Authorization", each) for each in values]
    assert request_of(scope(headers=headers)).caller.authorization == proof


def test_the_values_of_a_repeated_header_are_joined() -> None:
    headers = [(b"X-A", b"1"), (b"x-a", b"2")]
    assert request_of(scope(headers=headers)).headers == {"x-a": "1, 2"}


@pytest.mark.parametrize("address", [None, ("localhost", None), ("/run/127.0.0.1", None)])
def test_a_socket_in_the_file_system_is_no_address(address: Any) -> None:
    caller = request_of(scope(server=address, client=address)).caller
    assert (caller.server, caller.client) == ("", "")


@pytest.mark.parametrize(
    ("text", "length"), [(b"7", 7), (b"", None), (b"-7", None), ("\u00b2".encode("latin-1"), None), (b"9" * 20, None)]
)
def test_a_length_is_a_number_or_not_known(text: bytes, length: int | None) -> None:
    assert request_of(scope(headers=[(b"content-length", text)])).length == length


@pytest.fixture
def app(clock: VirtualClock) -> Iterator[qk.App]:
    with pushed_app(clock) as made:
        yield made


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_body_without_an_end_is_no_message_and_is_not_answered(app: qk.App, parts: int) -> None:
    seen: list[str] = []

    @app.handler("orders")
    def handle(text: str) -> None:
        seen.append(text)

    endpoint = app.asgi(auth=NoAuth())
    whole = wrapped("x")
    events: list[Any] = [{"type": "http.request", "body": each, "more_body": True} for each in (whole, b"")[:parts]]
    sent: list[Any] = []

    async def receive() -> Any:
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        sent.append(event)

    async def run() -> None:
        async with endpoint.lifespan():
            await endpoint(scope(), receive, send)

    asyncio.run(run())
    assert (sent, seen, endpoint._room.requests) == ([], [], 0)
