# SPDX-License-Identifier: Apache-2.0
"""One queue made of several, the lanes: priorities for services that have none.

Messages go to the lane of their priority. A poll asks the lanes in order, without waiting, until it has
enough; only where all are empty does it wait, at the last one, and for two seconds at most, because a
message that comes to another lane meanwhile waits for the end of that. Each lane has its own leases, dead
letters and memory of dedup ids.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar, cast

from queuekit._engine import metadata as meta
from queuekit._engine.lanes_merge import merged
from queuekit._engine.lanes_order import PRIORITIES, LaneOrder, lane_of, least_priority
from queuekit._values.capability import Capabilities
from queuekit._values.outcome import (
    LEASE_LOST,
    ErrorClass,
    Failed,
    NotAttempted,
    SendOutcome,
    SettleOutcome,
    Unknown,
)
from queuekit.backend import (
    Backend,
    Clock,
    Handle,
    IncomingMessage,
    OutgoingMessage,
    Settlement,
)

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R")

_WAIT_S = 2.0


class LaneHandle(NamedTuple):
    """A lane's own handle, and whose it is."""

    lane: int
    handle: Handle


class LanedBackend:
    """A queue over lanes. Made by `laned_backend`, which adds the optional abilities that all lanes have.

    Args:
        lanes: One backend each, the highest first.
        weights: Of each lane; empty for strict order.
        clock: Time.
    """

    def __init__(self, lanes: Sequence[Backend], weights: Sequence[int], clock: Clock) -> None:
        self._clock = clock
        self.lanes: Sequence[Any] = lanes
        self._lock = threading.Lock()
        self._order = LaneOrder(len(lanes), weights)
        self._least = [least_priority(lane, len(lanes)) for lane in range(len(lanes))]
        self._interrupts = 0
        self._owed: Exception | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What all lanes can do, with as many priorities as there are lanes, and no order across them."""
        return merged([lane.capabilities for lane in self.lanes])

    def probe(self) -> Capabilities:
        """Ask each lane."""
        return merged([lane.probe() for lane in self.lanes])

    def size(self, message: OutgoingMessage) -> int:
        """As its lane counts."""
        size: int = self.lanes[0].size(self._inward(message))
        return size

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """One call per lane that is concerned."""
        return self._in_parts(
            batch,
            self._lane_of,
            lambda lane, part, each_s: self.lanes[lane].send([self._inward(each) for each in part], timeout_s=each_s),
            timeout_s,
            lambda what, message: (NotAttempted if what.sent == "no" else Unknown)(what, message.message_id),
        )

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Ask the lanes in order until there are enough; wait at the last one where all are empty."""
        with self._lock:
            owed, self._owed = self._owed, None
            interrupts = self._interrupts
        if owed is not None:
            raise owed
        end = self._clock.monotonic() + wait_s
        while True:
            left_s = max(0.0, end - self._clock.monotonic())
            got = self._ask_all(max_messages, min(left_s, _WAIT_S), lease_s, interrupts)
            if got or left_s <= _WAIT_S or self._interrupts != interrupts:
                return got

    def _ask_all(self, most: int, wait_s: float, lease_s: float, interrupts: int) -> list[IncomingMessage]:
        """One round over the lanes."""
        with self._lock:
            order = self._order.next()
        got: list[IncomingMessage] = []
        asked = 0
        for asked, lane in enumerate(order, 1):
            may_wait = not got and asked == len(order) and self._interrupts == interrupts
            try:
                got += self._receive_from(lane, most - len(got), wait_s if may_wait else 0.0, lease_s)
            except Exception as error:
                # What the lanes before gave is leased and must be handed out; the next call tells of the failure.
                if not got:
                    raise
                with self._lock:
                    self._owed = error
            if len(got) >= most or self._owed is not None:
                break
        with self._lock:
            self._order.asked(order[:asked])
        return got

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """One call per lane that is concerned; a handle that no lane made is lost."""
        ours = [each for each in batch if _is_of(each.handle, len(self.lanes))]
        outcomes: Sequence[SettleOutcome] = self._in_parts(
            ours,
            _lane_of_handle,
            lambda lane, part, each_s: self.lanes[lane].settle(
                [self._unwrapped(each) for each in part], timeout_s=each_s
            ),
            timeout_s,
            lambda what, _entry: Failed(what) if what.sent == "no" else Unknown(what),
        )
        if len(ours) == len(batch):
            return outcomes
        known = iter(outcomes)
        return [next(known) if _is_of(each.handle, len(self.lanes)) else LEASE_LOST for each in batch]

    def classify(self, error: BaseException) -> ErrorClass:
        """As a lane does: all are of one kind."""
        what: ErrorClass = self.lanes[0].classify(error)
        return what

    def close(self) -> None:
        """Close every lane, also where one of them fails to."""
        with self._lock:
            self._interrupts += 1
        with ExitStack() as stack:
            for lane in self.lanes:
                stack.callback(lane.close)

    def _receive_from(self, lane: int, most: int, wait_s: float, lease_s: float) -> list[IncomingMessage]:
        batch = self.lanes[lane].receive(max_messages=most, wait_s=wait_s, lease_s=lease_s)
        return [self._outward(each, lane) for each in batch]

    def _in_parts(
        self,
        batch: Sequence[E],
        lane_of_entry: Callable[[E], int],
        call: Callable[[int, list[E], float], Sequence[R]],
        timeout_s: float,
        failed: Callable[[ErrorClass, E], R],
    ) -> list[R]:
        """Make one call per lane, and put the answers back by position.

        A lane whose call failed answers for its own entries only: others may have been carried out.
        """
        parts: dict[int, list[int]] = {}
        for position, entry in enumerate(batch):
            parts.setdefault(lane_of_entry(entry), []).append(position)
        answers: dict[int, R] = {}
        for lane, positions in parts.items():
            entries = [batch[each] for each in positions]
            try:
                outcomes = call(lane, entries, timeout_s / len(parts))
            except Exception as error:
                if len(parts) == 1:
                    raise
                what = self.lanes[lane].classify(error)
                outcomes = [failed(what, each) for each in entries]
            answers.update(zip(positions, outcomes, strict=True))
        return [answers[position] for position in range(len(batch))]

    def _lane_of(self, message: OutgoingMessage) -> int:
        return lane_of(message.priority, len(self.lanes))

    def _inward(self, message: OutgoingMessage) -> OutgoingMessage:
        """A message as its lane takes it: with a note of its priority, unless the lane itself says it."""
        metadata = message.metadata
        if message.priority != self._least[self._lane_of(message)]:
            metadata = {**metadata, meta.PRIORITY: str(message.priority)}
        return message._replace(priority=0, metadata=metadata)

    def _outward(self, message: IncomingMessage, lane: int) -> IncomingMessage:
        metadata, priority = self._noted(message.metadata, lane)
        return message._replace(handle=LaneHandle(lane, message.handle), metadata=metadata, priority=priority)

    def _noted(self, metadata: Mapping[str, str], lane: int) -> tuple[Mapping[str, str], int]:
        """The metadata as it was sent, and the priority of a message of that lane."""
        note = metadata.get(meta.PRIORITY)
        if note is None:
            return metadata, self._least[lane]
        noted = min(meta.read_count(note), PRIORITIES - 1)
        priority = noted if lane_of(noted, len(self.lanes)) == lane else self._least[lane]
        return {name: text for name, text in metadata.items() if name != meta.PRIORITY}, priority

    def _unwrapped(self, entry: Settlement) -> Settlement:
        handle: Any = entry.handle
        dead = None if entry.dead is None else self._inward(entry.dead)
        return entry._replace(handle=handle.handle, dead=dead)


def _lane_of_handle(entry: Settlement) -> int:
    return cast("LaneHandle", entry.handle).lane


def _is_of(handle: Handle, lanes: int) -> bool:
    return isinstance(handle, LaneHandle) and 0 <= handle.lane < lanes
