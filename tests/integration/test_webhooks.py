# SPDX-License-Identifier: Apache-2.0
"""Real input: 451 webhook payloads through every store that needs no server, twice."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import queuekit as qk

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("QUEUEKIT_SHARED", ROOT.parent / "shared"))
FILE = SHARED / "data" / "github-webhooks.jsonl"
COUNT = 451
TIMES = 2


class Webhook(BaseModel):
    event: str
    file: str
    payload: dict[str, Any]


@pytest.fixture(scope="module")
def bodies() -> list[bytes]:
    if not FILE.exists():
        pytest.skip(f"{FILE.name} is not in {FILE.parent}; name the folder that holds data/ with QUEUEKIT_SHARED")
    lines = FILE.read_bytes().splitlines()
    assert len(lines) == COUNT
    return lines


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return "memory://webhooks"
    return f"sqlite:///{tmp_path}/webhooks.db?queue=webhooks"


def receive_all(consumer: qk.Consumer[Any], count: int) -> Iterator[qk.Delivery[Any]]:
    """So many deliveries, each acked, and then none."""
    for _ in range(count):
        delivery = consumer.receive(timeout=30)
        assert delivery is not None
        yield delivery
        delivery.ack()
    assert consumer.receive(timeout=0) is None


def by_event(pairs: Iterator[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups = defaultdict(list)
    for event, value in pairs:
        groups[event].append(value)
    return groups


def test_every_body_arrives_twice_byte_by_byte_and_in_order_of_its_event(url: str, bodies: list[bytes]) -> None:
    events = [json.loads(body)["event"] for body in bodies] * TIMES
    sent = bodies * TIMES
    with qk.Producer(url) as producer:
        messages = [qk.Message(body, ordering_key=event) for event, body in zip(events, sent, strict=True)]
        producer.send_many(messages).raise_for_failures()
    with qk.Consumer(url) as consumer:
        arrived = [(each.ordering_key, each.payload) for each in receive_all(consumer, COUNT * TIMES)]
    assert by_event(iter(arrived)) == by_event(zip(events, sent, strict=True))


def test_every_payload_arrives_twice_as_its_model_and_in_order_of_its_event(url: str, bodies: list[bytes]) -> None:
    sent = [Webhook.model_validate_json(body) for body in bodies] * TIMES
    with qk.Producer[Webhook](url, payload=Webhook) as producer:
        producer.send_many([qk.Message(each, ordering_key=each.event) for each in sent]).raise_for_failures()
    with qk.Consumer[Webhook](url, payload=Webhook) as consumer:
        arrived = [(each.payload, json.loads(each.body)) for each in receive_all(consumer, COUNT * TIMES)]
    assert all(model.model_dump() == parsed for model, parsed in arrived)
    # Against what the file says, not against what our own model made of it.
    expected = [json.loads(body) for body in bodies] * TIMES
    assert by_event((each["event"], each) for _, each in arrived) == by_event(
        (each["event"], each) for each in expected
    )


def test_an_oversized_body_amid_a_batch_is_refused_by_name_and_the_rest_is_sent(
    url: str, bodies: list[bytes]
) -> None:
    with qk.Producer(url) as producer:
        limit = producer.check().capabilities.max_message_bytes
        middle = COUNT // 2
        report = producer.send_many([*bodies[:middle], b"x" * (limit + 1), *bodies[middle:]])
    refused = report.outcomes[middle]
    assert isinstance(refused, qk.Rejected)
    assert refused.error.code is qk.ErrorCode.TOO_LARGE
    assert report.failed == (refused,)
    with qk.Consumer(url) as consumer:
        assert [each.body for each in receive_all(consumer, COUNT)] == bodies
