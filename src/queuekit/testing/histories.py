# SPDX-License-Identifier: Apache-2.0
"""What a history says about each message: its sends, its deliveries, and how each delivery ended.

Whatever is not known is read in favour of the queue: a call that may have been carried out was, at the
earliest moment; one that may have failed gave no later lease.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from queuekit.testing.history import Phase, Record

_FINISHING = {"ack", "dead"}
_GIVING_BACK = {"retry", "release"}
_NOT_DONE = {"failed", "lease_lost"}


@dataclass(slots=True)
class Sent:
    """One send of a message.

    Attributes:
        invoked_at: When it was begun.
        delay_s: No delivery before so many seconds later.
        worker: The sender.
        outcome: ``unknown`` until the answer.
    """

    invoked_at: float
    delay_s: float
    worker: str
    outcome: Phase = "unknown"

    @property
    def possible(self) -> bool:
        """Whether the queue may have the message from it."""
        return self.outcome != "failed"


@dataclass(slots=True)
class Ending:
    """One settlement of a delivery.

    Attributes:
        at: When it was begun.
        action: What was asked.
        delay_s: For a retry or release.
        until: For an extension, the end of lease that was asked for, then the one that was answered.
        outcome: ``unknown`` until the answer.
        answered_at: When the answer was there; never, where there is none.
    """

    at: float
    action: str
    delay_s: float
    until: float | None
    outcome: Phase = "unknown"
    answered_at: float = math.inf

    @property
    def possible(self) -> bool:
        """Whether it may have been carried out."""
        return self.outcome not in _NOT_DONE


@dataclass(slots=True)
class Delivery:
    """One delivery of a message.

    Attributes:
        record: As it was written.
        endings: Its settlements.
        lost_at: When the holder learned that its lease was over.
        killed_at: When the holder was killed while it may have held the message.
    """

    record: Record
    endings: list[Ending] = field(default_factory=list)
    lost_at: float = math.inf
    killed_at: float = math.inf

    def given_up_at(self) -> float:
        """When a settlement may first have ended the lease."""
        return min((each.at for each in self.endings if each.action != "extend" and each.possible), default=math.inf)

    def surely_did(self, ending: Ending, *, late: bool) -> bool:
        """Whether a settlement of it was carried out.

        Args:
            ending: The settlement.
            late: Whether an answer after the lease's end is to be believed. A service that does not fence may say
                that it removed what it had given to somebody else.
        """
        return ending.outcome == "ok" and (late or ending.answered_at <= self.lease_end(ending.at))

    def end_before(self, at: float, *, asked: bool) -> str:
        """What ended it by then, if no settlement did; ``asked`` tells whether one may have."""
        lease_end = self.lease_end(at)
        if self.killed_at <= at:
            return "kill"
        if lease_end <= at:
            return "expiry"
        if self.lost_at <= at:
            return "lost"
        return "unknown" if asked and math.isinf(lease_end) else ""

    def lease_end(self, at: float) -> float:
        """When the lease ended at the earliest, as far as was known at ``at``; infinite where nobody says."""
        until = math.inf if self.record.until is None else self.record.until
        for each in self.endings:
            if each.action != "extend" or each.at > at or each.until is None or not each.possible:
                continue
            sure = each.outcome == "ok" and each.answered_at <= at
            until = each.until if sure else min(until, each.until)
        return until


@dataclass(slots=True)
class Life:
    """Everything about one message.

    Attributes:
        message: Its name.
        key: Its ordering key.
        sends: Its sends, in order.
        deliveries: Its deliveries, in order.
        held_at_kills: How often a killed worker may have held it.
    """

    message: str
    key: str | None = None
    sends: list[Sent] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    held_at_kills: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the queue said that it has the message."""
        return any(send.outcome == "ok" for send in self.sends)

    @property
    def finished(self) -> bool:
        """Whether it may have been acked or dead-lettered."""
        return any(
            ending.action in _FINISHING and ending.possible for each in self.deliveries for ending in each.endings
        )

    def finishes(self, *, late: bool) -> int:
        """How often it surely was acked or dead-lettered; see `Delivery.surely_did` for ``late``."""
        return sum(
            ending.action in _FINISHING and each.surely_did(ending, late=late)
            for each in self.deliveries
            for ending in each.endings
        )

    @property
    def recovered(self) -> bool:
        """Whether it came though nobody knew whether it had been sent."""
        return bool(self.deliveries) and not self.accepted and any(send.possible for send in self.sends)

    def reason(self, index: int, *, late: bool) -> str | None:
        """Why a delivery followed the one before it; empty where nothing explains it, None for the first."""
        if index == 0:
            return None
        at, before = self.deliveries[index].record.at, self.deliveries[index - 1]
        given_up = [each for each in before.endings if each.at <= at and each.possible and each.action != "extend"]
        back = next((each.action for each in given_up if each.action in _GIVING_BACK), None)
        if back is not None:
            return back
        if sum(send.possible and send.invoked_at <= at for send in self.sends) > 1:
            return "resend"
        if any(each.answered_at <= at and before.surely_did(each, late=late) for each in given_up):
            return ""
        return before.end_before(at, asked=bool(given_up))

    def due_at(self, index: int) -> float:
        """When a delivery could come at the earliest."""
        if index == 0:
            return min((send.invoked_at + send.delay_s for send in self.sends if send.possible), default=-math.inf)
        at, before = self.deliveries[index].record.at, self.deliveries[index - 1]
        backs = [each for each in before.endings if each.action in _GIVING_BACK and each.possible and each.at <= at]
        sure = [each for each in backs if each.outcome == "ok"]
        if not sure and before.lease_end(at) <= at:
            return -math.inf  # a retry that was lost leaves the lease to end by itself
        return min((each.at + each.delay_s for each in sure or backs), default=-math.inf)

    def free_at(self, index: int, *, kill_ends: bool) -> float:
        """When a delivery's holder had given up the message, at the earliest."""
        each = self.deliveries[index]
        killed_at = each.killed_at if kill_ends or each.record.until is None else math.inf
        # Without a lease in the history only a settlement tells that the holder had it.
        end = min(each.given_up_at(), each.lost_at, killed_at)
        lease_end = each.lease_end(end)
        if math.isinf(end) and math.isinf(lease_end):
            return each.record.at
        return min(end, lease_end)

    def overlaps(self, index: int, tolerance_s: float, *, kill_ends: bool) -> bool:
        """Whether a delivery came while the holder of the one before it had the message."""
        if index == 0 or sum(send.possible for send in self.sends) > 1:
            return False
        at, before = self.deliveries[index].record.at, self.deliveries[index - 1]
        killed = before.killed_at <= at and kill_ends
        lease_end = before.lease_end(at)
        over = before.given_up_at() <= at or before.lost_at <= at or killed or lease_end <= at + tolerance_s
        return not over and not math.isinf(lease_end)

    def stale(self) -> Iterator[Ending]:
        """Settlements that were done for a holder after the message had gone to another one."""
        if sum(send.possible for send in self.sends) > 1:
            return
        for before, after in pairwise(self.deliveries):
            for each in before.endings:
                if each.outcome == "ok" and each.at > after.record.at:
                    yield each

    def longest_redelivery_s(self) -> float:
        """The longest time from the message's becoming free again to its next delivery."""
        longest = 0.0
        for index in range(1, len(self.deliveries)):
            free_at = max(self.free_at(index - 1, kill_ends=False), self.due_at(index))
            longest = max(longest, self.deliveries[index].record.at - free_at)
        return longest


