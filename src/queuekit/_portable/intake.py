# SPDX-License-Identifier: Apache-2.0
"""One queue being received from, and the order in which several of them stop."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from queuekit._engine.held import Held
from queuekit._engine.receiving import Receiver, ReceiverSettings
from queuekit._engine.shutdown import ShutdownPlan, Standing, Step
from queuekit._engine.tally import Timing
from queuekit._portable.delivery import Desk, check_extension
from queuekit._portable.events import Listeners
from queuekit._portable.letters import (
    Cause,
    CopyRoute,
    DeadLetterMode,
    DeadRoute,
    LearnedRoute,
    LetterWriter,
    describe,
)
from queuekit._portable.link import BackendOpener, Link, open_link
from queuekit._portable.retry import Verdict
from queuekit._values.capability import Support
from queuekit._values.clock import Clock
from queuekit._values.errors import AlreadySettledError, UnsupportedError, UsageError
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import DEAD_SUFFIX, queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import Action, Interruptible

# A member looked up on its class costs ten times a global, and this one is looked up per message.
_ACK: Final = Action.ACK


class Intake:
    """One queue being received from: the engine's receiver, and where its settlements go.

    Args:
        link: The open queue.
        settings: How the receiver works.
        dead_letter: The user's choice: None, ``discard``, or a queue.
        opener: Opens the dead-letter queue, where one is named.
        listeners: Who is told what becomes of its messages.

    Attributes:
        link: The open queue.
        receiver: The engine behind it.
        desk: Where its settlements go.
        poll_s: Longest wait of one poll.
        now: The monotonic clock.
        ack: Records the ack of a delivery, and how long its handler took.
        listeners: Who is told what becomes of its messages.
        on_lost: Called with each running delivery whose lease was lost; assign before the first take.
    """

    def __init__(
        self,
        link: Link,
        settings: ReceiverSettings,
        *,
        dead_letter: str | QueueURL | None,
        opener: BackendOpener,
        listeners: Listeners | None = None,
    ) -> None:
        _check_lease(link, settings)
        self.link = link
        self.listeners: Listeners = Listeners(link.clock) if listeners is None else listeners
        self.poll_s: float = settings.poll_s
        self.on_lost: Callable[[Held], None] = _ignore
        mode, self._route = dead_letter_mode(link, dead_letter, opener)
        self.receiver = Receiver(
            backend=link.backend,
            guard=link.guard,
            clock=link.clock,
            journal=link.journal,
            settings=settings,
            can=link.capabilities,
            lost=self._lost,
        )
        # The methods themselves: they run for every message.
        self.now: Callable[[], float] = link.clock.monotonic
        self.ack: Callable[[Held, float], None] = self.receiver.control.settles.ack
        self.desk = Desk(
            control=self.receiver.control,
            can=link.capabilities,
            clock=link.clock,
            journal=link.journal,
            writer=letter_writer(link, link if self._route is None else self._route.link),
            dead_letters=mode,
            queue=link.shown,
            bridge=self.receiver.bridge,
            copies=self.receiver.copies,
            route=self._route,
        )

    def handled(self, held: Held, verdict: Verdict, took_s: float) -> None:
        """As `settle`, for what took that long from being taken to its verdict."""
        self.receiver.control.settles.handled(took_s)
        self.settle(held, verdict)

    def settle(self, held: Held, verdict: Verdict) -> None:
        """Record a handler's verdict; a delivery that was released or lost meanwhile stays so."""
        if held.lease_lost and verdict.action is not _ACK:
            return
        delay_s = None
        try:
            if verdict.action is _ACK:
                self.desk.ack(held)
            elif verdict.action is Action.RELEASE:
                self.desk.release(held, verdict.delay_s)
            elif verdict.action is Action.RETRY:
                delay_s = self._retry(held, verdict)
            elif verdict.cause is not None:
                self.desk.dead(held, verdict.cause)
        except AlreadySettledError:
            return  # the drain released it between the handler's end and here
        if self.listeners.names and not held.lease_lost:
            self._tell(held, verdict, delay_s)

    def _tell(self, held: Held, verdict: Verdict, delay_s: float | None) -> None:
        cause = verdict.cause
        if verdict.action is _ACK:
            self.listeners.tell("completed", self.link.shown, self.link.journal, message=held.message)
        elif held.settlement is not None and cause is not None:
            # What has no dead-letter queue is retried.
            retried = verdict.action is Action.RETRY or self.desk.nowhere
            if retried and delay_s is None:
                delay_s = self.receiver.control.settles.dead_retry_s()
            self.listeners.tell(
                "retried" if retried else "dead",
                self.link.shown,
                self.link.journal,
                message=held.message,
                reason=why(cause) if retried else cause.reason,
                delay_s=delay_s,
            )

    def _lost(self, held: Held) -> None:
        self.on_lost(held)
        self.listeners.tell("lease_lost", self.link.shown, self.link.journal, message=held.message)

    def stalled(self, reason: str) -> None:
        """The worker, or a part of it, makes no progress on this queue."""
        self.listeners.tell("stalled", self.link.shown, self.link.journal, reason=reason)

    def extend(self, held: Held, by_s: float) -> None:
        """Extend one lease now; refuses a length that the service does not take."""
        check_extension(self.link.capabilities, by_s, self.link.shown)
        self.receiver.control.leases.extend(held, by_s)

    def _retry(self, held: Held, verdict: Verdict) -> float:
        delay_s = self.desk.retry(held, verdict.delay_s)
        cause = verdict.cause or Cause("failed")
        what = f"again in {delay_s:.3g} s"
        if verdict.held:
            self.link.journal.note("key.held", f"{cause.reason}; {what}")
        else:
            self.link.journal.note("delivery.retried", f"{why(cause)}; {what}")
        return delay_s

    def counts(self) -> dict[str, int]:
        """What was received and what became of it, and how often each thing happened."""
        return self.receiver.counts() | self.link.counts()

    def timings(self) -> Mapping[str, Timing]:
        """``queue_age`` and ``handler_time``."""
        return self.receiver.timings()

    def interrupt(self) -> None:
        """End a poll that is waiting, where the backend can."""
        if isinstance(self.link.backend, Interruptible):
            self.link.backend.interrupt()

    def close(self, *, timeout_s: float) -> None:
        """End the threads and close the queue. What is unsettled comes back when its lease ends."""
        self.receiver.close(timeout_s=timeout_s)
        self.link.close()
        if self._route is not None:
            self._route.close()


