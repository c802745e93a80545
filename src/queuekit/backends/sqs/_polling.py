# SPDX-License-Identifier: Apache-2.0
"""Long polls that can be left: the service holds one for up to 20 s, and boto3 cannot take it back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from queuekit.backend import Clock

T = TypeVar("T")

_JOIN_S = 1.0


class _Poll(Generic[T]):
    __slots__ = ("call", "done", "error", "give_back", "left", "result")

    def __init__(self, call: Callable[[], T], give_back: Callable[[T], None]) -> None:
        self.call, self.give_back = call, give_back
        self.done = self.left = False
        self.result: list[T] = []
        self.error: BaseException | None = None


class Polls(Generic[T]):
    """Runs each poll on a thread of its own, so that `close` wakes whoever waits for one.

    What such a poll brings afterwards is given back at once: a connection that is cut off would let the service
    lease messages to nobody, for as long as the poll would have taken.

    Args:
        clock: Time.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fresh()

    def _fresh(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._wanted: SimpleQueue[_Poll[T] | None] = SimpleQueue()
        self._idle = 0
        self._polling = 0
        self._threads: list[threading.Thread] = []
        self._closed = False

    def run(self, call: Callable[[], T], give_back: Callable[[T], None]) -> T | None:
        """What the call returns; None where `close` came first.

        Raises:
            Exception: What the call raises.
        """
        if self._pid != os.getpid():
            self._fresh()
        poll = _Poll(call, give_back)
        with self._changed:
            if self._closed:
                return None
            self._hand_over(poll)
            while not (poll.done or self._closed):
                self._clock.wait(self._changed, None)
            if not poll.done:
                poll.left = True
                return None
        if poll.error is not None:
            raise poll.error
        return poll.result[0]

    def run_here(self, call: Callable[[], T], give_back: Callable[[T], None]) -> T | None:
        """As `run`, on the caller's thread, which `close` cannot wake: for a poll that is over soon.

        Handing it over and back costs four changes of thread, with whoever else would run.

        Raises:
            Exception: What the call raises.
        """
        if self._pid != os.getpid():
            self._fresh()
        if self._closed:
            return None
        result = call()
        if self._closed:
            give_back(result)
            return None
        return result

    def close(self) -> None:
        """Wake whoever waits, and let the threads end: the idle ones now, the others after their poll."""
        if self._pid != os.getpid():
            self._fresh()  # the threads stayed behind, and one of them may have had the lock
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            polling = self._polling
            for _ in self._threads:
                self._wanted.put(None)
        if not polling:
            for thread in self._threads:
                thread.join(_JOIN_S)

    def _hand_over(self, poll: _Poll[T]) -> None:
        if self._idle:
            self._idle -= 1
        else:
            thread = threading.Thread(target=self._work, name="queuekit-sqs-poll", daemon=True)
            thread.start()  # which the system may refuse; then there is none to be joined
            self._threads.append(thread)
        self._polling += 1
        self._wanted.put(poll)

    def _work(self) -> None:
        while (poll := self._wanted.get()) is not None:
            try:
                poll.result.append(poll.call())
            except BaseException as error:  # noqa: BLE001 - carried to the thread that asked
                poll.error = error
            with self._changed:
                poll.done = True
                self._idle += 1
                self._polling -= 1
                self._changed.notify_all()
                left = poll.left
            if left and poll.result:
                poll.give_back(poll.result[0])
            poll = None  # not to be kept alive until the next one comes
