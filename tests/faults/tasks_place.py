# SPDX-License-Identifier: Apache-2.0
"""Queues of the emulator of Cloud Tasks, what can be told of them, and a server that their messages are pushed to."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import queuekit as qk
from queuekit._portable.dead_messages import dead_message
from queuekit._wiring.opening import Opener
from queuekit.backend import QueueURL, StoredMessage, SystemClock
from queuekit.push import OIDC, NoAuth
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.serving import Serving

from .places import DeclaredPlace

AT_ONCE = 64
"""Requests of a queue at once."""
_PROJECT, _LOCATION = "shop", "europe-west1"


class TasksPlace(DeclaredPlace):
    """A project of an emulator, whose queues push to one server; dead letters are kept in a file.

    Args:
        emulator: Where the queues are.
        folder: Where dead letters are kept.
        target: Where the server is.
        **settings: Of every queue, as in a URL.
    """

    peeks = False

    def __init__(self, emulator: LocalCloudTasks, folder: Path, target: str, **settings: str) -> None:
        options = {"endpoint": emulator.address, "target": quote(target, safe=":/"), "max_concurrent": f"{AT_ONCE}"}
        query = "&".join(f"{name}={text}" for name, text in (options | settings).items())
        super().__init__("cloudtasks", f"cloudtasks://{_PROJECT}/{_LOCATION}?{query}")
        self._direct, self._folder = self.app_url, folder
        self._port = int(emulator.address.rpartition(":")[2])
        self._client: Any = emulator.client()
        self._made = set[str]()
        self.make("jobs")

    @property
    def port(self) -> int:
        return self._port

    @property
    def dead(self) -> str:
        """The URL of the queue that dead letters go to."""
        return f"sqlite:///{self._folder}/dead.db?queue=buried"

    def make(self, queue: str) -> None:
        if queue not in self._made:
            self._made.add(queue)
            opener = Opener(SystemClock())
            made: Any = opener.open(QueueURL.parse(self._url(self._direct, queue)))
            made.create()
            opener.close()

    def left(self, queue: str, **options: Any) -> int:
        parent = f"projects/{_PROJECT}/locations/{_LOCATION}/queues/{queue}"
        return sum(1 for _ in self._client.list_tasks(request={"parent": parent, "page_size": 1000}, timeout=30))

    def leased(self, queue: str) -> int:
        return 0

    def counts(self, queue: str, **options: Any) -> tuple[int, int]:
        # First what is left: its last dead letter was there before its task was done.
        return self.left(queue), len(self.letters(queue))

    def letters(self, queue: str, **options: Any) -> list[qk.DeadMessage]:
        opener = Opener(SystemClock())
        store: Any = opener.open(QueueURL.parse(self.dead))
        found = list[StoredMessage]()
        while page := store.peek(limit=500, after=found[-1].cursor if found else None):
            found += page
        opener.close()
        return [dead_message(each) for each in found]

    def close(self) -> None:
        """Speak to the emulator no more."""
        self._client.transport.close()


class Endpoint:
    """A real server, whose address is known before the app is made whose handlers it runs."""

    def __init__(self) -> None:
        self.serving = Serving(self._serve)
        self._asgi: Any = None

    @property
    def url(self) -> str:
        """Where messages are pushed to."""
        return f"{self.serving.url}/tasks"

    @contextmanager
    def runs(self, app: qk.App, *, auth: OIDC | None = None) -> Iterator[None]:
        """Serve the app's handlers; anybody on this host may push, unless ``auth`` knows better."""
        self._asgi = app.asgi(auth=auth or NoAuth())
        with self.serving:
            yield

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self._asgi(scope, receive, send)


def free_port() -> int:
    """One that no outgoing connection is given, as a server that was killed comes back to it."""
    while True:
        port = random.randint(20_000, 30_000)
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)):
                return port
