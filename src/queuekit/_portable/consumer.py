# SPDX-License-Identifier: Apache-2.0
"""The receiving side, for those who want to hold deliveries themselves."""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from queuekit._engine.codec import codec_for
from queuekit._engine.flow import most_ahead
from queuekit._engine.held import Held
from queuekit._engine.receiving import ReceiverSettings
from queuekit._engine.shutdown import ShutdownPlan
from queuekit._engine.tally import Timing, read_only
from queuekit._portable.delivery import Delivery
from queuekit._portable.intake import Intake, drain
from queuekit._portable.link import BackendOpener, Link, Require, open_link, seconds, timeout_seconds
from queuekit._portable.opened import Opened
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.errors import ClosedError, UsageError
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T", default=bytes)

_FLUSH_S = 10.0
_EXIT_FLUSH_S = 2.0
_LOOK_AGAIN_S = 0.01


class Consumer(Opened, Generic[T]):
    """Receives messages of one queue, a few ahead, and keeps their leases until you settle them.

    Args:
        url: The queue's URL; by default ``QUEUEKIT_URL``, else a SQLite file in the current folder.
        payload: The type of the payloads: ``bytes``, ``str``, or anything that pydantic describes.
        queue: The queue's name, where the URL leaves it out.
        lease: How long a message is ours alone before it comes back by itself; 60 s bounds the wait
            after a crash, and leases are extended while you work.
        keep_leases: Whether the engine extends leases.
        max_lease: How long one delivery may be kept in all. 12 h is the longest that SQS allows.
        prefetch: How many deliveries may wait here beyond those asked for. By default as many as are
            taken in a fifth of a second, at most two polls' worth, so that slow consumers leave messages to
            others; none where giving them back would cost them an attempt.
        max_in_flight: Most deliveries leased and unsettled.
        max_in_flight_bytes: Most bytes of them.
        poll_wait: Longest wait of one poll of the service.
        dead_letter: Where `Delivery.dead_letter` sends: a queue's URL, or ``"discard"``. By default the
            store's own dead-letter queue, or the one that the service has for the queue.
        require: Features that the queue must have.
        clock: Time and chance; a virtual one for tests.
        **options: URL options of the backend, under the same names.

    Raises:
        SetupError: The URL, an option or the backend's installation is wrong, or a required feature is
            missing. Nothing was connected to.
        UsageError: A length is out of the queue's range.

    Concurrency:
        Safe from any thread and any event loop; several threads may receive at once.

    Examples:
        ```python
        with Producer("memory://emails", payload=str) as emails:
            emails.send("hello")
        with Consumer("memory://emails", payload=str) as consumer:
            for delivery in consumer:
                print(delivery.payload)
                delivery.ack()
                break  # or go on, until the consumer is closed
        ```
    """

    def __init__(
        self,
        url: str | QueueURL | None = None,
        *,
        payload: TypeForm[T] = bytes,  # type: ignore[assignment]  # it is T's own default
        queue: str | None = None,
        lease: timedelta = timedelta(seconds=60),
        keep_leases: bool = True,
        max_lease: timedelta = timedelta(hours=12),
        prefetch: int | None = None,
        max_in_flight: int = 1000,
        max_in_flight_bytes: int = 256 << 20,
        poll_wait: timedelta = timedelta(seconds=20),
        dead_letter: str | QueueURL | None = None,
        require: Require = (),
        clock: Clock | None = None,
        _opener: BackendOpener | None = None,
        **options: Any,
    ) -> None:
        self._owns_opener = _opener is None
        self._opener: BackendOpener = _opener or Opener(clock or SystemClock())
        link = open_link(url, queue, options, opener=self._opener, require=require)
        self._codec = codec_for(payload)
        can = link.capabilities
        self._settings = ReceiverSettings(
            lease_s=seconds("lease", lease, least=0.001),
            max_lease_s=seconds("max_lease", max_lease, least=0.001),
            keep_leases=keep_leases,
            prefetch=_count("prefetch", prefetch, least=0, default=most_ahead(can)),
            prefetch_by_pace=prefetch is None,
            max_in_flight=_count("max_in_flight", max_in_flight, least=1),
            max_bytes=_count("max_in_flight_bytes", max_in_flight_bytes, least=1),
            poll_s=seconds("poll_wait", poll_wait),
        )
        self._arguments = (options, require, dead_letter)
        self._closed = False
        self._build(link)

    def _build(self, link: Link) -> None:
        self._pid = os.getpid()
        self._intake = Intake(link, self._settings, dead_letter=self._arguments[2], opener=self._opener)
        self._link, self._receiver, self._desk = link, self._intake.receiver, self._intake.desk
        # At the end of the interpreter, and when the consumer was dropped without close.
        self._finalizer = weakref.finalize(self, _end_unclosed, self._intake, self._pid)

    def receive(self, *, timeout: timedelta | float | None = None) -> Delivery[T] | None:
        """The next delivery, or None when there was none in time.

        Args:
            timeout: A timedelta or seconds; None waits for as long as it takes. 0 takes only what an earlier
                call has brought here, so on a fresh consumer it finds nothing.

        Raises:
            ClosedError: The consumer was closed, also while this call waited.
            UnavailableError: The service could not be reached, up to the end of the wait.
            AccessDeniedError: The credentials do not allow it.
            QueueNotFoundError: The queue does not exist.

        Concurrency:
            Safe from any thread; each delivery goes to one caller.
        """
        self._ready("receive()", "areceive()")
        held = self._receiver.take(timeout_seconds(timeout))
        return None if held is None else self._hand_out(held)

    async def areceive(self, *, timeout: timedelta | float | None = None) -> Delivery[T] | None:
        """As `receive`, suspending. Cancelling loses no message."""
        await self._aready()
        limit_s = timeout_seconds(timeout)
        loop = asyncio.get_running_loop()
        clock = self._link.clock
        deadline = None if limit_s is None else clock.monotonic() + limit_s
        while (held := self._receiver.take_now()) is None:
            left_s = None if deadline is None else deadline - clock.monotonic()
            if left_s is not None and left_s <= 0:
                self._receiver.give_up()
                return None
            # Any other clock moves without telling the event loop, so it is looked at now and then.
            await self._await_arrival(loop, left_s if isinstance(clock, SystemClock) else _LOOK_AGAIN_S)
        return self._hand_out(held)

    def __iter__(self) -> Iterator[Delivery[T]]:
        """Deliveries until the consumer is closed.

        Leaving the loop sends what is recorded and gives back what was fetched ahead. It closes nothing: a
        delivery that you hold stays yours to settle until the consumer is closed.
        """
        self._ready("iterating", "async for")
        take, desk, codec = self._receiver.take, self._desk, self._codec
        try:
            while True:
                held = take(None)
                if held is not None:
                    yield Delivery(held, desk, codec)
        except ClosedError:
            return
        finally:
            self._receiver.rest()

    async def __aiter__(self) -> AsyncIterator[Delivery[T]]:
        """As iterating, suspending."""
        try:
            while True:
                delivery = await self.areceive()
                if delivery is not None:
                    yield delivery
        except ClosedError:
            return
        finally:
            self._receiver.rest()

    def counts(self) -> Mapping[str, int]:
        """What was received so far and what became of it, and how often each logged thing happened.

        ``received`` is always the sum of ``settled``, ``lost`` (the lease ended first), ``unconfirmed`` (the
        answer to the settlement was lost), ``failed`` (the service refused it) and ``in_flight``. The other
        keys are the names that the log uses, and ``api.NAME`` for each operation of a service that charges by the
        call.
        """
        return read_only(self._intake.counts())

    def timings(self) -> Mapping[str, Timing]:
        """``queue_age``: how long messages had been in the queue, by the first message of each poll."""
        return MappingProxyType({"queue_age": self._receiver.timings()["queue_age"]})

    def close(self) -> None:
        """Send every recorded settlement, release what is unsettled, and give everything back.

        Idempotent; wakes blocked calls, which then raise `ClosedError`. Takes at most 10 s; what could not
        be released by then comes back when its lease ends.
        """
        if self._closed:
            return
        self._closed = True
        if not self._finalizer.detach() or self._pid != os.getpid():
            return  # in a forked child, threads and leases are the parent's
        clock = self._link.clock
        drain([self._intake], ShutdownPlan(now=clock.monotonic(), drain_s=0.0, flush_s=_FLUSH_S), clock)
        self._link.journal.note("consumer.closed", totals=self.counts())
        if self._owns_opener:
            self._opener.close()

    def _ready(self, blocking: str = "", twin: str = "", *, vet: bool = True) -> None:
        if self._closed:
            msg = "the consumer is closed; open a new one"
            raise ClosedError(msg, queue=self._link.shown, operation="receive")
        if self._pid != os.getpid():
            self._reopen()
        if blocking:
            self._link.warn_in_loop(blocking, twin)
        if vet:
            self._link.ensure()

    def _reopen(self) -> None:
        """In a forked child: threads, sockets, locks and leases are the parent's, so nothing of them is used."""
        self._finalizer.detach()
        options, require, _ = self._arguments
        if self._owns_opener:
            self._opener = Opener(self._opener.clock)
        self._build(open_link(self._link.url, None, options, opener=self._opener, require=require))

    def _hand_out(self, held: Held) -> Delivery[T]:
        return Delivery(held, self._desk, self._codec)

    async def _await_arrival(self, loop: asyncio.AbstractEventLoop, timeout_s: float | None) -> None:
        arrived = asyncio.Event()

        def wake() -> None:
            # A loop that was closed meanwhile has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived.set)

        self._receiver.when_ready(wake)
        try:
            async with asyncio.timeout(timeout_s):
                await arrived.wait()
        except TimeoutError:
            pass
        finally:
            self._receiver.forget(wake)


def _end_unclosed(intake: Intake, pid: int) -> None:
    if pid != os.getpid():
        return
    warnings.warn(f"the consumer of {intake.link.shown} was not closed", ResourceWarning, stacklevel=2)
    clock = intake.link.clock
    drain([intake], ShutdownPlan(now=clock.monotonic(), drain_s=0.0, flush_s=_EXIT_FLUSH_S), clock)


def _count(name: str, value: int | None, *, least: int, default: int = 0) -> int:
    if value is None:
        return default
    if type(value) is not int or value < least:
        msg = f"{name} must be a whole number of at least {least} and is {value!r}"
        raise UsageError(msg)
    return value
