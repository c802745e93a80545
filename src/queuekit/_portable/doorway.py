# SPDX-License-Identifier: Apache-2.0
"""What a front door gets from its app: the pipe of each queue, and an end to everything between two answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from queuekit._portable.events import Listeners
from queuekit._portable.figures import Figures
from queuekit._portable.fitness import wanted_of
from queuekit._portable.handler import AnyHandler, slots_of
from queuekit._portable.idempotent import Once
from queuekit._portable.kept_loop import KeptLoop
from queuekit._portable.link import BackendOpener, Require, open_link, resolve_url
from queuekit._portable.pipe import Pipe
from queuekit._portable.producer import Producer
from queuekit._values.clock import Clock
from queuekit._values.url import QueueURL
from queuekit._wiring.defaults import VARIABLE
from queuekit._wiring.opening import lane_urls

Place = tuple[QueueURL | None, str | None, Mapping[str, Any]]


class Named(NamedTuple):
    """One queue that handlers name.

    Attributes:
        name: As they name it.
        url: Its whole URL; None where the app has none, so that the queue's name is all that is known.
        options: URL options that were given as keywords.
    """

    name: str
    url: QueueURL | None
    options: Mapping[str, Any]


class Doorway:
    """The app's side of a front door.

    Args:
        handlers: By queue; more may be registered later.
        place: The URL, the name and the options that a queue is opened with.
        require: Features that every queue must have.
        opener: Opens queues.
        listeners: Who is told what becomes of messages.
        figures: Where to count.
        clock: Time.
        producers: What the app sends through now.
        onces: What remembers the work of idempotent handlers.

    Attributes:
        clock: The same.
        loop: For async handlers.

    Concurrency:
        Safe from any thread; `rest` between rounds.
    """

    def __init__(
        self,
        *,
        handlers: Mapping[str, Sequence[AnyHandler]],
        place: Callable[[str], Place],
        require: Require,
        opener: BackendOpener,
        listeners: Listeners,
        figures: Figures,
        clock: Clock,
        producers: Callable[[], Sequence[Producer[Any]]],
        onces: Sequence[Once],
    ) -> None:
        self.clock = clock
        self.loop: KeptLoop = KeptLoop()
        self._handlers, self._place, self._require, self._opener = handlers, place, require, opener
        self._listeners, self._figures = listeners, figures
        self._producers, self._onces = producers, onces
        self._lock = threading.Lock()
        self._pipes: dict[QueueURL, Pipe] = {}

    def queues(self) -> Iterator[Named]:
        """Every queue that handlers name; of one with lanes, each lane.

        Raises:
            SetupError: A URL is wrong.
        """
        for name in self._handlers:
            url, queue, options = self._place(name)
            if url is None and VARIABLE not in os.environ:
                yield Named(name, None, options)
                continue
            urls, rest = lane_urls(resolve_url(url, queue), options)
            for each in urls:
                yield Named(name, each, rest)

    def pipe(self, name: str | None, url: QueueURL, options: Mapping[str, Any]) -> Pipe:
        """The pipe of one queue, opened at first use; no I/O.

        Args:
            name: As the handlers name it; None where no handler does.
            url: The queue's whole URL.
            options: As `Named` has them.

        Raises:
            SetupError: The URL, its options or its backend are wrong, or the queue lacks what is required.
            UsageError: The dead-letter queue of the handlers cannot be one.
        """
        handlers = () if name is None else tuple(self._handlers[name])
        with self._lock:
            if url not in self._pipes:
                link = open_link(url, None, options, opener=self._opener, require=self._require)
                if handlers:
                    link.wanted = wanted_of(handlers)
                slots = slots_of(handlers) if handlers else 1
                made = Pipe(
                    link,
                    handlers,
                    slots=slots,
                    opener=self._opener,
                    listeners=self._listeners,
                    loop=self.loop.get,
                )
                self._pipes[url] = made
                if name is not None:
                    self._figures.watch_pipe(name, made)
            return self._pipes[url]

    def rest(self, until: float) -> None:
        """Send what handlers handed over, and end every thread; what comes next starts them again.

        Args:
            until: When to wait no longer, in monotonic seconds.
        """
        for producer in self._producers():
            producer._rest(self._left_s(until))  # noqa: SLF001 - one package; nothing for users
        for once in self._onces:
            once.rest()
        self.loop.rest(self._left_s(until))

    def close(self) -> None:
        """Close the queues and the loop. Idempotent; a later `pipe` opens them again."""
        with self._lock:
            pipes, self._pipes = self._pipes, {}
        for pipe in pipes.values():
            pipe.close()
        self.loop.close()

    def _left_s(self, until: float) -> float:
        return min(_LONGEST_REST_S, max(_LEAST_REST_S, until - self.clock.monotonic()))


_LONGEST_REST_S = 30.0
# What has ended but for its last steps is not given up because the time is just over.
_LEAST_REST_S = 0.1
