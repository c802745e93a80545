# SPDX-License-Identifier: Apache-2.0
"""The AWS Lambda door: the messages of an SQS event go through an app's handlers."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from queuekit._portable.doorway import Doorway
from queuekit._portable.pipe import Pipe
from queuekit._portable.round import Limits
from queuekit._portable.rulings import GIVEN_BACK, LEFT, Outcome
from queuekit._values.errors import PartialFailureError, UnsupportedError, UsageError
from queuekit.backend import IncomingMessage, PushCodec
from queuekit.push._sqs_event import Record, Source, account_of, records

logger: logging.Logger = logging.getLogger("queuekit")

Answer = dict[str, list[dict[str, str]]]
Report = Literal["items", "raise"]

# Of the time that is kept back: handlers may use the first half, and the rest is for what they leave to do.
_END: Final = 0.5
_ANSWER: Final = 0.4
_SETTLE: Final = 0.15


class LambdaHandler:
    """Called by AWS Lambda with each event of an SQS event source. Made by `App.aws_lambda`.

    Concurrency:
        One event at a time; another waits.
    """

    def __init__(self, doorway: Doorway, *, margin_s: float, report: Report) -> None:
        self._doorway, self._margin_s, self._report = doorway, margin_s, report
        self._lock = threading.Lock()

    def __call__(self, event: Mapping[str, Any], context: object = None) -> Answer:
        """Run the messages of one event through their handlers.

        Args:
            event: As Lambda makes it.
            context: Lambda's; tells how much time is left. None is without limit, as in a test.

        Returns:
            ``batchItemFailures``: the ids of those messages that are to come again, and no other.

        Raises:
            UsageError: It is no event of SQS messages, or there is too little time to begin any.
            PartialFailureError: A message failed, with ``report="raise"``; those that are done were removed.
            SetupError: A queue's URL is wrong, or its packages are missing.
        """
        found = records(event)
        with self._lock:
            limits, settle_by = self._limits(context)
            account = account_of(getattr(context, "invoked_function_arn", None))
            failed: list[str] = []
            try:
                for source in dict.fromkeys(record.source for record in found):
                    group = [record for record in found if record.source == source]
                    failed += self._run(source, group, account, limits, settle_by)
            finally:
                self._doorway.rest(settle_by)
        if failed and self._report == "raise":
            msg = f"{len(failed)} of {len(found)} messages are to come again; those that are done were removed"
            raise PartialFailureError(msg, failures=failed, operation="handle")
        return {"batchItemFailures": [{"itemIdentifier": item_id} for item_id in dict.fromkeys(failed)]}

    def _run(
        self, source: Source, group: Sequence[Record], account: str | None, limits: Limits, settle_by: float
    ) -> list[str]:
        """The ids of those messages of one queue that are to come again."""
        pipe = self._pipe(source, account)
        read, outcomes = _read(pipe, group)
        messages = list(read.values())
        passed = pipe.run(messages, limits)
        outcomes.update(zip(read, passed, strict=True))
        pipe.put_off(messages, passed, settle_by)
        failed = [record.item_id for position, record in enumerate(group) if not outcomes[position].is_done]
        if failed and self._report == "raise":
            pipe.remove(messages, passed, settle_by)
        return failed

    def _limits(self, context: object) -> tuple[Limits, float]:
        """By when to be over with what, and when to answer at the latest.

        Raises:
            UsageError: Nothing could be begun, so that all messages would come again for ever.
        """
        tell = getattr(context, "get_remaining_time_in_millis", None)
        if tell is None:
            return Limits(), math.inf
        left_s = tell() / 1000
        if left_s <= self._margin_s:
            msg = (
                f"the function has {left_s:g} s for these messages, and no handler begins in its last "
                f"{self._margin_s:g} s; give the function a longer timeout, or aws_lambda() a shorter margin"
            )
            raise UsageError(msg, operation="handle")
        end = self._doorway.clock.monotonic() + left_s
        margin_s = self._margin_s
        return (
            Limits(end - margin_s, end - margin_s * _END, end - margin_s * _ANSWER),
            end - margin_s * _SETTLE,
        )

    def _pipe(self, source: Source, account: str | None) -> Pipe:
        for named in self._doorway.queues():
            if named.url is None:
                if named.name == source.name:
                    return self._doorway.pipe(named.name, source.url, named.options)
            elif source.is_behind(named.url, account):
                return self._doorway.pipe(named.name, named.url, named.options)
        return self._doorway.pipe(None, source.url, {})


def _read(pipe: Pipe, group: Sequence[Record]) -> tuple[dict[int, IncomingMessage], dict[int, Outcome]]:
    """By position: the messages, and the outcomes of those that cannot be read, which are left to the service.

    Raises:
        UnsupportedError: The queue's backend reads nothing that is pushed.
    """
    codec, link = pipe.link.backend, pipe.link
    if not isinstance(codec, PushCodec):
        msg = f"{link.shown} reads no messages that are pushed; use another backend, or a worker"
        raise UnsupportedError(msg, queue=link.shown, operation="receive")
    ordered = link.capabilities.ordering != "none"
    messages: dict[int, IncomingMessage] = {}
    outcomes: dict[int, Outcome] = {}
    broken: set[str | None] = set()
    for position, record in enumerate(group):
        if ordered and record.group in broken:
            outcomes[position] = GIVEN_BACK
            continue
        try:
            messages[position] = codec.read_pushed(record.pushed)
        except Exception as error:  # noqa: BLE001 - the guard: whatever it is, the message comes again
            link.journal.note("receive.failed", f"a message cannot be read: {type(error).__name__}")
            outcomes[position] = LEFT
            broken.add(record.group)
    return messages, outcomes
