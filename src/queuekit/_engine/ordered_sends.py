# SPDX-License-Identifier: Apache-2.0
"""Sends that keep the messages of a key in order: a key whose message failed waits until somebody resumes it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from queuekit._engine.batching import BatchLimits, split
from queuekit._engine.calls import Sender
from queuekit._engine.composing import Composed
from queuekit._values.message import Message
from queuekit._values.outcome import (
    Accepted,
    AllAccepted,
    Duplicate,
    ErrorClass,
    ErrorCode,
    NotAttempted,
    Rejected,
    SendOutcome,
)
from queuekit.backend import OutgoingMessage

_MOST_PAUSED = 10_000
_WENT_WELL = {Accepted, Duplicate}
_KEY_PAUSED = ErrorClass(
    ErrorCode.REFUSED,
    retryable=True,
    scope="key",
    sent="no",
    detail="an earlier message of this ordering key failed; call resume_key(KEY), then send what failed in order",
)
_NEVER = NotAttempted(ErrorClass(ErrorCode.CLOSED, sent="no", detail="not attempted"))


def not_attempted(message_id: str) -> NotAttempted:
    """The answer for a message of a paused key."""
    return NotAttempted(_KEY_PAUSED, message_id)


class PausedKeys:
    """The keys whose messages wait until somebody resumes them. Bounded, and never forgets one.

    Once ``most`` keys are paused, every other key waits too: to forget one would let messages overtake the
    one that failed, which nobody would notice.

    Args:
        most: How many to keep apart.

    Concurrency:
        Safe from any thread.
    """

    __slots__ = ("_keys", "_lock", "_most")

    def __init__(self, most: int = _MOST_PAUSED) -> None:
        self._lock = threading.Lock()
        self._keys: set[str] = set()
        self._most = most

    def __bool__(self) -> bool:
        return bool(self._keys)

    def holds(self, key: str | None) -> bool:
        """Whether messages of this key wait."""
        return key is not None and (key in self._keys or len(self._keys) >= self._most)

    def pause(self, keys: Iterable[str]) -> None:
        """Let messages of these keys wait."""
        with self._lock:
            self._keys.update(keys)

    def resume(self, key: str) -> bool:
        """Let messages of this key go on; whether it was paused."""
        with self._lock:
            known = key in self._keys
            self._keys.discard(key)
            return known

    def names(self) -> frozenset[str]:
        """The keys that were paused one by one."""
        with self._lock:
            return frozenset(self._keys)


class OrderedSends:
    """Splits messages into calls, and pauses the keys of those that fail.

    Args:
        sender: Sends one batch and answers for each message.
        limits: Of one call.
        size: Bytes of a message, asked only where the limits have a size.
        ordered: Whether the queue keeps an order; elsewhere a key orders nothing.

    Attributes:
        paused: The keys that wait.

    Concurrency:
        Safe from any thread.
    """

    def __init__(
        self, sender: Sender, limits: BatchLimits, size: Callable[[OutgoingMessage], int], *, ordered: bool
    ) -> None:
        self._sender, self._limits, self._size, self._ordered = sender, limits, size, ordered
        self.paused: PausedKeys = PausedKeys()

    def send(self, batch: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send one batch that is within the limits, but for messages of keys that wait; failures pause theirs."""
        paused = self.paused
        if paused and any(paused.holds(message.ordering_key) for message in batch):
            outcomes = self._send_unpaused(batch)
        else:
            outcomes = self._sender.send(batch)
        if self._ordered and type(outcomes) is not AllAccepted and not _WENT_WELL.issuperset(map(type, outcomes)):
            paused.pause(
                message.ordering_key
                for message, outcome in zip(batch, outcomes, strict=True)
                if message.ordering_key is not None and _failed(outcome)
            )
        return outcomes

    def send_one(self, message: OutgoingMessage) -> SendOutcome:
        """Send one message whose caller waits, and so knows of a failure before it can send the next."""
        if self.paused and self.paused.holds(message.ordering_key):
            return not_attempted(message.message_id)
        return self._sender.send([message])[0]

    def send_all(self, given: Sequence[Any], composed: Composed) -> Sequence[SendOutcome]:
        """Send what could be composed; one outcome per input, in order."""
        if composed.positions is None:
            return self._send_in_calls(composed.messages)
        barred = self._barred(given, composed.rejected)
        whole: list[SendOutcome] = [composed.rejected.get(index, _NEVER) for index in range(len(given))]
        going: list[tuple[int, OutgoingMessage]] = []
        for position, message in zip(composed.positions, composed.messages, strict=True):
            if position < barred.get(message.ordering_key, math.inf):
                going.append((position, message))
            else:
                whole[position] = not_attempted(message.message_id)
        outcomes = self._send_in_calls([message for _, message in going])
        for (position, _), outcome in zip(going, outcomes, strict=True):
            whole[position] = outcome
        self.pause(key for key in barred if key is not None)
        return whole

    def pause(self, keys: Iterable[str]) -> None:
        """Let messages of these keys wait, where the queue keeps an order."""
        if self._ordered:
            self.paused.pause(keys)

    def _barred(self, given: Sequence[Any], rejected: Mapping[int, Rejected]) -> dict[str | None, int]:
        """For each key of a message that cannot be sent: from which position on its messages wait."""
        first: dict[str | None, int] = {}
        for position in rejected if self._ordered else ():
            key = key_of(given[position])
            if key is not None:
                first.setdefault(key, position)
        return first

    def _send_in_calls(self, messages: list[OutgoingMessage]) -> Sequence[SendOutcome]:
        if not messages:
            return ()
        if len(messages) <= self._limits.count and self._limits.by_count_only:
            return self.send(messages)
        outcomes: dict[int, SendOutcome] = {}
        accepted = True
        for positions in split(messages, self._limits, self._size):
            sent = self.send([messages[each] for each in positions])
            outcomes.update(zip(positions, sent, strict=True))
            accepted = accepted and type(sent) is AllAccepted
        if accepted:
            return AllAccepted([message.message_id for message in messages])
        return [outcomes[position] for position in range(len(messages))]

    def _send_unpaused(self, batch: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        held = [self.paused.holds(message.ordering_key) for message in batch]
        going = [message for message, waits in zip(batch, held, strict=True) if not waits]
        sent = iter(self._sender.send(going) if going else ())
        return [
            not_attempted(message.message_id) if waits else next(sent)
            for message, waits in zip(batch, held, strict=True)
        ]


def _failed(outcome: SendOutcome) -> bool:
    # What only waited for its key, or for there being fewer paused keys, has not failed itself.
    return not isinstance(outcome, (Accepted, Duplicate)) and outcome.error is not _KEY_PAUSED


def key_of(given: Any) -> str | None:
    """The ordering key of what a user gave, if it has a usable one."""
    key = given.ordering_key if isinstance(given, Message) else None
    return key if isinstance(key, str) else None
