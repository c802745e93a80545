# SPDX-License-Identifier: Apache-2.0
"""Which way a retry and a message that is not due go: in place, by a copy, by the lease, or less than asked."""

from dataclasses import replace
from typing import Any

import pytest

from queuekit._engine import metadata as meta
from queuekit._engine.bridging import Bridge
from queuekit._values.capability import Capabilities
from queuekit.backend import IncomingMessage

CAN = Capabilities(
    queues="declared",
    durability="replicated",
    max_message_bytes=1000,
    attempts="exact",
    max_delay_s=900.0,
    max_retry_delay_s=600.0,
)


def _message(**fields: Any) -> IncomingMessage:
    return IncomingMessage(1, "m", b"x", {"a": "b"}, {meta.BASE: "2"}, 3, 10.0, 1e9)._replace(**fields)


def _retry(delay_s: float, *, holdable_s: float = 0.0, message: IncomingMessage | None = None, **can: Any) -> Any:
    return Bridge(replace(CAN, **can)).retry(message or _message(), delay_s, 50.0, holdable_s=holdable_s)


def test_what_the_service_can_wait_is_done_in_place() -> None:
    plan = _retry(600.0, holdable_s=1e6)
    assert (plan.delay_s, plan.copy, plan.hold_s, plan.shortened) == (600.0, None, 0.0, False)


def test_a_longer_wait_goes_by_a_copy_that_carries_the_attempts() -> None:
    plan = _retry(700.0)
    assert (plan.delay_s, plan.hold_s, plan.shortened) == (600.0, 0.0, False)
    assert plan.copy.delay_s == 700.0
    assert (plan.copy.message_id, plan.copy.body, plan.copy.attributes) == ("m", b"x", {"a": "b"})
    assert plan.copy.metadata[meta.BASE] == "5"
    assert plan.copy.metadata[meta.FIRST] == meta.write_instant(10.0)
    assert plan.copy.dedup_id.startswith("qk-")


def test_a_copy_for_a_very_long_wait_goes_in_hops() -> None:
    plan = _retry(2000.0)
    assert plan.copy.delay_s == 900.0
    assert plan.copy.metadata[meta.HOP_LEFT] == "1100.000"
    assert plan.copy.metadata[meta.DUE] == meta.write_instant(2050.0)


@pytest.mark.parametrize(
    ("key", "can"),
    [
        ("k", {"ordering": "per_key"}),
        (None, {"ordering": "global"}),
        (None, {"ordering": "per_key", "ordering_key_required": True}),
        (None, {"copies": "fanout"}),
        (None, {"foreign": True}),
        (None, {"max_delay_s": 0.0}),
    ],
    ids=str,
)
def test_where_a_copy_is_out_of_place_the_lease_is_kept_or_the_wait_shortened(
    key: str | None, can: dict[str, Any]
) -> None:
    message = _message(ordering_key=key)
    held = _retry(700.0, holdable_s=100.0, message=message, **can)
    assert (held.delay_s, held.copy, held.hold_s, held.shortened) == (600.0, None, 100.0, False)
    short = _retry(700.0, holdable_s=99.0, message=message, **can)
    assert (short.delay_s, short.copy, short.hold_s, short.shortened) == (600.0, None, 0.0, True)


def test_on_a_queue_that_orders_by_key_a_message_without_one_may_be_copied() -> None:
    assert _retry(700.0, ordering="per_key").copy is not None


def test_where_the_service_does_not_count_every_retry_is_a_copy() -> None:
    plan = _retry(0.0, message=_message(attempt=1), attempts="none")
    assert (plan.copy.delay_s, plan.copy.metadata[meta.BASE]) == (0.0, "3")
    waits = _retry(30.0, holdable_s=60.0, message=_message(attempt=1), attempts="none", max_delay_s=0.0)
    assert (waits.copy.delay_s, waits.hold_s, waits.shortened) == (0.0, 30.0, False)
    short = _retry(90.0, holdable_s=60.0, message=_message(attempt=1), attempts="none", max_delay_s=0.0)
    assert (short.copy.delay_s, short.hold_s, short.shortened) == (0.0, 60.0, True)
    assert not Bridge(replace(CAN, attempts="none", ordering="per_key")).counts


def _early(**fields: Any) -> IncomingMessage:
    known = {meta.BASE: "2", meta.HOP: "4", meta.HOP_LEFT: "1000", meta.DUE: meta.write_instant(1050.0)}
    return _message(metadata=known, **fields)


def test_a_hop_costs_no_attempt_and_a_failed_one_waits_a_little() -> None:
    onward = Bridge(CAN).onward(_early(), 50.0)
    assert onward is not None
    assert onward.copy is not None
    assert onward.copy.metadata[meta.BASE] == "2"
    assert (onward.copy.delay_s, onward.copy.metadata[meta.HOP]) == (900.0, "5")
    assert onward.delay_s == 10.0


def test_where_several_subscriptions_read_a_message_waits_in_place_instead_of_hopping() -> None:
    onward = Bridge(replace(CAN, copies="fanout")).onward(_early(), 50.0)
    assert onward is not None
    assert (onward.copy, onward.delay_s, onward.left_s) == (None, 600.0, 1000.0)


