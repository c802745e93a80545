# SPDX-License-Identifier: Apache-2.0
"""Forwarding where no worker runs: beside a server that messages are pushed to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from queuekit._engine.journal import logger
from queuekit._portable.forwarding import Forwarder
from queuekit._portable.worker import Worker
from queuekit._values.clock import Clock
from queuekit._values.errors import QueueKitError

_DRAIN_S = 5.0


class ForwardingBeside:
    """Brings what has waited elsewhere to its queues, on a thread of its own, until it is stopped.

    Args:
        forwarders: Makes what forwards; none where nothing waits elsewhere, or by no queue.
        clock: Time.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, forwarders: Callable[[], Sequence[Forwarder]], clock: Clock) -> None:
        self._forwarders, self._clock = forwarders, clock
        self._lock = threading.Lock()
        self._begun = False
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None

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
                worker = self._worker = Worker((), self._clock, drain_s=_DRAIN_S, forwarders=forwarders)
                self._thread = threading.Thread(target=lambda: _run(worker), name="queuekit-forward", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Let what is on its way come to its end, and forward no more. Idempotent; `start` begins anew."""
        with self._lock:
            worker, thread = self._worker, self._thread
            self._worker = self._thread = None
            self._begun = False
        if worker is not None and thread is not None:
            worker.stop()
            thread.join()


def _run(worker: Worker) -> None:
    try:
        worker.run(signals=False)
    except QueueKitError as error:
        logger.error("nothing forwards what waits elsewhere: %s", error, extra={"action": "worker.failed"})
