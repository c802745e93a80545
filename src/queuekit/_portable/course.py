# SPDX-License-Identifier: Apache-2.0
"""In which order a finite number of messages is worked on, and which of them go back unstarted. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

J = TypeVar("J", bound=Hashable)


class Entry(NamedTuple, Generic[J]):
    """One message of a course.

    Attributes:
        job: What is handed out for it.
        key: Its ordering key, where the queue keeps an order; else None.
        group: Messages of one group may be handled together.
        most: How many of its group may be, itself included.
    """

    job: J
    key: str | None = None
    group: str | None = None
    most: int = 1


class Course(Generic[J]):
    """Hands out each message once: in order, and of each ordering key one, or one batch, at a time.

    When a message is to come again, those behind it of its key go back unstarted, as they would overtake it.
    Whoever handles several of a key together gives back those behind a failure himself, as only he knows what
    was begun.

    Args:
        entries: Every message, in the order of the service.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self, entries: Sequence[Entry[J]]) -> None:
        self._waiting = {entry.job: entry for entry in entries}
        self._going: dict[J, Entry[J]] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing will be handed out any more."""
        return not self._waiting

    @property
    def is_ready(self) -> bool:
        """Whether `take` has something."""
        return bool(self._chosen())

    def take(self) -> list[J]:
        """What may be begun now, together; nothing while all that waits must wait."""
        chosen = self._chosen()
        for entry in chosen:
            self._going[entry.job] = self._waiting.pop(entry.job)
        return [entry.job for entry in chosen]

    def _chosen(self) -> list[Entry[J]]:
        chosen: list[Entry[J]] = []
        # A key is barred while another is at it, and behind a message of it that does not come along.
        barred = {entry.key for entry in self._going.values() if entry.key is not None}
        for entry in self._waiting.values():
            if chosen and len(chosen) == chosen[0].most:
                break
            fits = not chosen or entry.group == chosen[0].group
            if fits and entry.key not in barred:
                chosen.append(entry)
            elif entry.key is not None:
                barred.add(entry.key)
        return chosen

    def begin(self, job: J) -> None:
        """As `take`, for one that is to be settled without being handed out."""
        self._going[job] = self._waiting.pop(job)

    def done(self, job: J) -> None:
        """One need not come again."""
        self._going.pop(job, None)

    def failed(self, job: J) -> list[J]:
        """One comes again; returns those that go back unstarted behind it."""
        entry = self._going.pop(job, None)
        key = None if entry is None else entry.key
        if key is None:
            return []
        behind = [each for each, waiting in self._waiting.items() if waiting.key == key]
        for each in behind:
            del self._waiting[each]
        return behind

    def stop(self) -> list[J]:
        """Hand out nothing more; returns everything that was not begun."""
        left = list(self._waiting)
        self._waiting.clear()
        return left
