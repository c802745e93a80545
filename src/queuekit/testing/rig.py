# SPDX-License-Identifier: Apache-2.0
"""An app under test: its handlers run by the real worker, on memory, with time and faults that the test chooses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any, Self

from queuekit._portable.app import App
from queuekit._portable.dead_letters import DeadLetters
from queuekit._portable.dead_messages import DeadMessage
from queuekit._portable.events import Event, Listeners
from queuekit._portable.handler import BatchHandler, BatchOptions
from queuekit._portable.link import seconds
from queuekit._portable.worker import ExitCode
from queuekit._values.errors import UsageError
from queuekit._values.url import QueueURL
from queuekit._wiring.defaults import VARIABLE
from queuekit._wiring.opening import Opener, queue_name
from queuekit._wiring.registry import find_spec, find_store
from queuekit.backend import (
    Action,
    Admin,
    Backend,
    Clock,
    ErrorClass,
    ErrorCode,
    Host,
    Peekable,
    StoredMessage,
    SystemClock,
)
from queuekit.stores import IdempotencyStore
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import Answers, Call, InjectedFault, Proceed, Script, Verb, wrap

_REAL = SystemClock()
_REAL_LIMIT_S = 30.0
_PEEKED = 1000
_NUMBERS = count(1)
_DOWN = ErrorClass(ErrorCode.UNAVAILABLE, sent="no", scope="connection", detail="the rig's service is down")
_VERBS: tuple[Verb, ...] = ("send", "receive", "settle", "redrive")
_LIMITS = (
    "max_message_bytes",
    "max_delay_s",
    "ordering",
    "ordering_key_required",
    "delay_with_ordering",
    "priority_levels",
)
"""What the app's own backend declares, and memory then declares too, so that a test refuses what production would."""


