# SPDX-License-Identifier: Apache-2.0
"""The deliveries of this process's own receiver, as those who run handlers see them."""

from __future__ import annotations

from queuekit._engine.held import Held
from queuekit._portable.intake import Intake
from queuekit._portable.retry import Verdict
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
        self._intake.handled(self.held, verdict, self._intake.now() - self._began)

    def abandon(self) -> None:
        """Keep its lease no longer."""
        self._intake.receiver.control.leases.abandon(self.held)

    def extend(self, by_s: float) -> None:
        """Extend its lease now."""
        self._intake.extend(self.held, by_s)


class IntakeFeed:
    """The jobs of one queue, from this process's own receiver."""

    __slots__ = ("_intake", "_receiver", "forget", "when_ready")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._receiver = intake.receiver
        self.when_ready = self._receiver.when_ready
        self.forget = self._receiver.forget

    def take(self) -> Job | None:
        """The next job, waiting for it."""
        held = self._receiver.take(None)
        return None if held is None else HeldJob(held, self._intake)

    def take_now(self) -> Job | None:
        """The next job that is here, or None."""
        held = self._receiver.take_now()
        return None if held is None else HeldJob(held, self._intake)
