# SPDX-License-Identifier: Apache-2.0
"""A real server against too much: long bodies, many requests."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import queuekit as qk
from queuekit.push import NoAuth
from queuekit.testing.serving import Serving

from .conftest import LIMIT_S, Cloud

MIB = 2**20
JSON = {"Content-Type": "application/json"}


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


@pytest.fixture
def served(cloud: Cloud) -> Iterator[tuple[str, list[str]]]:
    cloud.make("orders")
    seen: list[str] = []
    with qk.App(cloud.base) as app:

        @app.handler("orders")
        def handle(text: str) -> None:
            seen.append(text)

        with Serving(app.asgi(auth=NoAuth())) as serving:
            yield serving.url, seen


def test_a_hundred_megabytes_are_refused_before_they_have_come(served: tuple[str, list[str]]) -> None:
    url, seen = served
    before = resident()

    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * MIB

    with httpx.Client(timeout=LIMIT_S) as client, client.stream("POST", url, content=parts(), headers=JSON) as got:
        assert got.status_code == 413
    assert (seen, resident() - before <= 64 * MIB) == ([], True)


def test_many_requests_that_are_none_reach_no_handler(served: tuple[str, list[str]]) -> None:
    url, seen = served
    before = resident()

    async def flood() -> set[int]:
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(limits=limits, timeout=LIMIT_S) as client:
            body, headers = b"x" * 1000, JSON | {"Content-Encoding": "gzip"}
            got = await asyncio.gather(*(client.post(url, content=body, headers=headers) for _ in range(100)))
        return {each.status_code for each in got}

    assert asyncio.run(flood()) == {415}
    assert (seen, resident() - before <= 64 * MIB) == ([], True)
