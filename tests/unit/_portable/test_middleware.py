# SPDX-License-Identifier: Apache-2.0
"""Middleware: what it sees of sends and handlings, in every face, and what its failures mean."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, DeadMessage
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import (
    Answers,
    Call,
    FaultyOpener,
    Proceed,
    raise_after,
    raise_before,
    refused,
    unavailable,
)

AT_ONCE = qk.RetryPolicy(max_attempts=3, wait=lambda _state: 0)
ONCE = qk.RetryPolicy(max_attempts=1)
TRACE: ContextVar[str] = ContextVar("trace", default="none")


class Spy(qk.Middleware):
    """Notes everything, and stamps what is sent with its name and with the caller's trace."""

    def __init__(self, name: str = "spy") -> None:
        self.name = name
        self.log: list[Any] = []

    def before_send(self, message: qk.Message[Any], *, queue: str) -> qk.Message[Any]:
        self.log.append(("before", message.payload))
        path = message.attributes.get("path", "") + self.name
        return replace(message, attributes={**message.attributes, "path": path, "traceparent": TRACE.get()})

    def after_send(self, message: qk.Message[Any], outcome: qk.SendOutcome, *, queue: str) -> None:
        assert outcome.message_id == message.message_id
        self.log.append(("after", message.payload, type(outcome).__name__))

    @contextmanager
    def handling(self, delivery: qk.Current) -> Iterator[None]:
        assert delivery is qk.current()
        self.log.append(("handling", delivery.attempt, delivery.attributes.get("traceparent")))
        try:
            yield
        except BaseException as error:
            self.log.append(("failed", type(error).__name__))
            raise
        self.log.append(("done",))


SENDS: dict[str, Callable[[qk.Producer[str]], Any]] = {
    "send": lambda producer: producer.send("x"),
    "send_many": lambda producer: producer.send_many(["x"]),
    "asend": lambda producer: asyncio.run(producer.asend("x")),
    "asend_many": lambda producer: asyncio.run(producer.asend_many(["x"])),
    "send_soon": lambda producer: producer.send_soon("x").result(10),
}


@pytest.fixture
def spy() -> Spy:
    return Spy()


@pytest.mark.parametrize("way", SENDS)
def test_every_way_of_sending_passes_the_middleware(way: str, spy: Spy) -> None:
    other = Spy("!")
    token = TRACE.set("00-abc-01")
    with qk.Producer("memory://q", payload=str, middleware=[spy, other]) as producer:
        SENDS[way](producer)
    TRACE.reset(token)
    assert spy.log == other.log == [("before", "x"), ("after", "x", "Accepted")]
    with qk.Consumer("memory://q", payload=str) as consumer:
        delivery = consumer.receive(timeout=5)
        assert delivery is not None
        assert delivery.attributes == {"path": "spy!", "traceparent": "00-abc-01"}


@pytest.mark.parametrize("way", SENDS)
def test_what_before_send_raises_reaches_the_caller_and_nothing_is_sent(way: str, spy: Spy) -> None:
    class Refusing(qk.Middleware):
        def before_send(self, message: qk.Message[Any], *, queue: str) -> qk.Message[Any]:
            raise PermissionError(queue)

    with (
        qk.Producer("memory://q", payload=str, middleware=[Refusing()]) as producer,
        pytest.raises(PermissionError, match="memory://q"),
    ):
        SENDS[way](producer)
    with qk.Consumer("memory://q", payload=str) as consumer:
        assert consumer.receive(timeout=0.01) is None


def test_a_send_many_that_is_refused_half_way_answers_for_what_it_had_begun(spy: Spy) -> None:
    class Picky(qk.Middleware):
        def before_send(self, message: qk.Message[Any], *, queue: str) -> qk.Message[Any]:
            if message.payload == "bad":
                raise PermissionError
            return message

    with qk.Producer("memory://q", payload=str, middleware=[spy, Picky()]) as producer:
        with pytest.raises(PermissionError):
            producer.send_many(["good", "bad", "never"])
        assert spy.log == [("before", "good"), ("before", "bad"), ("after", "good", "NotAttempted")]
        assert producer.send("next")


