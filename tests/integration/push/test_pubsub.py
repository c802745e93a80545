# SPDX-License-Identifier: Apache-2.0
"""Push subscriptions of Pub/Sub's emulator, and a real server."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import queuekit as qk
from queuekit.push import NoAuth
from queuekit.testing.serving import Serving

from .conftest import LIMIT_S, Cloud

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("QUEUEKIT_SHARED", ROOT.parent / "shared"))
WEBHOOKS = SHARED / "data" / "github-webhooks.jsonl"
COUNT = 451


@pytest.fixture
def bodies() -> list[bytes]:
    if not WEBHOOKS.exists():
        pytest.skip(f"{WEBHOOKS.name} is not there; name the folder that holds data/ with QUEUEKIT_SHARED")
    lines = WEBHOOKS.read_bytes().splitlines()
    assert len(lines) == COUNT
    return lines


class Webhook(BaseModel):
    event: str
    file: str
    payload: dict[str, Any]


def test_webhooks_of_strangers_arrive_byte_by_byte_and_as_their_model(cloud: Cloud, bodies: list[bytes]) -> None:
    cloud.make("hooks")
    arrived: list[tuple[bytes, Webhook]] = []
    with qk.App(cloud.base) as app:

        @app.handler("hooks")
        async def handle(webhook: Webhook) -> None:
            arrived.append((qk.current().body, webhook))

        with Serving(app.asgi(auth=NoAuth())) as serving, cloud.pushing("hooks", serving.url):
            cloud.publish("hooks", bodies)
            answers = serving.wait_for(COUNT, within_s=LIMIT_S)
        counts = app.counts()["hooks"]
    assert {each.status for each in answers} == {204}
    assert sorted(body for body, _ in arrived) == sorted(bodies)
    assert all(webhook.model_dump() == json.loads(body) for body, webhook in arrived)
    assert (counts["received"], counts["settled"]) == (COUNT, COUNT)


def test_our_own_webhooks_arrive_in_the_order_of_their_keys(cloud: Cloud, bodies: list[bytes]) -> None:
    cloud.make("hooks", ordering=True, max_deliveries=100)
    arrived: dict[str, list[bytes]] = defaultdict(list)
    done = threading.Event()
    with qk.App(cloud.base, ordering=True) as app:

        @app.handler("hooks")
        def handle(body: bytes) -> None:
            # The emulator leaves orderingKey out of what it pushes, as it does deliveryAttempt.
            arrived[qk.current().attributes["key"]].append(body)
            if sum(map(len, arrived.values())) == COUNT:
                done.set()

        with Serving(app.asgi(auth=NoAuth())) as serving, cloud.pushing("hooks", serving.url):
            with qk.Producer(cloud.url("hooks"), payload=bytes, ordering=True) as producer:
                for at, body in enumerate(bodies):
                    key = f"key {at % 7}"
                    producer.send(body, ordering_key=key, attributes={"key": key})
            assert done.wait(LIMIT_S)
            serving.wait_for(COUNT)
    assert arrived == {f"key {at}": bodies[at::7] for at in range(7)}


def test_unwrapped_messages_keep_what_queuekit_wrote(cloud: Cloud) -> None:
    cloud.make("plain")
    seen: list[tuple[bytes, str, str | None]] = []
    with qk.App(cloud.base) as app:

        @app.handler("plain", message_type="note")
        def handle(body: bytes) -> None:
            seen.append((body, qk.current().message_id, qk.current().type))

        unwrapped = {"no_wrapper": {"write_metadata": True}}
        with (
            Serving(app.asgi(auth=NoAuth())) as serving,
            cloud.pushing("plain", f"{serving.url}/plain", **unwrapped),
            qk.Producer(cloud.url("plain"), payload=bytes, message_type="note") as producer,
        ):
            sent = producer.send(b"{ours}")  # the emulator spoils what is no UTF-8 when it does not wrap it
            cloud.publish("plain", [b"of a stranger"])
            assert {each.status for each in serving.wait_for(2)} == {204}
    assert {body: rest for body, *rest in seen} == {
        b"{ours}": [sent.message_id, "note"],
        b"of a stranger": [next(message_id for body, message_id, _ in seen if body == b"of a stranger"), None],
    }


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_what_waits_elsewhere_is_forwarded_beside_the_server(cloud: Cloud, tmp_path: Path, lifespan: Any) -> None:
    cloud.make("orders")
    seen: list[str] = []
    with qk.App(cloud.base, delay_via=f"sqlite:///{tmp_path}/waiting.db?queue=waiting") as app:

        @app.handler("orders")
        def handle(order: str) -> None:
            seen.append(order)

        with Serving(app.asgi(auth=NoAuth()), lifespan=lifespan) as serving, cloud.pushing("orders", serving.url):
            handle.send("first")
            handle.send("second", delay=timedelta(milliseconds=200))
            assert {each.status for each in serving.wait_for(2, within_s=LIMIT_S)} == {204}
    assert sorted(seen) == ["first", "second"]
    assert not [each.name for each in threading.enumerate() if each.name == "queuekit-forward"]


@pytest.mark.parametrize("written", [True, False])
def test_bodies_that_are_pushed_with_nothing_beside_them_are_refused_at_the_start(
    cloud: Cloud, written: bool
) -> None:
    cloud.make("plain")
    endpoint = {"push_endpoint": "http://127.0.0.1:9/plain", "no_wrapper": {"write_metadata": written}}
    name = f"projects/{cloud.project}/subscriptions/plain"
    cloud.subscriber.modify_push_config(request={"subscription": name, "push_config": endpoint}, timeout=10)
    with qk.App(cloud.base) as app:

        @app.handler("plain")
        def handle(_body: bytes) -> None: ...

        if written:
            with Serving(app.asgi(auth=NoAuth())):
                pass
        else:
            with pytest.raises(qk.UnsupportedError, match="write metadata"):
                asyncio.run(_start(app.asgi(auth=NoAuth())))


async def _start(endpoint: Any) -> None:
    async with endpoint.lifespan():
        pass


def test_the_emulator_tells_no_attempts_of_what_it_pushes(cloud: Cloud) -> None:
    """Pub/Sub does, where there is a dead-letter policy; a case of the contract deviates for this."""
    cloud.make("counted", max_deliveries=5)
    bodies: list[bytes] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        event = await receive()
        bodies.append(event["body"])
        await send({"type": "http.response.start", "status": 500 if len(bodies) == 1 else 204, "headers": []})
        await send({"type": "http.response.body"})

    with Serving(application, lifespan="off") as serving, cloud.pushing("counted", serving.url):
        cloud.publish("counted", [b"x"])
        serving.wait_for(2)
    assert [b"deliveryAttempt" in each for each in bodies] == [False, False]


def test_used_up_attempts_reach_the_dead_letter_queue_once_each(cloud: Cloud) -> None:
    cloud.make("orders")
    dead = cloud.make("orders-dead")
    with qk.App(cloud.base) as app:

        @app.handler("orders", dead_letter=dead, retry=qk.RetryPolicy(max_attempts=3, wait=lambda _state: 0))
        def handle(number: int) -> None:
            if number % 2:
                raise ValueError(number)

        with Serving(app.asgi(auth=NoAuth())) as serving, cloud.pushing("orders", serving.url):
            handle.send_many(range(20)).raise_for_failures()
            # Each odd one twice as a copy.
            serving.wait_for(20 + 2 * 10, within_s=LIMIT_S)
        assert app.counts()["orders"]["delivery.dead"] == 10
    with qk.Consumer(dead, payload=int) as letters:
        found = []
        while len(found) < 10 and (letter := letters.receive(timeout=10)) is not None:
            found.append((letter.payload, letter._held.message.metadata["dead-attempts"]))
            letter.ack()
    assert sorted(found) == [(number, "3") for number in range(1, 20, 2)]
