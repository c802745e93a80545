# SPDX-License-Identifier: Apache-2.0
"""Writes a history of everything that the engine asks of a queue, and of what it was told."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from queuekit.backend import Action, IncomingMessage, Settlement
from queuekit.testing.faults import Answers, Call, Proceed, Script
from queuekit.testing.history import History, Pending, Record


class Recorder(Script):
    """A script of faults that also writes down every send, delivery and settlement of one queue.

    Put it between the engine and a backend by a `FaultyOpener`. It stands on the engine's side of the
    faults: what the engine was told is what is recorded.

    Args:
        history: Where to write.
        queue: The redacted URL of the queue; every other queue goes unrecorded, but that a redrive counts
            as a send. None records all, for a store with one queue.
    """

    def __init__(self, history: History, queue: str | None = None) -> None:
        super().__init__()
        self._history, self._queue = history, queue
        self._deliveries: dict[Hashable, Record] = {}

    def run(self, call: Call, proceed: Proceed) -> Answers:
        """Record one call, take it through its step, and record what it answered."""
        if call.verb == "probe" or (self._queue not in {None, call.queue} and call.verb != "redrive"):
            return super().run(call, proceed)
        pending = self._begin(call)
        try:
            answers = super().run(call, proceed)
        except BaseException:
            for each in pending:
                each.unknown()
            raise
        if call.verb == "receive":
            self._delivered(answers)
        for each, outcome in zip(pending, answers, strict=False):
            each.answered(outcome)
        return answers

    def _begin(self, call: Call) -> list[Pending]:
        history = self._history
        if call.verb in {"send", "redrive"}:
            return [history.send(each.message_id, key=each.ordering_key, delay_s=each.delay_s) for each in call.batch]
        if call.verb == "settle":
            return [self._begin_settle(each) for each in call.batch]
        return []

    def _begin_settle(self, entry: Settlement) -> Pending:
        delivery = self._deliveries.get(entry.handle) or Record(0.0, "deliver", message="?")
        until = self._history.now() + entry.lease_s if entry.action is Action.EXTEND else None
        return self._history.begin_settle(delivery, entry.action.value, delay_s=entry.delay_s, until=until)

    def _delivered(self, answers: Sequence[IncomingMessage]) -> None:
        for each in answers:
            delivered = self._history.deliver(
                each.message_id, attempt=each.attempt, until=each.lease_until, key=each.ordering_key
            )
            self._deliveries[each.handle] = delivered.record
