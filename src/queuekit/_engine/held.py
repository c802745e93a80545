# SPDX-License-Identifier: Apache-2.0
"""One delivery while it is ours: the record that the policies and the threads share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from queuekit._values.outcome import SettleOutcome
from queuekit.backend import IncomingMessage, Settlement


class State(IntEnum):
    """Where a delivery stands. It only ever moves down this list."""

    WAITING = 0
    """Leased, and not yet handed to anybody."""
    RUNNING = 1
    """With a handler, or with the user of a Consumer."""
    PARKED = 2
    """Its settlement is recorded and waits for its time; the lease is kept until then."""
    RECORDED = 3
    """Its settlement is recorded and on its way."""
    DONE = 4
    """The outcome of its settlement is known, or it was lost."""


# A member looked up on its class costs several times a global, and these are looked up per message.
WAITING, RUNNING, PARKED, RECORDED, DONE = State


class Lease(NamedTuple):
    """For how long deliveries are ours. Those that came together share one until one of them is extended.

    Attributes:
        until: When it ends, in monotonic seconds.
        received_at: When the poll that brought the delivery began.
        renew_at: When the keeper looks at it next.
        abandoned: Whether it is extended no more, because its handler hangs.
    """

    until: float
    received_at: float
    renew_at: float
    abandoned: bool = False


@dataclass(slots=True)
class Trouble:
    """What went wrong while a settlement was sent.

    Attributes:
        tries: How often it was tried.
        unknown: Whether an answer was lost, so that an earlier try may have settled it.
    """

    tries: int = 0
    unknown: bool = False


class Held:
    """One delivery from the poll that brought it to the outcome of its settlement.

    Every field is guarded by the owning receiver's lock, but for ``message``, which never changes, and
    ``lease_lost``, which is only ever set.
    """

    __slots__ = ("lease", "lease_lost", "message", "outcome", "settlement", "state", "trouble")

    def __init__(self, message: IncomingMessage, lease: Lease) -> None:
        self.message: IncomingMessage = message
        self.lease: Lease = lease
        self.state: State = WAITING
        self.lease_lost: bool = False
        self.settlement: Settlement | None = None
        self.outcome: SettleOutcome | None = None
        self.trouble: Trouble | None = None


def weights(group: Sequence[Held]) -> list[int]:
    """Bytes that each delivery occupies here, near enough to bound memory by."""
    return [_with_attributes(held.message) if held.message.attributes else len(held.message.body) for held in group]


def _with_attributes(message: IncomingMessage) -> int:
    return len(message.body) + sum(len(name) + len(value) for name, value in message.attributes.items())
