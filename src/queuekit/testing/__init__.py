# SPDX-License-Identifier: Apache-2.0
"""What a test of a queuekit application, or of a backend, needs: shipped, and imported by nothing below."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuekit.testing.clock import VirtualClock
    from queuekit.testing.rig import Rig

__all__ = ["Rig", "VirtualClock", "reset_memory"]


def reset_memory() -> None:
    """Empty every ``memory://`` queue of this process, between two tests.

    Backends that are open stay open, on empty queues; a receive that is waiting returns nothing.
    """
    import_module("queuekit.backends.memory").reset()


# Imported at first use: the pytest plug-in lives here, and is loaded in every run of everybody.
_HOMES = {"Rig": "queuekit.testing.rig", "VirtualClock": "queuekit.testing.clock"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(home), name)
    return value
