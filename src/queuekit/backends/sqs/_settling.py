# SPDX-License-Identifier: Apache-2.0
"""Settlements as SQS has them: deleting a message, or changing how long it stays hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Action,
    ErrorCode,
    Failed,
    Settled,
    Settlement,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit.backends.sqs import _entries

LONGEST_S = 43_200

_NO_DEAD = Unsupported("SQS cannot store a dead letter and remove the original in one step")
_TOO_LONG = Unsupported("SQS hides a message for 12 h at most")


class Handle(NamedTuple):
    """What settles one delivery.

    Attributes:
        queue: Where the queue is that made it, so that another one never gets it.
        receipt: The service's own handle.
    """

    queue: tuple[str, ...]
    receipt: str


class Plan:
    """What one batch of settlements asks the service for, and what its answer means.

    Args:
        batch: All with one action and one length.
        queue: Where the queue is, as its handles say.
    """

    def __init__(self, batch: Sequence[Settlement], queue: tuple[str, ...]) -> None:
        self._batch = batch
        self._action = batch[0].action
        length_s = batch[0].lease_s if self._action is Action.EXTEND else batch[0].delay_s
        self._seconds = math.ceil(length_s)
        self._known: dict[int, SettleOutcome] = {}
        self._entries: list[dict[str, Any]] = []
        self._positions: list[int] = []
        for position, settlement in enumerate(batch):
            self._add(position, settlement, queue)

    @property
    def operation(self) -> str:
        """What to ask for."""
        return "DeleteMessageBatch" if self._action is Action.ACK else "ChangeMessageVisibilityBatch"

    @property
    def entries(self) -> Sequence[Mapping[str, Any]]:
        """What to ask with; nothing where no call is needed."""
        return self._entries

    def _add(self, position: int, settlement: Settlement, queue: tuple[str, ...]) -> None:
        handle = settlement.handle
        if self._action is Action.DEAD:
            self._known[position] = _NO_DEAD
        elif self._seconds > LONGEST_S:
            self._known[position] = _TOO_LONG
        elif not isinstance(handle, Handle) or handle.queue != queue:
            self._known[position] = LEASE_LOST
        else:
            entry: dict[str, Any] = {"Id": str(len(self._positions)), "ReceiptHandle": handle.receipt}
            if self._action is not Action.ACK:
                entry["VisibilityTimeout"] = self._seconds
            self._positions.append(position)
            self._entries.append(entry)

    def outcomes(self, answer: Mapping[str, Any], asked_at: float) -> list[SettleOutcome]:
        """One outcome per settlement.

        Args:
            answer: The service's.
            asked_at: When it was asked, on the monotonic scale.
        """
        for position, told in zip(self._positions, _entries.read(answer, len(self._positions)), strict=True):
            self._known[position] = self._outcome(told, asked_at)
        return [self._known[position] for position in range(len(self._batch))]

    def _outcome(self, told: _entries.Told, asked_at: float) -> SettleOutcome:
        if told.success is not None:
            if self._action is Action.ACK:
                return SETTLED
            if self._action is Action.EXTEND:
                return Settled(lease_until=asked_at + self._seconds)
            return Settled(applied_delay_s=float(self._seconds))
        if not told.known:
            return Unknown(told.error)
        return LEASE_LOST if told.error.code is ErrorCode.LEASE_LOST else Failed(told.error)
