# SPDX-License-Identifier: Apache-2.0
"""The forwarder: brings what has waited in the queue of ``delay_via=`` to the queue that it is for.

A message is sent to its own queue, and only when that has confirmed it is it acked where it waited: what ends the
worker between the two leaves both. What cannot be sent now waits where it is, for as long as it takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from queuekit._engine import metadata as meta
from queuekit._engine.copies import CopySender, detail_of, is_confirmed
from queuekit._engine.detour import arrived
from queuekit._engine.flow import most_ahead
from queuekit._engine.held import Held
from queuekit._engine.receiving import ReceiverSettings
from queuekit._engine.waits import FullJitter, possible_retry_s
from queuekit._portable.intake import Intake
from queuekit._portable.letters import Cause
from queuekit._portable.link import BackendOpener, Link, open_link
from queuekit._portable.retry import ACK, Verdict
from queuekit._portable.running import WorkerThreads
from queuekit._portable.triage import Triage
from queuekit._values.errors import AlreadySettledError, QueueKitError, UsageError
from queuekit._values.outcome import ErrorCode, Rejected, SendOutcome
from queuekit._values.url import QueueURL
from queuekit._wiring.places import Where, at_base, place_of, places_of, read_place
from queuekit.backend import Action, HttpSchedulable

SLOTS: Final = 2
"""Batches that are forwarded at once."""
_LARGEST: Final = 100
_LEASE_S: Final = 60.0
_LONGEST_WAIT_S: Final = 300.0
_STRANGER_WAIT_S: Final = 30.0
_MOST_KNOWN: Final = 1000
"""Of queues that are kept open, and of strangers that were told of: whoever may send to the queue for delays can name
as many as he likes."""
_HOPELESS: Final = frozenset(
    {ErrorCode.INVALID_MESSAGE, ErrorCode.TOO_LARGE, ErrorCode.ENCODE, ErrorCode.UNSUPPORTED}
)


class Homes:
    """The queues that an app may forward to: those that its handlers name, and those of its own URL.

    Args:
        named: Those that handlers name.
        base: The app's URL without a queue, where it has one.
        via: The queue through which delays go, which nothing is forwarded to.
    """

    def __init__(self, named: Sequence[Where], base: Where | None, via: QueueURL) -> None:
        self._named: Mapping[QueueURL, Where] = {place_of(*each): each for each in named}
        self._base, self._via = base, place_of(via, {})

    def find(self, place: QueueURL) -> Where | None:
        """What a place is opened with; None where it is no queue of this app."""
        if place in self._named:
            return self._named[place]
        return None if self._base is None else at_base(self._base, place)

    def is_via(self, place: QueueURL) -> bool:
        """Whether it is the queue for delays itself."""
        return place == self._via


class ForwardJob:
    """Deliveries that are forwarded together."""

    __slots__ = ("_intake", "batch")

    def __init__(self, batch: Sequence[Held], intake: Intake) -> None:
        self.batch, self._intake = batch, intake

    def abandon(self) -> None:
        """Keep their leases no longer."""
        for held in self.batch:
            self._intake.receiver.control.leases.abandon(held)


class ForwardFeed:
    """What has come through the queue for delays, as many at a time as are there."""

    __slots__ = ("_intake", "forget", "when_ready")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.when_ready, self.forget = intake.receiver.when_ready, intake.receiver.forget

    def take(self) -> ForwardJob | None:
        """The next ones, waiting for the first. Raises ClosedError when there will be no more."""
        return ForwardJob(self._intake.receiver.take_many(_LARGEST, None), self._intake)

    def take_now(self) -> ForwardJob | None:
        """The next one that is here, or None. Raises as `take` does."""
        held = self._intake.receiver.take_now()
        return None if held is None else ForwardJob([held], self._intake)


class ForwardRunner(WorkerThreads[ForwardJob]):
    """Forwards on threads, one batch at a time on each.

    Args:
        forwarder: Forwards a batch.
        intake: Where it comes from.
        triage: For nothing, as no handler runs.
        failed: Called with what ended the feed, if it was not a stop.
    """

    def __init__(
        self, forwarder: Forwarder, intake: Intake, triage: Triage, failed: Callable[[BaseException], None]
    ) -> None:
        super().__init__(
            ForwardFeed(intake),
            triage,
            intake.link.clock,
            slots=SLOTS,
            failed=failed,
            hung=lambda _hung, _slots: None,
            name=intake.link.shown,
        )
        self._forwarder = forwarder

    def _run(self, slot: Any, job: ForwardJob) -> None:
        del slot
        self._forwarder.forward(job.batch)


@dataclass(slots=True)
class Target:
    """One queue that is forwarded to.

    Attributes:
        link: The open queue.
        sender: Sends to it.
        failures: How often in a row it could not be sent to.
        kept: Whether it stays open for what comes next.
    """

    link: Link
    sender: CopySender
    failures: int = 0
    kept: bool = True


class Forwarder:
    """Forwards what comes out of one queue for delays.

    Args:
        via: The open queue for delays; it is closed with the forwarder.
        homes: The queues that may be forwarded to.
        opener: Opens them, and the queue for delays.

    Attributes:
        intake: The queue for delays, being received from.

    Concurrency:
        `forward` from several threads at once; the rest from one.
    """

    def __init__(self, via: Link, homes: Homes, opener: BackendOpener) -> None:
        self._homes, self._opener = homes, opener
        can = via.capabilities
        settings = ReceiverSettings(lease_s=_lease_s(via), prefetch=most_ahead(can), prefetch_by_pace=True)
        self.intake: Intake = Intake(via, settings, dead_letter=None, opener=opener)
        self._clock, self._journal = via.clock, via.journal
        self._wait = FullJitter(via.clock.random, most_s=_LONGEST_WAIT_S)
        self._lock = threading.Lock()
        self._targets: dict[QueueURL, Target] = {}
        self._strangers: set[str] = set()

    def runner(self, failed: Callable[[BaseException], None]) -> ForwardRunner:
        """What runs it in a worker, not started yet.

        Args:
            failed: Called with what ended the receiving, if it was not a stop.
        """
        link = self.intake.link
        triage = Triage((), link, self._clock, lambda: False, lambda _: None)
        return ForwardRunner(self, self.intake, triage, failed)

    def tell_start(self) -> None:
        """Log that it forwards, and what stands in its way."""
        self._journal.note("worker.started", f"forwards what is due, {SLOTS} batches at once")
        limit = self.intake.link.capabilities.native_max_attempts
        if limit is not None:
            detail = f"what cannot be forwarded {limit} times goes to the service's own dead-letter queue"
            self._journal.note("worker.native_limit", f"{detail}; give the queue for delays none, or a high limit")

    def forward(self, batch: Sequence[Held]) -> None:
        """Send each on, and ack those that are confirmed; the others wait."""
        groups: dict[QueueURL, list[Held]] = {}
        for held in batch:
            place = self._place(held)
            if place is not None:
                groups.setdefault(place, []).append(held)
        for place, group in groups.items():
            target = self._target(place)
            if target is None:
                self._strange(str(place), group)
                continue
            try:
                self._send(target, group)
            finally:
                if not target.kept:
                    target.link.close()

    def close(self) -> None:
        """Close the queues that were forwarded to; the worker closes the other. Idempotent."""
        with self._lock:
            targets, self._targets = list(self._targets.values()), {}
        for target in targets:
            target.link.close()

    def _place(self, held: Held) -> QueueURL | None:
        """Where a message is to go; None where that cannot be known, so that it is dead."""
        named = held.message.metadata.get(meta.VIA_TO)
        place = None if named is None else read_place(named)
        if named is None:
            self._dead(held, "it names no queue to be forwarded to, so it was not sent with delay_via=")
        elif place is None or self._homes.is_via(place):
            self._dead(held, "it names something to be forwarded to that is no queue for messages")
            return None
        return place

    def _target(self, place: QueueURL) -> Target | None:
        with self._lock:
            if place in self._targets:
                return self._targets[place]
        where = self._homes.find(place)
        if where is None:
            return None
        url, options = where
        try:
            link = open_link(url, None, options, opener=self._opener)
        except QueueKitError:
            return None  # whoever sent it could open it, so this app's settings are other ones
        made = Target(link, CopySender(link.guard, link.capabilities, link.backend.size))
        with self._lock:
            # Another thread may have opened it meanwhile; then this one is used once.
            made.kept = place not in self._targets and len(self._targets) < _MOST_KNOWN
            if made.kept:
                self._targets[place] = made
        return made

    def _send(self, target: Target, group: Sequence[Held]) -> None:
        outcomes = target.sender.copy([arrived(held.message) for held in group])
        confirmed, waiting = 0, list[tuple[Held, SendOutcome]]()
        for held, outcome in zip(group, outcomes, strict=True):
            if is_confirmed(outcome):
                confirmed += 1
                self.intake.settle(held, ACK)
            elif _is_hopeless(outcome):
                self._dead(held, f"{target.link.shown} cannot take it: {detail_of(outcome)}")
            else:
                waiting.append((held, outcome))
        if confirmed:
            self._journal.note("delay.forwarded", f"to {target.link.shown}", count=confirmed)
        target.failures = 0 if confirmed else target.failures + bool(waiting)
        if waiting:
            wait_s = self._clock.random.uniform(1.0, self._wait.bound_s(target.failures))
            detail = f"to {target.link.shown}: {detail_of(waiting[0][1])}; again in {wait_s:.3g} s"
            self._journal.note("delay.not_forwarded", detail, count=len(waiting))
            self._put_off([held for held, _ in waiting], wait_s)

    def _strange(self, named: str, group: Sequence[Held]) -> None:
        """What is for a queue that is not ours waits for those whose it is."""
        with self._lock:
            known = named in self._strangers or len(self._strangers) >= _MOST_KNOWN
            if not known:
                self._strangers.add(named)
        if known:
            self._journal.count("delay.stranger", len(group))
        else:
            detail = f"for {named}, which this app does not name; it is left to the app that does"
            self._journal.note("delay.stranger", detail, count=len(group))
        self._put_off(group, _STRANGER_WAIT_S)

    def _put_off(self, group: Sequence[Held], wait_s: float) -> None:
        """Give messages back for a while; nothing was tried with them, so that no attempt is spent."""
        can, control = self.intake.link.capabilities, self.intake.receiver.control
        delay_s = min(possible_retry_s(wait_s, can), can.max_retry_delay_s)
        for held in group:
            if delay_s > 0:
                self.intake.settle(held, Verdict(Action.RELEASE, delay_s))
                continue
            # Given back without a wait it would come again at once.
            with suppress(AlreadySettledError):
                for_s = min(wait_s, control.settles.holdable_s(held))
                control.hold(held, for_s, Action.RELEASE, 0.0, None, short=False)

    def _dead(self, held: Held, reason: str) -> None:
        self.intake.settle(held, Verdict(Action.DEAD, cause=Cause(reason)))


def forwarders_for(
    links: Sequence[Link], named: Sequence[Where], base: Where | None, opener: BackendOpener
) -> list[Forwarder]:
    """One for each queue through which the delays of these queues go.

    Args:
        links: The queues that a worker works.
        named: The queues that handlers name.
        base: The app's URL, where it has one.
        opener: Opens queues.

    Raises:
        UsageError: Handlers take messages from a queue for delays.
        SetupError: A URL is wrong.
    """
    vias: dict[QueueURL, Link] = {}
    for link in links:
        if link.via is not None and not isinstance(link.via.backend, HttpSchedulable):
            vias.setdefault(place_of(link.via.url, {}), link.via)
    taken = frozenset(place for where in named for place in places_of(*where))
    for via in vias.values():
        if places_of(via.url, {}) & taken:
            msg = f"{via.shown} is named by delay_via=, and handlers take its messages; give them another queue"
            raise UsageError(msg, queue=via.shown, operation="open")
    return [
        Forwarder(open_link(via.url, None, {}, opener=opener), Homes(named, base, via.url), opener)
        for via in vias.values()
    ]


def _is_hopeless(outcome: SendOutcome) -> bool:
    """Whether no other try can help, because of the message itself."""
    return isinstance(outcome, Rejected) and not outcome.error.retryable and outcome.error.code in _HOPELESS


def _lease_s(via: Link) -> float:
    can = via.capabilities
    return _LEASE_S if can.lease != "timed" else min(max(_LEASE_S, can.min_lease_s), can.max_lease_s)
