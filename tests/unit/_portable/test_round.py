# SPDX-License-Identifier: Apache-2.0
"""One round of pushed messages: who waits for an outcome gets one, and what comes too late is nobody's."""

from __future__ import annotations

import pytest

from queuekit._portable.carrying import pushed_held
from queuekit._portable.course import Course, Entry
from queuekit._portable.retry import ACK, Verdict
from queuekit._portable.round import Limits, PushedJob, Round
from queuekit._portable.rulings import DONE, LEFT, Ruling
from queuekit.backend import IncomingMessage
from queuekit.testing import VirtualClock


class Rules:
    """What verdicts come to: the message is done, unless an error is to be raised."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.asked = 0

    def __call__(self, job: PushedJob, verdict: Verdict) -> Ruling:
        del job, verdict
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Ruling(DONE)


@pytest.fixture
def rules() -> Rules:
    return Rules()


@pytest.fixture
def round_(clock: VirtualClock, rules: Rules) -> Round:
    return Round(clock, Limits(), rule=rules, given_back=lambda _count: None)


def begun(round_: Round) -> PushedJob:
    """A job that its handler has."""
    message = IncomingMessage(None, "one", b"", {}, {}, 1, None, None)
    job = PushedJob(pushed_held(message), round_, lambda _held, _by_s: None)
    round_.begin([job], Course([Entry(job, None)]), [])
    assert round_.take_now() == [job]
    return job


def test_a_verdict_that_comes_too_late_is_dropped_and_told_to_nobody(round_: Round, rules: Rules) -> None:
    job = begun(round_)
    job.abandon()
    job.settle(ACK)
    assert round_.end() == ({job: LEFT}, 0)
    assert rules.asked == 0


def test_where_a_verdict_cannot_be_judged_nobody_waits_for_its_outcome(round_: Round, rules: Rules) -> None:
    job, rules.error = begun(round_), ValueError("a listener's")
    with pytest.raises(ValueError, match="a listener's"):
        job.settle(ACK)
    assert round_.end() == ({job: LEFT}, 0)


def test_what_no_verdict_has_come_for_is_left_to_the_service(round_: Round) -> None:
    job = begun(round_)
    assert round_.end() == ({job: LEFT}, 1)
    job.settle(ACK)
    assert round_.end() == ({job: LEFT}, 0)
