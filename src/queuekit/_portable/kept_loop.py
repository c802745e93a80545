# SPDX-License-Identifier: Apache-2.0
"""An event loop that lasts, and whose threads do not."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

_THREADS = "queuekit-on-loop"


class KeptLoop:
    """One event loop for all rounds, so that clients bound to it go on working; a thread runs it in between.

    Concurrency:
        `get` from any thread; `rest` and `close` by the owner, between rounds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._finalizer: weakref.finalize[[asyncio.AbstractEventLoop], KeptLoop] | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """The loop, running."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._finalizer = weakref.finalize(self, _close, self._loop)
            if self._thread is None:
                # Its threads would outlive the round, and a loop has only one default executor for good.
                self._executor = ThreadPoolExecutor(thread_name_prefix=f"{_THREADS}-{id(self)}")
                self._loop.set_default_executor(self._executor)
                self._thread = threading.Thread(target=self._loop.run_forever, name="queuekit-loop", daemon=True)
                self._thread.start()
            return self._loop

    def rest(self, timeout_s: float) -> None:
        """End the threads; tasks that were left go on when the loop next runs.

        A loop that does not answer is given up, and the next `get` makes another.
        """
        with self._lock:
            loop, thread, executor = self._loop, self._thread, self._executor
            self._thread = self._executor = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout_s)
        if executor is not None:
            executor.shutdown(wait=False)
            for each in threading.enumerate():
                if each.name.startswith(f"{_THREADS}-{id(self)}"):
                    each.join(timeout_s)
        if thread.is_alive():
            self.discard()

    def discard(self) -> None:
        """Never use this loop again."""
        with self._lock:
            self._loop = self._thread = None
            if self._finalizer is not None:
                self._finalizer.detach()

    def close(self) -> None:
        """Close the loop. Idempotent; a later `get` makes another."""
        self.rest(1.0)
        with self._lock:
            self._loop = None
            if self._finalizer is not None:
                self._finalizer()
                self._finalizer = None


def _close(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_running():
        loop.close()
