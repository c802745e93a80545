# SPDX-License-Identifier: Apache-2.0
"""What became of many sends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from queuekit._engine.guard import error_from
from queuekit._values.errors import PartialFailureError, QueueKitError
from queuekit._values.outcome import Accepted, AllAccepted, Duplicate, Rejected, SendOutcome, Unknown


class SendReport:
    """One outcome per message, in the order given.

    Args:
        outcomes: One per message.
        inputs: What was given, position by position.
        queue: The queue's redacted URL.

    Concurrency:
        Immutable, as far as it shows.
    """

    __slots__ = ("_outcomes", "inputs", "queue")

    def __init__(self, outcomes: Sequence[SendOutcome], inputs: Sequence[Any], queue: str) -> None:
        self._outcomes = outcomes
        self.inputs: Sequence[Any] = inputs
        self.queue: str = queue

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[SendOutcome]:
        return iter(self.outcomes)

    def __repr__(self) -> str:
        return f"SendReport({len(self)} messages to {self.queue}, {len(self.failed)} failed)"

    @property
    def outcomes(self) -> tuple[SendOutcome, ...]:
        """`Accepted`, `Duplicate`, `Rejected`, `Unknown` or `NotAttempted` for each message."""
        if not isinstance(self._outcomes, tuple):
            self._outcomes = tuple(self._outcomes)
        return self._outcomes

    @property
    def ok(self) -> bool:
        """Whether the queue has every message."""
        return not self.failed

    @property
    def failed(self) -> tuple[SendOutcome, ...]:
        """The outcomes of the messages that the queue does not have for certain, in order."""
        if type(self._outcomes) is AllAccepted:
            return ()
        return tuple(each for each in self.outcomes if not isinstance(each, (Accepted, Duplicate)))

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """The outcomes whose answer was lost: the queue may have these messages."""
        return tuple(each for each in self.outcomes if isinstance(each, Unknown))

    def retryable_messages(self) -> list[Any]:
        """Those inputs that it makes sense to send again: all that failed and were not rejected for good.

        A message whose outcome is `Unknown` is among them; sending it again may duplicate it. So is one
        that was rejected because the queue was full.
        """
        return [given for given, outcome in zip(self.inputs, self.outcomes, strict=True) if _may_go_again(outcome)]

    def raise_for_failures(self) -> None:
        """Raise unless the queue has every message.

        Raises:
            PartialFailureError: ``failures`` holds one outcome for each message that failed; the cause is
                the first one's error.
        """
        failed = self.failed
        if failed:
            first = raise_for(failed[0], self.queue)
            msg = f"{len(failed)} of {len(self.outcomes)} messages to {self.queue} failed; the first: {first}"
            raise PartialFailureError(msg, failures=failed, queue=self.queue, operation="send") from first


def _may_go_again(outcome: SendOutcome) -> bool:
    if isinstance(outcome, (Accepted, Duplicate)):
        return False
    return outcome.error.retryable or not isinstance(outcome, Rejected)


def raise_for(outcome: SendOutcome, queue: str) -> QueueKitError | None:
    """The error that a single send raises for its outcome; None when the queue has the message."""
    if isinstance(outcome, (Accepted, Duplicate)):
        return None
    return error_from(outcome.error, queue=queue, operation="send")


def accepted(outcome: SendOutcome, queue: str) -> Accepted | Duplicate:
    """The outcome of a single send, where the queue has the message.

    Raises:
        QueueKitError: It has not, or nobody knows.
        RuntimeError: An outcome of no known kind.
    """
    if isinstance(outcome, (Accepted, Duplicate)):
        return outcome
    error = raise_for(outcome, queue)
    if error is None:
        msg = "an outcome that is neither accepted nor an error"
        raise RuntimeError(msg)
    raise error
