# SPDX-License-Identifier: Apache-2.0
"""Waiting for a change of a queue, without taking anything from it, so that an interruption can lose nothing."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress

from redis import exceptions

from queuekit.backends.redis._connections import Way
from queuekit.backends.redis._lines import Line

BLOCK_S = 1.0
"""How long the server is asked to wait: a lease that another consumer made shorter is seen by then."""


class Watch:
    """One connection on which the server says that the queue has changed.

    The server ends its own waits by a clock of ten ticks a second, which is too coarse for due times. So the time
    is kept here, and a question that is still open when it is over is answered in the next wait.

    Args:
        line: The connection; nobody else uses it.
        keys: The streams in which changes are told.
        answer_s: The longest that the server may take to answer.

    Concurrency:
        One thread waits at a time; `stop` may be called by any.
    """

    def __init__(self, line: Line, keys: Sequence[str], answer_s: float) -> None:
        self.line = line
        self._keys = keys
        self._answer_s = answer_s
        self._asked_at: float | None = None
        self._stopping, self._stop = os.pipe()
        self._stop_poll = select.poll()
        self._stop_poll.register(self._stopping, select.POLLIN)
        self._poll = select.poll()
        self._poll.register(self._stopping, select.POLLIN)
        self._poll.register(line.fileno(), select.POLLIN)

    def wait(self, timeout_s: float, seen: Sequence[bytes], now: float) -> None:
        """Wait for a change behind those that were seen, for `stop`, or until the time is over.

        Raises:
            RedisError: What became of the connection.
            TimeoutError: The server's answer is overdue; it is redis-py's, and so a RedisError too.
        """
        if self._asked_at is None:
            self._asked_at = now
            self.line.ask("XREAD", "BLOCK", str(int(BLOCK_S * 1000)), "STREAMS", *self._keys, *seen)
        silent_s = self._asked_at + BLOCK_S + self._answer_s - now
        happened = {each for each, _ in self._poll.poll(max(0.0, min(timeout_s, silent_s)) * 1000)}
        if not happened and silent_s <= timeout_s:
            raise exceptions.TimeoutError("the server does not end a wait that is over")
        if happened - {self._stopping}:
            self._asked_at = None
            self.line.answer()
        if self._stopping in happened:
            os.read(self._stopping, 64)

    def rest(self, timeout_s: float) -> None:
        """Wait for `stop` or until the time is over, whatever changes."""
        if self._stop_poll.poll(max(0.0, timeout_s) * 1000):
            os.read(self._stopping, 64)

    def is_overdue(self, now: float) -> bool:
        """Whether the server should have answered by now, so that the connection must be dead."""
        return self._asked_at is not None and now > self._asked_at + BLOCK_S + self._answer_s

    def stop(self) -> None:
        """Let the wait end."""
        os.write(self._stop, b"!")

    def close(self) -> None:
        """Close the connection."""
        self.line.close()
        self.forget()

    def forget(self) -> None:
        """Give up what this process has of it, and leave the connection itself alone."""
        os.close(self._stopping)
        os.close(self._stop)


class Watches:
    """The watches of one backend, as many as threads wait in it.

    Args:
        connections: The way to the server.
        keys: The streams in which changes are told.
        answer_s: The longest that the server may take to answer.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, connections: Way, keys: Sequence[str], answer_s: float) -> None:
        self._connections = connections
        self.keys = keys
        self._answer_s = answer_s
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Watch] = []
        self._waiting: set[Watch] = set()
        self._stops = 0
        self._closed = False

    @property
    def stops(self) -> int:
        """How often all waits were ended."""
        return self._stops

    @property
    def waiting(self) -> int:
        """How many threads wait now."""
        return len(self._waiting)

    def wait(self, timeout_s: float, seen: Sequence[bytes], stops: int, now: float) -> bool:
        """Wait for a change; False when waits were ended since ``stops`` was read.

        Args:
            timeout_s: How long.
            seen: The last change that was seen, of each stream; empty waits for no change.
            stops: See above.
            now: Monotonic.

        Raises:
            RedisError: What became of the connection.
            ConnectionError: It was lost; redis-py's, and so a RedisError too.
        """
        if os.getpid() != self._pid:
            self._after_fork()
        watch, is_new = self._take(now)
        with self._lock:
            self._waiting.add(watch)
            stopped = self._closed or stops != self._stops
        usable = False
        try:
            if not stopped:
                if seen:
                    watch.wait(timeout_s, seen, now)
                else:
                    watch.rest(timeout_s)
            usable = True
        except exceptions.RedisError as error:
            # That the queue is on another server now is a change too. A connection that was lost while nobody used
            # it tells nothing of the server now; the next call finds out.
            with nullcontext() if is_new else suppress(exceptions.ConnectionError):
                self._connections.judge(error, watch.line.lines)
        finally:
            with self._lock:
                self._waiting.discard(watch)
                usable = usable and not self._closed
                if usable:
                    self._idle.append(watch)
            if not usable:
                watch.close()
        return not self._closed and stops == self._stops

    def stop(self) -> None:
        """Let every wait end now."""
        with self._lock:
            self._stops += 1
            for watch in self._waiting:
                watch.stop()

    def close(self) -> None:
        """End every wait, and close the connections."""
        self.stop()
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for watch in idle:
            watch.close()

    def _take(self, now: float) -> tuple[Watch, bool]:
        """A watch, and whether its connection is new."""
        with self._lock:
            watch = self._idle.pop() if self._idle else None
        if watch is not None and not self._is_good(watch, now):
            watch.close()
            watch = None
        if watch is not None:
            return watch, False
        return Watch(self._connections.take(), self.keys, self._answer_s), True

    def _is_good(self, watch: Watch, now: float) -> bool:
        return self._connections.is_current(watch.line) and not watch.is_overdue(now)

    def _after_fork(self) -> None:
        # The parent's connections are the parent's; it may also have held the lock.
        self._lock = threading.Lock()
        for watch in (*self._idle, *self._waiting):
            watch.forget()
        self._idle, self._waiting = [], set()
        self._pid = os.getpid()
