# SPDX-License-Identifier: Apache-2.0
"""What the parts of one receiver share."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from queuekit._engine.flow import Flow
from queuekit._engine.guard import Guard
from queuekit._engine.journal import Journal
from queuekit._engine.lanes import KeyLanes
from queuekit._engine.pulse import Pulse
from queuekit._engine.tally import ReceiveTally
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """The common ground of a receiver, its settling and its leasing.

    Attributes:
        guard: The way to the backend.
        can: What the backend can do.
        clock: Time and chance.
        journal: Where to count and log.
        lock: Guards every `Held`, the flow and the policies; held for moments only.
        flow: Counts what is in flight.
        tally: Counts what became of it.
        pulses: The signs of life of the threads, by name.
        lanes: Keeps the messages of a key apart, where the service does not.
        budget_s: Longest time of one call.
    """

    guard: Guard
    can: Capabilities
    clock: Clock
    journal: Journal
    lock: threading.RLock
    flow: Flow
    tally: ReceiveTally
    pulses: Mapping[str, Pulse]
    lanes: KeyLanes | None
    budget_s: float
