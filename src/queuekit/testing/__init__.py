# SPDX-License-Identifier: Apache-2.0
"""What a test of a queuekit application, or of a backend, needs: shipped, and imported by nothing below."""

from __future__ import annotations

import importlib

from queuekit.testing.clock import VirtualClock

__all__ = ["VirtualClock", "reset_memory"]


def reset_memory() -> None:
    """Empty every ``memory://`` queue of this process, between two tests.

    Backends that are open stay open, on empty queues; a receive that is waiting returns nothing.
    """
    importlib.import_module("queuekit.backends.memory").reset()
