# SPDX-License-Identifier: Apache-2.0
"""Settlements as Pub/Sub has them: acknowledging leases, or changing when they end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Action,
    ErrorClass,
    ErrorCode,
    Failed,
    Settled,
    Settlement,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit.backends.pubsub._errors import LEASE_IS_OVER, TRANSIENT

LONGEST_S = 600
MOST_BYTES = 512 * 1024
"""Of a request that settles."""

_ID_BYTES = 4
"""What each id has around it in a request, at most."""
_REST_BYTES = 1024

_NO_DEAD = Unsupported("Pub/Sub cannot store a dead letter and remove the original in one step")
_TOO_LONG = Unsupported(f"Pub/Sub changes a deadline by {LONGEST_S} s at most")
_PUSHED = Unsupported("what Pub/Sub pushes is settled by the answer to its request, and by nothing else")
_AGAIN = ErrorClass(
    ErrorCode.UNAVAILABLE, retryable=True, sent="no", detail="the service could not settle this lease just now"
)


class Handle(NamedTuple):
    """What settles one delivery.

    Attributes:
        subscription: Whose lease it is.
        ack_id: The service's own handle; empty for a message that was pushed.
    """

    subscription: str
    ack_id: str


class Plan:
    """What one batch of settlements asks the service for, and what its answers mean.

    Args:
        batch: All with one action and one length.
        subscription: The subscription's whole name.
    """

    def __init__(self, batch: Sequence[Settlement], subscription: str) -> None:
        self._action = batch[0].action
        length_s = batch[0].lease_s if self._action is Action.EXTEND else batch[0].delay_s
        self.seconds: int = math.ceil(length_s)
        never = _NO_DEAD if self._action is Action.DEAD else _TOO_LONG if self.seconds > LONGEST_S else None
        self._entries: list[str | SettleOutcome] = (
            [never] * len(batch) if never else [_entry(each.handle, subscription) for each in batch]
        )
        self._known: dict[str, SettleOutcome] = {}

    @property
    def acks(self) -> bool:
        """Whether leases are acknowledged; else their deadlines are changed."""
        return self._action is Action.ACK

    def calls(self) -> list[list[str]]:
        """The ids of each call: one, unless they are so long that a request has no room for all."""
        ack_ids = list(dict.fromkeys(each for each in self._entries if isinstance(each, str)))
        most = MOST_BYTES - _REST_BYTES
        if len("".join(ack_ids).encode()) + _ID_BYTES * len(ack_ids) <= most:  # nearly always
            return [ack_ids] if ack_ids else []
        calls: list[list[str]] = []
        room = 0
        for ack_id in ack_ids:
            needs = len(ack_id.encode()) + _ID_BYTES
            if needs > room or not calls:
                calls.append([])
                room = most
            calls[-1].append(ack_id)
            room -= needs
        return calls

    def done(self, ack_ids: Sequence[str], failed: Mapping[str, str], asked_at: float) -> None:
        """The service took the call, but for the leases that it names.

        Args:
            ack_ids: Those of the call.
            failed: Id to what the service says of it.
            asked_at: When it was asked, on the monotonic scale.
        """
        self._known.update(dict.fromkeys(ack_ids, self._success(asked_at)))
        if failed:
            self._known.update({each: _outcome(failed[each]) for each in ack_ids if each in failed})

    def failed(self, ack_ids: Sequence[str], error: ErrorClass) -> None:
        """Nothing is known of a call's leases, or that nothing was done for them."""
        self._known.update(dict.fromkeys(ack_ids, Failed(error) if error.sent == "no" else Unknown(error)))

    def outcomes(self) -> list[SettleOutcome]:
        """One per settlement."""
        known = self._known
        return [known[each] if isinstance(each, str) else each for each in self._entries]

    def _success(self, asked_at: float) -> SettleOutcome:
        if self._action is Action.ACK:
            return SETTLED
        if self._action is Action.EXTEND:
            return Settled(lease_until=asked_at + self.seconds)
        return Settled(applied_delay_s=float(self.seconds))


def _entry(handle: object, subscription: str) -> str | SettleOutcome:
    """The id of a lease that the service can be asked about, or what becomes of the settlement without asking."""
    if not isinstance(handle, Handle) or handle.subscription != subscription:
        return LEASE_LOST
    return handle.ack_id or _PUSHED


def _outcome(what: str) -> SettleOutcome:
    if what == LEASE_IS_OVER:
        return LEASE_LOST
    if what.startswith(TRANSIENT):
        return Failed(_AGAIN)
    return Failed(
        ErrorClass(ErrorCode.REFUSED, sent="no", detail=f"the service refused to settle the lease ({what})")
    )
