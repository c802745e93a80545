# SPDX-License-Identifier: Apache-2.0
"""A worker with a handler, run beside the case: on threads in one face, on the face's loop in the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from queuekit._portable.app import App
from queuekit._portable.batches import Batch
from queuekit._portable.events import Listener
from queuekit._portable.link import BackendOpener
from queuekit._portable.worker import ExitCode
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.harness import REAL_LIMIT_S
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import FaultyOpener, Script, pretend_settled


class Work:
    """An app that works queues, all with the same handler, until `stop`.

    Where the harness has messages pushed, they are pushed to the app, unless the case has an opener: its faults are
    those of polls and settlements, which only a worker makes.

    Args:
        face: Whether handlers are coroutine functions and the app runs by ``arun``.
        queue: What is worked.
        handle: What the handler does with a payload; its result, or what it raises, is the handler's.
        gate: Where the handler waits, each time, before ``handle``; or a gate per payload, for those that
            are to wait. Open by default.
        also: More queues.
        opener: Stands between the worker and the service; one that shares nothing with the case's by default.
        payload: The type of the payloads.
        app: Arguments of the app.
        listener: Is told every event.
        loses: How many of the first acks never take effect; not with an opener, which has faults of its own.
        **options: Arguments of the registration. A lease that is longer than the longest there is becomes that.
    """

    serves: ClassVar[bool] = True
    """Whether messages may be pushed to it."""

    def __init__(
        self,
        face: Face,
        queue: Queue,
        handle: Callable[[Any], Any],
        *,
        gate: threading.Event | Mapping[Any, threading.Event] | None = None,
        also: Sequence[Queue] = (),
        opener: BackendOpener | None = None,
        payload: Any = bytes,
        app: dict[str, Any] | None = None,
        listener: Listener | None = None,
        loses: int = 0,
        **options: Any,
    ) -> None:
        self.face: Face = face
        self._handle = handle
        self._gates: Mapping[Any, threading.Event] = {} if isinstance(gate, threading.Event) else gate or {}
        self._gate: threading.Event | None = gate if isinstance(gate, threading.Event) else None
        if "lease" in options:
            options["lease"] = min(options["lease"], timedelta(seconds=queue.capabilities.max_lease_s))
        self.begun: list[Any] = []
        self._asked = False
        self.app: App = App(clock=face.harness.clock, **(app or {}))
        if loses and not (face.harness.pushed and self.serves):
            opener = FaultyOpener(face.harness.opener, script := Script())
            script.on("settle", *[pretend_settled] * loses)
        # An App has no argument for it.
        self.app._opener = opener or face.harness.another_opener()
        self._is_served = face.harness.pushed and opener is None and self.serves
        self._loses = loses
        if listener is not None:
            self.app.listen(listener)
        for each in (queue, *also):
            handler = self._handler(payload, awaits=face.awaits)
            self._register(face.harness.url(each.name), handler, options)
        self._ended = face.harness.start(self._run)
        face.defer(self.abandon)

    def _register(self, url: str, handler: Callable[[Any], Any], options: Mapping[str, Any]) -> None:
        self.app.handler(url, **options)(handler)

    def _run(self) -> ExitCode:
        if self._is_served:
            code: ExitCode = self.face.harness.hook("serve")(self.app, loses=self._loses)
            return code
        if self.face.awaits:
            return self.face.run(self.app.arun(signals=False))
        return self.app.run(signals=False)

    def _handler(self, payload_type: Any, *, awaits: bool) -> Callable[[Any], Any]:
        def plain(payload: Any) -> Any:
            self.begun.append(payload)
            self._wait(payload)
            return self._handle(payload)

        async def coroutine(payload: Any) -> Any:
            self.begun.append(payload)
            if self._gate_of(payload) is not None:
                await asyncio.get_running_loop().run_in_executor(None, self._wait, payload)
            return self._handle(payload)

        chosen: Callable[[Any], Any] = coroutine if awaits else plain
        chosen.__annotations__ = {"payload": payload_type}
        return chosen

    def _gate_of(self, payload: Any) -> threading.Event | None:
        return self._gates.get(payload, self._gate) if self._gates else self._gate

    def _wait(self, payload: Any) -> None:
        gate = self._gate_of(payload)
        if gate is not None:
            gate.wait(REAL_LIMIT_S)

    def await_begun(self, count: int, *, within_s: float = 0.0) -> None:
        """Wait until the handler was begun so often."""
        what = f"the handler is begun {count} times"
        self.face.harness.until(lambda: len(self.begun) >= count, within_s=self._limit(within_s), what=what)

    def await_true(self, true: Callable[[], object], what: str, *, within_s: float = 0.0) -> None:
        """Wait until something is true; on a virtual clock with no time passing but ``within_s``."""
        self.face.harness.until(true, within_s=self._limit(within_s), what=what)

    def _limit(self, within_s: float) -> float:
        return within_s if self.face.harness.virtual else max(within_s, REAL_LIMIT_S)

    def request_stop(self) -> None:
        """Ask the worker to drain, once: a second request would cut it short."""
        if not self._asked:
            self._asked = True
            self.app.stop()

    def ended(self) -> bool:
        """Whether the worker has ended."""
        return self._ended.done

    def stop(self, *, within_s: float = 60.0) -> ExitCode:
        """Ask the worker to drain, and let time pass until it has ended."""
        self.request_stop()
        self._ended.join(0.05)
        self.await_true(lambda: self._ended.done, "the worker ends", within_s=within_s)
        return self._ended.result("the worker")

    def abandon(self) -> None:
        """End the worker after a case that failed, whatever its handlers do."""
        for gate in (self._gate, *self._gates.values()):
            if gate is not None:
                gate.set()
        if not self._ended.done:
            self.app.stop()
            self.app.stop()
            self.await_true(lambda: self._ended.done, "the worker ends", within_s=60.0)
        self.app.close()


class BatchWork(Work):
    """As `Work`, with a batch handler: ``handle`` takes a `Batch` of bytes.

    Attributes:
        seen: Every body that the handler was given, with its attempt, in order.
    """

    serves = False  # a request has one message

    def __init__(self, face: Face, queue: Queue, handle: Callable[[Any], Any], **options: Any) -> None:
        self.seen: list[tuple[bytes, int | None]] = []

        def note_and_handle(batch: Batch[bytes]) -> Any:
            self.seen.extend((each.payload, each.attempt) for each in batch)
            return handle(batch)

        super().__init__(face, queue, note_and_handle, payload=Batch[bytes], **options)

    def _register(self, url: str, handler: Callable[[Any], Any], options: Mapping[str, Any]) -> None:
        self.app.batch_handler(url, **options)(handler)

    @property
    def bodies(self) -> list[bytes]:
        """Every body that the handler was given, in order."""
        return [body for body, _ in self.seen]
