# SPDX-License-Identifier: Apache-2.0
"""How many polls of one consumer run at once. Pure."""

from __future__ import annotations


class Growth:
    """One poll at a time, and one more whenever a poll came back full.

    A service may charge for every poll, for empty ones too, so that a second one must be worth it: only a full one
    says that there is more than one poll brings. One that brought fewer than it asked for takes one back, and an
    empty one or a failure all but the first. What runs is left to end; an idle queue has one poll, and no other.

    Args:
        batch: Most messages of one poll.
        most: How many may run at once at most.

    Attributes:
        allowed: How many may run now, from 1.
    """

    __slots__ = ("_batch", "_most", "allowed")

    def __init__(self, *, batch: int, most: int) -> None:
        self._batch, self._most = batch, most
        self.allowed: int = 1

    def ended(self, *, asked: int, came: int) -> None:
        """A poll for so many messages brought so many; 0 where it failed."""
        if came >= self._batch:
            self.allowed = min(self.allowed + 1, self._most)
        elif not came:
            self.allowed = 1
        elif came < asked:
            self.allowed = max(1, self.allowed - 1)
