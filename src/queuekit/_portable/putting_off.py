# SPDX-License-Identifier: Apache-2.0
"""Settles pushed messages through their queue, as far as whoever pushed them does not do it by the answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from queuekit._engine.guard import error_from
from queuekit._engine.held import Held
from queuekit._engine.settling import Settler, group_by_call, settlements
from queuekit._portable.link import Link
from queuekit._values.errors import LeaseLostError, UnsupportedError
from queuekit._values.outcome import (
    ErrorClass,
    ErrorCode,
    LeaseLost,
    Settled,
    SettleOutcome,
    Unsupported,
)
from queuekit.backend import Action, Settlement

_CALL_S: Final = 10.0
_PUT_OFF_S: Final = 5.0
"""What comes again by itself is not worth waiting longer for; a function without a way to the service has none."""
_UNREACHED_S: Final = 60.0
"""For so long the service is not asked again after that."""
_NO_USE: Final = frozenset(
    {ErrorCode.ACCESS_DENIED, ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED, ErrorCode.UNKNOWN, ErrorCode.CLOSED}
)
"""What another try, of this process, cannot mend."""


class PuttingOff:
    """Has the service wait before messages come again, where it lets us; where not, its own wait applies.

    Args:
        link: The open queue.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, link: Link) -> None:
        self._link, self._clock, self._can = link, link.clock, link.capabilities
        self._waiting = threading.Condition()
        self._refused = False
        self._not_before = 0.0

    def put_off(self, batch: Sequence[Held], until: float) -> bool:
        """Carry out the RETRY or RELEASE that each has; what fails leaves its message to the service's own wait.

        Returns:
            Always True: it is over.

        Args:
            batch: Each with its settlement recorded.
            until: When to stop trying, in monotonic seconds.
        """
        now = self._clock.monotonic()
        if self._refused or not batch or now < self._not_before:
            return True
        outcomes = self.settle(batch, min(until, now + _PUT_OFF_S), end=until)
        if all(each is None for each in outcomes):
            self._not_before = self._clock.monotonic() + _UNREACHED_S
            self._link.journal.note("settle.failed", "the service does not answer", count=len(outcomes))
            return True
        failed = [each for each in outcomes if each is not None and not isinstance(each, (Settled, LeaseLost))]
        refused = [each for each in failed if isinstance(each, Unsupported) or each.error.code in _NO_USE]
        if refused and len(refused) == len(outcomes):
            self._refused = True
            detail = f"{_detail(refused[0])}; the service's own wait applies to what comes again"
            self._link.journal.note("push.waits_refused", detail)
        elif failed:
            self._link.journal.note("settle.failed", _detail(failed[0]), count=len(failed))
        return True

    def settle(self, batch: Sequence[Held], until: float, *, end: float | None = None) -> list[SettleOutcome | None]:
        """Carry out the settlement that each has, trying again what can be; None where the time was over.

        Args:
            batch: Each with its settlement recorded.
            until: When no other call is begun.
            end: When none may go on; by default the same.
        """
        end = until if end is None else end
        settler = Settler(batch=self._can.max_settle_batch, linger_s=0.0, late_ack=False)
        # In order of their delays, so that those with the same one go together.
        for held in sorted(batch, key=lambda each: settlements([each])[0].delay_s):
            settler.add(held)
        while (due := settler.due_at(now := self._clock.monotonic())) is not None and now < until:
            if due > now:
                with self._waiting:
                    self._clock.wait(self._waiting, min(due, until) - now)
                continue
            taken = settler.take(now)
            for part in [taken] if self._can.mixed_settles else group_by_call(taken):
                self._settle(settler, part, end)
        return [held.outcome for held in batch]

    def extend(self, held: Held, by_s: float) -> bool:
        """Extend the lease of one message now; True once the service has.

        Raises:
            LeaseLostError: It is not ours any more.
            UnsupportedError: The service has no lease to extend.
            QueueKitError: The service did not answer or refused; the old lease still runs.
        """
        queue = self._link.shown
        entry = Settlement(held.message.handle, Action.EXTEND, 0.0, by_s)
        outcome = self._link.guard.settle([entry], timeout_s=_CALL_S)[0]
        if isinstance(outcome, Settled):
            return True
        if isinstance(outcome, LeaseLost):
            held.lease_lost = True
            msg = "the lease was lost; stop working on this delivery, somebody else may have it"
            raise LeaseLostError(msg, queue=queue, operation="extend")
        if isinstance(outcome, Unsupported):
            msg = f"{queue} has no lease to extend; {outcome.detail}"
            raise UnsupportedError(msg, queue=queue, operation="extend")
        failure = error_from(outcome.error, queue=queue, operation="extend")
        raise failure

    def _settle(self, settler: Settler, part: list[Held], end: float) -> None:
        left_s = end - self._clock.monotonic()
        outcomes = self._link.guard.settle(settlements(part), timeout_s=min(_CALL_S, max(left_s, 0.1)))
        now = self._clock.monotonic()
        for held, outcome in zip(part, outcomes, strict=True):
            held.outcome = settler.judge(held, outcome, now)
        settler.settled(len(part))


def _detail(outcome: SettleOutcome) -> str:
    if isinstance(outcome, (Settled, LeaseLost)):
        return ""
    if isinstance(outcome, Unsupported):
        return outcome.detail
    error: ErrorClass = outcome.error
    return error.detail or (type(error.raw).__name__ if error.raw is not None else error.code.value)