class Rig:
    """Runs an app's handlers on memory queues and on a virtual clock.

    Inside the ``with`` block every queue of the app, whatever its URL names, is an empty queue in memory that
    nobody else sees, and time stands still. Handlers run only inside `run`, by the app's own worker: retries,
    leases, dead letters and batches are the real ones. What handlers open themselves, such as a `Producer`
    of their own, is not redirected.

    Args:
        app: The app under test; no worker of it may be running.
        clock: Time and chance; by default a new clock with seed 0.

    Attributes:
        clock: The clock that everything here uses.
        events: What became of messages so far, in order.

    Concurrency:
        One rig at a time for an app.

    Examples:
        ```python
        from datetime import timedelta

        from queuekit import App, RetryPolicy
        from queuekit.testing import Rig

        app = App("sqlite:///jobs.db")
        failures = [ConnectionError("the mail server is away")]

        @app.handler("emails")
        def send_email(address: str) -> None:
            if failures:
                raise failures.pop()

        with Rig(app) as rig:
            send_email.send("ada@example.com")
            assert [event.name for event in rig.run()] == ["retried"]
            assert [event.name for event in rig.run(timedelta(minutes=1))] == ["completed"]
        ```
    """

    def __init__(self, app: App, *, clock: VirtualClock | None = None) -> None:
        self._app = app
        self.clock: VirtualClock = clock or VirtualClock()
        self.events: list[Event] = []
        self._script = Script()
        self._opener = _RigOpener(self.clock, self._script)
        self._before: dict[str, Any] = {}
        self._stores: list[tuple[Any, IdempotencyStore]] = []
        self._batches: list[tuple[BatchHandler[Any, Any], BatchOptions]] = []
        self._down = False

    def __enter__(self) -> Self:
        app, listeners = self._app, Listeners(self.clock)
        listeners._listeners = dict(app._listeners._listeners)
        listeners.add(self.events.append)
        changes = {
            "_opener": self._opener,
            "_clock": self.clock,
            "_producers": {},
            "_listeners": listeners,
            "_url": app._url or (None if os.environ.get(VARIABLE) else QueueURL.parse("memory://")),
        }
        self._before = {name: getattr(app, name) for name in changes}
        for name, value in changes.items():
            setattr(app, name, value)
        for handler in app.handlers:
            if isinstance(handler, BatchHandler):
                # A batch goes with what is due: to wait for more would take longer than a lease in one step.
                self._batches.append((handler, handler.batch))
                handler.batch = replace(handler.batch, max_wait=timedelta(0))
        for once in app._onces:
            self._stores.append((once, once.use(self._opener.new_store(), self.clock)))
        return self

    def __exit__(self, *_: object) -> None:
        for producer in self._app._producers.values():
            producer.close()
        for handler, batch in self._batches:
            handler.batch = batch
        for once, store in self._stores:
            once.use(store, self._before["_clock"])
        for name, value in self._before.items():
            setattr(self._app, name, value)
        self._opener.close()

    def run(self, for_: timedelta = timedelta(0)) -> list[Event]:
        """Work everything that is due, and what falls due while so much time passes; then drain.

        Time is moved from one due message to the next, and in the end to the end.

        Args:
            for_: How much time passes. 0 works what is due now.

        Returns:
            The events of this run, in order.

        Raises:
            TimeoutError: A handler did not end within 30 s of real time.
            QueueKitError: The worker failed.
        """
        begin, until = len(self.events), self.clock.monotonic() + seconds("for_", for_)
        worker = _Worker(self._app, self.clock)
        try:
            self._await_idle(worker)
            while (due := self._next_due()) is not None and due <= until:
                self.clock.advance(max(0.0, due - self.clock.monotonic()))
                self._await_idle(worker)
            self.clock.advance(max(0.0, until - self.clock.monotonic()))
            self._await_idle(worker)
        finally:
            worker.stop()
        return self.events[begin:]

    def advance(self, by: timedelta) -> None:
        """Let time pass, in one step, with nothing worked meanwhile."""
        self.clock.advance(seconds("by", by))

    def waiting(self, queue: str) -> list[StoredMessage]:
        """The messages of a queue, as the handlers name it, in order of sending."""
        backend = self._backend(queue)
        return list(backend.peek(limit=_PEEKED)) if isinstance(backend, Peekable) else []

    def dead_letters(self, queue: str) -> list[DeadMessage]:
        """The dead letters of a queue, as the handlers name it, oldest first."""
        with DeadLetters(self._url(queue), _opener=self._opener) as letters:
            return list(letters.letters())

    def crash_before_ack(self) -> None:
        """Let the worker die, as far as the queue can see, just before its next ack.

        The handler has done its work, the ack is never made, and one lease later the message comes again.
        """

        def crash(call: Call, proceed: Proceed) -> Answers:
            if not any(each.action is Action.ACK for each in call.batch):
                return proceed(call.batch)
            self._script.always("settle", None)
            self.expire_lease()
            return proceed(call.batch)

        self._script.always("settle", crash)

    def duplicate_delivery(self) -> None:
        """Let the next send be stored twice, as when its answer was lost and it was tried again."""

        def twice(call: Call, proceed: Proceed) -> Answers:
            proceed(call.batch)
            return proceed(call.batch)

        self._script.on("send", twice)

    def expire_lease(self) -> None:
        """Let every lease run out at once, as when the whole process stood still.

        Call it while a handler runs, from something that it calls: `Current.lease_lost` is then true soon,
        what it decides counts no more, and the message is delivered again.
        """
        longest = max(handler.options.lease for handler in self._app.handlers)
        self.clock.advance(longest.total_seconds())

    @contextmanager
    def service_down(self) -> Iterator[None]:
        """Inside, nothing reaches the queues: sends fail at once, and `run` finds nothing to work."""
        self._down = True
        for verb in _VERBS:
            self._script.always(verb, _refuse)
        try:
            yield
        finally:
            self._down = False
            for verb in _VERBS:
                self._script.always(verb, None)

    def _await_idle(self, worker: _Worker) -> None:
        worker.let(lambda: self._down or self._idle(), "the handlers end")

    def _idle(self) -> bool:
        return not any(self._unfinished(handler.queue) for handler in self._app.handlers)

    def _unfinished(self, queue: str) -> int:
        backend = self._backend(queue)
        if not isinstance(backend, Admin):
            return 0
        stats = backend.stats()
        return (stats.ready or 0) + (stats.leased or 0)

    def _next_due(self) -> float | None:
        """When the next message falls due, on the monotonic scale; None where none does."""
        if self._down:
            return None
        waiting = [each for handler in self._app.handlers for each in self.waiting(handler.queue)]
        now = self.clock.time()
        dues = [each.due_at - now for each in waiting if each.state == "delayed" and each.due_at > now]
        return self.clock.monotonic() + min(dues) if dues else None

    def _url(self, queue: str) -> QueueURL:
        if queue not in {handler.queue for handler in self._app.handlers}:
            msg = f"no handler works the queue {queue!r}"
            raise UsageError(msg)
        return self._app.open_queue(queue)[0].url

    def _backend(self, queue: str) -> Backend:
        return self._opener.plain(self._url(queue))


