# SPDX-License-Identifier: Apache-2.0
"""Forwarding where no worker runs: beside a server that messages are pushed to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from queuekit._engine.journal import logger
from queuekit._portable.forwarding import Forwarder
from queuekit._portable.worker import Worker
from queuekit._values.clock import Clock
from queuekit._values.errors import QueueKitError

Make = Callable[[], Sequence[Forwarder]]

_DRAIN_S: Final = 5.0
_AGAIN_S: Final = 30.0
"""After a failure for which a worker's process would end, and be started again by whoever runs it."""


class ForwardingBeside:
    """Brings what has waited elsewhere to its queues, on a thread of its own, until it is stopped.

    Args:
        forwarders: Makes what forwards; none where nothing waits elsewhere, or by no queue.
        clock: Time.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, forwarders: Make, clock: Clock) -> None:
        self._forwarders, self._clock = forwarders, clock
        self._lock = threading.Lock()
        self._begun = False
        self._stretch: _Stretch | None = None

    def start(self) -> None:
        """Begin, unless that was done since the last stop. No I/O on this thread.

        Raises:
            UsageError: Handlers take messages from a queue for delays.
            SetupError: A URL is wrong.
        """
        if self._begun:
            return
        with self._lock:
            if self._begun:
                return
            forwarders = self._forwarders()
            self._begun = True
            if forwarders:
                self._stretch = _Stretch(forwarders, self._forwarders, self._clock)

    def stop(self) -> None:
        """Let what is on its way come to its end, and forward no more. Idempotent; `start` begins anew."""
        with self._lock:
            stretch, self._stretch = self._stretch, None
            self._begun = False
        if stretch is not None:
            stretch.stop()


class _Stretch:
    """The forwarding between a start and a stop: one worker, and another in place of one that failed.

    Args:
        forwarders: Of the first.
        make: Makes those of the others.
        clock: Time.
    """

    def __init__(self, forwarders: Sequence[Forwarder], make: Make, clock: Clock) -> None:
        self._make, self._clock = make, clock
        self._changed = threading.Condition()
        self._stopping = False
        self._worker = _worker(forwarders, clock)
        self._thread = threading.Thread(target=self._run, args=(forwarders,), name="queuekit-forward", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask for the end, and wait for it."""
        with self._changed:
            self._stopping = True
            self._worker.stop()
            self._changed.notify_all()
        self._thread.join()

    def _run(self, forwarders: Sequence[Forwarder]) -> None:
        """Until the stop: what cannot be forwarded to today may be there tomorrow, and nobody else looks after it."""
        self._work(forwarders)
        while self._pause():
            try:
                forwarders = self._make()
            except QueueKitError as error:
                self._tell(error)
                continue
            with self._changed:
                self._worker = _worker(forwarders, self._clock)
                if self._stopping:
                    self._worker.stop()
            self._work(forwarders)

    def _work(self, forwarders: Sequence[Forwarder]) -> None:
        try:
            self._worker.run(signals=False)
        except QueueKitError as error:
            for each in forwarders:  # a worker that did not begin has left them open
                each.intake.close(timeout_s=0.0)
                each.close()
            self._tell(error)

    def _pause(self) -> bool:
        """Wait before the next worker; False where there is to be none."""
        until = self._clock.monotonic() + _AGAIN_S
        with self._changed:
            while not self._stopping and (left_s := until - self._clock.monotonic()) > 0:
                self._clock.wait(self._changed, left_s)
            return not self._stopping

    def _tell(self, error: QueueKitError) -> None:
        text = "nothing forwards what waits elsewhere: %s; again in %g s"
        logger.error(text, error, _AGAIN_S, extra={"action": "worker.failed"})


def _worker(forwarders: Sequence[Forwarder], clock: Clock) -> Worker:
    return Worker((), clock, drain_s=_DRAIN_S, forwarders=forwarders)
