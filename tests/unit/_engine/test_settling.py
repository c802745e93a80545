# SPDX-License-Identifier: Apache-2.0
"""Settlements: each is sent until it has an answer, while its lease lasts, and never after."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.held import Held, State
from queuekit._engine.settling import Settler, group_by_call, settlements
from queuekit._values.outcome import (
    LEASE_LOST,
    SETTLED,
    ErrorClass,
    ErrorCode,
    Failed,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit.backend import Action, Settlement

MakeHeld = Callable[..., Held]
LATER = ErrorClass(ErrorCode.UNAVAILABLE, retryable=True)
NEVER = ErrorClass(ErrorCode.REFUSED)


def _recorded(held: Held, action: Action = Action.ACK, delay_s: float = 0.0) -> Held:
    held.settlement = Settlement(held.message.handle, action, delay_s)
    held.state = State.RECORDED
    return held


def _settler(*, batch: int = 10, late_ack: bool = False, linger_s: float = 0.02) -> Settler:
    return Settler(batch=batch, linger_s=linger_s, late_ack=late_ack)


@given(
    answers=st.lists(
        st.sampled_from([SETTLED, LEASE_LOST, Failed(LATER), Unknown(LATER), Failed(NEVER), Unsupported()]),
        min_size=1,
        max_size=12,
    ),
    lease_s=st.floats(0.1, 30),
)
def test_an_entry_is_tried_inside_its_lease_and_answered_once(
    make_held: MakeHeld, answers: list[SettleOutcome], lease_s: float
) -> None:
    settler, now = _settler(), 0.0
    held = _recorded(make_held(until=lease_s))
    settler.add(held)
    settler.flush()
    unknown = False
    for answer in answers:
        due = settler.due_at(now)
        assert due is not None
        now = max(now, due)
        assert now < lease_s
        assert settler.take(now) == [held]
        assert not settler.idle()
        final = settler.judge(held, answer, now)
        settler.settled(1)
        unknown = unknown or isinstance(answer, Unknown)
        if final is not None:
            break
        assert isinstance(answer, (Failed, Unknown))
    else:
        assert settler.due_at(now) is not None
        return
    assert settler.idle()
    if unknown and final != SETTLED and answer in (LEASE_LOST, Failed(LATER), Unknown(LATER)):
        assert isinstance(final, (Unknown, Failed))
    if answer in (SETTLED, Unsupported(), Failed(NEVER)):
        assert final == answer


def test_tries_go_on_for_as_long_as_the_lease_lasts(make_held: MakeHeld) -> None:
    settler, now, final = _settler(), 0.0, None
    held = _recorded(make_held(until=12 * 3600.0))
    settler.add(held)
    settler.flush()
    tries = 0
    while (due := settler.due_at(now)) is not None:
        now = max(now, due)
        (held,) = settler.take(now)
        final = settler.judge(held, Failed(LATER), now)
        settler.settled(1)
        tries += 1
    assert final == LEASE_LOST
    assert now > 12 * 3600.0 - 5
    assert tries > 10_000


def test_a_lost_lease_after_a_lost_answer_is_unknown(make_held: MakeHeld) -> None:
    settler = _settler()
    held = _recorded(make_held())
    assert settler.judge(held, Unknown(LATER), 0.0) is None
    assert isinstance(settler.judge(held, LEASE_LOST, 1.0), Unknown)


def test_a_lost_lease_after_a_refusal_is_lost(make_held: MakeHeld) -> None:
    settler = _settler()
    held = _recorded(make_held())
    assert settler.judge(held, Failed(LATER), 0.0) is None
    assert settler.judge(held, LEASE_LOST, 1.0) == LEASE_LOST


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("late_ack", [True, False])
def test_after_the_lease_only_a_safe_ack_is_sent(make_held: MakeHeld, action: Action, late_ack: bool) -> None:
    settler = _settler(late_ack=late_ack)
    held = _recorded(make_held(until=5.0), action)
    assert settler.late([held], 4.999) == []
    assert settler.late([held], 5.0) == ([] if late_ack and action is Action.ACK else [held])


def test_a_settlement_does_not_linger_past_the_end_of_its_lease(make_held: MakeHeld) -> None:
    settler = _settler(linger_s=0.5)
    settler.add(_recorded(make_held(until=100.0)))
    assert settler.due_at(9.0) == 9.5
    urgent = _recorded(make_held(until=9.3))
    assert settler.add(urgent)
    due = settler.due_at(9.1)
    assert due is not None
    assert due < 9.3
    assert not settler.late(settler.take(9.1), 9.1)
    settler.add(_recorded(make_held(until=100.0)))
    assert settler.due_at(10.0) == 10.5


def test_a_full_batch_goes_at_once(make_held: MakeHeld) -> None:
    settler = _settler(batch=3)
    woken = [settler.add(_recorded(make_held())) for _ in range(3)]
    assert woken == [True, False, True]
    assert settler.due_at(0.0) == 0.0
    assert len(settler.take(0.0)) == 3


def test_the_linger_sends_what_there_is(make_held: MakeHeld) -> None:
    settler = _settler()
    settler.add(_recorded(make_held()))
    assert settler.due_at(1.0) == 1.02
    assert settler.due_at(1.01) == 1.02
    assert len(settler.take(1.02)) == 1
    assert settler.due_at(1.02) is None


def test_flush_sends_everything_that_is_gathered(make_held: MakeHeld) -> None:
    settler = _settler(batch=2)
    assert not settler.flush()
    for _ in range(5):
        settler.add(_recorded(make_held()))
    assert settler.flush()
    taken = []
    while settler.due_at(0.0) == 0.0:
        taken.append(len(settler.take(0.0)))
    assert taken == [2, 2, 1]


@given(steps=st.lists(st.sampled_from(["add", "take", "fail", "flush", "pass"]), max_size=80))
def test_nothing_gets_lost_between_adding_and_the_answer(make_held: MakeHeld, steps: list[str]) -> None:
    settler, now = _settler(batch=3), 0.0
    out: list[Held] = []
    added: list[Held] = []
    for step in [*steps, "flush", *["pass", "take"] * 60]:
        if step == "add":
            added.append(_recorded(make_held(until=1e6)))
            settler.add(added[-1])
        elif step == "flush":
            settler.flush()
        elif step == "pass":
            now += 1.0
        elif (due := settler.due_at(now)) is not None and due <= now:
            batch = settler.take(now)
            assert 0 < len(batch) <= 3
            assert len(set(batch)) == len(batch)
            for held in batch:
                answer: Any = Failed(LATER) if step == "fail" else SETTLED
                out += [held] if settler.judge(held, answer, now) else []
            settler.settled(len(batch))
    assert settler.idle()
    assert sorted(map(id, out)) == sorted(map(id, added))


def test_groups_have_one_action_and_one_delay(make_held: MakeHeld) -> None:
    batch = [
        _recorded(make_held()),
        _recorded(make_held(), Action.RETRY, 5.0),
        _recorded(make_held(), Action.RETRY, 6.0),
        _recorded(make_held()),
        _recorded(make_held(), Action.RELEASE),
    ]
    groups = group_by_call(batch)
    assert [len(group) for group in groups] == [2, 1, 1, 1]
    for group in groups:
        assert len({(each.action, each.delay_s) for each in settlements(group)}) == 1


def test_a_delivery_without_a_settlement_is_a_bug(make_held: MakeHeld) -> None:
    with pytest.raises(RuntimeError):
        settlements([make_held()])


def test_an_entry_waits_for_as_long_as_the_service_asked(make_held: MakeHeld) -> None:
    settler = _settler()
    held = _recorded(make_held(until=100.0))
    settler.add(held)
    settler.take(0.0)
    throttled = Failed(ErrorClass(ErrorCode.THROTTLED, retryable=True, retry_after_s=40.0))
    assert settler.judge(held, throttled, 10.0) is None
    assert settler.due_at(10.0) == 50.0
    settler.take(50.0)
    assert settler.judge(held, throttled, 61.0) == LEASE_LOST, "the lease ends before it may be tried again"
