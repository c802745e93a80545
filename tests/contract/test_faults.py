# SPDX-License-Identifier: Apache-2.0
"""Scripted faults: what the cases rely on when they break the service's answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    Accepted,
    Action,
    Admin,
    Backend,
    Cancellable,
    ErrorCode,
    Interruptible,
    OutgoingMessage,
    Peekable,
    QueueURL,
    Redrivable,
    Settled,
    Settlement,
    Unknown,
    Waitable,
)
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import (
    FaultyBackend,
    FaultyOpener,
    InjectedFault,
    Script,
    Step,
    answer_for_stranger,
    answer_twice,
    as_is,
    contradict,
    delay,
    do_nothing,
    fail_entries,
    hang,
    hold,
    leave_out,
    pretend_settled,
    raise_after,
    raise_before,
    refused,
    throttle,
    too_many,
    unavailable,
)

URL = QueueURL.parse("memory://faulty")
TWO = [OutgoingMessage("1", b"1"), OutgoingMessage("2", b"2")]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def backend(script: Script) -> Iterator[Backend]:
    opener = FaultyOpener(Opener(SystemClock()), script)
    opened = opener.open(URL)
    yield opened
    opened.close()
    opener.close()


def stored(backend: Backend) -> list[bytes]:
    got = backend.receive(max_messages=100, wait_s=0.0, lease_s=60.0)
    return [each.body for each in got]


def test_without_steps_calls_go_unharmed_and_are_recorded(backend: Backend, script: Script) -> None:
    assert [type(each) for each in backend.send(TWO, timeout_s=1.0)] == [Accepted, Accepted]
    assert stored(backend) == [b"1", b"2"]
    assert [(call.verb, len(call.batch)) for call in script.calls()] == [("send", 2), ("receive", 0)]
    script.forget_calls()
    assert script.calls() == script.answered("send") == []


@pytest.mark.parametrize(("step", "arrives"), [(raise_before, []), (raise_after, [b"1", b"2"])])
def test_a_fault_before_does_nothing_and_one_after_has_done_it(
    backend: Backend, script: Script, step: object, arrives: list[bytes]
) -> None:
    script.on("send", step(unavailable()))  # type: ignore[operator]
    with pytest.raises(InjectedFault) as caught:
        backend.send(TWO, timeout_s=1.0)
    what = backend.classify(caught.value)
    assert (what.code, what.retryable, what.raw) == (ErrorCode.UNAVAILABLE, True, caught.value)
    assert stored(backend) == arrives
    assert script.answered("send") == []


def test_steps_are_taken_in_order_and_then_the_standing_one(backend: Backend, script: Script) -> None:
    script.on("send", as_is, throttle(5.0)).always("send", do_nothing(lambda each: Accepted(each.message_id)))
    backend.send(TWO[:1], timeout_s=1.0)
    with pytest.raises(InjectedFault) as caught:
        backend.send(TWO[1:], timeout_s=1.0)
    assert backend.classify(caught.value).retry_after_s == 5.0
    assert backend.send(TWO, timeout_s=1.0) == [Accepted("1"), Accepted("2")]
    assert stored(backend) == [b"1"], "the standing step claims what it does not do"


def test_entries_fail_one_by_one_and_the_others_are_carried_out(backend: Backend, script: Script) -> None:
    script.on("send", fail_entries({0}, lambda _entry: refused()))
    assert backend.send(TWO, timeout_s=1.0)[0] == refused()
    assert stored(backend) == [b"2"]


def test_a_held_answer_comes_once_it_is_released(backend: Backend, script: Script) -> None:
    released, reached = threading.Event(), threading.Event()
    step: Step = hold(released, reached)
    script.on("send", step)
    sender = threading.Thread(target=lambda: backend.send(TWO, timeout_s=1.0))
    sender.start()
    assert reached.wait(10)
    assert stored(backend) == [b"1", b"2"], "it was carried out, and only the answer waits"
    assert script.answered("send") == []
    released.set()
    sender.join(10)
    assert len(script.answered("send")) == 1


@pytest.mark.parametrize(
    ("step", "answers"),
    [
        (leave_out({0}), [Accepted("2")]),
        (answer_twice({0}), [Accepted("1"), Accepted("1"), Accepted("2")]),
        (answer_for_stranger(Accepted("3")), [Accepted("1"), Accepted("2"), Accepted("3")]),
    ],
)
def test_an_answer_that_does_not_fit_follows_a_call_that_was_carried_out(
    backend: Backend, script: Script, step: Step, answers: list[object]
) -> None:
    script.on("send", step)
    assert backend.send(TWO, timeout_s=1.0) == answers
    assert stored(backend) == [b"1", b"2"]


def test_an_entry_in_both_lists_is_unknown_and_was_carried_out(backend: Backend, script: Script) -> None:
    script.on("send", contradict({1}))
    first, second = backend.send(TWO, timeout_s=1.0)
    assert first == Accepted("1")
    assert isinstance(second, Unknown)
    assert (second.message_id, second.error.code) == ("2", ErrorCode.BACKEND_BUG)
    assert stored(backend) == [b"1", b"2"]


def test_a_receive_can_bring_too_many_and_one_of_them_twice(backend: Backend, script: Script) -> None:
    backend.send(TWO, timeout_s=1.0)
    script.on("receive", too_many, answer_twice({0}))
    got = backend.receive(max_messages=1, wait_s=0.0, lease_s=60.0)
    assert [each.body for each in got] == [b"1", b"2"]
    backend.settle([Settlement(each.handle, Action.RETRY) for each in got], timeout_s=1.0)
    first, again = backend.receive(max_messages=1, wait_s=0.0, lease_s=60.0)
    assert first is again


def test_a_settlement_can_be_claimed_and_not_done(backend: Backend, script: Script) -> None:
    backend.send(TWO[:1], timeout_s=1.0)
    (got,) = backend.receive(max_messages=1, wait_s=0.0, lease_s=60.0)
    script.on("settle", pretend_settled)
    assert isinstance(backend.settle([Settlement(got.handle, Action.RETRY)], timeout_s=1.0)[0], Settled)
    assert stored(backend) == []


@pytest.mark.parametrize(("after", "meanwhile"), [(False, []), (True, [b"1"])])
def test_a_slow_call_takes_the_clocks_time_before_it_acts_or_after(after: bool, meanwhile: list[bytes]) -> None:
    clock, script = VirtualClock(), Script()
    backend = FaultyOpener(Opener(clock), script).open(URL)
    script.on("send", delay(clock, 5.0, after=after))
    sender = threading.Thread(target=lambda: backend.send(TWO[:1], timeout_s=1.0))
    sender.start()
    clock.wait_for_waiters()
    assert stored(backend) == meanwhile
    clock.advance(4.9)
    assert sender.is_alive()
    clock.advance(0.1)
    sender.join(10)
    assert not sender.is_alive()
    backend.close()


@pytest.mark.parametrize("end", ["interrupt", "close"])
def test_a_call_that_hangs_ends_when_it_is_interrupted_or_closed(backend: Backend, script: Script, end: str) -> None:
    reached, raised = threading.Event(), list[BaseException]()
    script.on("receive", hang(reached))

    def receive() -> None:
        try:
            backend.receive(max_messages=1, wait_s=0.0, lease_s=60.0)
        except InjectedFault as error:
            raised.append(error)

    receiver = threading.Thread(target=receive)
    receiver.start()
    assert reached.wait(10)
    getattr(backend, end)()
    receiver.join(10)
    assert [backend.classify(each).code for each in raised] == [ErrorCode.UNAVAILABLE]


def test_exactly_the_abilities_of_the_inner_backend_are_there(backend: Backend) -> None:
    class Bare:
        pass

    inner = backend.inner  # type: ignore[attr-defined]
    for protocol in (Admin, Peekable, Redrivable, Cancellable, Interruptible, Waitable):
        assert isinstance(backend, protocol) == isinstance(inner, protocol)
        assert not isinstance(FaultyBackend(Bare(), Script(), "", {}), protocol)  # type: ignore[arg-type]


def test_limits_are_declared_lower_than_they_are() -> None:
    opener = FaultyOpener(Opener(SystemClock()), max_send_batch=2, cancel=False)
    opened = opener.open(URL)
    for can in (opened.capabilities, opened.probe()):
        assert (can.max_send_batch, can.cancel) == (2, False)
    opened.close()
