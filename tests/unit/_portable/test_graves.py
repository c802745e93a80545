# SPDX-License-Identifier: Apache-2.0
"""Dead letters in a queue that shows them only to those who receive them, and that several queues may share."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk
from queuekit._engine import metadata as meta
from queuekit._portable.dead_messages import RedriveReport
from queuekit._portable.link import open_link
from queuekit._portable.sweeping import Sweep
from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, LeaseLost, OutgoingMessage, QueueURL, Rejected, Settled, Support
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import (
    Answers,
    Call,
    FaultyOpener,
    Proceed,
    not_found,
    raise_after,
    raise_before,
    refused,
    unavailable,
)

from .calls import Call as Running


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def opener(clock: VirtualClock) -> Iterator[FaultyOpener]:
    made = Opener(clock)
    yield FaultyOpener(
        made, redrive=Support.BRIDGED, long_poll=False, dead_letter_queue="memory://shared", max_lease_s=60.0
    )
    made.close()


def bury(opener: FaultyOpener, *bodies: bytes, source: str = "memory://q", **fields: Any) -> None:
    backend = opener.open(QueueURL.parse("memory://shared"))
    metadata = {meta.DEAD_REASON: "broken", meta.DEAD_SOURCE: source, meta.DEAD_ATTEMPTS: "5", "type": "t"}
    backend.send(
        [OutgoingMessage(body.decode(), body, {"a": "1"}, metadata, **fields) for body in bodies], timeout_s=1.0
    )


def stored(opener: FaultyOpener, queue: str) -> list[bytes]:
    backend: Any = opener.open(QueueURL.parse(f"memory://{queue}"))
    return [each.body for each in backend.peek(limit=100)]


def ready(opener: FaultyOpener, queue: str) -> int:
    backend: Any = opener.open(QueueURL.parse(f"memory://{queue}"))
    return int(backend.stats().ready)


def test_letters_are_given_back_when_enough_were_seen(opener: FaultyOpener) -> None:
    bury(opener, b"1", b"2", b"3")
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert dead.queue == "memory://shared"
        letters = dead._letters(None)
        assert next(letters).reason == "broken"
        assert ready(opener, "shared") == 0
        letters.close()
        assert ready(opener, "shared") == 3
        assert [each.body for each in dead.letters(limit=2)] == [b"1", b"2"]
        shown = dead.show("3")
        assert shown is not None
        assert (shown.body, shown.attempts, shown.source) == (b"3", 5, "memory://q")
        assert dead.show("4") is None
        assert list(dead.letters(limit=0)) == []
    assert ready(opener, "shared") == 3


def test_a_letter_goes_back_without_its_death_and_counts_how_often(opener: FaultyOpener) -> None:
    bury(opener, b"1", ordering_key="k", priority=3)
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert dead.redrive().moved == ("1",)
    with qk.Consumer("memory://q", _opener=opener) as consumer:
        back = consumer.receive(timeout=1.0)
        assert back is not None
        assert (back.attempt, back.redriven, back.ordering_key, dict(back.attributes)) == (1, 1, "k", {"a": "1"})
        known = back._held.message.metadata
        assert (known["type"], [name for name in known if name.startswith("dead-")]) == ("t", [])
        assert back._held.message.priority == 3
        back.ack()
    assert stored(opener, "shared") == []


def test_a_shared_queue_gives_each_source_its_own(opener: FaultyOpener) -> None:
    bury(opener, b"1", b"2")
    bury(opener, b"3", source="memory://other")
    bury(opener, b"4", source="not a url")
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert [each.body for each in dead.letters()] == [b"1", b"2", b"4"], "one that says nothing is anybody's"
        assert dead.redrive().moved == ("1", "2", "4")
    with qk.DeadLetters("memory://other", _opener=opener) as dead:
        assert dead.purge().removed == ("3",)
    assert stored(opener, "shared") == []


def test_of_a_key_none_goes_ahead_of_one_that_stays(opener: FaultyOpener) -> None:
    bury(opener, b"1", b"2", ordering_key="a")
    bury(opener, b"3", ordering_key="b")
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        report = dead.redrive(where=lambda each: each.body != b"1")
        assert report.moved == ("3",)
        assert stored(opener, "shared") == [b"1", b"2"]


def test_what_the_queue_refuses_stays_and_is_told(opener: FaultyOpener) -> None:
    bury(opener, b"1", b"2", b"3")

    def refuse_one(call: Call, proceed: Proceed) -> Answers:
        left = [each for each in call.batch if each.body != b"2"]
        answers = iter(proceed(left))
        return [Rejected(refused(), "2") if each.body == b"2" else next(answers) for each in call.batch]

    opener.script.always("send", refuse_one)
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        report = dead.redrive()
    assert report.moved == ("1", "3")
    assert [name for name, _ in report.failed] == ["2"]
    assert stored(opener, "shared") == [b"2"]


def test_a_letter_that_cannot_be_removed_is_told_as_both(opener: FaultyOpener) -> None:
    bury(opener, b"1")
    opener.script.always("settle", raise_before(unavailable()))
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        report = dead.redrive()
    assert report.moved == ("1",)
    assert "once more" in report.failed[0][1]


def test_what_is_only_looked_at_moves_nothing(opener: FaultyOpener) -> None:
    bury(opener, b"1", b"2", b"3")
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert dead.redrive(message_ids=["1", "3"], dry_run=True) == RedriveReport(("1", "3"))
        assert dead.purge(limit=2, dry_run=True).removed == ("1", "2")
        assert stored(opener, "q") == []
        assert dead.purge(message_ids=["1"]).removed == ("1",)
    assert ready(opener, "shared") == 2


def test_leases_are_kept_while_a_rate_holds_the_redrive_up(opener: FaultyOpener, clock: VirtualClock) -> None:
    bury(opener, b"1", b"2", b"3", b"4")
    rate = qk.Rate(1, per=timedelta(minutes=5), burst=1)
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert len(list(dead.letters())) == 4
        running = Running(lambda: dead.redrive(where=lambda each: each.body != b"1", rate=rate), clock)
        assert running.result(step_s=2.0).moved == ("2", "3", "4")
    assert stored(opener, "shared") == [b"1"]
    extensions = [call for call in opener.script.calls("settle") if call.batch[0].action is Action.EXTEND]
    assert len(extensions) > 10, "each half of a lease, for as long as the rate takes"


def test_another_queue_for_dead_letters_is_named(opener: FaultyOpener) -> None:
    bury(opener, b"1")
    inner = Opener(opener.clock)
    plain = FaultyOpener(inner, long_poll=False)
    with qk.DeadLetters("memory://q", dead_letter="memory://shared", _opener=plain) as dead:
        assert dead.redrive().moved == ("1",)
    with (
        qk.DeadLetters("memory://q", dead_letter="memory://q", _opener=plain) as dead,
        pytest.raises(qk.UnsupportedError, match="itself"),
    ):
        list(dead.letters())
    inner.close()


def test_a_service_that_names_no_queue_is_an_error_with_a_remedy() -> None:
    inner = Opener(SystemClock())
    opener = FaultyOpener(inner, redrive=Support.BRIDGED, dead_letter_queue="")
    with (
        qk.DeadLetters("memory://q", _opener=opener) as dead,
        pytest.raises(qk.UnsupportedError, match="dead_letter="),
    ):
        dead.redrive()
    inner.close()


def several_of_a_key(call: Call, proceed: Proceed) -> Answers:
    """As a FIFO queue of SQS hands them out: of one key as many as there are. A body begins with its key."""
    return [each._replace(ordering_key=chr(each.body[0])) for each in proceed(call.batch)]


def test_of_a_key_nothing_overtakes_what_is_refused(opener: FaultyOpener) -> None:
    bury(opener, b"a1", b"a2", b"a3", b"b4", b"b5")

    def refuse_one(call: Call, proceed: Proceed) -> Answers:
        taken = iter(proceed([each for each in call.batch if each.body != b"a2"]))
        return [Rejected(refused(), "a2") if each.body == b"a2" else next(taken) for each in call.batch]

    opener.script.always("receive", several_of_a_key)
    opener.script.always("send", refuse_one)
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        report = dead.redrive()
    assert sorted(report.moved) == ["a1", "b4", "b5"]
    (refused_one, why), (behind, why_behind) = report.failed
    assert (refused_one, behind) == ("a2", "a3")
    assert "behind" not in why
    assert "behind" in why_behind
    assert stored(opener, "shared") == [b"a2", b"a3"]
    for call in opener.script.calls("send")[1:]:
        keys = [each.ordering_key for each in call.batch]
        assert len(set(keys)) == len(keys), "each entry of a call may fail by itself"


def test_what_is_behind_one_that_is_not_meant_stays_and_is_told(opener: FaultyOpener) -> None:
    bury(opener, b"a1", b"a2", b"b3")
    opener.script.always("receive", several_of_a_key)
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        report = dead.redrive(where=lambda each: each.body != b"a1")
    assert (report.moved, [name for name, _ in report.failed]) == (("b3",), ["a2"])
    assert stored(opener, "shared") == [b"a1", b"a2"]


def test_a_queue_that_takes_nothing_ends_it_and_nothing_is_removed(opener: FaultyOpener) -> None:
    bury(opener, b"1", b"2")
    opener.script.always("send", raise_before(not_found()))
    with qk.DeadLetters("memory://q", _opener=opener) as dead, pytest.raises(qk.QueueNotFoundError):
        dead.redrive()
    assert ready(opener, "shared") == 2, "and they are given back"


def test_no_more_go_back_than_was_said(opener: FaultyOpener) -> None:
    bury(opener, *(b"%d" % number for number in range(5)))
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert dead.redrive(limit=2).moved == ("0", "1")
        assert dead.purge(limit=2).removed == ("2", "3")
    assert stored(opener, "shared") == [b"4"]


def test_a_second_run_after_a_lost_answer_sends_the_same_step(opener: FaultyOpener) -> None:
    bury(opener, b"1")

    def counted(call: Call, proceed: Proceed) -> Answers:
        return [each._replace(attempt=len(opener.script.calls("receive"))) for each in proceed(call.batch)]

    opener.script.always("receive", counted)
    opener.script.on("send", raise_after(unavailable()))
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        with pytest.raises(qk.UnavailableError):
            dead.redrive()
        assert len(list(dead.letters())) == 1
        assert dead.redrive().moved == ("1",)
    first, second = (call.batch[0].dedup_id for call in opener.script.calls("send")[-2:])
    assert first == second is not None
    assert (stored(opener, "q"), stored(opener, "shared")) == ([b"1"], [])


def test_each_letter_is_seen_once_though_it_comes_again(opener: FaultyOpener) -> None:
    bury(opener, b"1")
    seen: list[Any] = []

    def again(call: Call, proceed: Proceed) -> Answers:
        found = list(proceed(call.batch))
        seen.extend(found)
        if len(opener.script.calls("receive")) == 2:
            bury(opener, b"2")
            return seen[:1]  # its lease was lost meanwhile
        return found

    opener.script.always("receive", again)
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert [each.body for each in dead.letters()] == [b"1", b"2"]


def test_a_removal_without_an_answer_is_tried_again(opener: FaultyOpener) -> None:
    bury(opener, b"1")
    opener.script.on("settle", raise_before(unavailable(sent="no")), raise_after(unavailable()))
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        report = dead.redrive()
    assert report.moved == ("1",)
    assert stored(opener, "shared") == []


def test_what_cannot_be_removed_or_given_back_is_told(opener: FaultyOpener, caplog: pytest.LogCaptureFixture) -> None:
    bury(opener, b"1", b"2")
    opener.script.always("settle", raise_before(refused()))
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        report = dead.purge(message_ids=["1"])
    assert (report.removed, report.skipped) == ((), ("1",))
    assert [each.getMessage() for each in caplog.records if getattr(each, "action", "") == "settle.failed"]
    assert len(stored(opener, "shared")) == 2


def test_what_is_lost_or_removed_is_neither_kept_nor_given_back(opener: FaultyOpener, clock: VirtualClock) -> None:
    bury(opener, b"1", b"2", b"3")
    link = open_link("memory://shared", None, {}, opener=opener)
    with Sweep(link) as sweep:
        first, second, third = sweep.take(10)
        assert [type(each) for each in sweep.remove([first])] == [Settled]
        assert sweep.patience_s == 30.0
        clock.advance(30.0)
        opener.script.on(
            "settle",
            lambda call, _: [LeaseLost() if each.handle == second.handle else Settled() for each in call.batch],
        )
        sweep.keep()
        assert sweep.patience_s == 30.0
    extended, given_back = (call.batch for call in opener.script.calls("settle")[1:])
    assert [each.handle for each in extended] == [second.handle, third.handle]
    assert [(each.action.name, each.handle) for each in given_back] == [("RELEASE", third.handle)]
    link.close()


def test_what_its_queue_for_dead_letters_had_no_room_for_is_put_back(opener: FaultyOpener) -> None:
    noted = {meta.DEAD_KEY: "k", meta.DEAD_PRIORITY: "12", meta.BASE: "4", meta.HOP: "1", meta.REDRIVEN: "1"}
    backend = opener.open(QueueURL.parse("memory://shared"))
    backend.send([OutgoingMessage("1", b"1", {}, noted)], timeout_s=1.0)
    with qk.DeadLetters("memory://q", _opener=opener) as dead:
        assert dead.redrive().moved == ("1",)
    (back,) = (call.batch[0] for call in opener.script.calls("send")[1:])
    assert (back.ordering_key, back.priority, back.metadata) == ("k", 9, {meta.REDRIVEN: "2"})


def test_a_letter_of_another_queue_in_the_same_store_is_not_ours(opener: FaultyOpener, tmp_path: Path) -> None:
    ours, theirs = (f"sqlite:///{tmp_path}/s.db?queue={name}" for name in ("q", "other"))
    bury(opener, b"1", source=ours)
    bury(opener, b"2", source=theirs)
    with qk.DeadLetters(ours, dead_letter="memory://shared", _opener=opener) as dead:
        assert [each.body for each in dead.letters()] == [b"1"]
        assert dead.redrive().moved == ("1",)
    assert stored(opener, "shared") == [b"2"]