def drain(
    intakes: Sequence[Intake], plan: ShutdownPlan, clock: Clock, *, cancel: Callable[[], None] = lambda: None
) -> None:
    """Stop in the order that loses nothing, and close.

    No more polls; what nobody began is released at once; running handlers go on with their leases kept
    until the plan's deadline; then they are cancelled and released; every settlement is sent.

    Args:
        intakes: The queues that stop together.
        plan: Decides the steps; may be hurried from another thread.
        clock: Time.
        cancel: Cancels the handlers that still run; called once, at the deadline.
    """
    receivers = [each.receiver for each in intakes]
    for receiver in receivers:
        receiver.stop_polling()
    while (step := plan.next(clock.monotonic(), _together(receivers))) is not Step.CLOSE:
        if step is Step.CANCEL_RUNNING:
            cancel()
        for each in intakes:
            _carry_out(step, each, plan)
        if step in {Step.AWAIT_RUNNING, Step.AWAIT_POLL}:
            until = plan.drain_until if step is Step.AWAIT_RUNNING else plan.close_at
            _busiest(receivers).await_change(min(until, clock.monotonic() + _LOOK_AGAIN_S))
    for each in intakes:
        each.close(timeout_s=max(0.0, plan.close_at - clock.monotonic()))


def _carry_out(step: Step, intake: Intake, plan: ShutdownPlan) -> None:
    if step is Step.RELEASE_WAITING:
        intake.receiver.release_waiting()
    elif step is Step.CANCEL_RUNNING:
        intake.receiver.release_running()
    elif step is Step.AWAIT_POLL:
        # Again and again: the first interruption misses a poll that was just about to begin.
        intake.interrupt()
    elif step is Step.FLUSH:
        intake.receiver.control.settles.wait_until_sent(plan.close_at)


