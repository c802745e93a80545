# SPDX-License-Identifier: Apache-2.0
"""What a verdict on a pushed message comes to, where whoever pushed it waits for the answer.

Nothing can be held here: when the answer is given, the process may stand still. So what is not settled by then
is left to the service, and a message is only called done when its copy, if it has one, is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from queuekit._engine.arrivals import Arrivals
from queuekit._engine.bridging import Bridge, Onward
from queuekit._engine.copies import Copying, step_id
from queuekit._engine.copies import CopyRoute as Route
from queuekit._engine.held import Held
from queuekit._engine.journal import Journal
from queuekit._portable.intake import why
from queuekit._portable.letters import Cause, DeadLetterMode, DeadRoute, LetterWriter, is_nowhere
from queuekit._portable.retry import Verdict
from queuekit._values.capability import Capabilities
from queuekit.backend import Action, IncomingMessage, OutgoingMessage

_LONGEST_DEAD_RETRY_S = 600.0


class Outcome(NamedTuple):
    """How one message is to be settled.

    Attributes:
        action: ACK, RETRY or RELEASE; DEAD where the queue itself has taken it out and kept a dead letter.
        delay_s: When it is to come again, at the earliest, in seconds; None leaves that to the service.
    """

    action: Action
    delay_s: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether the message is not to come again."""
        return self.action in _DONE


_DONE: Final = frozenset({Action.ACK, Action.DEAD})

DONE = Outcome(Action.ACK)
GONE = Outcome(Action.DEAD)
GIVEN_BACK = Outcome(Action.RELEASE, 0.0)
LEFT = Outcome(Action.RETRY)
"""Not settled by anybody: it comes again when the service says so."""


class Ruling(NamedTuple):
    """What is to be done for a verdict.

    Attributes:
        outcome: How the message is settled, where nothing has to be done before.
        copying: A copy that stands in for the message: once it is confirmed, the message is done.
        letter: A dead letter that the queue itself takes in the message's place.
        hold_s: How long to wait before the copy is sent, or the outcome told.
        told_delay_s: How long the next attempt waits, as far as everything goes well; for listeners.
        is_dead: Whether no attempt follows.
    """

    outcome: Outcome
    copying: Copying | None = None
    letter: OutgoingMessage | None = None
    hold_s: float = 0.0
    told_delay_s: float | None = None
    is_dead: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether nothing has to be done before."""
        return self.copying is None and self.letter is None and not self.hold_s


@dataclass(frozen=True, slots=True)
class Rulings:
    """What the pushed messages of one queue share.

    Attributes:
        can: What the queue can do.
        journal: Where to count and log.
        writer: Makes dead letters.
        dead_letters: Where dead letters go.
        bridge: What queuekit adds to the queue.
        copies: Sends copies to the queue itself.
        route: The queue for dead letters, where they are copied.
        now: Seconds since the epoch.
    """

    can: Capabilities
    journal: Journal
    writer: LetterWriter
    dead_letters: DeadLetterMode
    bridge: Bridge
    copies: Route
    route: DeadRoute | None
    now: Callable[[], float]

    def rule(self, message: IncomingMessage, verdict: Verdict, *, holdable_s: float = 0.0) -> Ruling:
        """What a handler's verdict comes to; counted and logged.

        Args:
            message: As it was pushed.
            verdict: The handler's.
            holdable_s: For how long the answer could be put off.
        """
        if verdict.action is Action.ACK:
            return Ruling(DONE)
        if verdict.action is Action.RELEASE:
            copy = self.bridge.release(message, verdict.delay_s, self.now())
            copying = None if copy is None else Copying(copy, self.copies, "copy.failed")
            return Ruling(Outcome(Action.RELEASE, verdict.delay_s), copying)
        cause = verdict.cause or Cause("failed")
        if verdict.action is Action.RETRY:
            return self._retried(message, verdict, cause, holdable_s)
        return self._dead(message, cause)

    def arrivals(self, group: list[Held]) -> dict[Held, Ruling]:
        """What is for no handler: messages that have expired, and those with a delay before them still."""
        exceptions, _ = Arrivals(self.bridge).look(group, self.now())
        expired = sum(onward is None for onward in exceptions.values())
        if expired:
            self.journal.note("delivery.expired", count=expired)
        if expired < len(exceptions):
            self.journal.note("delivery.hopped", count=len(exceptions) - expired)
        return {
            held: Ruling(DONE) if onward is None else self._sent_on(onward) for held, onward in exceptions.items()
        }

    def _sent_on(self, onward: Onward) -> Ruling:
        outcome = Outcome(Action.RELEASE, onward.delay_s)
        return Ruling(outcome, None if onward.copy is None else Copying(onward.copy, self.copies, "copy.failed"))

    def _retried(self, message: IncomingMessage, verdict: Verdict, cause: Cause, holdable_s: float) -> Ruling:
        plan = self.bridge.retry(message, verdict.delay_s, self.now(), holdable_s=holdable_s)
        delay_s = plan.hold_s if plan.shortened and plan.copy is not None else verdict.delay_s
        if plan.copy is None:
            delay_s = plan.hold_s + plan.delay_s
        if plan.shortened:
            detail = f"{verdict.delay_s:g} s to {delay_s:g} s, the longest here"
            self.journal.note("retry.shortened", detail)
        if verdict.held:
            self.journal.note("key.held", f"{cause.reason}; again in {delay_s:.3g} s")
        else:
            self.journal.note("delivery.retried", f"{why(cause)}; again in {delay_s:.3g} s")
        copying = None if plan.copy is None else Copying(plan.copy, self.copies, "copy.failed")
        return Ruling(Outcome(Action.RETRY, plan.delay_s), copying, hold_s=plan.hold_s, told_delay_s=delay_s)

    def _dead(self, message: IncomingMessage, cause: Cause) -> Ruling:
        if is_nowhere(self.dead_letters, self.route):
            # The service's own redrive policy, if the queue has one, knows when to give up.
            self.journal.note("dead_letter.missing", f"{cause.reason}; left to the service; name dead_letter=")
            return Ruling(LEFT)
        if self.dead_letters == "discard":
            self.journal.note("dead_letter.discarded", cause.reason)
            return Ruling(DONE, is_dead=True)
        letter = self.writer.write(message, cause)
        self.journal.note("delivery.dead", cause.reason)
        again = Outcome(Action.RETRY, min(_LONGEST_DEAD_RETRY_S, self.can.max_retry_delay_s))
        if self.route is None:
            return Ruling(again, letter=letter, is_dead=True)
        letter = letter._replace(dedup_id=step_id(message, "dead"))
        return Ruling(again, Copying(letter, self.route, "dead_letter.failed"), is_dead=True)
