# SPDX-License-Identifier: Apache-2.0
"""One at a time of each ordering key, where the service hands out several. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from queuekit._engine.held import Held
from queuekit.backend import IncomingMessage


class _Lane:
    """The deliveries of one key, in order."""

    __slots__ = ("behind", "closed", "going")

    def __init__(self, head: Held) -> None:
        # Takeable or taken, and not finished: one, or several that were taken together for one batch.
        self.going: set[Held] = {head}
        self.behind: deque[Held] = deque()
        self.closed = False


class KeyLanes:
    """Keeps back the messages of a key while one of them is being worked on.

    A service that orders by key may lease several messages of one key to us at once, as SQS does with its
    groups, and trusts us to work on them in order. Only the head of a key may be taken. When it is done, the
    next one may; when it failed, those behind it must go back unstarted, as their turn comes after the retry.
    The same holds for whatever leaves the middle of a lane: nothing behind it may stay.

    A batch may take along those behind a head, in their order. They are worked on by one handler, which sees
    them in order, and the next of the key may be taken when all of them are done. Should one of them fail,
    whoever runs the batch gives back those of the same key that stand behind it in the batch, as only it knows
    what was begun.

    What lanes hold is bounded by what may be in flight.

    Concurrency:
        None of its own; the owner holds a lock.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    def admit(self, group: Iterable[Held]) -> tuple[list[Held], list[Held]]:
        """Take in what arrived, in the order of the service: what may be taken now, and what must go back.

        What must go back belongs to a key of which an earlier message went back and a still earlier one is
        not finished.
        """
        takeable: list[Held] = []
        refused: list[Held] = []
        for held in group:
            key = held.message.ordering_key
            lane = None if key is None else self._lanes.get(key)
            if key is None:
                takeable.append(held)
            elif lane is None:
                self._lanes[key] = _Lane(held)
                takeable.append(held)
            elif lane.closed:
                refused.append(held)
            else:
                lane.behind.append(held)
        return takeable, refused

    def take_along(
        self, head: Held, most: int, now: float, fits: Callable[[IncomingMessage], bool] = lambda _: True
    ) -> list[Held]:
        """Those behind a head that is being worked on, to go with it, in order; up to the first that does not fit."""
        lane = self._lane_of(head)
        along: list[Held] = []
        if lane is None or head not in lane.going:
            return along
        while lane.behind and len(along) < most and lane.behind[0].lease.until > now:
            if not fits(lane.behind[0].message):
                break
            along.append(lane.behind.popleft())
        lane.going.update(along)
        return along

    def done(self, held: Held) -> Held | None:
        """One was acked or is dead; returns the next of its key, which may be taken now."""
        lane = self._lane_of(held)
        if lane is None or held not in lane.going:
            return None
        lane.going.discard(held)
        if lane.going:
            return None
        if not lane.behind:
            self._remove(held)
            return None
        following = lane.behind.popleft()
        lane.going.add(following)
        return following

    def failed(self, held: Held) -> list[Held]:
        """One is to come again, or is not ours any more; returns those that must go back unstarted."""
        lane = self._lane_of(held)
        if lane is None:
            return []
        if held in lane.going:
            lane.going.discard(held)
            released = list(lane.behind)
            lane.behind.clear()
        elif held in lane.behind:
            released = []
            while (last := lane.behind.pop()) is not held:
                released.append(last)
            released.reverse()
        else:
            return []
        lane.closed = True
        if not lane.going:
            # Nothing of this key is being worked on: what comes next is the service's to say.
            self._remove(held)
        return released

    def waiting(self) -> int:
        """How many are kept back."""
        return sum(len(lane.behind) for lane in self._lanes.values())

    def empty(self) -> list[Held]:
        """Take out everything that is kept back, to be given back."""
        kept: list[Held] = []
        for lane in self._lanes.values():
            kept += lane.behind
            lane.closed = lane.closed or bool(lane.behind)
            lane.behind.clear()
        return kept

    def _lane_of(self, held: Held) -> _Lane | None:
        key = held.message.ordering_key
        return None if key is None else self._lanes.get(key)

    def _remove(self, held: Held) -> None:
        if held.message.ordering_key is not None:
            del self._lanes[held.message.ordering_key]