# A second signal may move the plan's deadline while this thread waits.
_LOOK_AGAIN_S = 0.2


def _together(receivers: Sequence[Receiver]) -> Standing:
    standings = [receiver.standing() for receiver in receivers]
    return Standing(
        polling=any(each.polling for each in standings),
        waiting=sum(each.waiting for each in standings),
        running=sum(each.running for each in standings),
        unsent=sum(each.unsent for each in standings),
    )


def _busiest(receivers: Sequence[Receiver]) -> Receiver:
    return max(receivers, key=lambda each: (each.standing().running, each.standing().polling))


def _check_lease(link: Link, settings: ReceiverSettings) -> None:
    can = link.capabilities
    if not can.receives:
        msg = (
            f"{link.shown} cannot be received from; it pushes its messages to a web address: serve its handlers by "
            "`queuekit worker`, or by App.asgi in a server of your own"
        )
        raise UnsupportedError(msg, queue=link.shown, operation="open")
    if can.lease == "timed" and not can.min_lease_s <= settings.lease_s <= can.max_lease_s:
        msg = f"lease must lie between {can.min_lease_s:g} s and {can.max_lease_s:g} s and is {settings.lease_s:g} s"
        raise UsageError(msg, queue=link.shown, operation="open")


def letter_writer(link: Link, letters: Link) -> LetterWriter:
    """What makes the dead letters of one queue, for the queue that takes them."""
    return LetterWriter(
        source=link.shown,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        clock=link.clock,
        limit=letters.capabilities.max_message_bytes,
        size=letters.backend.size,
        secrets=tuple(link.url.secrets()),
    )


def dead_letter_mode(
    link: Link, choice: str | QueueURL | None, opener: BackendOpener
) -> tuple[DeadLetterMode, DeadRoute | None]:
    """Where a queue's dead letters go, and the way there where they are copied; no I/O.

    Raises:
        SetupError: The URL is wrong.
        UsageError: It is the queue itself, or one that cannot take its messages.
    """
    if choice == "discard":
        return "discard", None
    can = link.capabilities
    if choice is None and can.dead_letters is not Support.NATIVE:
        if link.may_learn:
            return "copy", LearnedRoute(link, lambda url: _route_to(link, url, opener))
        choice = can.dead_letter_queue or None
    if choice is not None:
        return "copy", _route_to(link, choice, opener)
    if queue_name(link.url, find_spec(link.url.scheme)).endswith(DEAD_SUFFIX):
        return "missing", None
    return ("native", None) if can.dead_letters is Support.NATIVE else ("missing", None)


def _route_to(link: Link, choice: str | QueueURL, opener: BackendOpener) -> CopyRoute:
    target = open_link(choice, None, {}, opener=opener)
    if target.url == link.url:
        msg = f"dead_letter= names the queue itself, {link.shown}; name another queue"
        raise UsageError(msg, queue=link.shown, operation="open")
    if target.capabilities.ordering_key_required and not link.capabilities.ordering_key_required:
        msg = f"dead_letter= names {target.shown}, which needs an ordering key for every message; name another"
        raise UsageError(msg, queue=link.shown, operation="open")
    return CopyRoute(target)


def why(cause: Cause) -> str:
    """Why an attempt failed, without the text of its exception, which may hold anything."""
    return describe(cause.error).partition(":")[0] if cause.error is not None else cause.reason


def _ignore(_held: Held) -> None:
    """A handler sees that its lease was lost by asking."""
