# SPDX-License-Identifier: Apache-2.0
"""The application: handlers by queue, and a worker that runs them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from queuekit._engine.flow import most_ahead
from queuekit._engine.receiving import ReceiverSettings
from queuekit._engine.tally import Timing
from queuekit._portable.events import EventName, Listener, Listeners
from queuekit._portable.figures import Figures
from queuekit._portable.fitness import check_fitness, wanted_of
from queuekit._portable.forwarding import Forwarder, forwarders_for
from queuekit._portable.fronts import Fronts
from queuekit._portable.handler import AnyHandler, BatchHandler, slots_of
from queuekit._portable.intake import Intake
from queuekit._portable.link import Link, Require, open_link, resolve_url, seconds
from queuekit._portable.middleware import Middleware, checked, handlings
from queuekit._portable.producer import Producer
from queuekit._portable.watching import Patience
from queuekit._portable.worker import ExitCode, QueuePlan, Worker
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.errors import UsageError
from queuekit._values.url import QueueURL
from queuekit._wiring.defaults import default_url
from queuekit._wiring.opening import Opener

if TYPE_CHECKING:
    from queuekit._portable.doorway import Doorway


class App(Fronts):
    """Handlers, the queues that they work, and the ways to send to them.

    Args:
        url: The URL that handlers' queues are put into; by default ``QUEUEKIT_URL``, else a SQLite file in
            the current folder. It is read when something is first sent or worked.
        drain: How long running handlers may go on when the worker is asked to stop. 30 s is what most
            platforms give.
        watchdog: How long a queue's engine, or all of its handlers while every slot is busy, may make no
            progress before the worker drains and ends with exit code 3. By default the engine alone is
            watched, for 5 minutes, as nobody knows how long your handlers take.
        require: Features that every queue must have.
        middleware: What every message that is sent through handlers, and every handling, passes through; the
            outermost first.
        clock: Time and chance; a virtual one for tests.
        **options: URL options of the backend, under the same names.

    Concurrency:
        Register handlers on one thread; the rest is safe from any.

    Examples:
        ```python
        app = App("memory://")

        @app.handler("emails")
        def send_email(address: str) -> None:
            print("to", address)

        send_email.send("ada@example.com")
        ```
    """

    def __init__(
        self,
        url: str | QueueURL | None = None,
        *,
        drain: timedelta = timedelta(seconds=30),
        watchdog: timedelta | None = None,
        require: Require = (),
        middleware: Sequence[Middleware] = (),
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        self._middleware = checked(middleware)
        clock = clock or SystemClock()
        super().__init__(wrappers=handlings(self._middleware), opener=Opener(clock), clock=clock)
        self._url = QueueURL.parse(url) if isinstance(url, str) else url
        self._drain_s = seconds("drain", drain)
        self._patience = Patience(watchdog)
        self._require = require
        self._options = options
        self._listeners = Listeners(self._clock)
        self._producers: dict[tuple[str, str], Producer[Any]] = {}
        self._figures = Figures()
        self._doorways: list[Doorway] = []
        self._lock = threading.Lock()
        self._stop_worker: Callable[[], None] | None = None
        self._stop_early = False
        self._worker: Worker | None = None
        self._paused: set[str] = set()

    def listen(self, listener: Listener, *names: EventName) -> None:
        """Have a function called with what this app's workers do to messages.

        Listeners only look: what one raises is logged as ``listener.failed``, and changes nothing. Where
        handlers run in child processes, listeners are called in the parent.

        Args:
            listener: Takes an `Event`. It is called on the thread on which it happens, so it must be quick.
            *names: ``completed``, ``retried``, ``dead``, ``lease_lost``, ``stalled``; none is all of them.

        Raises:
            UsageError: It cannot be called, or there is no event of a name.
        """
        self._listeners.add(listener, *names)

    def producer_for(self, handler: AnyHandler) -> Producer[Any]:
        """The app's own producer for a handler's queue, opened at first use."""
        key = (handler.queue, handler.message_type)
        with self._lock:
            if key not in self._producers:
                url, queue, options = self._place(handler.queue)
                self._producers[key] = Producer(
                    url,
                    queue=queue,
                    payload=handler.payload,
                    message_type=handler.message_type,
                    require=self._require,
                    middleware=self._middleware,
                    _opener=self._opener,
                    **options,
                )
                self._figures.watch(handler.queue, self._producers[key])
            return self._producers[key]

    def run(
        self,
        *,
        processes: int = 0,
        queues: Sequence[str] | None = None,
        drain: timedelta | None = None,
        signals: bool = True,
    ) -> ExitCode:
        """Work until SIGTERM, SIGINT, `stop`, or a failure that no other try can mend; then drain.

        Args:
            processes: 0 runs handlers in this process. N runs them in N child processes: for CPU-bound
                handlers, and for those that could hang or crash the process.
            queues: Only these queues; None for all that have handlers.
            drain: How long running handlers may go on when asked to stop; None is the app's own.
            signals: Whether SIGTERM and SIGINT are taken; only on the main thread.

        Returns:
            How it ended, also the exit code: 0 drained, 1 failure, 3 hung handlers or no progress, 4 queue gone.

        Raises:
            SetupError: A URL or backend is wrong.
            UsageError: There are no handlers, or the children could not find this app.

        Concurrency:
            Blocks; once at a time.
        """
        return self._make_worker(processes, queues, drain).run(signals=signals)

    async def arun(
        self,
        *,
        processes: int = 0,
        queues: Sequence[str] | None = None,
        drain: timedelta | None = None,
        signals: bool = True,
    ) -> ExitCode:
        """As `run`, with async handlers on the caller's event loop, unless they run in child processes.

        Raises:
            QueueKitError: As `run` does.
        """
        # On a thread: what the URL does not tell about a queue is asked of its service.
        made = await asyncio.get_running_loop().run_in_executor(None, self._make_worker, processes, queues, drain)
        return await made.arun(signals=signals)

    def _make_worker(self, processes: int, queues: Sequence[str] | None, drain: timedelta | None) -> Worker:
        drain_s = self._drain_s if drain is None else seconds("drain", drain)
        plan = self._plan(queues)
        forwarders = self._forwarders([queue.intake.link for queue in plan])
        self._figures.begin_run((queue.name, queue.intake) for queue in plan)
        worker: Worker
        if processes:
            from queuekit._portable.processes import ProcessWorker, target_of

            target = target_of(self)
            for each in self._onces:
                each.check_processes()
            worker = ProcessWorker(
                plan,
                self._clock,
                drain_s=drain_s,
                processes=processes,
                target=target,
                patience=self._patience,
                forwarders=forwarders,
            )
        else:
            worker = Worker(plan, self._clock, drain_s=drain_s, patience=self._patience, forwarders=forwarders)
        with self._lock:
            self._worker = worker
            for name in self._paused:
                worker.pause(name)
        self.when_stopped(worker.stop)
        if self._stop_early:
            self._stop_early = False
            worker.stop()
        return worker

    def _doorway(self) -> Doorway:
        from queuekit._portable.doorway import Doorway  # no worker needs it

        made = Doorway(
            handlers=self._handlers,
            place=self._place,
            require=self._require,
            opener=self._opener,
            listeners=self._listeners,
            figures=self._figures,
            clock=self._clock,
            producers=lambda: list(self._producers.values()),
            onces=self._onces,
            forwarders=self._forwarders,
            drain_s=self._drain_s,
        )
        self._doorways.append(made)
        return made

    def stop(self) -> None:
        """Ask a running worker to drain and end. Safe from any thread, and from a handler.

        Before the first `run` it is remembered, and that run ends at once. After a run it does nothing.
        """
        if self._stop_worker is None:
            self._stop_early = True
        # Asked again, because a worker may have come meanwhile that did not see it.
        if self._stop_worker is not None:
            self._stop_early = False
            self._stop_worker()

    def pause(self, queue: str) -> None:
        """Receive nothing more from a queue, until `resume`.

        What waits for a handler is given back at once, what runs goes on. It holds for workers that begin later,
        too. Pausing a paused queue does nothing.

        Args:
            queue: As the handlers name it.

        Raises:
            UsageError: No handler works this queue.

        Concurrency:
            Safe from any thread, and from a handler.
        """
        self._check_named(queue)
        with self._lock:
            if queue not in self._paused:
                self._paused.add(queue)
                if self._worker is not None:
                    self._worker.pause(queue)

    def resume(self, queue: str) -> None:
        """Receive from a queue again, after `pause`. Resuming one that is not paused does nothing.

        Raises:
            UsageError: No handler works this queue.
        """
        self._check_named(queue)
        with self._lock:
            if queue in self._paused:
                self._paused.discard(queue)
                if self._worker is not None:
                    self._worker.resume(queue)

    @property
    def paused(self) -> frozenset[str]:
        """The queues that are paused, as the handlers name them."""
        return frozenset(self._paused)

    def when_stopped(self, stop: Callable[[], None]) -> None:
        """Say what `stop` does from now on; a child process passes it on to its worker."""
        self._stop_worker = stop

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """By queue, as the handlers name it: what was sent and received here, over all runs.

        The names are those of `Producer.counts` and `Consumer.counts`; all are there, with 0 where nothing
        happened. With child processes, what handlers send inside them is not counted.
        """
        return self._figures.counts(self._handlers)

    def timings(self) -> Mapping[str, Mapping[str, Timing]]:
        """By queue: ``queue_age``, as `Consumer.timings` has it, and ``handler_time``.

        A handler's time is that from taking a message to the verdict on it.
        """
        return self._figures.timings(self._handlers)

    def close(self) -> None:
        """Close the producers that handlers sent through. Idempotent; a worker closes what it opened itself."""
        with self._lock:
            producers, self._producers = list(self._producers.values()), {}
        for producer in producers:
            producer.close()
        self._figures.producers_closed()
        for doorway in self._doorways:
            doorway.close()
        for each in self._onces:
            each.close()
        self._opener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"App({str(self._url) if self._url else 'by QUEUEKIT_URL'}, {len(self.handlers)} handlers)"

    def __reduce__(self) -> NoReturn:
        msg = "an App cannot be pickled; import it from its module in the other process"
        raise TypeError(msg)

    def _place(self, queue: str) -> tuple[QueueURL | None, str | None, dict[str, Any]]:
        """The URL, the name and the options that a handler's queue is opened with."""
        if "://" in queue:
            return QueueURL.parse(queue), None, {}
        return self._url, queue, self._options

    def _subscription(self) -> str | None:
        given = self._options.get("subscription")
        return None if given is None else str(given)

    def _check_named(self, queue: str) -> None:
        if queue not in self._handlers:
            msg = f"no handler works the queue {queue!r}; known are {', '.join(sorted(self._handlers)) or 'none'}"
            raise UsageError(msg)

    def _plan(self, queues: Sequence[str] | None) -> list[QueuePlan]:
        chosen = list(self._handlers) if queues is None else list(queues)
        for name in chosen:
            self._check_named(name)
        if not chosen:
            msg = "this app has no handlers; register one with @app.handler(QUEUE)"
            raise UsageError(msg)
        return [self._plan_queue(name) for name in chosen]

    def _forwarders(self, links: Sequence[Link]) -> Sequence[Forwarder]:
        """What brings to their queues the messages that have waited for it elsewhere."""
        if all(link.via is None for link in links):
            return ()
        places = [self._place(name) for name in self._handlers]
        named = [(resolve_url(url, queue), options) for url, queue, options in places]
        base = self._url
        if base is None and any(queue is not None for _, queue, _ in places):
            base = default_url(os.environ)
        own = None if base is None else (base, self._options)
        return forwarders_for(links, named, own, self._opener)

    def open_queue(self, name: str) -> tuple[Link, Sequence[AnyHandler]]:
        """A queue's link and handlers; what workers are made of. Opening makes no I/O."""
        url, queue, options = self._place(name)
        link = open_link(resolve_url(url, queue), None, options, opener=self._opener, require=self._require)
        return link, tuple(self._handlers[name])

    def _plan_queue(self, name: str) -> QueuePlan:
        link, handlers = self.open_queue(name)
        link.wanted = wanted_of(handlers)
        check_fitness(link, handlers)
        can, wanted = link.capabilities, handlers[0].options
        batch = max((each.batch.max_size for each in handlers if isinstance(each, BatchHandler)), default=0)
        slots = slots_of(handlers)
        # What was fetched ahead would begin in a burst when slots are free, whatever the rate says.
        unasked = 0 if wanted.rate is not None else most_ahead(can)
        prefetch = wanted.prefetch if wanted.prefetch is not None else unasked
        settings = ReceiverSettings(
            lease_s=wanted.lease.total_seconds(),
            prefetch=prefetch,
            prefetch_by_pace=wanted.prefetch is None,
            max_in_flight=max(1000, 2 * (slots * max(1, batch) + prefetch)),
            rate=wanted.rate,
        )
        intake = Intake(
            link, settings, dead_letter=wanted.dead_letter, opener=self._opener, listeners=self._listeners
        )
        return QueuePlan(name, intake, handlers, slots)
