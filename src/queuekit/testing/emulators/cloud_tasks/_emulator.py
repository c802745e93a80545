# SPDX-License-Identifier: Apache-2.0
"""The state, its lock, and the thread that looks for what is due."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from queuekit._values.clock import Clock, SystemClock
from queuekit.testing.emulators.cloud_tasks._attempts import Attempt, Ending
from queuekit.testing.emulators.cloud_tasks._book import Book
from queuekit.testing.emulators.cloud_tasks._clock import RunningClock
from queuekit.testing.emulators.cloud_tasks._dispatcher import Dispatcher
from queuekit.testing.emulators.cloud_tasks._store import Forgetful, SQLiteStore
from queuekit.testing.emulators.cloud_tasks._targets import Targets
from queuekit.testing.emulators.cloud_tasks._tokens import Signer

Tell = Callable[[str], None]


class Emulator:
    """Keeps the book, and dispatches what is due in it.

    Args:
        clock: Its time.
        outside: The time of the targets, which is the real one even where this emulator's is ahead.
        state: A file that keeps the state, or None.
        targets: Who may be called.
        signer: Makes tokens.
        context: Makes what TLS needs, once.
        tell: Told of every attempt in a line.

    Concurrency:
        Safe from any thread.

    Raises:
        RuntimeError: The file cannot be used.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        outside: Clock,
        state: Path | None,
        targets: Targets,
        signer: Signer,
        context: Callable[[], ssl.SSLContext],
        tell: Tell,
    ) -> None:
        self._clock = clock
        self._tell = tell
        lock = threading.Lock()
        self._changed, self._quiet = threading.Condition(lock), threading.Condition(lock)
        self._stopped = False
        self._store = store = Forgetful() if state is None else SQLiteStore(state)
        self._book = Book(store, self.new_id, targets.may_be_called)
        if isinstance(store, SQLiteStore):
            self._book.load(store, clock.time())
        self._dispatcher = Dispatcher(
            targets=targets, signer=signer, clock=outside, context=context, ended=self._ended
        )
        self._thread = threading.Thread(target=self._watch, name="cloud-tasks-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def changing(self) -> Iterator[tuple[Book, float]]:
        """Look at the book or change it, at this time; changes are kept when the block has ended."""
        with self._changed:
            yield self._book, self._clock.time()
            self._store.commit()
            self._changed.notify()

    def run(self, attempt: Attempt) -> None:
        """Send an attempt that was begun by a call."""
        self._dispatcher.send([attempt])

    def wait_until_quiet(self, timeout_s: float) -> bool:
        """Wait until nothing is on its way and nothing is due; False when that took too long.

        Where time passes by itself, this includes what waits for the queue's rate.

        The limit is real time, as that is what the targets need.
        """
        real = SystemClock()
        limit = real.monotonic() + timeout_s
        with self._changed:
            while self._book.busy(self._clock.time(), time_passes=isinstance(self._clock, RunningClock)):
                left_s = limit - real.monotonic()
                if left_s <= 0:
                    return False
                self._quiet.wait(left_s)
        return True

    def close(self) -> None:
        """End the threads, and the state's file."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        self._dispatcher.close()
        self._store.close()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                now = self._clock.time()
                overdue = list(self._book.overdue(now))
                for attempt in overdue:
                    self._tell(f"{attempt.title}: {attempt.entry.reason}")
                due = list(self._book.due(now))
                # Kept before anything is sent: a killed emulator must not forget that it was tried.
                self._store.commit()
                if not overdue and not due:
                    self._quiet.notify_all()
                    event = self._book.next_event(now)
                    self._clock.wait(self._changed, None if event is None else max(0.0, event - now))
            if overdue:
                self._dispatcher.cancel(overdue)
            if due:
                self._dispatcher.send(due)

    def _ended(self, attempt: Attempt, ending: Ending) -> None:
        with self.changing() as (book, now):
            if book.ended(attempt, ending, now):
                # Here, so that all is told once it is quiet.
                self._tell(f"{attempt.title}: {ending.reason}")

    def new_id(self) -> str:
        """An id that nobody has: the service's own have some twenty digits."""
        return str(int.from_bytes(self._clock.token_bytes(8)))
