# SPDX-License-Identifier: Apache-2.0
"""Producers over a backend whose faults are scripted."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest

import queuekit as qk
from queuekit import Accepted, NotAttempted, Producer, Unknown
from queuekit._wiring.opening import Opener
from queuekit.backend import ErrorClass, ErrorCode, Rejected
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import (
    Answers,
    FaultyOpener,
    Proceed,
    Script,
    edit_answer,
    fail_entries,
    hold,
    raise_after,
    raise_before,
    throttle,
    unavailable,
)
from queuekit.testing.faults import Call as ScriptedCall

from .calls import Call

LIMIT_S = 20.0
BUSY = ErrorClass(ErrorCode.THROTTLED, retryable=True, sent="no")
NO = ErrorClass(ErrorCode.REFUSED, sent="no")
Open = Callable[..., Producer[str]]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def produce(clock: VirtualClock, script: Script) -> Iterator[Open]:
    opened: list[Producer[str]] = []

    def open_one(*, limits: dict[str, Any] | None = None, **options: Any) -> Producer[str]:
        opener = FaultyOpener(Opener(clock), script, **limits or {})
        opened.append(Producer("memory://q", payload=str, _opener=opener, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        Call(each.close, clock).result()


def bodies(script: Script) -> list[list[str]]:
    return [[message.body.decode() for message in call.batch] for call in script.calls("send")]


def test_only_the_failed_entries_are_sent_again(produce: Open, clock: VirtualClock, script: Script) -> None:
    script.on("send", fail_entries([1, 3], lambda m: NotAttempted(BUSY, m.message_id)))
    script.on("send", fail_entries([0], lambda m: Unknown(unavailable(), m.message_id)))
    report = Call(lambda: produce().send_many(["a", "b", "c", "d"]), clock).result()
    assert report.ok
    assert bodies(script) == [["a", "b", "c", "d"], ["b", "d"], ["b"]]
    sent = script.calls("send")
    assert sent[1].batch == (sent[0].batch[1], sent[0].batch[3])


def test_what_was_refused_is_final(produce: Open, clock: VirtualClock, script: Script) -> None:
    script.on("send", fail_entries([1], lambda m: Rejected(NO, m.message_id)))
    report = produce().send_many(["a", "b", "c"])
    assert [type(each) for each in report] == [Accepted, Rejected, Accepted]
    assert len(script.calls("send")) == 1
    with pytest.raises(qk.PartialFailureError, match="1 of 3") as caught:
        report.raise_for_failures()
    assert isinstance(caught.value.__cause__, qk.RefusedError)
    assert report.retryable_messages() == []


def test_a_lost_answer_stays_unknown_although_later_tries_did_not_arrive(
    produce: Open, clock: VirtualClock, script: Script
) -> None:
    script.on("send", raise_after(unavailable()))
    script.always("send", raise_before(unavailable(sent="no")))
    report = Call(lambda: produce().send_many(["a"]), clock).result()
    assert [type(each) for each in report] == [Unknown]
    assert report.unknown == report.outcomes
    assert report.retryable_messages() == ["a"]


@pytest.mark.parametrize("first_s", [0.0, 7.0])
def test_the_budget_bounds_tries_and_waits_together(
    produce: Open, clock: VirtualClock, script: Script, first_s: float
) -> None:
    def slow(call: Any, proceed: Any) -> Any:
        clock.advance(first_s)
        return raise_before(unavailable(sent="no"))(call, proceed)

    script.on("send", slow)
    script.always("send", raise_before(unavailable(sent="no")))
    began = clock.monotonic()
    producer = produce(timeout=timedelta(seconds=8))
    with pytest.raises(qk.UnavailableError):
        Call(lambda: producer.send("a"), clock).result(step_s=0.05)
    assert clock.monotonic() <= began + 8.5
    if not first_s:
        assert len(script.calls("send")) >= 3


def test_the_service_is_left_alone_for_as_long_as_it_asked(
    produce: Open, clock: VirtualClock, script: Script
) -> None:
    script.on("send", throttle(12.0))
    began = clock.monotonic()
    assert isinstance(Call(lambda: produce().send("a"), clock).result(), Accepted)
    assert clock.monotonic() >= began + 12


def test_those_who_were_throttled_together_come_back_one_by_one(
    produce: Open, clock: VirtualClock, script: Script
) -> None:
    back_at: list[float] = []

    def note(call: ScriptedCall, proceed: Proceed) -> Answers:
        back_at.append(clock.monotonic())
        return proceed(call.batch)

    script.on("send", *[throttle(12.0)] * 6).always("send", note)
    producer, began = produce(), clock.monotonic()
    sends = [threading.Thread(target=producer.send, args=("a",)) for _ in range(6)]
    for each in sends:
        each.start()
    clock.wait_for_waiters(6)
    clock.advance(11.999)
    while len(back_at) < 6:
        clock.advance(0.0005)
        threading.Event().wait(0.001)
    for each in sends:
        each.join(10)
    assert min(back_at) >= began + 12
    assert len(set(back_at)) > 1


def test_a_demand_beyond_the_budget_is_an_error_at_once(produce: Open, clock: VirtualClock, script: Script) -> None:
    script.on("send", throttle(3600.0))
    with pytest.raises(qk.ThrottledError) as caught:
        produce().send("a")
    assert caught.value.retry_after_s == 3600.0
    assert len(script.calls("send")) == 1


@pytest.mark.parametrize(
    "edit",
    [lambda _: [], lambda answers: answers * 2, lambda _: None, lambda _: 5],
    ids=["fewer", "more", "none", "int"],
)
def test_a_backend_that_miscounts_is_named(produce: Open, script: Script, edit: Any) -> None:
    script.on("send", lambda call, proceed: edit(list(proceed(call.batch))))
    with pytest.raises(qk.BackendBugError):
        produce().send("a")


def test_a_failed_key_pauses_the_rest_of_its_messages_and_no_other(
    produce: Open, clock: VirtualClock, script: Script
) -> None:
    producer = produce(limits={"atomic_send": False, "max_send_batch": 10})
    refuse = fail_entries([0], lambda m: Rejected(NO, m.message_id))
    script.on("send", refuse)
    given = [qk.Message(f"{key}{n}", ordering_key=key) for n in range(3) for key in "ab"]
    report = producer.send_many(given)
    assert [type(each) for each in report] == [Rejected, Accepted, NotAttempted, Accepted, NotAttempted, Accepted]
    assert bodies(script) == [["a0", "b0"], ["b1"], ["b2"]]
    assert report.retryable_messages() == [given[2], given[4]]


def test_at_most_one_message_of_a_key_is_in_a_call_that_could_accept_a_part(
    produce: Open, clock: VirtualClock, script: Script
) -> None:
    producer = produce(limits={"atomic_send": False})
    report = producer.send_many([qk.Message(f"{n}", ordering_key="k") for n in range(3)])
    assert report.ok
    assert bodies(script) == [["0"], ["1"], ["2"]]


def keyed(*names: str) -> list[qk.Message[str]]:
    return [qk.Message(name, ordering_key=name[0]) for name in names]


def test_a_key_that_failed_waits_in_every_later_call_until_it_is_resumed(produce: Open, script: Script) -> None:
    producer = produce()
    script.on("send", fail_entries([0], lambda m: Rejected(NO, m.message_id)))
    producer.send_many(keyed("a0"))
    assert producer.paused_keys == {"a"}
    report = producer.send_many([*keyed("a1", "b1"), "plain"])
    assert [type(each) for each in report] == [NotAttempted, Accepted, Accepted]
    assert report.retryable_messages() == keyed("a1")
    with pytest.raises(qk.RefusedError, match="resume_key") as caught:
        producer.send("a2", ordering_key="a")
    assert caught.value.retryable
    with pytest.raises(qk.RefusedError, match="resume_key"):
        asyncio.run(producer.asend("a3", ordering_key="a"))
    assert isinstance(producer.send_soon("a4", ordering_key="a").result(LIMIT_S), NotAttempted)
    assert producer.resume_key("a")
    assert not producer.resume_key("a")
    assert producer.send_many(keyed("a1")).ok
    assert isinstance(producer.send_soon("a2", ordering_key="a").result(LIMIT_S), Accepted)
    assert bodies(script) == [["a0"], ["b1", "plain"], ["a1"], ["a2"]]


def test_a_failed_send_whose_caller_waits_pauses_nothing(produce: Open, script: Script) -> None:
    producer = produce()
    script.on("send", fail_entries([0], lambda m: Rejected(NO, m.message_id)))
    with pytest.raises(qk.RefusedError):
        producer.send("a0", ordering_key="a")
    assert producer.paused_keys == frozenset()
    producer.send("a1", ordering_key="a")


def test_what_waits_behind_a_failed_message_is_taken_back_before_anybody_can_resume(
    produce: Open, script: Script
) -> None:
    released, reached = threading.Event(), threading.Event()

    def fail_late(call: Any, proceed: Any) -> Any:
        reached.set()
        released.wait(LIMIT_S)
        return fail_entries([0], lambda m: Rejected(NO, m.message_id))(call, proceed)

    script.on("send", fail_late)
    producer = produce()
    first = producer.send_soon("a0", ordering_key="a")
    first.add_done_callback(lambda _: producer.resume_key("a"))
    assert reached.wait(LIMIT_S)
    behind = [producer.send_soon(name, ordering_key=name[0]) for name in ("a1", "b1", "a2")]
    released.set()
    outcomes = [type(each.result(LIMIT_S)) for each in (first, *behind)]
    assert outcomes == [Rejected, NotAttempted, Accepted, NotAttempted]
    assert isinstance(producer.send_soon("a1", ordering_key="a").result(LIMIT_S), Accepted)
    assert bodies(script) == [["a0"], ["b1"], ["a1"]]


@pytest.mark.parametrize("face", ["send_many", "asend"])
def test_a_keyed_message_that_cannot_be_composed_holds_up_what_is_behind_it(
    produce: Open, script: Script, face: str
) -> None:
    producer = produce()
    wrong: Any = qk.Message(b"no text", ordering_key="a")
    if face == "send_many":
        report = producer.send_many([*keyed("a0"), wrong, *keyed("a1", "b1")])
        assert [type(each) for each in report] == [Accepted, Rejected, NotAttempted, Accepted]
    else:
        with pytest.raises(qk.EncodeError):
            asyncio.run(producer.asend(wrong))
    assert producer.paused_keys == {"a"}
    assert [type(each) for each in producer.send_many(keyed("a2"))] == [NotAttempted]


def test_asends_of_many_keys_share_calls_that_hold_each_key_once(produce: Open, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce(limits={"atomic_send": False, "max_send_batch": 10})
    futures = [producer.send_soon("first")]
    assert reached.wait(LIMIT_S)
    futures += [producer.send_soon(f"{key}{n}", ordering_key=key) for n in range(3) for key in "abc"]
    released.set()
    assert all(isinstance(each.result(LIMIT_S), Accepted) for each in futures)
    assert bodies(script) == [["first"], ["a0", "b0", "c0"], ["a1", "b1", "c1"], ["a2", "b2", "c2"]]


def test_the_counts_add_up_whatever_became_of_the_messages(
    produce: Open, clock: VirtualClock, script: Script
) -> None:
    producer = produce(timeout=timedelta(seconds=1))
    script.on("send", fail_entries([0], lambda m: Rejected(NO, m.message_id)))
    script.on("send", raise_after(ErrorClass(ErrorCode.UNKNOWN)))
    wrong: Any = b"no text"
    producer.send_many([*keyed("a0"), "plain", *keyed("b0"), wrong])
    with pytest.raises(qk.ProviderError):
        producer.send("unknown")
    with pytest.raises(qk.EncodeError):
        producer.send(wrong)
    producer.send("again", dedup_id="once")
    producer.send("again", dedup_id="once")
    producer.send_soon("soon").result(LIMIT_S)
    producer.send_soon("late", ordering_key="a").result(LIMIT_S)
    counts = dict(producer.counts())
    assert counts == {
        "sent": 10, "accepted": 4, "duplicate": 1, "rejected": 3, "unknown": 1, "not_attempted": 1, "pending": 0,
    }  # fmt: skip
    with pytest.raises(TypeError):
        producer.counts()["sent"] = 0  # type: ignore[index]


@pytest.mark.parametrize("most", [0, -1, 1.5, "many", True])
def test_a_limit_of_pending_messages_that_cannot_work_is_refused(produce: Open, most: Any) -> None:
    with pytest.raises(qk.UsageError, match="max_pending"):
        produce(max_pending=most)


# asend and send_soon


def test_concurrent_asends_share_batches(produce: Open, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce()

    async def main() -> list[Any]:
        first = asyncio.create_task(producer.asend("first"))
        await asyncio.to_thread(reached.wait, LIMIT_S)
        rest = [asyncio.create_task(producer.asend(str(n))) for n in range(50)]
        await asyncio.sleep(0)
        released.set()
        return await asyncio.gather(first, *rest)

    assert all(isinstance(each, Accepted) for each in asyncio.run(main()))
    assert [len(batch) for batch in bodies(script)] == [1, 50]


def test_send_soon_waits_for_room_and_drops_nothing(produce: Open, clock: VirtualClock, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce(max_pending=3)
    futures = [producer.send_soon("0")]
    assert reached.wait(LIMIT_S)
    futures += [producer.send_soon(str(n)) for n in range(1, 4)]
    blocked = Call(lambda: producer.send_soon("4"), clock)
    blocked._thread.join(0.05)
    assert not blocked.done
    released.set()
    futures.append(blocked.result())
    assert all(isinstance(each.result(LIMIT_S), Accepted) for each in futures)
    assert list(chain(*bodies(script))) == ["0", "1", "2", "3", "4"]


def test_asend_suspends_while_there_is_no_room(produce: Open, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce(max_pending=1)

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(producer.asend(str(n))) for n in range(5)]
        await asyncio.to_thread(reached.wait, LIMIT_S)
        released.set()
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(main())) == 5
    assert sorted(chain(*bodies(script))) == ["0", "1", "2", "3", "4"]


def test_a_loop_that_ended_while_it_waited_for_room_harms_nobody(
    produce: Open, clock: VirtualClock, script: Script
) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce(max_pending=1)
    first = producer.send_soon("first")
    assert reached.wait(LIMIT_S)
    second = producer.send_soon("second")

    async def give_up() -> None:
        waiting = asyncio.create_task(producer.asend("never"))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(give_up())
    released.set()
    assert isinstance(first.result(LIMIT_S), Accepted)
    assert isinstance(second.result(LIMIT_S), Accepted)
    assert isinstance(producer.send_soon("third").result(LIMIT_S), Accepted)


def test_a_cancelled_asend_is_still_sent(produce: Open, clock: VirtualClock, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce()

    async def main() -> None:
        first = asyncio.create_task(producer.asend("first"))
        await asyncio.to_thread(reached.wait, LIMIT_S)
        second = asyncio.create_task(producer.asend("second"))
        await asyncio.sleep(0)
        second.cancel()
        released.set()
        await first

    asyncio.run(main())
    Call(producer.close, clock).result()
    assert bodies(script) == [["first"], ["second"]]


def test_a_report_outlives_the_list_that_it_reports_on(produce: Open, script: Script) -> None:
    script.on("send", fail_entries([1], lambda m: Unknown(unavailable(), m.message_id)))
    batch = ["a", "b", "c"]
    report = produce(timeout=timedelta(milliseconds=1)).send_many(batch)
    batch.clear()
    assert report.retryable_messages() == ["b"]


def test_close_sends_what_is_gathered(produce: Open, clock: VirtualClock, script: Script) -> None:
    producer = produce(linger=timedelta(hours=1))
    futures = [producer.send_soon(str(n)) for n in range(5)]
    assert not script.calls("send")
    Call(producer.close, clock).result()
    assert all(isinstance(each.result(0), Accepted) for each in futures)
    with pytest.raises(qk.ClosedError):
        producer.send_soon("late")
    with pytest.raises(qk.ClosedError):
        asyncio.run(producer.asend("late"))


def test_close_answers_for_what_the_service_does_not_answer(
    produce: Open, clock: VirtualClock, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_CLOSE_FLUSH_S", "_LAST_CALL_S"):
        monkeypatch.setattr(f"queuekit._portable.producer.{name}", 0.01)
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce()
    futures = [producer.send_soon("0")]
    assert reached.wait(LIMIT_S)
    futures += [producer.send_soon("1"), producer.send_soon("2")]
    Call(producer.close, clock).result()
    assert [type(each.result(0)) for each in futures] == [Unknown, NotAttempted, NotAttempted]
    released.set()


def test_close_wakes_those_who_wait_for_room(produce: Open, clock: VirtualClock, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce(max_pending=1)
    producer.send_soon("0")
    assert reached.wait(LIMIT_S)
    producer.send_soon("1")
    blocked = [Call(lambda: producer.send_soon("2"), clock), Call(lambda: asyncio.run(producer.asend("3")), clock)]
    closing = Call(producer.close, clock)
    for each in blocked:
        with pytest.raises(qk.ClosedError):
            each.result(step_s=0)
    released.set()
    closing.result()
    assert bodies(script) == [["0"], ["1"]]


def test_a_future_that_was_cancelled_harms_nobody(produce: Open, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    script.on("send", hold(released, reached))
    producer = produce()
    futures = [producer.send_soon("0")]
    assert reached.wait(LIMIT_S)
    futures += [producer.send_soon("1"), producer.send_soon("2")]
    assert futures[1].cancel()
    released.set()
    assert isinstance(futures[2].result(LIMIT_S), Accepted)


def test_an_outage_answers_every_future(produce: Open, clock: VirtualClock, script: Script) -> None:
    script.always("send", raise_before(unavailable(sent="no")))
    producer = produce(timeout=timedelta(seconds=2))
    futures = [producer.send_soon(str(n)) for n in range(3)]
    outcomes = [Call(each.result, clock).result() for each in futures]
    assert [type(each) for each in outcomes] == [NotAttempted] * 3


def test_edits_of_an_answer_in_place_are_seen(produce: Open, script: Script) -> None:
    script.on("send", edit_answer(lambda answers: [Rejected(NO, answers[0].message_id)]))
    with pytest.raises(qk.RefusedError):
        produce().send("a")


def test_too_large_by_the_services_own_word_is_an_invalid_message(produce: Open, script: Script) -> None:
    script.on("send", fail_entries([0], lambda m: Rejected(ErrorClass(ErrorCode.TOO_LARGE), m.message_id)))
    with pytest.raises(qk.InvalidMessageError):
        produce().send("a")