def test_one_hop_has_one_id_whatever_happened_to_it_and_the_next_hop_another() -> None:
    bridge = Bridge(CAN)

    def hop_id(message: IncomingMessage) -> str | None:
        onward = bridge.onward(message, 50.0)
        assert onward is not None
        assert onward.copy is not None
        return onward.copy.dedup_id

    assert hop_id(_early()) == hop_id(_early(attempt=7, handle=9))
    later = {**_early().metadata, meta.HOP: "5"}
    assert hop_id(_early()) != hop_id(_early()._replace(metadata=later))
    assert hop_id(_early()) != hop_id(_early(enqueued_at=11.0)), "another message of the same id"


def test_a_service_that_counts_the_lease_against_the_wait_leaves_less_the_longer_it_was_kept() -> None:
    bridge = Bridge(
        replace(CAN, max_retry_delay_s=43_200.0, max_lease_total_s=43_200.0, retry_delay_resolution_s=1.0)
    )
    fresh = bridge.retry(_message(), 43_200.0, 50.0, holdable_s=0.0)
    assert (fresh.delay_s, fresh.copy) == (43_200.0, None)
    late = bridge.retry(_message(), 7200.0, 50.0, holdable_s=0.0, kept_s=40_000.5)
    assert late.copy is not None, "only 3,199 s are left: it waits as a copy"
    ordered = Bridge(replace(bridge._can, ordering="per_key"))
    held = ordered.retry(_message(ordering_key="k"), 7200.0, 50.0, holdable_s=0.0, kept_s=40_000.5)
    assert (held.delay_s, held.copy, held.shortened) == (3199.0, None, True)


def test_a_longer_wait_goes_where_another_queue_keeps_it_and_hops_only_beyond_that() -> None:
    plan = _retry(3000.0, via_delay_s=5000.0)
    assert (plan.copy.delay_s, plan.hold_s, plan.shortened) == (3000.0, 0.0, False)
    assert meta.HOP not in plan.copy.metadata
    beyond = _retry(6000.0, via_delay_s=5000.0)
    assert (beyond.copy.delay_s, beyond.copy.metadata[meta.HOP]) == (900.0, "0")
    own = _retry(700.0, via_delay_s=5000.0)
    assert own.copy.delay_s == 700.0


@pytest.mark.parametrize(
    ("key", "can"),
    [
        ("k", {"ordering": "per_key"}),
        (None, {"ordering": "global"}),
        (None, {"copies": "fanout"}),
        (None, {"foreign": True}),
    ],
    ids=str,
)
def test_where_a_copy_is_out_of_place_another_queue_keeps_no_retry_either(
    key: str | None, can: dict[str, Any]
) -> None:
    held = _retry(700.0, holdable_s=100.0, message=_message(ordering_key=key), via_delay_s=5000.0, **can)
    assert (held.copy, held.hold_s) == (None, 100.0)


def test_a_copy_that_is_too_large_for_the_other_queue_is_made_when_its_time_has_come() -> None:
    can = replace(CAN, attempts="none", max_delay_s=0.0, via_delay_s=5000.0)
    plan = Bridge(can, lambda copy: copy.delay_s == 0).retry(_message(attempt=1), 30.0, 50.0, holdable_s=60.0)
    assert plan.copy is not None
    assert (plan.copy.delay_s, plan.hold_s, plan.shortened) == (0.0, 30.0, False)


_BY_COPY: dict[str, Any] = {"retries_by_copy": True, "max_retry_delay_s": 0.0, "max_delay_s": 900.0}


@pytest.mark.parametrize("delay_s", [0.0, 5.0, 900.0])
def test_where_the_service_keeps_no_wait_each_retry_is_a_copy_that_is_due_then(delay_s: float) -> None:
    plan = _retry(delay_s, **_BY_COPY)
    assert (plan.delay_s, plan.hold_s, plan.shortened) == (0.0, 0.0, False)
    assert (plan.copy.delay_s, plan.copy.metadata[meta.BASE]) == (delay_s, "5")


def test_where_others_read_too_what_would_be_a_copy_is_retried_in_place() -> None:
    assert _retry(0.0, foreign=True, **_BY_COPY).copy is None


def test_what_was_not_tried_goes_on_by_a_copy_that_carries_no_attempt_of_its_own() -> None:
    copy = Bridge(replace(CAN, **_BY_COPY)).release(_message(), 7.0, 50.0)
    assert copy is not None
    # Two attempts were carried, and the service has made two deliveries before this one.
    assert (copy.delay_s, copy.metadata[meta.BASE], copy.message_id) == (7.0, "4", "m")
    assert copy.dedup_id is None, "the next one would be taken for this one"


@pytest.mark.parametrize("change", [{"retries_by_copy": False}, {"foreign": True}, {"copies": "fanout"}], ids=str)
def test_elsewhere_it_is_given_back_in_place(change: dict[str, Any]) -> None:
    assert Bridge(replace(CAN, **_BY_COPY | change)).release(_message(), 0.0, 50.0) is None


def test_the_copies_of_two_messages_with_one_id_are_told_apart_by_the_services_own_id() -> None:
    first, again, other = (
        _retry(0.0, message=_message(entry_id=each), **_BY_COPY).copy.dedup_id for each in ("t-1", "t-1", "t-2")
    )
    assert first == again != other
