# SPDX-License-Identifier: Apache-2.0
"""Real input: 451 webhook payloads through Pub/Sub, in order per key where the subscription is ordered."""

import json
import os
import threading
from collections import defaultdict
from pathlib import Path

import pytest

import queuekit as qk

from .conftest import Service

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("QUEUEKIT_SHARED", ROOT.parent / "shared"))
FILE = SHARED / "data" / "github-webhooks.jsonl"
COUNT = 451


@pytest.fixture(scope="module")
def bodies() -> list[bytes]:
    if not FILE.exists():
        pytest.skip(f"{FILE.name} is not in {FILE.parent}; name the folder that holds data/ with QUEUEKIT_SHARED")
    lines = FILE.read_bytes().splitlines()
    assert len(lines) == COUNT
    return lines


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_every_body_goes_through_byte_by_byte(service: Service, bodies: list[bytes], ordered: bool) -> None:
    url = service.made(ordering="true") if ordered else service.made()
    keys = [json.loads(body)["event"] if ordered else None for body in bodies]
    arrived, sent = defaultdict[str | None, list[bytes]](list), defaultdict[str | None, list[bytes]](list)
    app, lock, count = qk.App(), threading.Lock(), 0

    @app.handler(url, concurrency=4)
    def handle(body: bytes) -> None:
        nonlocal count
        with lock:
            arrived[qk.current().ordering_key].append(body)
            count += 1
            if count == COUNT:
                app.stop()

    with qk.Producer(url) as producer:
        messages = [qk.Message(body, ordering_key=key) for key, body in zip(keys, bodies, strict=True)]
        producer.send_many(messages).raise_for_failures()
    working = threading.Thread(target=lambda: app.run(signals=False))
    working.start()
    working.join(60)
    assert not working.is_alive()
    for key, body in zip(keys, bodies, strict=True):
        sent[key].append(body)
    if ordered:
        assert arrived == sent
    else:
        assert sorted(arrived[None]) == sorted(bodies)
