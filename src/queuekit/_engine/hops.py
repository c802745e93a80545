# SPDX-License-Identifier: Apache-2.0
"""Delays longer than the service's own: a message travels in hops, each a copy with the time that is left. Pure.

What a copy carries is the wait of its own hop and what is left after it, so that every hop brings the end
nearer whatever anybody's clock says. Where the service stamps both ends of a hop, what it was late by comes
off what is left; elsewhere the instant at which the message is due says so. That instant is also the last
check: the clock of the consumer must agree that the time has come. It is asked once, so that a clock that
is wrong delays a message by one hop at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from queuekit._engine import metadata as meta
from queuekit._engine.waits import possible_delay_s
from queuekit._values.capability import Capabilities
from queuekit.backend import IncomingMessage, OutgoingMessage

_NOTHING_S = 1e-4
MANY_HOPS_S = 86_400.0
"""A bridged delay longer than this is worth a warning: each hop costs a send, a receive and an ack."""


class Left(NamedTuple):
    """How much of its delay a received message has before it.

    Attributes:
        seconds: Above 0.
        last_check: Whether the service says that it is over, and only the clock here does not.
    """

    seconds: float
    last_check: bool = False


def left_of(message: IncomingMessage, now: float) -> Left | None:
    """What is left of a message's delay; None when it is due, or was never bridged.

    Args:
        message: As it was received.
        now: Seconds since the epoch, by this host.
    """
    known = message.metadata
    if meta.HOP not in known:
        return None
    left_s = meta.read_seconds(known.get(meta.HOP_LEFT)) or 0.0
    due_at = meta.read_instant(known.get(meta.DUE))
    until_due_s = 0.0 if due_at is None else due_at - now
    if message.received_at is not None and message.enqueued_at is not None:
        waited_s = meta.read_seconds(known.get(meta.HOP_WAIT)) or 0.0
        left_s -= max(0.0, message.received_at - message.enqueued_at - waited_s)
    elif due_at is not None:
        left_s = min(left_s, until_due_s)
    if left_s > _NOTHING_S:
        return Left(left_s)
    return Left(until_due_s, last_check=True) if until_due_s > _NOTHING_S else None


def delayed(message: OutgoingMessage, delay_s: float, can: Capabilities, now: float) -> OutgoingMessage:
    """A message with a delay of any length: the service's own, by ``delay_via=``, or the first of the hops."""
    if delay_s <= can.max_delay_s:
        return message._replace(delay_s=possible_delay_s(delay_s, can))
    if delay_s <= can.via_delay_s:
        return message._replace(delay_s=delay_s)
    return _hop(message, Left(delay_s), can, number=0, due=meta.write_instant(now + delay_s))


def onward(copy: OutgoingMessage, left: Left, can: Capabilities) -> OutgoingMessage:
    """The next hop of a message that was received with time left."""
    known = copy.metadata
    return _hop(copy, left, can, number=hop_number(known) + 1, due=None if left.last_check else known.get(meta.DUE))


def hop_number(metadata: Mapping[str, str]) -> int:
    """How many hops a message has behind it."""
    return meta.read_count(metadata.get(meta.HOP, ""))


def hops_of(delay_s: float, can: Capabilities) -> int:
    """How many copies a bridged delay takes beyond the first send."""
    return max(0, -int(-delay_s // can.max_delay_s) - 1)


def _hop(message: OutgoingMessage, left: Left, can: Capabilities, *, number: int, due: str | None) -> OutgoingMessage:
    wait_s = min(possible_delay_s(left.seconds, can), can.max_delay_s)
    after_s = 0.0 if left.last_check else max(0.0, left.seconds - wait_s)
    metadata = {name: text for name, text in message.metadata.items() if name not in meta.OF_A_HOP}
    metadata |= {
        meta.HOP: str(number),
        meta.HOP_WAIT: meta.write_seconds(wait_s),
        meta.HOP_LEFT: meta.write_seconds(after_s),
    }
    if due is not None:
        metadata[meta.DUE] = due
    return message._replace(delay_s=wait_s, metadata=metadata)
