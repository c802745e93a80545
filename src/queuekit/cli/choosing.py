# SPDX-License-Identifier: Apache-2.0
"""Which dead letters a command means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from queuekit import DeadMessage
from queuekit._values.clock import SystemClock


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What dead letters must have to be meant; what is None is not asked for.

    Attributes:
        message_type: Their type.
        reason: A part of the reason, in any case.
        error: A part of the error, in any case.
        older_than: How long they have been dead at least.
    """

    message_type: str | None = None
    reason: str | None = None
    error: str | None = None
    older_than: timedelta | None = None

    @property
    def all(self) -> bool:
        """Whether nothing is asked for."""
        return self == Chosen()

    def test(self) -> Callable[[DeadMessage], bool]:
        """Whether a dead letter is meant, by the clock as it is now."""
        now = datetime.fromtimestamp(SystemClock().time(), UTC)
        died_by = None if self.older_than is None else now - self.older_than

        def meant(letter: DeadMessage) -> bool:
            return (
                (self.message_type is None or letter.type == self.message_type)
                and _contains(letter.reason, self.reason)
                and _contains(letter.error, self.error)
                and (died_by is None or (letter.last is not None and letter.last <= died_by))
            )

        return meant


def _contains(text: str | None, part: str | None) -> bool:
    return part is None or part.casefold() in (text or "").casefold()