@pytest.mark.parametrize("way", ["send", "send_many"])
def test_a_send_that_is_interrupted_may_have_been_sent(way: str, spy: Spy, clock: VirtualClock) -> None:
    from queuekit._wiring.opening import Opener

    def interrupt(call: Call, proceed: Proceed) -> Answers:
        proceed(call.batch)
        raise KeyboardInterrupt

    opener = FaultyOpener(Opener(clock))
    opener.script.on("send", interrupt)
    with qk.Producer("memory://q", payload=str, middleware=[spy], _opener=opener) as producer:
        with pytest.raises(KeyboardInterrupt):
            SENDS[way](producer)
        assert spy.log == [("before", "x"), ("after", "x", "Unknown")]


@pytest.mark.parametrize("way", SENDS)
def test_what_a_before_send_returns_must_be_a_message(way: str) -> None:
    class Forgetful(qk.Middleware):
        def before_send(self, message: qk.Message[Any], *, queue: str) -> Any:
            """Returns nothing."""

    with (
        qk.Producer("memory://q", payload=str, middleware=[Forgetful()]) as producer,
        pytest.raises(qk.UsageError, match=r"Forgetful\.before_send returned NoneType"),
    ):
        SENDS[way](producer)


@pytest.mark.parametrize("way", SENDS)
def test_a_failed_after_send_is_contained(way: str, spy: Spy, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(qk.Middleware):
        def after_send(self, message: qk.Message[Any], outcome: qk.SendOutcome, *, queue: str) -> None:
            raise SystemExit

    with qk.Producer("memory://q", payload=str, middleware=[spy, Broken()]) as producer:
        SENDS[way](producer)
        SENDS[way](producer)
    failures = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert failures == ["middleware.failed on memory://q: Broken.after_send"] * 2
    assert spy.log.count(("after", "x", "Accepted")) == 2


@pytest.mark.parametrize("way", SENDS)
def test_an_outcome_that_is_no_success_is_told_too(way: str, spy: Spy, clock: VirtualClock) -> None:
    from queuekit._wiring.opening import Opener

    opener = FaultyOpener(Opener(clock))
    opener.script.always("send", raise_before(refused()))
    with (
        qk.Producer("memory://q", payload=str, middleware=[spy], _opener=opener) as producer,
        suppress(qk.QueueKitError),
    ):
        SENDS[way](producer)
    assert [each[:2] for each in spy.log] == [("before", "x"), ("after", "x")]
    assert spy.log[1][2] in {"Rejected", "NotAttempted"}


def test_what_cannot_be_sent_is_told_as_rejected(spy: Spy) -> None:
    with qk.Producer("memory://q", payload=str, middleware=[spy]) as producer:
        wrong = qk.Message("x", priority=77)
        with pytest.raises(qk.InvalidMessageError):
            producer.send(wrong)
        with pytest.raises(qk.InvalidMessageError):
            producer.send_soon(wrong)
        with pytest.raises(qk.InvalidMessageError):
            asyncio.run(producer.asend(wrong))
        assert not producer.send_many([wrong]).ok
    assert spy.log == [("before", "x"), ("after", "x", "Rejected")] * 4


def test_an_asend_whose_caller_went_away_is_told_all_the_same(spy: Spy) -> None:
    async def main() -> None:
        with qk.Producer("memory://q", payload=str, middleware=[spy]) as producer:
            task = asyncio.create_task(producer.asend("x"))
            await asyncio.sleep(0)
            assert spy.log
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            producer.close()

    asyncio.run(main())
    assert spy.log == [("before", "x"), ("after", "x", "Accepted")]


def test_without_middleware_for_sends_messages_are_composed_as_before(spy: Spy) -> None:
    class OnlyHandling(qk.Middleware):
        def handling(self, delivery: qk.Current) -> AbstractContextManager[None]:
            raise NotImplementedError

    with qk.Producer("memory://q", middleware=[OnlyHandling()]) as producer:
        assert producer._hooks is None


@pytest.mark.parametrize("thing", [Spy, object(), lambda: None], ids=["class", "object", "function"])
def test_what_is_no_middleware_is_refused(thing: Any) -> None:
    for opened in (qk.Producer, App):
        with pytest.raises(qk.UsageError, match="derive from Middleware"):
            opened("memory://q", middleware=[thing])


FATES: dict[str, tuple[Any, list[Any]]] = {
    "success": (None, [("done",)]),
    "returned retry": (qk.Retry(), [("failed", "Retry")]),
    "returned dead letter": (qk.DeadLetter("no"), [("failed", "DeadLetter")]),
    "exception": (ValueError(), [("failed", "ValueError")]),
}


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_handling_sees_how_each_attempt_ends(
    clock: VirtualClock, work: Any, spy: Spy, fate: str, is_async: bool
) -> None:
    answer, seen = FATES[fate]

    def run(text: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def arun(text: str) -> Any:
        await asyncio.sleep(0)
        return run(text)

    with App("memory://", clock=clock, middleware=[spy]) as app:
        handler = app.handler("q", retry=ONCE, message_type="t")(arun if is_async else run)
        handler.send("x")
        worker = work(app)
        worker.let(lambda: spy.log[-1][0] in {"done", "failed"})
        worker.stop()
    assert spy.log[-2:] == [("handling", 1, "none"), *seen]


def test_a_second_attempt_has_the_same_attributes_and_another_number(
    clock: VirtualClock, work: Any, spy: Spy
) -> None:
    """So that an exporter can link the spans of the attempts to the one that sent the message."""
    with App("memory://", clock=clock, middleware=[spy]) as app:

        @app.handler("q", retry=AT_ONCE)
        def handle(text: str) -> None:
            if qk.current().attempt == 1:
                raise ValueError

        token = TRACE.set("00-abc-01")
        handle.send("x")
        TRACE.reset(token)
        worker = work(app)
        worker.let(lambda: spy.log[-1] == ("done",))
        worker.stop()
    assert [each for each in spy.log if each[0] == "handling"] == [
        ("handling", 1, "00-abc-01"),
        ("handling", 2, "00-abc-01"),
    ]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_handling_raises_counts_as_the_handlers_own(
    clock: VirtualClock, work: Any, dead: Callable[[str], list[DeadMessage]], is_async: bool
) -> None:
    class Strict(qk.Middleware):
        def handling(self, delivery: qk.Current) -> AbstractContextManager[None]:
            raise LookupError

    def run(text: str) -> None:
        pytest.fail("it must not run")

    async def arun(text: str) -> None:
        run(text)

    with App("memory://", clock=clock, middleware=[Strict()]) as app:
        handler = app.handler("q", retry=ONCE, message_type="t")(arun if is_async else run)
        handler.send("x")
        worker = work(app)
        worker.let(lambda: bool(dead("q")))
        worker.stop()
    assert "LookupError" in (dead("q")[0].error or "")


def test_what_handling_swallows_is_a_success(
    clock: VirtualClock, work: Any, left: Callable[[str], int], dead: Callable[[str], list[DeadMessage]]
) -> None:
    class Lenient(qk.Middleware):
        def handling(self, delivery: qk.Current) -> AbstractContextManager[None]:
            return suppress(KeyError)  # type: ignore[return-value]

    with App("memory://", clock=clock, middleware=[Lenient()]) as app:

        @app.handler("q", retry=ONCE)
        def handle(text: str) -> None:
            raise KeyError

        handle.send("x")
        worker = work(app)
        worker.let(lambda: left("q") == 0)
        worker.stop()
    assert not dead("q")


def test_a_lost_answer_is_told_as_unknown(spy: Spy, clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    from queuekit._wiring.opening import Opener

    caplog.set_level(logging.CRITICAL, "queuekit")
    opener = FaultyOpener(Opener(clock))
    error = unavailable()
    opener.script.always("send", raise_after(type(error)(error.code, retryable=False, sent="maybe")))
    with qk.Producer("memory://q", payload=str, middleware=[spy], _opener=opener) as producer:
        producer.send_many(["x"])
    assert spy.log[-1] == ("after", "x", "Unknown")
