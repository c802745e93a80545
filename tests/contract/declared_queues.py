# SPDX-License-Identifier: Apache-2.0
"""Queues that are made before they are used, on a server behind a route that can be cut."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from queuekit.backend import Backend, QueueURL
from queuekit.testing.contract import Harness
from queuekit.testing.proxy import TcpProxy


class MadeFirst(Harness):
    """Makes each queue when its URL is first asked for."""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        self._made: set[str] = set()

    def url(self, queue: str) -> str:
        if queue not in self._made:
            self._made.add(queue)
            made: Any = self.opener.open(QueueURL.parse(self.url_of(queue)))
            if not made.exists():
                made.create()
            made.close()
        return self.url_of(queue)


class DeclaredHarness(MadeFirst):
    """One server for all cases; each has queues of its own."""

    route: ClassVar[TcpProxy]
    min_lease_s = 2.0
    min_delay_s = 2.0
    tolerance_s = 3.0
    silence_s = 4.0
    flood = 150
    examples = 2
    operations = 400

    def open(self, queue: str, *, opener: Any = None, **options: Any) -> Backend:
        # At the backend interface a receive waits for as long as it was asked to.
        url, left_out = QueueURL.parse(self.url(queue)), {"poll", *options}
        url = url.replace(options={name: text for name, text in url.options.items() if name not in left_out})
        backend: Backend = (opener or self.opener).open(url, options)
        self._opened.append(backend)
        return backend

    def restart(self) -> None:
        """As it looks from outside: connections are lost, none can be made for a moment, and nothing is gone."""
        self.route.refuse()
        self.route.reset()
        threading.Event().wait(0.3)
        self.route.heal()
