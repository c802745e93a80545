# SPDX-License-Identifier: Apache-2.0
"""The steps of a random schedule, as they are drawn, printed and shrunk."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from hypothesis import strategies as st

from queuekit.backend import Action

Where: TypeAlias = Literal["queue", "dead"]
Step: TypeAlias = "Send | Receive | Settle | Tick | Redrive | Intervene"


class Draft(NamedTuple):
    """What is drawn for one message; a backend that lacks an option gets the message without it.

    Attributes:
        delay: In units of the harness's shortest delay.
        key: The ordering key.
        dedup_id: The dedup id.
        priority: 0 to 9.
    """

    delay: int = 0
    key: str | None = None
    dedup_id: str | None = None
    priority: int = 0


class Pick(NamedTuple):
    """One settlement that is drawn.

    Attributes:
        back: Which handle: the latest is 0, the one before it 1.
        action: What to do.
        length: Delay in units of the shortest delay, or lease in units of the shortest lease.
    """

    back: int = 0
    action: Action = Action.ACK
    length: int = 1


class Send(NamedTuple):
    """Send one batch."""

    batch: list[Draft]


class Receive(NamedTuple):
    """Receive once, without waiting; ``lease`` in units of the shortest lease."""

    where: Where = "queue"
    limit: int = 1
    lease: int = 1


class Settle(NamedTuple):
    """Settle handles of any age, in one call where the backend allows that."""

    picks: list[Pick]
    where: Where = "queue"


class Tick(NamedTuple):
    """Let time pass, in units of the shortest lease."""

    units: float = 1


class Redrive(NamedTuple):
    """Move the oldest dead letters back, leased ones included."""

    most: int = 1


class Intervene(NamedTuple):
    """What is rarer: the consumer crashes, somebody purges, cancels or looks, dedup ids are forgotten."""

    what: str
    where: Where = "queue"
    back: int = 0


_BACK = st.integers(0, 7)
_WHERE: st.SearchStrategy[Where] = st.sampled_from(["queue", "queue", "queue", "queue", "dead"])
_DRAFTS = st.builds(
    Draft,
    delay=st.sampled_from([0, 0, 0, 1, 2]),
    key=st.sampled_from([None, None, "k", "l"]),
    dedup_id=st.sampled_from([None, None, None, "x", "y"]),
    priority=st.sampled_from([0, 0, 5, 9]),
)
_PICKS = st.builds(Pick, back=_BACK, action=st.sampled_from(list(Action)), length=st.sampled_from([0, 1, 2]))
_SEND = st.builds(Send, st.lists(_DRAFTS, min_size=1, max_size=4))
_RECEIVE = st.builds(Receive, where=_WHERE, limit=st.integers(1, 4), lease=st.sampled_from([1, 2, 4]))
_SETTLE = st.builds(Settle, picks=st.lists(_PICKS, min_size=1, max_size=3), where=_WHERE)
_TICK = st.builds(Tick, st.sampled_from([1, 0.5, 2, 5]))
_REDRIVE = st.builds(Redrive, st.integers(1, 3))
_INTERVENE = st.builds(
    Intervene, st.sampled_from(["peek", "cancel", "crash", "purge", "forget dedup ids"]), _WHERE, _BACK
)
# One strategy and one rule, because Hypothesis leaves rules out of an example at random: without sending,
# or without receiving, nothing else has a meaning.
STEPS: st.SearchStrategy[Step] = st.one_of(
    _SEND, _RECEIVE, _SETTLE, _TICK, _RECEIVE, _SETTLE, _TICK, st.one_of(_REDRIVE, _INTERVENE)
)
