# SPDX-License-Identifier: Apache-2.0
"""One pass over a queue that can only be looked at by receiving: every message once, and then all of them back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from queuekit._portable.link import Link
from queuekit._values.outcome import Failed, Settled, SettleOutcome, Unknown
from queuekit.backend import Action, Handle, IncomingMessage, Settlement

_LEASE_S: Final = 60.0
_LOOK_S: Final = 1.0
"""An answer without a wait may leave out what is there, as SQS then asks some of its machines only."""
_CALL_S: Final = 10.0
_TRIES: Final = 3


class Sweep:
    """Receives each message of a queue once, and gives back at its end those that were not removed.

    Until then they are kept, or they would come again and the pass had no end. So nobody else gets them meanwhile,
    and each delivery is counted by the service.

    Args:
        link: The open queue.

    Concurrency:
        From one thread.
    """

    def __init__(self, link: Link) -> None:
        self._link, self._guard, self._clock = link, link.guard, link.clock
        can = link.capabilities
        self._most, self._batch = can.max_receive, can.max_settle_batch
        self._lease_s = max(can.min_lease_s, min(_LEASE_S, can.max_lease_s)) if can.lease == "timed" else 0.0
        self._extends = can.lease == "timed" and can.extend == "absolute"
        self._wait_s = _LOOK_S if can.long_poll else 0.0
        self._held: dict[Handle, float] = {}
        self._seen: set[tuple[str, float | None]] = set()

    def take(self, most: int) -> Sequence[IncomingMessage]:
        """The next messages, which are kept from now on; none when all have come.

        One whose lease was lost meanwhile comes again, and is passed over.

        Raises:
            QueueKitError: The service could not be asked.
        """
        for _ in range(len(self._seen) + 1):
            self.keep()
            taken = self._guard.receive(
                max_messages=min(most, self._most), wait_s=self._wait_s, lease_s=self._lease_s
            )
            for each in taken:
                self._held[each.handle] = math.inf if each.lease_until is None else each.lease_until
            fresh = [each for each in taken if (each.message_id, each.enqueued_at) not in self._seen]
            self._seen.update((each.message_id, each.enqueued_at) for each in fresh)
            if fresh or not taken:
                return fresh
        return []

    @property
    def patience_s(self) -> float:
        """For how long nothing needs to be done for those that are kept."""
        if not self._held or not self._extends:
            return math.inf
        return max(0.0, min(self._held.values()) - self._lease_s / 2 - self._clock.monotonic())

    def keep(self) -> None:
        """Extend the leases that are half over; what is lost may come again."""
        if self.patience_s > 0:
            return
        asked_at = self._clock.monotonic()
        due = [handle for handle, until in self._held.items() if until - asked_at <= 0.75 * self._lease_s]
        for handle, outcome in self._settle(due, Action.EXTEND):
            if isinstance(outcome, Settled):
                self._held[handle] = outcome.lease_until or asked_at + self._lease_s
            else:
                del self._held[handle]

    def remove(self, messages: Sequence[IncomingMessage]) -> list[SettleOutcome]:
        """Ack messages for good, trying again what can be; those that are not removed stay kept."""
        outcomes: dict[Handle, SettleOutcome] = {}
        left = [each.handle for each in messages]
        for _ in range(_TRIES):
            for handle, outcome in self._settle(left, Action.ACK):
                outcomes[handle] = outcome
                if isinstance(outcome, Settled):
                    self._held.pop(handle, None)
            left = [handle for handle in left if _may_succeed(outcomes[handle])]
        return [outcomes[each.handle] for each in messages]

    def close(self) -> None:
        """Give back what is left; where that fails, it comes back by itself. Idempotent."""
        left, self._held = list(self._held), {}
        failed = sum(not isinstance(outcome, Settled) for _, outcome in self._settle(left, Action.RELEASE))
        if failed:
            detail = f"not given back; they come back within {self._lease_s:g} s"
            self._link.journal.note("settle.failed", detail, count=failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, handles: Sequence[Handle], action: Action) -> list[tuple[Handle, SettleOutcome]]:
        lease_s = self._lease_s if action is Action.EXTEND else 0.0
        done: list[tuple[Handle, SettleOutcome]] = []
        for start in range(0, len(handles), self._batch):
            part = handles[start : start + self._batch]
            entries = [Settlement(handle, action, 0.0, lease_s) for handle in part]
            done += zip(part, self._guard.settle(entries, timeout_s=_CALL_S), strict=True)
        return done


def _may_succeed(outcome: SettleOutcome) -> bool:
    return isinstance(outcome, (Failed, Unknown)) and outcome.error.retryable
