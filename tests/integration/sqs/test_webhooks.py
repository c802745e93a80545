# SPDX-License-Identifier: Apache-2.0
"""Real input: 451 webhook payloads through SQS, to a pull worker."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("QUEUEKIT_SHARED", ROOT.parent / "shared"))
FILE = SHARED / "data" / "github-webhooks.jsonl"
COUNT = 451


def test_every_body_goes_through_byte_by_byte(service: Any) -> None:
    if not FILE.exists():
        pytest.skip(f"{FILE.name} is not in {FILE.parent}; name the folder that holds data/ with QUEUEKIT_SHARED")
    bodies = FILE.read_bytes().splitlines()
    assert len(bodies) == COUNT
    if type(service.server).__name__ == "LocalFauxqs":  # which takes nothing beyond the basic multilingual plane
        bodies = [each for each in bodies if max(each.decode()) <= "\uffff"]
    arrived, lock, app = list[bytes](), threading.Condition(), qk.App()
    url = service.url(service.queue(), poll="1s")

    @app.handler(url)
    def handle(body: bytes) -> None:
        with lock:
            arrived.append(body)
            lock.notify()
        if len(arrived) == len(bodies):
            app.stop()

    working = threading.Thread(target=lambda: app.run(signals=False))
    working.start()
    with qk.Producer(url) as producer:
        for start in range(0, len(bodies), 50):  # moto takes the longer the more there are in a queue
            with lock:
                assert lock.wait_for(lambda start=start: len(arrived) >= start - 50, 60)  # type: ignore[misc]
            producer.send_many(bodies[start : start + 50]).raise_for_failures()
    working.join(120)
    assert sorted(arrived) == sorted(bodies)