class _Worker:
    """The app's worker, on a thread of its own."""

    def __init__(self, app: App, clock: VirtualClock) -> None:
        self._app, self._clock = app, clock
        self._codes: list[ExitCode] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="queuekit-rig", daemon=True)
        app._stop_worker = None
        self._thread.start()
        # A request to stop that came sooner would stop nobody.
        self.let(lambda: app._stop_worker is not None, "the worker begins")

    def _run(self) -> None:
        try:
            self._codes.append(self._app.run(signals=False))
        except BaseException as error:  # noqa: BLE001 - raised on the test's own thread
            self._errors.append(error)

    def let(self, done: Callable[[], bool], what: str) -> None:
        """Wait in real time until something is so, or the worker has failed."""
        until = _REAL.monotonic() + _REAL_LIMIT_S
        pause = threading.Event()
        while not done():
            self._raise_error()
            if _REAL.monotonic() > until:
                msg = f"not within {_REAL_LIMIT_S:g} s of real time: {what}"
                raise TimeoutError(msg)
            pause.wait(0.001)

    def stop(self) -> None:
        """Drain the worker. What it waits for on the clock is let pass, a little at a time."""
        until = _REAL.monotonic() + _REAL_LIMIT_S
        self._app.stop()
        self._thread.join(0.05)
        while self._thread.is_alive() and _REAL.monotonic() < until:
            self._clock.advance(0.02)
            self._thread.join(0.005)
        self._raise_error()

    def _raise_error(self) -> None:
        if self._errors:
            raise self._errors[0]


class _RigOpener:
    """Opens every URL as a queue in memory that nobody else has."""

    def __init__(self, clock: VirtualClock, script: Script) -> None:
        self.clock: Clock = clock
        self._script = script
        self._number = next(_NUMBERS)
        self._inner = Opener(clock)
        self._plain: dict[QueueURL, Backend] = {}

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        # Opened for its checks and for what it declares; opening does no I/O.
        real = self._inner.open(url, keywords)
        limits = {name: getattr(real.capabilities, name) for name in _LIMITS}
        real.close()
        return wrap(self._inner.open(self._in_memory(url)), self._script, queue=str(url), limits=limits)

    def plain(self, url: QueueURL) -> Backend:
        """The queue behind a URL, without faults."""
        place = self._in_memory(url)
        if place not in self._plain:
            self._plain[place] = self._inner.open(place)
        return self._plain[place]

    def open_store(self, url: QueueURL) -> IdempotencyStore:
        find_store(url.scheme).open(url, self.clock)
        return self.new_store()

    def new_store(self) -> IdempotencyStore:
        url = QueueURL.parse("memory://").with_option("space", f"rig {self._number} {next(_NUMBERS)}")
        return self._inner.open_store(url)

    def close(self) -> None:
        for backend in self._plain.values():
            if isinstance(backend, Admin):
                backend.delete()
            backend.close()
        self._inner.close()

    def _in_memory(self, url: QueueURL) -> QueueURL:
        """A queue of the same name, in a space for everything of the URL but the name."""
        spec = find_spec(url.scheme)
        hosts = () if spec.slot == "host" else url.hosts
        path = url.path.rpartition("/")[0] if spec.slot == "path" else url.path
        options = {name: text for name, text in url.options.items() if name != "queue"}
        place = str(url.replace(hosts=hosts, path=path, options=options))
        whole = QueueURL.parse("memory://").with_option("space", f"rig {self._number} {place}")
        return whole.replace(hosts=(Host(queue_name(url, spec)),))


def _refuse(_call: Call, _proceed: Proceed) -> Answers:
    raise InjectedFault(_DOWN)
