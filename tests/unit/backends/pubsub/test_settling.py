# SPDX-License-Identifier: Apache-2.0
"""What a batch of settlements asks Pub/Sub for, and what each answer means."""

from typing import Literal

import pytest

from queuekit.backend import LEASE_LOST, SETTLED, Action, ErrorClass, ErrorCode, Failed, Settled, Settlement, Unknown
from queuekit.backend import Unsupported as NotThere
from queuekit.backends.pubsub._settling import MOST_BYTES, Handle, Plan

OURS = "projects/p/subscriptions/s"


def plan(action: Action, count: int = 3, *, delay_s: float = 0.0, lease_s: float = 0.0) -> Plan:
    return Plan(
        [Settlement(Handle(OURS, f"ack-{index}"), action, delay_s, lease_s) for index in range(count)],
        OURS,
    )


def test_ids_go_together_until_a_request_is_full() -> None:
    long = "x" * 1000
    made = Plan([Settlement(Handle(OURS, f"{index:04}{long}"), Action.ACK) for index in range(1000)], OURS)
    calls = made.calls()
    assert [each for call in calls for each in call] == [f"{index:04}{long}" for index in range(1000)]
    assert len(calls) == 2
    assert all(sum(len(each) + 3 for each in call) < MOST_BYTES for call in calls)
    assert plan(Action.ACK, 1000).calls() == [[f"ack-{index}" for index in range(1000)]]


@pytest.mark.parametrize(
    ("action", "length", "seconds", "expected"),
    [
        (Action.ACK, {}, 0, SETTLED),
        (Action.RETRY, {"delay_s": 1.2}, 2, Settled(applied_delay_s=2.0)),
        (Action.RELEASE, {}, 0, Settled(applied_delay_s=0.0)),
        (Action.EXTEND, {"lease_s": 30.0}, 30, Settled(lease_until=130.0)),
    ],
)
def test_a_call_that_went_well_settles_all(
    action: Action, length: dict[str, float], seconds: int, expected: Settled
) -> None:
    made = plan(action, **length)
    (ids,) = made.calls()
    made.done(ids, {}, 100.0)
    assert (made.acks, made.seconds, made.outcomes()) == (action is Action.ACK, seconds, [expected] * 3)


def test_each_lease_that_the_service_names_has_an_outcome_of_its_own() -> None:
    made = plan(Action.ACK, 4)
    (ids,) = made.calls()
    told = {"ack-0": "PERMANENT_FAILURE_INVALID_ACK_ID", "ack-1": "TRANSIENT_FAILURE_X", "ack-2": "PERMANENT_OTHER"}
    made.done(ids, told, 100.0)
    lost, again, never, fine = made.outcomes()
    assert (lost, fine) == (LEASE_LOST, SETTLED)
    assert isinstance(again, Failed)
    assert again.error.retryable
    assert isinstance(never, Failed)
    assert not never.error.retryable
    assert "PERMANENT_OTHER" in never.error.detail


def test_one_lease_that_is_settled_twice_has_one_answer_for_both() -> None:
    made = Plan([Settlement(Handle(OURS, "ack"), Action.ACK)] * 2, OURS)
    assert made.calls() == [["ack"]]
    made.done(["ack"], {"ack": "PERMANENT_FAILURE_INVALID_ACK_ID", "of another call": "PERMANENT_OTHER"}, 0.0)
    assert made.outcomes() == [LEASE_LOST, LEASE_LOST]


@pytest.mark.parametrize(("sent", "kind"), [("no", Failed), ("maybe", Unknown)])
def test_of_several_calls_one_that_failed_leaves_the_others_as_they_are(
    sent: Literal["no", "maybe"], kind: type
) -> None:
    made = plan(Action.ACK, 2)
    made.done(["ack-0"], {}, 0.0)
    made.failed(["ack-1"], ErrorClass(ErrorCode.UNAVAILABLE, sent=sent))
    first, second = made.outcomes()
    assert first == SETTLED
    assert isinstance(second, kind)


def test_what_pubsub_cannot_do_is_no_call() -> None:
    for made in (plan(Action.DEAD), plan(Action.RETRY, delay_s=601.0), plan(Action.EXTEND, lease_s=601.0)):
        assert made.calls() == []
        assert all(isinstance(each, NotThere) for each in made.outcomes())


def test_a_handle_that_was_never_ours_is_lost_before_any_call() -> None:
    theirs = ["text", Handle("projects/p/subscriptions/other", "ack")]
    made = Plan([Settlement(each, Action.ACK) for each in theirs], OURS)
    assert made.calls() == []
    assert made.outcomes() == [LEASE_LOST, LEASE_LOST]
