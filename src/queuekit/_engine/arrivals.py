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

    def exceptions(self, group: Sequence[Held], now: float) -> Mapping[Held, Onward | None]:
        """Those that no handler may have now: None for one that has expired, else where it goes.

        Args:
            group: What just arrived.
            now: Seconds since the epoch.
        """
        special = [held for held in group if _EXPIRES in (known := held.message.metadata) or _HOP in known]
        found: dict[Held, Onward | None] = {}
        for held in special:
            known = held.message.metadata
            if meta.EXPIRES in known and _is_past(known[meta.EXPIRES], now):
                found[held] = None
            elif (onward := self._bridge.onward(held.message, now)) is not None:
                found[held] = onward
        return found


def _is_past(text: str, now: float) -> bool:
    expires_at = meta.read_instant(text)
    return expires_at is not None and expires_at <= now
