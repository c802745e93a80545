# SPDX-License-Identifier: Apache-2.0
"""The contract on a real server, with an append-only file, on real time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract import BackendContract
from queuekit.testing.emulators import LocalRedis
from queuekit.testing.proxy import TcpProxy

from .redis_servers import BUSY_SOON, RedisHarness, program_of, small_server


class OneServerHarness(RedisHarness):
    small: ClassVar[LocalRedis]

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("127.0.0.1", self.server.port)
        return proxy.through(f"{self.server.url}?queue={queue}&answer_timeout=500ms"), proxy

    def full(self, queue: str) -> str:
        return f"{self.small.url}?queue={queue}"


@pytest.fixture(scope="module", autouse=True)
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("redis")
    with (
        LocalRedis(folder / "all", program_of(), durable=True, options=BUSY_SOON) as server,
        small_server(folder / "small") as small,
    ):
        OneServerHarness.server, OneServerHarness.small = server, small
        yield


class TestRedis(BackendContract):
    harness_class = OneServerHarness
