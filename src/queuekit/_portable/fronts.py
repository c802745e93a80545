# SPDX-License-Identifier: Apache-2.0
"""The ways to run an app's handlers without a worker, where their messages are pushed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from queuekit._portable.link import seconds
from queuekit._portable.registering import Registering
from queuekit._values.errors import UsageError
from queuekit._wiring.doors import find_door

if TYPE_CHECKING:
    from queuekit._portable.doorway import Doorway


class LambdaFunction(Protocol):
    """What AWS Lambda calls with each event."""

    def __call__(self, event: Mapping[str, Any], context: object = None) -> dict[str, list[dict[str, str]]]:
        """Run the messages of one event through their handlers; see `App.aws_lambda`."""
        ...


class Fronts(Registering):
    """The front doors of an `App` beside its worker."""

    @abstractmethod
    def _doorway(self) -> Doorway:
        """The app's side of a new front door."""

    def aws_lambda(
        self, *, margin: timedelta = timedelta(seconds=5), report: Literal["items", "raise"] = "items"
    ) -> LambdaFunction:
        """A function for AWS Lambda, to be mapped to the SQS queues that handlers name.

        It is called with an event and a context, runs the same handlers as a worker would, and answers which
        messages are to come again. Queues are known by their ARN: a handler's queue is the one of that name.

        Args:
            margin: How much of the function's time is kept back. No handler begins in it, those that run have half
                of it to end, and what is left is for settling.
            report: ``"items"`` answers which messages failed; the event source mapping must have
                ``ReportBatchItemFailures``. ``"raise"`` removes those that are done and raises where one failed,
                which needs the permission to delete and nothing of the mapping.

        Raises:
            UsageError: The margin or the way to report is none.

        Concurrency:
            One event at a time. Between two events no thread runs.
        """
        if report not in {"items", "raise"}:
            msg = f"report must be 'items' or 'raise' and is {report!r}"
            raise UsageError(msg)
        margin_s = seconds("margin", margin)
        made: LambdaFunction = find_door("aws_lambda")(self._doorway(), margin_s=margin_s, report=report)
        return made
