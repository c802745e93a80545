# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import Opening, QueueURL
from queuekit.backends.sqlite import SPEC, SQLiteBackend, SQLiteOptions
from queuekit.testing.clock import VirtualClock

Open = Callable[..., SQLiteBackend]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def open_queue(tmp_path: Path, clock: VirtualClock) -> Iterator[Open]:
    """Opens queues of one file, each with connections of its own."""
    opened: list[SQLiteBackend] = []

    def open_one(
        queue: str = "orders", *, file: str = "jobs.db", clock: Any = clock, **options: Any
    ) -> SQLiteBackend:
        url = QueueURL(scheme="sqlite", path=f"/{tmp_path}/{file}", options={"queue": queue})
        backend = SPEC.open(Opening(url=url, queue=queue, options=SQLiteOptions(**options), clock=clock))
        assert isinstance(backend, SQLiteBackend)
        opened.append(backend)
        return backend

    yield open_one
    for each in opened:
        each.close()
