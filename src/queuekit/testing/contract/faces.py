# SPDX-License-Identifier: Apache-2.0
"""The public API as the cases use it: the same calls in the blocking face and in the async one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from queuekit._portable.consumer import Consumer
from queuekit._portable.dead_letters import DeadLetters
from queuekit._portable.dead_messages import RedriveReport
from queuekit._portable.delivery import Delivery
from queuekit._portable.link import BackendOpener, CheckReport
from queuekit._portable.middleware import Middleware
from queuekit._portable.producer import Producer
from queuekit._portable.report import SendReport
from queuekit._values.message import Message
from queuekit._values.outcome import Accepted, Duplicate
from queuekit.backend import Action
from queuekit.testing.contract.elsewhere import Log
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness, Running
from queuekit.testing.contract.spi import Queue, fresh_key
from queuekit.testing.faults import FaultyOpener

T = TypeVar("T")

_HOUR = timedelta(hours=1)


class Face:
    """Opens producers and consumers on the harness's clock, and calls one twin or the other.

    Args:
        harness: Where queues and time come from.
        awaits: Whether the async names are called, on an event loop that runs on a thread of its own.
    """

    def __init__(self, harness: Harness, *, awaits: bool) -> None:
        self.harness = harness
        self.awaits = awaits
        self._opened: list[Any] = []
        self._deferred: list[Callable[[], None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def producer(self, queue: str | Queue, *, opener: BackendOpener | None = None, **arguments: Any) -> Producer[Any]:
        """Open a producer; closed when the case ends.

        Where every message needs an ordering key, those that have none get one each, unless ``keys=False``.
        """
        name = queue if isinstance(queue, str) else queue.name
        # Longer than any case: moving a virtual clock must not use up what is not in question.
        arguments = {"timeout": _HOUR} | arguments
        if arguments.pop("keys", True) and self.harness.capabilities.ordering_key_required:
            arguments["middleware"] = [*arguments.get("middleware", ()), FreshKeys()]
        made: Producer[Any] = Producer(self.harness.url(name), _opener=opener or self.harness.opener, **arguments)
        self._opened.append(made)
        return made

    def consumer(self, queue: str | Queue, *, opener: BackendOpener | None = None, **arguments: Any) -> Consumer[Any]:
        """Open a consumer; closed when the case ends. Its lease is an hour, or the longest there is."""
        name = queue if isinstance(queue, str) else queue.name
        longest = timedelta(seconds=self.harness.capabilities.max_lease_s)
        arguments = {"lease": min(_HOUR, longest)} | arguments
        made: Consumer[Any] = Consumer(self.harness.url(name), _opener=opener or self.harness.opener, **arguments)
        self._opened.append(made)
        return made

    def send(self, producer: Producer[Any], payload: Any, **options: Any) -> Accepted | Duplicate:
        """One message, its answer awaited while time passes."""
        if self.awaits:
            return self._patiently(producer.asend(payload, **options))
        return self.harness.let(lambda: producer.send(payload, **options))

    def send_many(self, producer: Producer[Any], payloads: Iterable[Any]) -> SendReport:
        """Many messages, the report awaited while time passes."""
        if self.awaits:
            return self._patiently(producer.asend_many(payloads))
        return self.harness.let(lambda: producer.send_many(payloads))

    def send_soon(self, producer: Producer[Any], payload: Any, **options: Any) -> Future[Any]:
        """Hand one message over; its future tells when it is answered, and by what."""
        if self.awaits:
            future = asyncio.run_coroutine_threadsafe(producer.asend(payload, **options), self._loop)
            self.run(_one_turn())  # the loop takes turns in order: the message is with the producer now
            return future
        return producer.send_soon(payload, **options)

    def next(self, consumer: Consumer[Any], *, within_s: float = 60.0) -> Delivery[Any]:
        """The next delivery, which must come while this much time passes."""
        if self.awaits:
            got = self.harness.let(lambda: self.run(consumer.areceive()), within_s=within_s)
        else:
            got = self.harness.let(consumer.receive, within_s=within_s)
        assert got is not None, "receive() without a timeout returned None"
        return got

    def receiving(self, consumer: Consumer[Any]) -> Running[Delivery[Any] | None]:
        """Wait for a delivery beside the case, while no time passes."""
        if self.awaits:
            return self.harness.start(lambda: self.run(consumer.areceive()))
        return self.harness.start(consumer.receive)

    def receive_now(self, consumer: Consumer[Any]) -> Delivery[Any] | None:
        """A delivery, or None when there is none in a very short time."""
        if self.awaits:
            return self.harness.let(lambda: self.run(consumer.areceive(timeout=0.05)))
        return self.harness.let(lambda: consumer.receive(timeout=timedelta(seconds=0.05)))

    def settled(self, delivery: Delivery[Any]) -> None:
        """Wait for the answer to a delivery's settlement while time passes; raises what it raises."""
        if self.awaits:
            self._patiently(delivery.asettled())
        else:
            self.harness.let(delivery.settled)

    def settling(self, delivery: Delivery[Any]) -> Running[None]:
        """Wait for the answer beside the case, while no time passes."""
        if self.awaits:
            return self.harness.start(lambda: self.run(delivery.asettled()))
        return self.harness.start(delivery.settled)

    def extend(self, delivery: Delivery[Any], *, by_s: float) -> None:
        """Extend a delivery's lease."""
        if self.awaits:
            self.run(delivery.aextend(by=timedelta(seconds=by_s)))
        else:
            delivery.extend(by=timedelta(seconds=by_s))

    def iterate(self, consumer: Consumer[Any]) -> list[bytes]:
        """Take, note and ack deliveries until the iteration ends by itself."""
        if not self.awaits:
            return [_acked(delivery) for delivery in consumer]

        async def collect() -> list[bytes]:
            return [_acked(delivery) async for delivery in consumer]

        return self.run(collect())

    def work_off(self, consumer: Consumer[Any], log: Log) -> None:
        """Handle what comes until the consumer is closed, and note when each begins and ends."""
        if not self.awaits:
            for delivery in consumer:
                _noted(delivery, log)
            return

        async def work() -> None:
            async for delivery in consumer:
                _noted(delivery, log)

        self.run(work())

    def dead_letters(self, queue: Queue, *, opener: BackendOpener | None = None) -> DeadLetters:
        """Open a queue's dead letters; closed when the case ends."""
        made = DeadLetters(self.harness.url(queue.name), _opener=opener or self.harness.opener)
        self._opened.append(made)
        return made

    def redrive(self, letters: DeadLetters, **arguments: Any) -> RedriveReport:
        """Send dead letters back while time passes."""
        if self.awaits:
            return self._patiently(letters.aredrive(**arguments))
        return self.harness.let(lambda: letters.redrive(**arguments))

    def check(self, opened: Producer[Any] | Consumer[Any]) -> CheckReport:
        """Everything that the service says."""
        return self._patiently(opened.acheck()) if self.awaits else opened.check()

    def close(self, opened: Any) -> None:
        """Close a producer or a consumer."""
        if self.awaits:
            self._patiently(opened.aclose())
        else:
            self.harness.let(opened.close)

    def defer(self, end: Callable[[], None]) -> None:
        """Have something ended when the case ends."""
        self._deferred.append(end)

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(REAL_LIMIT_S)

    def in_real_time(self) -> Face:
        """The same face on the real clock, for cases in which another process takes part."""
        real = Face(self.harness.in_real_time(), awaits=self.awaits)
        self.defer(real.cleanup)
        return real

    def _patiently(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self.harness.let(lambda: self.run(awaitable))

    def cleanup(self) -> None:
        """Close what is still open, and the loop."""
        for end in self._deferred:
            end()
        for opened in self._opened:
            self.harness.let(opened.close)
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(REAL_LIMIT_S)
        self._loop.close()


class FreshKeys(Middleware):
    """Gives a key of its own to each message that has none."""

    def before_send(self, message: Message[Any], *, queue: str) -> Message[Any]:  # noqa: ARG002 - as it is called
        return message if message.ordering_key is not None else replace(message, ordering_key=fresh_key())


def extended(opener: FaultyOpener, times: int) -> bool:
    """Whether the engine has extended leases at least so often."""
    calls = opener.script.answered("settle")
    return sum(entry.action is Action.EXTEND for call in calls for entry in call.batch) >= times


def _noted(delivery: Delivery[Any], log: Log) -> None:
    log.note("begin", delivery.body)
    log.note("end", delivery.body)
    delivery.ack()


def _acked(delivery: Delivery[Any]) -> bytes:
    delivery.ack()
    return delivery.body


async def _one_turn() -> None:
    """Does nothing on the loop, after whatever was given to it before."""
