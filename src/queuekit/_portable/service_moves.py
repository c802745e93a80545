# SPDX-License-Identifier: Apache-2.0
"""What a service does by itself with dead letters that it moved aside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from queuekit._engine.rate import Rate
from queuekit._portable.link import Link
from queuekit._values.errors import UnsupportedError
from queuekit._values.moving import Move
from queuekit.backend import Moving

_MOST_MOVED: Final = 500


class ServiceMoves(ABC):
    """Starts, shows and stops the tasks of a service that move dead letters back; code that two graves share."""

    @property
    @abstractmethod
    def link(self) -> Link:
        """The open dead-letter queue."""

    def start_move(self, rate: Rate | None) -> None:
        """Begin a task.

        Raises:
            UnsupportedError: The service cannot keep to the rate.
        """
        most = None if rate is None else rate.per_second
        if most is not None and not (most.is_integer() and 1 <= most <= _MOST_MOVED):
            msg = (
                f"the service moves 1 to {_MOST_MOVED} messages in a second, in whole numbers, and the rate is "
                f"{most:g}; use redrive(rate=), which keeps to any"
            )
            raise UnsupportedError(msg, queue=self.link.shown, operation="redrive")
        moving = self._moving()
        per_second = None if most is None else int(most)
        self.link.guard.call("redrive", lambda: moving.start_move(per_second=per_second))

    def moves(self) -> Sequence[Move]:
        """The service's latest tasks."""
        return self.link.guard.call("redrive", self._moving().moves)

    def cancel_move(self) -> int | None:
        """Stop the service's task that runs."""
        return self.link.guard.call("redrive", self._moving().cancel_move)

    def _moving(self) -> Moving:
        link = self.link
        if not isinstance(link.backend, Moving):
            msg = f"the service of {link.shown} moves no dead letters back by itself; use redrive"
            raise UnsupportedError(msg, queue=link.shown, operation="redrive")
        moving: Moving = link.backend
        return moving
