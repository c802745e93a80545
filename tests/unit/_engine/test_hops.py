# SPDX-License-Identifier: Apache-2.0
"""Long delays by hops: never early, ending after as many hops as it takes, whatever the clocks say."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine import metadata as meta
from queuekit._engine.bridging import Bridge
from queuekit._engine.hops import Left, delayed, hops_of, left_of
from queuekit._values.capability import Capabilities
from queuekit.backend import IncomingMessage, OutgoingMessage

CAN = Capabilities(
    queues="declared",
    durability="replicated",
    max_message_bytes=1000,
    max_delay_s=900.0,
    delay_resolution_s=1.0,
    max_retry_delay_s=43_200.0,
    retry_delay_resolution_s=1.0,
)


def _received(sent: OutgoingMessage, **fields: Any) -> IncomingMessage:
    return IncomingMessage(1, sent.message_id, sent.body, sent.attributes, sent.metadata, 1, None, 1e9)._replace(
        **fields
    )


def _sent(delay_s: float, now: float = 0.0, can: Capabilities = CAN) -> OutgoingMessage:
    return delayed(OutgoingMessage("m", b"x", {"a": "b"}, {meta.TYPE: "t"}), delay_s, can, now)


def test_a_delay_that_the_service_can_keep_needs_nothing() -> None:
    sent = _sent(899.5)
    assert (sent.delay_s, sent.metadata) == (900.0, {meta.TYPE: "t"})
    assert left_of(_received(sent), 0.0) is None


def test_the_first_hop_is_the_longest_and_says_what_is_left() -> None:
    sent = _sent(1000.0, now=500.0)
    assert sent.delay_s == 900.0
    assert sent.metadata == {
        meta.TYPE: "t",
        meta.HOP: "0",
        meta.HOP_WAIT: "900.000",
        meta.HOP_LEFT: "100.000",
        meta.DUE: "1970-01-01T00:25:00.000000Z",
    }


def test_what_the_service_was_late_by_comes_off_what_is_left() -> None:
    message = _received(_sent(2000.0), enqueued_at=100.0, received_at=1030.0)
    assert left_of(message, 0.0) == Left(1070.0)
    on_time = _received(_sent(2000.0), enqueued_at=100.0, received_at=999.0)
    assert left_of(on_time, 0.0) == Left(1100.0), "a clock that runs slow hastens nothing"


def test_without_stamps_the_due_instant_says_how_late_it_is() -> None:
    message = _received(_sent(2000.0))
    assert left_of(message, 1990.0) == Left(pytest.approx(10.0))
    assert left_of(message, 2000.0) is None
    assert left_of(message, -5000.0) == Left(1100.0), "a clock that is behind makes nothing longer than it was"


def test_the_consumers_clock_is_asked_last_and_once() -> None:
    can = replace(CAN, max_delay_s=2000.0)
    behind = _received(_sent(1000.0), enqueued_at=0.0, received_at=1000.0)
    arrived = behind._replace(metadata={meta.HOP: "1", meta.HOP_LEFT: "0", meta.DUE: meta.write_instant(1000.0)})
    assert left_of(arrived, 995.0) == Left(pytest.approx(5.0), last_check=True)
    onward = Bridge(can).onward(arrived, 995.0)
    assert onward is not None
    assert onward.copy is not None
    assert onward.copy.delay_s == 5.0
    assert left_of(_received(onward.copy), 0.0) is None, "it is not asked again"


@pytest.mark.parametrize(
    "metadata",
    [
        {meta.HOP: "x"},
        {meta.HOP: "1", meta.HOP_LEFT: "nan", meta.DUE: "soon"},
        {meta.HOP: "1", meta.HOP_LEFT: "-5"},
        {meta.HOP: "1", meta.HOP_LEFT: "1e9"},
        {meta.DUE: "9999-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_what_is_malformed_counts_as_absent(metadata: dict[str, str]) -> None:
    message = _received(OutgoingMessage("m", b"x", {}, metadata))
    assert left_of(message, 0.0) is None


@given(
    times=st.floats(0.0, 9.0),
    native=st.integers(1, 2000),
    lags=st.lists(st.floats(0.0, 500.0), min_size=1),
    skew_s=st.floats(-3000.0, 3000.0),
    stamped=st.booleans(),
)
def test_any_delay_ends_and_never_early(
    times: float, native: int, lags: list[float], skew_s: float, stamped: bool
) -> None:
    can, delay_s = replace(CAN, max_delay_s=float(native)), times * native
    bridge, now, hops = Bridge(can), 0.0, 0
    copy = _sent(delay_s, 0.0, can)
    while True:
        assert copy.delay_s <= native
        sent_at, now = now, now + copy.delay_s + lags[hops % len(lags)]
        stamps = {"enqueued_at": sent_at, "received_at": now} if stamped else {}
        onward = bridge.onward(_received(copy, **stamps), now + (skew_s if stamped else 0.0))
        if onward is None:
            break
        assert onward.copy is not None
        copy, hops = onward.copy, hops + 1
        assert meta.read_count(copy.metadata[meta.HOP]) == hops
    assert now >= delay_s - 1e-3
    assert hops <= hops_of(delay_s, can) + 1


def test_hops_are_counted() -> None:
    assert [hops_of(seconds, CAN) for seconds in (0, 900, 901, 1800, 604_800)] == [0, 0, 1, 1, 671]
