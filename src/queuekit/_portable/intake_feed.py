# SPDX-License-Identifier: Apache-2.0
"""The deliveries of this process's own receiver, as those who run handlers see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from queuekit._engine.held import Held
from queuekit._portable.intake import Intake
from queuekit._portable.retry import ACK, Verdict
from queuekit._portable.triage import Job
from queuekit.backend import IncomingMessage


class HeldJob:
    """A delivery of this process's own receiver, as the runners see it."""

    __slots__ = ("_began", "_intake", "held", "message")

    def __init__(self, held: Held, intake: Intake) -> None:
        self.held = held
        self.message: IncomingMessage = held.message
        self._intake = intake
        self._began = intake.now()

    @property
    def lease_lost(self) -> bool:
        """Whether it is not ours any more."""
        return self.held.lease_lost

    def settle(self, verdict: Verdict) -> None:
        """Record the verdict; a delivery that was released or lost meanwhile stays so."""
        intake = self._intake
        if verdict is ACK and not intake.listeners.names:
            intake.ack(self.held, intake.now() - self._began)
        else:
            intake.handled(self.held, verdict, intake.now() - self._began)

    def abandon(self) -> None:
        """Keep its lease no longer."""
        self._intake.receiver.control.leases.abandon(self.held)

    def extend(self, by_s: float) -> None:
        """Extend its lease now."""
        self._intake.extend(self.held, by_s)


class IntakeFeed:
    """The jobs of one queue, from this process's own receiver."""

    __slots__ = ("_intake", "_take", "_take_now", "forget", "when_ready")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        receiver = intake.receiver
        self._take, self._take_now = receiver.take_in_turn, receiver.take_now
        self.when_ready, self.forget = receiver.when_ready, receiver.forget

    def take(self) -> Job:
        """The next job, waiting for it."""
        return HeldJob(self._take(), self._intake)

    def take_along(self, job: Job, most: int, fits: Callable[[IncomingMessage], bool]) -> Sequence[Job]:
        """Those of the same ordering key behind a job that was taken, for one batch with it, in order."""
        if not isinstance(job, HeldJob) or job.message.ordering_key is None:
            return ()
        return [HeldJob(held, self._intake) for held in self._intake.receiver.take_along(job.held, most, fits)]

    def take_now(self) -> Job | None:
        """The next job that is here, or None."""
        held = self._take_now()
        return None if held is None else HeldJob(held, self._intake)
