# SPDX-License-Identifier: Apache-2.0
"""Everything beside sending, receiving and settling: counting, peeking, cancelling, emptying, redriving.

What may take long is done in steps, so that the server answers others in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from queuekit.backend import LEASE_LOST, SETTLED, OutgoingMessage, QueueStats, SettleOutcome, StoredMessage
from queuekit.backends.redis import _messages
from queuekit.backends.redis._scripts import PLACES

Run: TypeAlias = Callable[..., Any]
"""Runs a script of a queue with arguments."""

_BEGINNING = "0-0"
_PAGE = 100


def count(run: Run) -> QueueStats:
    """The messages of a queue, by state."""
    while (found := run("stats")) is None:
        pass  # each call makes some of what is due ready
    ready, leased, every, dead, done = found
    # Where a key of the queue was removed from outside, what is left does not add up.
    ready, leased = max(0, ready), max(0, leased)
    return QueueStats(ready=ready, delayed=max(0, every - ready - leased), leased=leased, dead=dead, done=done)


def peek(run: Run, limit: int, after: str) -> list[StoredMessage]:
    """Up to ``limit`` messages in order of sending, from behind the id ``after``."""
    messages: list[StoredMessage] = []
    after = after or _BEGINNING
    while len(messages) < limit:
        want = min(limit - len(messages), _PAGE)
        while (found := run("peek", after, str(want))) is None:
            pass
        page = sorted(found, key=lambda each: _messages.order_of(each[0]))[:want]
        messages += map(_messages.read_stored, page)
        if len(page) < want:
            break
        after = messages[-1].cursor
    return messages


def peek_done(run: Run, limit: int, after: str) -> list[StoredMessage]:
    """Up to ``limit`` messages that are done and kept, in order of sending, from behind the id ``after``."""
    messages: list[StoredMessage] = []
    while len(messages) < limit:
        last, found = run("peek_done", after, str(min(limit - len(messages), _PAGE)))
        messages += map(_messages.read_done, found)
        if not last:
            break
        after = last
    return messages


def delete(run: Run) -> None:
    """Remove a queue or a subscription."""
    while not run("delete", *PLACES):
        pass


def tidy(run: Run) -> None:
    """Remove what was kept for long enough."""
    while run("tidy"):
        pass


def purge(run: Run) -> int:
    """Remove every message that is not leased. Returns how many."""
    removed, stop, position = 0, b"", b"0"
    while position:
        some, stop, position = run("purge", stop, position)
        removed += some
    return removed


def cancel(run: Run, message_id: str) -> bool:
    """Remove the messages with an id that were never leased from a queue, or a subscription."""
    removed, plain, kept = 0, _BEGINNING, _BEGINNING
    while plain or kept:
        some, plain, kept = run("cancel", message_id, plain, kept)
        removed += some
    return removed > 0


def redrive(run: Run, batch: Sequence[OutgoingMessage], born: str) -> list[SettleOutcome]:
    """Move dead letters back to the queue that they came from."""
    outcomes: list[SettleOutcome] = [LEASE_LOST] * len(batch)
    left = dict(enumerate(batch))
    plain: Any = _BEGINNING
    kept: Any = _BEGINNING
    while left and (plain or kept):
        arguments: list[Any] = []
        for index, message in left.items():
            arguments += (str(index), message.message_id, *_messages.write_any(message))
        moved, plain, kept = run("redrive", plain, kept, born, *arguments)
        for index in moved:
            outcomes[index] = SETTLED
            del left[index]
    return outcomes
