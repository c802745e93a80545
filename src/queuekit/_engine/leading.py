# SPDX-License-Identifier: Apache-2.0
"""Which of the threads that run quick handlers takes the next message. Pure."""

from __future__ import annotations

from queuekit._engine.tally import Handling

DEPUTY_LOOKS_S = 2e-4
"""How long the leader may take nothing before the deputy leads."""


class Lead:
    """Lets one thread run quick handlers alone, for as long as they are quick.

    Threads take turns at the interpreter. Ten of them that run handlers of a few microseconds gain nothing
    by each other, and keep the interpreter from the threads that poll and settle. So while handlers are
    quick, one thread takes message after message, the leader, and one other, the deputy, looks again and
    again whether the leader still does. If it does not, it is in a handler that is slow for once: the deputy
    leads from then on, and somebody else is deputy. Where handlers are not quick, every thread that is free
    takes what waits.

    Args:
        handling: Knows whether handlers are quick.

    Attributes:
        leader: The thread that takes messages while they are; None while it waits for some, or before.
        deputy: Whether a thread stands by.
        called: Whether a thread was woken to stand by, and has not come yet.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    __slots__ = ("_handling", "called", "deputy", "leader")

    def __init__(self, handling: Handling) -> None:
        self._handling = handling
        self.leader: int | None = None
        self.deputy: bool = False
        self.called: bool = False

    def may_take(self, thread: int) -> bool:
        """Whether this thread takes the next message."""
        return not self._handling.quick or self.leader is None or self.leader == thread

    def call(self, waiting: int) -> int:
        """How many threads to wake for so many messages that wait."""
        if not self._handling.quick:
            return waiting
        if self.leader is not None and (self.deputy or self.called):
            return 0
        self.called = True
        return 1
