# SPDX-License-Identifier: Apache-2.0
"""Calls to a service that must not outlast the time that there is, whatever the service's SDK does about timeouts."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from queuekit._values.clock import Clock

T = TypeVar("T")


def finish_by(until: float, work: Callable[[], T], clock: Clock) -> T | None:
    """Run ``work``, and wait for what it returns until that time; None when it was not over by then.

    What was not over goes on, on a daemon thread of its own, and whatever it brings is dropped. Without a limit it
    runs on the calling thread.

    Args:
        until: In monotonic seconds.
        work: What to run; it returns something else than None.
        clock: Time.

    Raises:
        Exception: What ``work`` raised.
    """
    if until == math.inf:
        return work()
    box = _Box(work)
    thread = threading.Thread(target=box.run, name="queuekit-in-time", daemon=True)
    thread.start()
    if box.wait(until, clock):
        thread.join()
    return box.result()


class _Box(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._over = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            result, error = self._work(), None
        except BaseException as raised:  # noqa: BLE001 - it is raised where it is waited for
            result, error = None, raised
        with self._changed:
            self._over, self._result, self._error = True, result, error
            self._changed.notify_all()

    def wait(self, until: float, clock: Clock) -> bool:
        with self._changed:
            while not self._over and (left_s := until - clock.monotonic()) > 0:
                clock.wait(self._changed, left_s)
            return self._over

    def result(self) -> T | None:
        with self._changed:
            if self._error is not None:
                raise self._error
            return self._result
