# SPDX-License-Identifier: Apache-2.0
"""Which of the messages that a poll brought are for nobody: the expired, and those with a delay left. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from queuekit._engine import metadata as meta
from queuekit._engine.bridging import Bridge, Onward
from queuekit._engine.held import Held
from queuekit.backend import IncomingMessage

# Looked for in every message that arrives, as globals at half of the cost.
_EXPIRES, _HOP = meta.EXPIRES, meta.HOP


class Arrivals:
    """Looks through what a poll brought.

    Args:
        bridge: What queuekit adds to this queue.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def counted(self, batch: Sequence[IncomingMessage]) -> Sequence[IncomingMessage]:
        """The messages with an attempt each, where copies count them: each copy is delivered for its first time."""
        return [each._replace(attempt=1) for each in batch] if self._bridge.counts else batch

    def look(self, group: Sequence[Held], now: float) -> tuple[Mapping[Held, Onward | None], Mapping[Held, float]]:
        """Those that no handler may have now, and when others end that nobody has begun.

        Args:
            group: What just arrived.
            now: Seconds since the epoch.

        Returns:
            For each that is for nobody: None where it has expired, else where it goes. For each other one
            that will expire: when, in seconds since the epoch.
        """
        special = [held for held in group if _EXPIRES in (known := held.message.metadata) or _HOP in known]
        found: dict[Held, Onward | None] = {}
        ends: dict[Held, float] = {}
        for held in special:
            end = meta.read_instant(held.message.metadata.get(meta.EXPIRES))
            if end is not None and end <= now:
                found[held] = None
            elif (onward := self._bridge.onward(held.message, now)) is not None:
                found[held] = onward
            elif end is not None:
                ends[held] = end
        return found, ends
