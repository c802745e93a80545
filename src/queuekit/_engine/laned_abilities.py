# SPDX-License-Identifier: Apache-2.0
"""What a queue made of lanes can do besides: exactly what all of its lanes can."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from queuekit._engine.laned import LanedBackend
from queuekit._values.errors import UnsupportedError
from queuekit._values.outcome import LEASE_LOST, ErrorClass, Failed, LeaseLost, SettleOutcome, Unknown
from queuekit.backend import (
    Admin,
    Backend,
    Cancellable,
    Clock,
    Diagnosable,
    Finding,
    Foreseeing,
    HttpAuth,
    HttpPublishable,
    HttpRequest,
    Interruptible,
    Metered,
    OutgoingMessage,
    Pausable,
    Peekable,
    QueueStats,
    Recreating,
    Redrivable,
    StoredMessage,
    Wanted,
)


class _WithAdmin(LanedBackend):
    def create(self) -> None:
        for lane in self.lanes:
            lane.create()

    def delete(self) -> None:
        for lane in self.lanes:
            lane.delete()

    def exists(self) -> bool:
        return all(lane.exists() for lane in self.lanes)

    def purge(self) -> int | None:
        counts = [lane.purge() for lane in self.lanes]
        return None if None in counts else sum(counts)

    def stats(self) -> QueueStats:
        each = [dataclasses.asdict(lane.stats()) for lane in self.lanes]
        return QueueStats(
            **{
                name: None if any(one[name] is None for one in each) else sum(one[name] for one in each)
                for name in each[0]
            }
        )


class _WithPeek(LanedBackend):
    def peek(self, *, limit: int, after: str = "", done: bool = False) -> Sequence[StoredMessage]:
        """Lane by lane, the highest first; in order of sending within each."""
        first, _, cursor = after.partition(":")
        found: list[StoredMessage] = []
        for number in range(int(first or 0), len(self.lanes)):
            if len(found) >= limit:
                break
            page = self.lanes[number].peek(limit=limit - len(found), after=cursor, done=done)
            found += [self._shown(each, number) for each in page]
            cursor = ""
        return found

    def _shown(self, stored: StoredMessage, lane: int) -> StoredMessage:
        metadata, priority = self._noted(stored.metadata, lane)
        return stored._replace(metadata=metadata, priority=priority, cursor=f"{lane}:{stored.cursor}")


class _WithRedrive(LanedBackend):
    def _lane_behind(self, step: int, message: OutgoingMessage) -> int:
        """The lane that is so many behind a message's own."""
        return (self._lane_of(message) + step) % len(self.lanes)

    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Each from the lane of its priority; one that is not there is looked for in the others."""
        outcomes: list[SettleOutcome] = [LEASE_LOST] * len(batch)
        for step in range(len(self.lanes)):
            left = [position for position, outcome in enumerate(outcomes) if isinstance(outcome, LeaseLost)]
            if not left:
                break
            fresh: list[SettleOutcome] = self._in_parts(
                [batch[position] for position in left],
                partial(self._lane_behind, step),
                lambda lane, part, each_s: self.lanes[lane].redrive(
                    [self._inward(each) for each in part], timeout_s=each_s
                ),
                timeout_s / len(self.lanes),
                lambda what, _message: Failed(what) if what.sent == "no" else Unknown(what),
            )
            for position, outcome in zip(left, fresh, strict=True):
                outcomes[position] = outcome
        return outcomes


class _WithCancel(LanedBackend):
    def cancel(self, message_id: str) -> bool:
        # Not any(): an id may stand in several lanes, and all of them are meant.
        return True in [bool(lane.cancel(message_id)) for lane in self.lanes]


class _WithPause(LanedBackend):
    def pause(self) -> None:
        for lane in self.lanes:
            lane.pause()

    def resume(self) -> None:
        for lane in self.lanes:
            lane.resume()

    def is_paused(self) -> bool:
        return any(lane.is_paused() for lane in self.lanes)


class _WithInterrupt(LanedBackend):
    def interrupt(self) -> None:
        with self._lock:
            self._interrupts += 1
        for lane in self.lanes:
            lane.interrupt()


class _WithRecreated(LanedBackend):
    def recreated(self) -> int:
        return sum(lane.recreated() for lane in self.lanes)


class _WithDiagnosis(LanedBackend):
    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:
        # The lanes are mostly on one server, and would say the same.
        return tuple(dict.fromkeys(each for lane in self.lanes for each in lane.diagnose(wanted)))


class _WithMeter(LanedBackend):
    def api_calls(self) -> Mapping[str, int]:
        return sum((Counter(lane.api_calls()) for lane in self.lanes), Counter[str]())


class _WithForesight(LanedBackend):
    def refusal(self, message: OutgoingMessage) -> ErrorClass | None:
        return cast("ErrorClass | None", self.lanes[self._lane_of(message)].refusal(self._inward(message)))


class _WithHttp(LanedBackend):
    @property
    def http_auth(self) -> HttpAuth:
        return cast("HttpAuth", self.lanes[0].http_auth)

    def as_http(self, message: OutgoingMessage) -> HttpRequest:
        return cast("HttpRequest", self.lanes[self._lane_of(message)].as_http(self._inward(message)))


_ABILITIES: tuple[tuple[Any, type[LanedBackend]], ...] = (
    (Admin, _WithAdmin),
    (Peekable, _WithPeek),
    (Redrivable, _WithRedrive),
    (Cancellable, _WithCancel),
    (Pausable, _WithPause),
    (Interruptible, _WithInterrupt),
    (Recreating, _WithRecreated),
    (Diagnosable, _WithDiagnosis),
    (Foreseeing, _WithForesight),
    (HttpPublishable, _WithHttp),
    (Metered, _WithMeter),
)


def laned_backend(lanes: Sequence[Backend], *, weights: Sequence[int], clock: Clock, queue: str) -> LanedBackend:
    """One queue over several, with exactly the optional abilities that all of them have.

    Args:
        lanes: One backend each, the highest first.
        weights: Of each lane; empty for strict order.
        clock: Time.
        queue: The queue's redacted URL, for errors.

    Raises:
        UnsupportedError: The lanes are queues where every message needs an ordering key, and none is kept
            across lanes.
    """
    if any(lane.capabilities.ordering_key_required for lane in lanes):
        msg = f"{queue} keeps every message in order, and lanes keep none; leave out lanes="
        raise UnsupportedError(msg, queue=queue, operation="open")
    abilities = tuple(mixin for protocol, mixin in _ABILITIES if all(isinstance(lane, protocol) for lane in lanes))
    made: type[LanedBackend] = type("LanedBackend", (*abilities, LanedBackend), {})
    return made(lanes, weights, clock)
