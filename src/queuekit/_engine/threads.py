# SPDX-License-Identifier: Apache-2.0
"""The threads of one receiver: started by name, watched, and joined by their owner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("queuekit")


class Threads:
    """Starts daemon threads, and reports one that ends by an exception: that is a bug of ours.

    Without the report a consumer would go on with leases that nobody keeps, or acks that nobody sends.

    Args:
        name: Names the owner in every thread's name.
        broken: Called with the exception that ended a thread.
    """

    def __init__(self, name: str, broken: Callable[[Exception], None]) -> None:
        self._name = name
        self._broken = broken
        self._threads: list[threading.Thread] = []

    def start(self, role: str, body: Callable[[], None]) -> None:
        """Start one thread.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        thread = threading.Thread(
            target=self._watched, args=(role, body), name=f"queuekit-{role}-{self._name}", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def join(self, timeout_s: float) -> None:
        """Wait for every thread but the calling one, that long for each."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def _watched(self, role: str, body: Callable[[], None]) -> None:
        try:
            body()
        except Exception as error:  # the keeper's loop: whatever ends it must be known
            logger.exception("the %s thread of %s ended", role, self._name, extra={"action": "engine.broken"})
            self._broken(error)
