# SPDX-License-Identifier: Apache-2.0
"""Every option that cannot be carried is refused by name, before anything reaches a backend."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import queuekit as qk
from queuekit import InvalidMessageError, MessageTooLargeError, Rejected, UnsupportedError, UsageError
from queuekit._engine import metadata as meta
from queuekit._values.capability import Support
from queuekit._wiring.opening import Opener
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener, raise_before, unavailable

Make = Callable[..., tuple[qk.Producer[str], FaultyOpener]]


@pytest.fixture
def make() -> Make:
    def open_one(url: str = "memory://q", **limits: Any) -> tuple[qk.Producer[str], FaultyOpener]:
        opener = FaultyOpener(Opener(VirtualClock()), None, **limits)
        return qk.Producer(url, payload=str, _opener=opener), opener

    return open_one


NAIVE = datetime(2020, 1, 1)  # noqa: DTZ001
INVALID: list[tuple[type[Exception], dict[str, Any]]] = [
    (UsageError, {"delay": timedelta(1), "not_before": datetime.now(UTC)}),
    (UsageError, {"delay": 5}),
    (UsageError, {"delay": "5s"}),
    (InvalidMessageError, {"delay": timedelta(seconds=-1)}),
    (UnsupportedError, {"delay": timedelta.max}),
    (UnsupportedError, {"not_before": datetime.max.replace(tzinfo=UTC)}),
    (InvalidMessageError, {"not_before": NAIVE}),
    (InvalidMessageError, {"not_before": "2020-01-01"}),
    (InvalidMessageError, {"ordering_key": ""}),
    (InvalidMessageError, {"ordering_key": "x" * 256}),
    (InvalidMessageError, {"ordering_key": "a\nb"}),
    (InvalidMessageError, {"ordering_key": "\ud800"}),
    (InvalidMessageError, {"ordering_key": 5}),
    (InvalidMessageError, {"dedup_id": ""}),
    (InvalidMessageError, {"dedup_id": b"x"}),
    (InvalidMessageError, {"type": "\x00"}),
    (InvalidMessageError, {"message_id": ""}),
    (InvalidMessageError, {"message_id": "with space"}),
    (InvalidMessageError, {"message_id": "ü"}),
    (InvalidMessageError, {"message_id": "x" * 129}),
    (InvalidMessageError, {"message_id": "x\n"}),
    (InvalidMessageError, {"priority": -1}),
    (InvalidMessageError, {"priority": 10}),
    (InvalidMessageError, {"priority": 1.0}),
    (InvalidMessageError, {"priority": True}),
    (UsageError, {"expires_in": 5}),
    (InvalidMessageError, {"expires_in": timedelta(0)}),
    (InvalidMessageError, {"expires_in": timedelta(seconds=-5)}),
    (InvalidMessageError, {"expires_in": timedelta.max}),
    (InvalidMessageError, {"expires_in": timedelta(seconds=5), "delay": timedelta(seconds=5)}),
    (InvalidMessageError, {"attributes": [("a", "b")]}),
    (InvalidMessageError, {"attributes": {"": "x"}}),
    (InvalidMessageError, {"attributes": {"a b": "x"}}),
    (InvalidMessageError, {"attributes": {"a\n": "x"}}),
    (InvalidMessageError, {"attributes": {"x" * 256: "x"}}),
    (InvalidMessageError, {"attributes": {5: "x"}}),
    (InvalidMessageError, {"attributes": {"a": 5}}),
    (InvalidMessageError, {"attributes": {"a": None}}),
    (InvalidMessageError, {"attributes": {"a": "x\ny"}}),
    (InvalidMessageError, {"attributes": {"a": "\udc80"}}),
    (InvalidMessageError, {"attributes": {"A": "x", "a": "y"}}),
    (InvalidMessageError, {"attributes": {"qk": "x"}}),
    (InvalidMessageError, {"attributes": {"qk-a": "x"}}),
    (InvalidMessageError, {"attributes": {"QK.a": "x"}}),
]


@pytest.mark.parametrize(("error", "options"), INVALID, ids=[str(each[1])[:40] for each in INVALID])
def test_an_invalid_option_is_refused_by_name_and_nothing_is_sent(
    make: Make, error: type[Exception], options: dict[str, Any]
) -> None:
    producer, opener = make()
    with producer:
        with pytest.raises(error) as caught:
            producer.send("x", **options)
        assert type(caught.value) is error
        report = producer.send_many([qk.Message("x", **options), "fine"])
    assert isinstance(report.outcomes[0], Rejected)
    assert isinstance(report.outcomes[1], qk.Accepted)
    assert [len(call.batch) for call in opener.script.calls("send")] == [1]


@pytest.mark.parametrize("options", [{"dellay": timedelta(1)}, {"payload": "y"}, {"queue": "other"}], ids=str)
def test_an_unknown_option_is_refused_by_name(make: Make, options: dict[str, Any]) -> None:
    producer, opener = make()
    with producer, pytest.raises((UsageError, TypeError)):
        producer.send("x", **options)
    assert not opener.script.calls("send")


def test_options_beside_a_message_are_refused(make: Make) -> None:
    producer, _ = make()
    with producer, pytest.raises(UsageError, match="into the Message"):
        producer.send(qk.Message("x"), priority=3)


UNSUPPORTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_delay_s": 900.0, "copies": "fanout"}, {"delay": timedelta(seconds=901)}),
    ({"max_delay_s": 900.0}, {"delay": timedelta(seconds=901), "ordering_key": "k"}),
    ({"max_delay_s": 900.0, "ordering": "global"}, {"delay": timedelta(seconds=901)}),
    ({"max_delay_s": 0.0}, {"delay": timedelta(seconds=1)}),
    ({}, {"delay": timedelta(days=36_501)}),
    ({"ordering": "none"}, {"ordering_key": "k"}),
    ({"delay_with_ordering": False}, {"ordering_key": "k", "delay": timedelta(seconds=1)}),
    ({"dedup_window_s": 0.0}, {"dedup_id": "d"}),
    ({"priority_levels": 0}, {"priority": 1}),
]


@pytest.mark.parametrize(("limits", "options"), UNSUPPORTED, ids=str)
def test_what_the_queue_has_not_is_refused_with_a_remedy(
    make: Make, limits: dict[str, Any], options: dict[str, Any]
) -> None:
    producer, opener = make(**limits)
    with producer, pytest.raises(UnsupportedError, match=";"):
        producer.send("x", **options)
    assert not opener.script.calls("send")


def test_a_required_ordering_key_is_asked_for(make: Make) -> None:
    producer, opener = make(ordering_key_required=True)
    with producer:
        with pytest.raises(InvalidMessageError, match="ordering_key"):
            producer.send("x")
        assert not producer.send_many(["x"]).ok
        assert not opener.script.calls("send")


@pytest.mark.parametrize("make_payload", [lambda text: text, qk.Message], ids=["plain", "message"])
def test_the_largest_message_is_exact(make: Make, make_payload: Callable[[str], Any]) -> None:
    producer, opener = make(max_message_bytes=200)
    with producer:
        room = next(n for n in range(200, 0, -1) if producer.send_many([make_payload("x" * n)]).ok)
        (call,) = opener.script.calls("send")
        assert producer._link.backend.size(call.batch[0]) == 200
        with pytest.raises(MessageTooLargeError) as caught:
            producer.send(make_payload("x" * (room + 1)))
        assert (caught.value.size, caught.value.limit) == (201, 200)


def test_bad_entries_do_not_stop_the_good_ones(make: Make) -> None:
    producer, opener = make()
    given: list[Any] = ["a", 5, qk.Message("b", priority=99), "c", None, qk.Message(7, message_id="mine"), "\ud800"]
    with producer:
        report = producer.send_many(given)
    assert [type(each) for each in report] == [
        qk.Accepted, Rejected, Rejected, qk.Accepted, Rejected, Rejected, Rejected,
    ]  # fmt: skip
    assert report.outcomes[5].message_id == "mine"
    assert [message.body for message in opener.script.calls("send")[0].batch] == [b"a", b"c"]
    with pytest.raises(qk.PartialFailureError, match="5 of 7") as caught:
        report.raise_for_failures()
    assert len(caught.value.failures) == 5
    assert report.retryable_messages() == []


@dataclass
class Anything:
    x: Any


def test_an_entry_that_breaks_its_serializer_does_not_stop_the_good_ones() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with qk.Producer("memory://q", payload=Anything, clock=VirtualClock()) as producer:
        report = producer.send_many([Anything(1), Anything(circle), Anything(object()), Anything(2)])
    assert [type(each) for each in report] == [qk.Accepted, Rejected, Rejected, qk.Accepted]


def test_an_attribute_changed_later_does_not_reach_the_wire(make: Make) -> None:
    producer, opener = make()
    attributes = {"a": "before"}
    with producer:
        producer.send("x", attributes=attributes)
    attributes["a"] = "after"
    assert opener.script.calls("send")[0].batch[0].attributes == {"a": "before"}


def test_not_before_in_the_past_is_now(make: Make) -> None:
    producer, opener = make()
    with producer:
        producer.send("x", not_before=datetime(1970, 1, 2, tzinfo=timezone(timedelta(hours=14))))
    assert opener.script.calls("send")[0].batch[0].delay_s == 0.0


@settings(deadline=None)  # a busy host
@given(delay=st.timedeltas(timedelta(0), timedelta(days=365)))
def test_a_delay_is_rounded_up_to_the_queues_step_and_no_further(delay: timedelta) -> None:
    opener = FaultyOpener(Opener(VirtualClock()))
    with qk.Producer("memory://q", payload=str, _opener=opener) as producer:
        producer.send("x", delay=delay)
    sent_s = opener.script.calls("send")[0].batch[0].delay_s
    assert delay.total_seconds() - 1e-6 <= sent_s < delay.total_seconds() + 0.001


def test_a_delay_between_two_steps_waits_for_the_later_one(make: Make) -> None:
    producer, opener = make(delay_resolution_s=1.0)
    with producer:
        producer.send("x", delay=timedelta(seconds=2.2))
        producer.send("x", delay=timedelta(seconds=3))
    assert [call.batch[0].delay_s for call in opener.script.calls("send")] == [3.0, 3.0]


def test_metadata_says_what_the_message_is(make: Make) -> None:
    producer, opener = make()
    with producer:
        producer.send("x", type="t", expires_in=timedelta(seconds=60))
    known = meta.read(opener.script.calls("send")[0].batch[0].metadata)
    assert (known.type, known.content_type) == ("t", "text/plain")
    assert known.expires_at == pytest.approx(1_700_000_060)


def test_ids_are_different_for_every_message(make: Make) -> None:
    producer, _ = make()
    with producer:
        ids = [each.message_id for each in producer.send_many(["x"] * 100)]
    assert len(set(ids)) == 100


def _sent(producer: qk.Producer[str], opener: FaultyOpener) -> Any:
    (call,) = opener.script.calls("send")
    return call.batch[0]


def test_where_every_message_needs_a_dedup_id_the_engine_makes_one_for_each(make: Make) -> None:
    producer, opener = make(dedup_id_required=True)
    producer.send_many([qk.Message("same", ordering_key="k"), qk.Message("same", ordering_key="k")])
    first, second = (each.dedup_id for call in opener.script.calls("send") for each in call.batch)
    assert first != second
    assert first is not None
    assert second is not None


def test_the_users_own_dedup_id_stands(make: Make) -> None:
    producer, opener = make(dedup_id_required=True)
    producer.send("x", dedup_id="mine")
    assert _sent(producer, opener).dedup_id == "mine"


def test_a_key_that_orders_nothing_is_taken_where_it_names_a_tenant(make: Make) -> None:
    producer, opener = make(ordering="none", fair_keys=True, delay_with_ordering=True)
    producer.send("x", ordering_key="ada", delay=timedelta(seconds=1))
    assert _sent(producer, opener).ordering_key == "ada"


def test_an_expiry_that_nobody_would_keep_is_refused(make: Make) -> None:
    producer, opener = make(expiry=Support.NONE)
    with pytest.raises(UnsupportedError, match="expiry"):
        producer.send("x", expires_in=timedelta(minutes=1))
    assert opener.script.calls("send") == []


def test_a_delay_is_refused_by_name_where_every_message_has_a_key_and_waits_for_none(make: Make) -> None:
    producer, opener = make(ordering_key_required=True, delay_with_ordering=False)
    with pytest.raises(UnsupportedError, match="ordering key; leave the delay out"):
        producer.send("x", ordering_key="k", delay=timedelta(seconds=1))
    assert opener.script.calls("send") == []


def test_a_queue_s_own_limits_are_asked_for_once_before_the_first_send(make: Make) -> None:
    producer, opener = make(queues="declared", max_message_bytes=500)
    for _ in range(3):
        producer.send("x")
    producer.send_many([])
    assert [call.verb for call in opener.script.calls()] == ["probe", "send", "send", "send"]
    with pytest.raises(MessageTooLargeError):
        producer.send("x" * 600)


def test_limits_that_cannot_be_asked_for_hold_up_no_send_and_are_asked_for_again_later(make: Make) -> None:
    producer, opener = make(queues="declared")
    opener.script.on("probe", raise_before(unavailable()))
    for _ in range(3):
        producer.send("x")
    assert len(opener.script.calls("probe")) == 1
    clock = opener.clock
    assert isinstance(clock, VirtualClock)
    clock.advance(61.0)
    producer.send("x")
    producer.send("x")
    assert len(opener.script.calls("probe")) == 2
