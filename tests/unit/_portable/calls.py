# SPDX-License-Identifier: Apache-2.0
"""Blocking calls under a virtual clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from queuekit.testing import VirtualClock

_PAUSE_S = 0.002


class Call:
    """A blocking call on a thread of its own, while the test lets time pass."""

    def __init__(self, call: Callable[[], Any], clock: VirtualClock) -> None:
        self._call, self._clock = call, clock
        self._answers: list[Any] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answers.append(self._call())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self._errors.append(error)

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, *, step_s: float = 0.02) -> Any:
        for _ in range(5000):
            began = time.monotonic()
            self._thread.join(_PAUSE_S)
            late_s = time.monotonic() - began - _PAUSE_S
            if late_s > _PAUSE_S:  # on a busy host, others who have something to do before time passes waited as long
                self._thread.join(min(8 * late_s, 0.2))
            if self.done:
                break
            self._clock.advance(step_s)
        assert self.done, "the call did not end"
        if self._errors:
            raise self._errors[0]
        return self._answers[0]
