# SPDX-License-Identifier: Apache-2.0
"""One delivery while it is ours: the record that the policies and the threads share."""

from __future__ import annotations

from enum import IntEnum

from queuekit._values.outcome import SettleOutcome
from queuekit.backend import Action, IncomingMessage, OutgoingMessage


class State(IntEnum):
    """Where a delivery stands. It only ever moves down this list."""

    WAITING = 0
    """Leased, and not yet handed to anybody."""
    RUNNING = 1
    """With a handler, or with the user of a Consumer."""
    RECORDED = 2
    """Its settlement is recorded and on its way."""
    DONE = 3
    """The outcome of its settlement is known, or it was lost."""


class Held:
    """One delivery from the poll that brought it to the outcome of its settlement.

    Every field is guarded by the owning receiver's lock, but for ``message``, which never changes, and
    ``lease_lost``, which is only ever set.
    """

    __slots__ = (
        "abandoned", "action", "dead", "delay_s", "lease_lost", "lease_until", "message", "outcome", "received_at",
        "renew_at", "state", "tries", "unknown",
    )  # fmt: skip

    def __init__(self, message: IncomingMessage, lease_until: float, received_at: float) -> None:
        self.message = message
        self.lease_until = lease_until
        self.received_at = received_at
        self.renew_at = lease_until
        self.state = State.WAITING
        self.lease_lost = False
        self.abandoned = False
        self.action: Action | None = None
        self.delay_s = 0.0
        self.dead: OutgoingMessage | None = None
        self.outcome: SettleOutcome | None = None
        self.tries = 0
        self.unknown = False


def weight(message: IncomingMessage) -> int:
    """Bytes that a delivery occupies here, near enough to bound memory by."""
    if not message.attributes:
        return len(message.body)
    return len(message.body) + sum(len(name) + len(value) for name, value in message.attributes.items())
