# SPDX-License-Identifier: Apache-2.0
"""Capabilities: what is missing is named with what is there."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from queuekit._values.capability import FEATURES, Capabilities, Support

NOTHING = Capabilities(
    queues="declared",
    durability="process",
    max_message_bytes=0,
    ack_confirmed=False,
    dead_letters=Support.NONE,
    redrive=Support.NONE,
    expiry=Support.NONE,
    receives=False,
)
SOME = Capabilities(
    queues="implicit",
    durability="disk",
    max_message_bytes=1000,
    max_delay_s=900,
    max_lease_s=60,
    priority_levels=3,
    extend="absolute",
    peek=True,
)


def test_what_is_there_is_not_missing() -> None:
    assert SOME.missing(["delay", "lease", "extend", "durable", "peek", "dead_letters"]) == []
    assert SOME.missing([]) == []


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_every_feature_can_be_missing(feature: str) -> None:
    assert NOTHING.missing([feature]) == [feature]


@pytest.mark.parametrize(
    ("need", "missing"),
    [
        ({"delay": timedelta(minutes=15)}, []),
        ({"delay": timedelta(days=8)}, []),
        ({"delay": timedelta(days=40_000)}, ["delay of 3.456e+09 (here 3.1536e+09)"]),
        ({"delay": 900}, []),
        ({"priority": 10}, ["priority of 10 (here 3)"]),
        ({"message_bytes": 1000, "lease": timedelta(seconds=61)}, ["lease of 61 (here 60)"]),
        ({"ordering": True, "peek": True}, ["ordering"]),
    ],
)
def test_an_amount_is_compared(need: dict[str, Any], missing: list[str]) -> None:
    assert SOME.missing(need) == missing


def test_a_connection_lease_is_no_timed_lease() -> None:
    connection = Capabilities(
        queues="declared", durability="disk", max_message_bytes=1, lease="connection", max_lease_s=60
    )
    assert connection.missing(["lease"]) == ["lease"]


def test_an_unknown_feature_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match="no feature is called 'dealy'; known are ack_confirmed, admin, attempts, "):
        SOME.missing(["dealy"])


@pytest.mark.parametrize(
    "absent",
    [
        {"foreign": True},
        {"copies": "fanout"},
        {"ordering": "global"},
        {"ordering_key_required": True},
        {"receives": False},
    ],
    ids=str,
)
def test_where_copies_are_out_of_place_a_longer_delay_is_missing(absent: dict[str, Any]) -> None:
    assert SOME.long_delay is Support.BRIDGED
    assert SOME.missing({"delay": timedelta(minutes=16)}) == []
    without = replace(SOME, **absent)
    assert without.long_delay is Support.NONE
    assert without.missing({"delay": timedelta(minutes=16)}) == ["delay of 960 (here 900)"]


def test_attempts_are_counted_by_copies_only_where_copies_keep_nothing_in_order() -> None:
    assert replace(SOME, attempts="exact").counted_attempts is Support.NATIVE
    assert SOME.counted_attempts is Support.BRIDGED
    for absent in ({"foreign": True}, {"copies": "fanout"}, {"ordering": "per_key"}):
        assert replace(SOME, **absent).counted_attempts is Support.NONE


def test_another_queue_for_delays_is_enough_where_copies_are_out_of_place_but_for_what_is_ordered() -> None:
    via = replace(SOME, via_delay_s=5000.0)
    assert via.longest_delay_s > 5000.0, "by hops, beyond what that queue keeps"
    for absent in ({"foreign": True}, {"copies": "fanout"}, {"receives": False}):
        without = replace(via, **absent)
        assert (without.long_delay, without.longest_delay_s) == (Support.BRIDGED, 5000.0)
        assert without.longest_retry_s == without.max_retry_delay_s
    for ordered in ({"ordering": "global"}, {"ordering_key_required": True}):
        assert replace(via, **ordered).longest_delay_s == 900.0
    assert replace(via, attempts="exact").longest_retry_s == 5000.0
    assert replace(SOME, max_delay_s=0.0, via_delay_s=5000.0).missing({"delay": timedelta(seconds=5000)}) == []
