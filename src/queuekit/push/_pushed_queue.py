# SPDX-License-Identifier: Apache-2.0
"""One queue whose messages come by request: each goes through the queue's pipe, in the time that its sender gives."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

from queuekit._portable.carrying import Waiting
from queuekit._portable.doorway import Doorway, Named, ServersLoop
from queuekit._portable.fitness import check_counted
from queuekit._portable.pipe import Passage, Pipe
from queuekit._portable.round import Limits
from queuekit._portable.rulings import GIVEN_BACK, Outcome
from queuekit._values.capability import SHORTEST_ANSWER_S
from queuekit._values.errors import UnsupportedError, UsageError
from queuekit._values.url import QueueURL
from queuekit.backend import IncomingMessage, PushCodec
from queuekit.push._crew import Crew


class Parcel(NamedTuple):
    """What was pushed to a queue by one request.

    Attributes:
        message: For `PushCodec.read_pushed`.
        body: The request's.
        problem: Why it holds no message; None where that is not known.
        arrived_at: When the request began, in monotonic seconds.
    """

    message: Mapping[str, Any]
    body: bytes
    problem: Exception | None
    arrived_at: float


class PushedQueue:
    """Takes the messages of one queue.

    Args:
        doorway: The app's side.
        loop: The server's.
        named: The queue, as handlers name it.
        url: Its whole URL.

    Concurrency:
        `take` on an event loop; the rest from any thread.
    """

    def __init__(self, doorway: Doorway, loop: ServersLoop, named: Named, url: QueueURL) -> None:
        self._doorway, self._loop, self._named, self._url = doorway, loop, named, url
        self._deadline_s = doorway.answer_s or SHORTEST_ANSWER_S
        self._crew = Crew(doorway.slots(named.name), named.name)
        self._warned = False
        doorway.also_close(self._crew.close)

    async def take(self, parcel: Parcel) -> Outcome | None:
        """What became of a message; None where that was not known when the answer was due.

        Raises:
            QueueKitError: The queue cannot be worked as it is, or could not be asked.
        """
        passage = await self._done(partial(self._pass, parcel), parcel, unless_stopping=Passage([GIVEN_BACK]))
        if passage is None or not passage.waiting:
            return None if passage is None else passage.outcomes[0]
        waiting, clock = passage.waiting[0], self._doorway.clock
        # Nothing is lost by sending a copy before its time, and a server that stops has none.
        while (left_s := waiting.due - clock.monotonic()) > 0 and not self._doorway.stopping:
            await self._loop.pause(left_s)
        passage = await self._done(partial(self._finish, waiting, parcel), parcel)
        return None if passage is None else passage.outcomes[0]

    def open(self) -> Pipe:
        """The queue's pipe, and how long there is for each message; asks the queue at first.

        Raises:
            UsageError: The deadline is longer than the queue's own.
            QueueKitError: The queue cannot be worked as it is, or could not be asked.
        """
        pipe = self._doorway.pipe(self._named.name, self._url, self._named.options)
        stated_s = self._doorway.answer_s
        told_s = None if pipe.link.probed is None else pipe.link.probed.push_deadline_s
        if stated_s is not None and told_s is not None and stated_s > told_s:
            msg = (
                f"deadline= is {stated_s:g} s, and the answer to a push of {pipe.link.shown} is awaited for "
                f"{told_s:g} s; raise it there, or leave it out here"
            )
            raise UsageError(msg, queue=pipe.link.shown, operation="open")
        self._deadline_s = stated_s or told_s or SHORTEST_ANSWER_S
        if not self._warned:
            self._warned = True
            self._tell_deadline(pipe)
        return pipe

    def _tell_deadline(self, pipe: Pipe) -> None:
        most_s = self._deadline_s - 2 * _margin_s(self._deadline_s)
        longest_s = pipe.longest_timeout_s
        if longest_s is not None and longest_s > most_s:
            detail = f"a handler may take {longest_s:g} s, and there are {most_s:g} s before the answer is due"
            pipe.link.journal.note("push.deadline_short", detail)

    def _pass(self, parcel: Parcel) -> Passage:
        pipe = self.open()
        at, deadline_s = parcel.arrived_at, self._deadline_s
        margin_s = _margin_s(deadline_s)
        # What has waited for half of its time for a free handler would hardly have enough left.
        limits = Limits(at + deadline_s / 2, at + deadline_s - 2 * margin_s, at + deadline_s - margin_s)
        if self._doorway.stopping or self._doorway.clock.monotonic() >= limits.begin_by:
            return Passage([GIVEN_BACK])
        message, problem = _read(pipe, parcel)
        if message.attempt is None and problem is None:
            check_counted(pipe.link, pipe.link.capabilities)
        return pipe.pass_through(
            [message],
            limits,
            unreadable={} if problem is None else {0: problem},
            hold_by=limits.answer_by - 2 * margin_s,
        )

    def _finish(self, waiting: Waiting, parcel: Parcel) -> Passage:
        answer_by = parcel.arrived_at + self._deadline_s - _margin_s(self._deadline_s)
        return Passage([self.open().finish(waiting, answer_by)])

    async def _done(
        self, work: Callable[[], Passage], parcel: Parcel, *, unless_stopping: Passage | None = None
    ) -> Passage | None:
        """What a thread of the crew made of some work; None where it was not over when the answer was due.

        What has not begun when the server is to stop is not waited for where there is something to say instead: the
        thread may be busy for all of the time that the server has.

        Raises:
            CancelledError: The server waits for the request no more.
        """
        if unless_stopping is not None and self._doorway.stopping:
            return unless_stopping
        due = parcel.arrived_at + self._deadline_s - _margin_s(self._deadline_s) / 2
        submitted = self._crew.submit(work)
        future = asyncio.wrap_future(submitted)
        try:
            with nullcontext() if unless_stopping is None else self._loop.on_wake(submitted.cancel):
                return await asyncio.wait_for(future, due - self._doorway.clock.monotonic())
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if unless_stopping is None or not submitted.cancelled() or (task is not None and task.cancelling()):
                raise
            return unless_stopping


def _read(pipe: Pipe, parcel: Parcel) -> tuple[IncomingMessage, Exception | None]:
    """The message; where it cannot be read, the request's body in its place, and why.

    Raises:
        UnsupportedError: The queue's backend reads nothing that is pushed.
    """
    codec, problem = pipe.link.backend, parcel.problem
    if not isinstance(codec, PushCodec):
        msg = f"{pipe.link.shown} reads no messages that are pushed; use another backend, or a worker"
        raise UnsupportedError(msg, queue=pipe.link.shown, operation="receive")
    if problem is None:
        try:
            return codec.read_pushed(parcel.message), None
        except Exception as error:  # noqa: BLE001 - the guard: whatever it is, these bytes are no message
            problem = error
    # By its content: when it comes again, it has the same id.
    made = f"unreadable-{hashlib.sha256(parcel.body).hexdigest()[:32]}"
    return IncomingMessage(None, made, parcel.body, {}, {}, None, None, None), problem


def _margin_s(deadline_s: float) -> float:
    """What is kept back of a deadline: the answer has its way, too."""
    return min(2.0, 0.1 * deadline_s)
