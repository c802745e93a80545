# SPDX-License-Identifier: Apache-2.0
"""What a backend that is `Metered` counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Calls:
    """How often each operation of a service was asked for, answered or not: it charges for each.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def count(self, operation: str) -> None:
        """One call is made."""
        with self._lock:
            self._counts[operation] += 1

    def read(self) -> Mapping[str, int]:
        """Operation to count, for those that were called."""
        with self._lock:
            return dict(self._counts)
