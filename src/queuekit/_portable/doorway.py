# SPDX-License-Identifier: Apache-2.0
"""What a front door gets from its app: the pipe of each queue, and an end to everything between two answers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from queuekit._portable.events import Listeners
from queuekit._portable.figures import Figures
from queuekit._portable.fitness import check_answered, wanted_of
from queuekit._portable.handler import AnyHandler, slots_of
from queuekit._portable.idempotent import Once
from queuekit._portable.kept_loop import KeptLoop
from queuekit._portable.link import BackendOpener, Link, Require, open_link, resolve_url
from queuekit._portable.pipe import Pipe
from queuekit._portable.producer import Producer
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError
from queuekit._values.url import QueueURL
from queuekit._wiring.defaults import VARIABLE
from queuekit._wiring.engine_options import engine_options
from queuekit._wiring.opening import lane_urls

if TYPE_CHECKING:
    from queuekit._portable.forwarding import Forwarder
    from queuekit._portable.forwarding_beside import ForwardingBeside

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


class HandlersLoop(Protocol):
    """The event loop that async handlers run on."""

    def get(self) -> asyncio.AbstractEventLoop:
        """The loop, running."""
        ...

    def rest(self, timeout_s: float) -> None:
        """End the threads that are ours; a later `get` starts them again."""
        ...

    def close(self) -> None:
        """Close what is ours. Idempotent."""
        ...


class ServersLoop:
    """The event loop of a server: whoever runs it tells which it is, and nothing of it is ours to end.

    Concurrency:
        `use`, `pause` and `on_wake` on the loop; the rest from any thread, and `wake` from a signal handler.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakers: dict[Callable[[], object], asyncio.AbstractEventLoop] = {}

    def use(self) -> asyncio.AbstractEventLoop:
        """From now on it is the one that runs here."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def get(self) -> asyncio.AbstractEventLoop:
        """The one that was last in use.

        Raises:
            ClosedError: None has been yet.
        """
        if self._loop is None:
            msg = "no event loop serves this app"
            raise ClosedError(msg, operation="handle")
        return self._loop

    async def pause(self, timeout_s: float) -> None:
        """Wait for so long, or until `wake`."""
        waker = asyncio.Event()
        with self.on_wake(waker.set), suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await waker.wait()

    @contextmanager
    def on_wake(self, call: Callable[[], object]) -> Iterator[None]:
        """Inside, `wake` has this called on the loop."""
        self._wakers[call] = asyncio.get_running_loop()
        try:
            yield
        finally:
            del self._wakers[call]

    def wake(self) -> None:
        """End every `pause`, and make the calls of every `on_wake`."""
        for call, loop in list(self._wakers.items()):
            with suppress(RuntimeError):  # nobody waits on a loop that is closed
                loop.call_soon_threadsafe(call)

    def rest(self, timeout_s: float) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


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
        forwarders: Makes what forwards to such queues what has waited elsewhere.
        drain_s: How long running handlers may go on when the door closes.

    Attributes:
        clock: The same.
        drain_s: The same.
        loop: For async handlers; a door may put another in its place before its first pipe.
        by_answer: Whether nothing but the door's answer settles a message. A door says so before its first pipe.
        answer_s: For how long that answer is awaited; None where only the service knows.
        stopping: Whether the door is about to close.

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
        forwarders: Callable[[Sequence[Link]], Sequence[Forwarder]],
        drain_s: float,
    ) -> None:
        self.clock = clock
        self.drain_s = drain_s
        self.loop: HandlersLoop = KeptLoop()
        self.by_answer = self.stopping = False
        self.answer_s: float | None = None
        self._handlers, self._place, self._require, self._opener = handlers, place, require, opener
        self._listeners, self._figures = listeners, figures
        self._producers, self._onces = producers, onces
        self._forwarders = forwarders
        self._forwarding: ForwardingBeside | None = None
        self._lock = threading.Lock()
        self._closers: list[Callable[[], None]] = []
        self._opening: dict[QueueURL, threading.Lock] = {}
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
        """The pipe of one queue, opened at first use. I/O only `by_answer`: the queue is asked for its limits then.

        Args:
            name: As the handlers name it; None where no handler does.
            url: The queue's whole URL.
            options: As `Named` has them.

        Raises:
            SetupError: The URL, its options or its backend are wrong, or the queue lacks what is required.
            UsageError: The dead-letter queue of the handlers cannot be one.
            QueueKitError: The queue was to be asked, and did not answer.
        """
        with self._lock:
            opening = self._opening.setdefault(url, threading.Lock())
        # One queue that does not answer keeps no other one waiting.
        with opening:
            if url not in self._pipes:
                made = self._open(() if name is None else tuple(self._handlers[name]), url, options)
                with self._lock:
                    self._pipes[url] = made
                if name is not None:
                    self._figures.watch_pipe(name, made)
            return self._pipes[url]

    def forward(self, queues: Sequence[Named]) -> None:
        """Bring to these queues what has waited elsewhere, on threads of its own, until `close`.

        For doors that stay open between two messages. Raises as `ForwardingBeside.start` does.
        """
        with self._lock:
            if self._forwarding is None:
                from queuekit._portable.forwarding_beside import ForwardingBeside  # other doors need no worker

                self._forwarding = ForwardingBeside(lambda: self._make_forwarders(queues), self.clock)
        self._forwarding.start()

    def _make_forwarders(self, queues: Sequence[Named]) -> Sequence[Forwarder]:
        links = [
            open_link(each.url, None, each.options, opener=self._opener)
            for each in queues
            if each.url is not None and engine_options(each.url, each.options).delay_via
        ]
        try:
            return self._forwarders(links)
        finally:
            for link in links:
                link.close()

    def slots(self, name: str) -> int:
        """Most handlers, or batches, of a queue at once, as handlers name it."""
        return slots_of(self._handlers[name])

    def _open(self, handlers: Sequence[AnyHandler], url: QueueURL, options: Mapping[str, Any]) -> Pipe:
        link = open_link(url, None, options, opener=self._opener, require=self._require)
        if handlers:
            link.wanted = wanted_of(handlers)
        if self.by_answer:
            link.by_answer, link.answer_s = True, self.answer_s
            check_answered(link, handlers)
        return Pipe(
            link,
            handlers,
            slots=slots_of(handlers) if handlers else 1,
            opener=self._opener,
            listeners=self._listeners,
            loop=self.loop.get,
            stopping=lambda: self.stopping,
        )

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

    def also_close(self, close: Callable[[], None]) -> None:
        """Have something of the door's own closed with the queues, each time."""
        self._closers.append(close)

    def close(self) -> None:
        """Close the queues and the loop, and forward no more. Idempotent; a later `pipe` opens them again."""
        if self._forwarding is not None:
            self._forwarding.stop()
        for close in self._closers:
            close()
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
