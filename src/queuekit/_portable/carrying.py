# SPDX-License-Identifier: Apache-2.0
"""Carries out what verdicts on pushed messages come to: copies are sent, and dead letters stored, in their place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from queuekit._engine.copies import Copying, detail_of, is_confirmed
from queuekit._engine.held import Held, Lease
from queuekit._portable.link import Link
from queuekit._portable.putting_off import PuttingOff
from queuekit._portable.round import PushedJob, Round
from queuekit._portable.rulings import DONE, GONE, LEFT, Outcome, Ruling
from queuekit._portable.time_boxed import finish_by
from queuekit._values.outcome import SendOutcome, Settled
from queuekit.backend import Action, IncomingMessage, Settlement

_OURS: Final = Lease(math.inf, 0.0, math.inf)
"""Of what was pushed: nothing is told about its lease, and whoever pushed it keeps it."""


def pushed_held(message: IncomingMessage, settlement: Settlement | None = None) -> Held:
    """A pushed message as the engine's settlers know one."""
    held = Held(message, _OURS)
    held.settlement = settlement
    return held


class Waiting(NamedTuple):
    """An outcome that is to be told later, and its copy sent then.

    Attributes:
        due: When, in monotonic seconds.
        ruling: What it comes from.
    """

    due: float
    ruling: Ruling


class Carrier:
    """Carries out the rulings on the messages of one queue.

    Args:
        link: The open queue.
        putting_off: Settles its messages.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, link: Link, putting_off: PuttingOff) -> None:
        self._link, self._putting_off, self._clock = link, putting_off, link.clock

    def held_back(
        self, round_: Round, work: Sequence[tuple[PushedJob, Ruling]], waiting: dict[PushedJob, Waiting]
    ) -> list[tuple[PushedJob, Ruling]]:
        """What is to be done at once; the rest is over for this round, and waits."""
        for job, ruling in work:
            if ruling.hold_s > 0:
                waiting[job] = Waiting(self._clock.monotonic() + ruling.hold_s, ruling)
                round_.answer(job, ruling.outcome)
        return [(job, ruling) for job, ruling in work if job not in waiting]

    def carry_out(self, round_: Round, work: Sequence[tuple[PushedJob, Ruling]], until: float) -> bool:
        """Send the copies, and have the queue take the dead letters; a message is done by a confirmed one."""
        copying = [(job, ruling, ruling.copying) for job, ruling in work if ruling.copying is not None]
        for route in {copy.route for _, _, copy in copying}:
            group = [each for each in copying if each[2].route is route]
            outcomes = route.copy([copy.message for _, _, copy in group])
            for (job, ruling, copy), outcome in zip(group, outcomes, strict=True):
                round_.answer(job, DONE if is_confirmed(outcome) else self._not_copied(ruling, copy, outcome))
        native = [(job, ruling) for job, ruling in work if ruling.letter is not None]
        letters = [
            pushed_held(job.message, Settlement(job.message.handle, Action.DEAD, dead=ruling.letter))
            for job, ruling in native
        ]
        for (job, ruling), answer in zip(native, self._putting_off.settle(letters, until), strict=True):
            if not isinstance(answer, Settled):
                self._link.journal.note("dead_letter.failed")
            round_.answer(job, GONE if isinstance(answer, Settled) else ruling.outcome)
        return True

    def finish(self, waiting: Waiting, until: float) -> Outcome:
        """Send the copy of what waited for its time, if it has one.

        Args:
            waiting: From a `Passage`.
            until: When the answer is due, in monotonic seconds.
        """
        ruling = waiting.ruling
        if ruling.copying is None:
            return ruling.outcome
        sent = finish_by(until, partial(ruling.copying.route.copy, [ruling.copying.message]), self._clock)
        if sent is None:
            return LEFT
        return DONE if is_confirmed(sent[0]) else self._not_copied(ruling, ruling.copying, sent[0])

    def _not_copied(self, ruling: Ruling, copying: Copying, outcome: SendOutcome) -> Outcome:
        name = copying.counted_as(outcome)
        self._link.journal.note(name, detail_of(outcome))
        # The service's own redrive policy, if the queue has one, knows when to give up.
        return LEFT if name == "dead_letter.missing" else ruling.outcome
