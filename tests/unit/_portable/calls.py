# SPDX-License-Identifier: Apache-2.0
"""Blocking calls under a virtual clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from queuekit.testing import VirtualClock


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
            self._thread.join(0.002)
            if self.done:
                break
            self._clock.advance(step_s)
        assert self.done, "the call did not end"
        if self._errors:
            raise self._errors[0]
        return self._answers[0]