def lives(ordered: Iterable[Record]) -> Mapping[str, Life]:
    """Read a history that is in order of time. Messages come in the order in which they first stand in it."""
    reading = _Reading()
    for record in ordered:
        reading.read(record)
    return reading.lives


class _Reading:
    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self._sends: dict[str, Sent] = {}
        self._endings: dict[str, Ending] = {}
        self._deliveries: dict[str, Delivery] = {}
        self._of_worker: dict[str, list[Delivery]] = {}

    def read(self, record: Record) -> None:
        if record.operation == "send":
            self._send(record)
        elif record.operation == "deliver":
            self._deliver(record)
        elif record.operation == "settle":
            self._settle(record)
        elif record.operation == "lost":
            self._deliveries[record.delivery].lost_at = record.at
        elif record.operation == "kill":
            self._kill(record)
        else:
            msg = f"a history has no operation {record.operation!r}"
            raise ValueError(msg)

    def _life(self, record: Record) -> Life:
        life = self.lives.get(record.message)
        if life is None:
            life = self.lives[record.message] = Life(record.message)
        if record.key is not None:
            life.key = record.key
        return life

    def _send(self, record: Record) -> None:
        if record.phase == "invoke":
            sent = self._sends[record.call] = Sent(record.at, record.delay_s, record.worker)
            self._life(record).sends.append(sent)
        else:
            self._sends[record.call].outcome = record.phase

    def _deliver(self, record: Record) -> None:
        delivery = self._deliveries[record.delivery] = Delivery(record)
        self._life(record).deliveries.append(delivery)
        self._of_worker.setdefault(record.worker, []).append(delivery)

    def _settle(self, record: Record) -> None:
        if record.phase == "invoke":
            ending = Ending(record.at, record.action, record.delay_s, record.until)
            self._endings[record.call] = ending
            if record.delivery in self._deliveries:
                self._deliveries[record.delivery].endings.append(ending)
        else:
            ending = self._endings[record.call]
            ending.outcome, ending.answered_at = record.phase, record.at
            if record.until is not None:
                ending.until = record.until

    def _kill(self, record: Record) -> None:
        last = {each.record.message: each for each in self._of_worker.pop(record.worker, ())}
        for message, each in last.items():
            done = any(ending.outcome == "ok" and ending.action != "extend" for ending in each.endings)
            if message in record.held if record.held is not None else not done:
                each.killed_at = record.at
                self.lives[message].held_at_kills += 1
