# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.shutdown import ShutdownPlan, Standing, Step

STANDINGS = st.builds(
    Standing,
    polling=st.booleans(),
    waiting=st.integers(0, 3),
    running=st.integers(0, 3),
    unsent=st.integers(0, 3),
)
LENGTHS = st.floats(0, 100, allow_nan=False)


def _after(step: Step, standing: Standing) -> Standing:
    """What carrying a step out may leave open at the least obliging."""
    if step is Step.RELEASE_WAITING:
        return Standing(polling=standing.polling, waiting=0, running=standing.running, unsent=standing.unsent + 1)
    if step is Step.CANCEL_RUNNING:
        return Standing(polling=standing.polling, waiting=standing.waiting, running=0, unsent=standing.unsent + 1)
    return standing


@given(first=STANDINGS, drain_s=LENGTHS, flush_s=LENGTHS, late_poll=st.booleans())
def test_from_any_standing_the_end_comes_by_the_deadline(
    first: Standing, drain_s: float, flush_s: float, late_poll: bool
) -> None:
    plan = ShutdownPlan(now=50.0, drain_s=drain_s, flush_s=flush_s)
    now, standing, steps = 50.0, first, 0
    while (step := plan.next(now, standing)) is not Step.CLOSE:
        if step in {Step.AWAIT_RUNNING, Step.AWAIT_POLL, Step.FLUSH}:
            later = now + (drain_s + flush_s) / 5 + 0.01
            now = min(later, plan.drain_until if now < plan.drain_until else plan.close_at)
            if late_poll:  # what a late poll brought
                standing, late_poll = Standing(polling=False, waiting=2, running=standing.running, unsent=0), False
        standing = _after(step, standing)
        steps += 1
        assert steps < 100
    assert now <= 50.0 + drain_s + flush_s + 1e-6
    assert not standing.waiting


@given(standing=STANDINGS, drain_s=LENGTHS, flush_s=LENGTHS, now=LENGTHS)
def test_what_nobody_began_is_given_back_before_anything_is_waited_for(
    standing: Standing, drain_s: float, flush_s: float, now: float
) -> None:
    step = ShutdownPlan(now=0.0, drain_s=drain_s, flush_s=flush_s).next(now, standing)
    assert (step is Step.RELEASE_WAITING) == bool(standing.waiting)


@given(standing=STANDINGS, drain_s=LENGTHS, flush_s=LENGTHS, hurry_at=LENGTHS)
def test_hurry_takes_the_drain_time_and_leaves_the_flush_its_own(
    standing: Standing, drain_s: float, flush_s: float, hurry_at: float
) -> None:
    plan = ShutdownPlan(now=0.0, drain_s=drain_s, flush_s=flush_s)
    before = (plan.drain_until, plan.close_at)
    plan.hurry(hurry_at)
    assert plan.drain_until == min(before[0], hurry_at)
    assert plan.close_at <= before[1]
    assert plan.close_at >= min(before[1], hurry_at)
    again = (plan.drain_until, plan.close_at)
    plan.hurry(hurry_at)
    assert (plan.drain_until, plan.close_at) == again
    assert plan.next(hurry_at, standing) is not Step.AWAIT_RUNNING


def test_running_handlers_are_cancelled_only_when_the_drain_time_is_over() -> None:
    plan = ShutdownPlan(now=0.0, drain_s=30.0, flush_s=10.0)
    running = Standing(polling=False, waiting=0, running=1, unsent=0)
    assert plan.next(29.9, running) is Step.AWAIT_RUNNING
    assert plan.next(30.0, running) is Step.CANCEL_RUNNING
    assert plan.next(40.0, running) is Step.CLOSE


def test_nothing_open_is_the_end() -> None:
    plan = ShutdownPlan(now=0.0, drain_s=30.0, flush_s=10.0)
    assert plan.next(0.0, Standing(polling=False, waiting=0, running=0, unsent=0)) is Step.CLOSE
