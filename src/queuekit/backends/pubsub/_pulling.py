# SPDX-License-Identifier: Apache-2.0
"""Pulls that can be left: whoever waits is woken at once, and nothing that a pull brings later is lost by it."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from queuekit.backend import Clock


@dataclass(slots=True, eq=False)
class _Pull:
    """One call in flight.

    Attributes:
        most: How many messages it may bring.
        begun_at: When it began, on the monotonic scale: no lease that it brings is older.
        give_back: What to do with an answer that nobody waits for; the call that does it, if there is one.
        call: gRPC's own, once it has begun.
        done: Whether it has ended.
        left: Whether nobody waits for it.
    """

    most: int
    begun_at: float
    give_back: Callable[[Any], Any]
    call: Any = None
    done: bool = False
    left: bool = False


class Pulls:
    """Waits for pulls, until they are answered or somebody interrupts.

    A pull that was cancelled may still be handed messages, and keeps them for a lease: so one that is left goes on
    until its time is over. The next receive waits for it instead of beginning another; without one, what it brings
    is given back at once.

    Args:
        clock: Time.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pid = 0
        self._fresh()

    def _fresh(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Pull] = []
        self._left: list[_Pull] = []
        # gRPC cancels a call that nobody holds.
        self._giving: set[Any] = set()
        self._closed = False

    def run(self, most: int, begin: Callable[[], Any], give_back: Callable[[Any], Any]) -> tuple[Any, float]:
        """The call that has ended, and when it began; None where somebody interrupted.

        Args:
            most: How many messages are wanted at most.
            begin: Begins a call for so many.
            give_back: What to do with an answer that nobody waits for; called on a thread of gRPC's. Returns the
                call that does it, or None.
        """
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._fresh()
        with self._changed:
            if self._closed:
                return None, 0.0
            pull = next((each for each in self._left if each.most <= most), None)
            fresh = pull is None
            if pull is None:
                pull = _Pull(most, self._clock.monotonic(), give_back)
                pull.call = begin()
            else:
                self._left.remove(pull)
                pull.left = False
            self._waiting.append(pull)
        if fresh:
            # Not under the lock: of a call that has ended already, this calls at once.
            pull.call.add_done_callback(lambda _call: self._ended(pull))
        with self._changed:
            while not (pull.done or pull.left):
                self._clock.wait(self._changed, None)
            return (pull.call if pull.done and not pull.left else None), pull.begun_at

    def interrupt(self) -> None:
        """Wake everybody who waits now; their pulls are left."""
        with self._changed:
            for each in self._waiting:
                each.left = True
            self._left += self._waiting
            self._waiting = []
            self._changed.notify_all()

    def close(self) -> None:
        """Wake everybody, and begin no more."""
        with self._changed:
            self._closed = True
        self.interrupt()

    def _ended(self, pull: _Pull) -> None:
        with self._changed:
            pull.done = True
            if not pull.left:
                self._waiting.remove(pull)
                self._changed.notify_all()
                return
            self._left.remove(pull)
        with suppress(Exception):  # the lease brings back what cannot be given back
            giving = pull.give_back(pull.call)
            if giving is not None:
                with self._changed:
                    self._giving.add(giving)
                giving.add_done_callback(self._given)

    def _given(self, giving: Any) -> None:
        with self._changed:
            self._giving.discard(giving)


def answer_of(call: Any) -> Any:
    """What a call that has ended answered; None where its time was over before there was an answer.

    Raises:
        from_grpc_error: The call's own, as Google's clients raise it.
    """
    grpc, exceptions = importlib.import_module("grpc"), importlib.import_module("google.api_core.exceptions")
    try:
        return call.result()
    except grpc.FutureCancelledError:  # its channel was closed
        return None
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return None
        from_grpc_error: Callable[[Exception], Exception] = exceptions.from_grpc_error
        raise from_grpc_error(error) from error
