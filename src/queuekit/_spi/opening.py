# SPDX-License-Identifier: Apache-2.0
"""How a backend is made from a URL, and what it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from queuekit._spi.protocol import Backend
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.url import QueueURL

SPI_VERSION = 1
"""Raised when a backend written for an older version would break; checked when a backend is opened."""

T = TypeVar("T")


class ClientPool:
    """Shares SDK clients and connections among the backends of one owner; closed last.

    Keyed by whatever decides that two backends can share: scheme, authority, credentials.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[Hashable, tuple[Any, Callable[[Any], None]]] = {}

    def get(self, key: Hashable, make: Callable[[], T], close: Callable[[T], None]) -> T:
        """The client kept under ``key``, made by ``make`` at the first call.

        Raises:
            Exception: Whatever ``make`` raises; nothing is kept then.
        """
        with self._lock:
            if key not in self._clients:
                self._clients[key] = (make(), close)
            client: T = self._clients[key][0]
            return client

    def close(self) -> None:
        """Close every client, the youngest first. Idempotent."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client, close in reversed(clients):
            close(client)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Everything that a backend is opened with.

    Attributes:
        url: The queue's whole URL.
        queue: The queue's name, from the URL's slot.
        options: An instance of the spec's options class.
        clock: The only source of time and chance.
        clients: Where shared clients live.
        connect_timeout_s: Longest time for connecting.
        call_timeout_s: Longest time for one call, beside what it may wait for messages.
    """

    url: QueueURL
    queue: str
    options: Any
    clock: Clock = field(default_factory=SystemClock)
    clients: ClientPool = field(default_factory=ClientPool)
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """What an entry point of the group ``queuekit.backends`` names: how URLs of a scheme are opened.

    Attributes:
        open: Makes the backend; no I/O. Raises `InvalidURLError` for a URL that it cannot read.
        options: A frozen dataclass with one field per URL option, all with defaults. Where ``slot`` is
            ``option``, the option ``queue`` is read before and is not a field.
        slot: Where the queue's name stands: the ``host`` of the URL, the last part of the ``path``, or the
            ``option`` called ``queue``.
        path_parts: With ``slot="path"``, how many parts of the path stand before the queue's name.
        forms: The URL forms, for messages and documents, such as ``memory://QUEUE``.
        places: Names of the options without which a URL may mean another queue, such as ``space``.
        spi_version: The `SPI_VERSION` that the backend was written for.
    """

    open: Callable[[Opening], Backend]
    options: type[Any]
    slot: Literal["host", "path", "option"]
    forms: tuple[str, ...]
    path_parts: int = 0
    places: tuple[str, ...] = ()
    spi_version: int = SPI_VERSION
