# SPDX-License-Identifier: Apache-2.0
"""A batch of settlements as `settle.lua` takes it, and its answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Action,
    ErrorClass,
    ErrorCode,
    Settled,
    Settlement,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit.backends.redis._messages import to_us, write_any

_NO_LETTER = Unsupported("a DEAD settlement that holds no dead letter")
_NO_DEAD_OF_DEAD = Unsupported("a dead-letter queue has no dead-letter queue of its own")
_ACK, _EXTEND, _DEAD = Action.ACK, Action.EXTEND, Action.DEAD

_TAMPERED = Unknown(
    ErrorClass(ErrorCode.REFUSED, scope="queue", detail="another program has removed messages that were leased")
)
_REMEMBERED = 1000
"""Deliveries that may be unsettled before the oldest are forgotten."""

_Group = tuple[Action, str, float]


class Fresh:
    """Which messages of our own runs were never settled, so that their acks need no look at each.

    Concurrency:
        Safe from any thread: what two threads settle at once is fresh for one of them at most.
    """

    def __init__(self) -> None:
        self._runs: dict[str, set[bytes]] = {}
        self._lock = threading.Lock()

    def add(self, token: str, entries: set[bytes]) -> None:
        """Remember a run that was leased just now."""
        with self._lock:
            self._runs[token] = entries
            if len(self._runs) > _REMEMBERED:
                del self._runs[next(iter(self._runs))]

    def take(self, token: str, entries: Sequence[bytes]) -> bool:
        """Whether all of them are fresh; from now on they are not."""
        with self._lock:
            left = self._runs.get(token)
            if left is None:
                return False
            before = len(left)
            left.difference_update(entries)
            if not left:
                del self._runs[token]
            return before - len(left) == len(entries)


class Plan:
    """What of a batch goes to the server, in which order, and what is answered without it.

    Args:
        batch: The settlements.
        fresh: What was never settled before.
        is_dead: Whether the queue is a dead-letter queue.
        kept: How long what is done and what is dead is kept, as the script takes it.
    """

    def __init__(
        self, batch: Sequence[Settlement], fresh: Fresh, *, is_dead: bool, kept: tuple[str, str, str]
    ) -> None:
        self._kept = kept
        self._batch = batch
        self._fresh = fresh
        self._at_once: dict[int, SettleOutcome] = {}
        groups: dict[_Group, list[int]] = {}
        for index, (handle, action, delay_s, lease_s, dead) in enumerate(batch):
            if type(handle) is not tuple or len(handle) != 2 or type(handle[0]) is not str:
                self._at_once[index] = LEASE_LOST  # never one of ours
            elif action is _DEAD and (is_dead or dead is None):
                self._at_once[index] = _NO_DEAD_OF_DEAD if is_dead else _NO_LETTER
            else:
                length_s = lease_s if action is _EXTEND else 0.0 if action is _ACK or action is _DEAD else delay_s
                group = (action, handle[0], length_s)
                try:
                    groups[group].append(index)
                except KeyError:
                    groups[group] = [index]
        self._groups = groups

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left for the server to do."""
        return not self._groups

    @property
    def buries(self) -> bool:
        """Whether something goes to the dead-letter queue."""
        return any(action is _DEAD for action, _, _ in self._groups)

    def arguments(self) -> list[Any]:
        """What the script is given."""
        arguments: list[Any] = [*self._kept]
        batch = self._batch
        for (action, token, length_s), indexes in self._groups.items():
            entries = [_entry_of(batch[index]) for index in indexes]
            new = self._fresh.take(token, entries) and action is _ACK
            arguments += ("ack_new" if new else action.value, token, str(to_us(length_s)), str(len(indexes)))
            if action is _DEAD:
                for index in indexes:
                    arguments.append(_entry_of(batch[index]))
                    letter = batch[index].dead
                    arguments += () if letter is None else write_any(letter)
            else:
                arguments += entries
        return arguments

    def outcomes(self, answer: Any, now: float) -> Sequence[SettleOutcome]:
        """One outcome per settlement, from the script's answer.

        Args:
            answer: The script's.
            now: The monotonic time before it was asked.
        """
        batch = self._batch
        if answer == 1 and not self._at_once and all(action is _ACK for action, _, _ in self._groups):
            return [SETTLED] * len(batch)
        outcomes: list[SettleOutcome] = [LEASE_LOST] * len(batch)
        order = [index for indexes in self._groups.values() for index in indexes]
        for position, index in enumerate(order):
            what = 1 if answer == 1 else answer[position]
            if what:
                outcomes[index] = _done(batch[index], now) if what == 1 else _TAMPERED
        for index, outcome in self._at_once.items():
            outcomes[index] = outcome
        return outcomes


def _entry_of(settlement: Settlement) -> Any:
    handle: Any = settlement.handle
    return handle[1]


def _done(settlement: Settlement, now: float) -> Settled:
    if settlement.action is _EXTEND:
        return Settled(lease_until=now + settlement.lease_s)
    if settlement.action in {Action.RETRY, Action.RELEASE}:
        return Settled(applied_delay_s=settlement.delay_s)
    return SETTLED
