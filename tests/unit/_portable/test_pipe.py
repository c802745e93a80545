# SPDX-License-Identifier: Apache-2.0
"""Pushed messages on their way through handlers: one outcome each, whatever happens, and nothing runs after."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, DeadMessage
from queuekit._portable.doorway import Doorway
from queuekit._portable.pipe import Pipe
from queuekit._portable.round import Limits
from queuekit._portable.rulings import DONE, GIVEN_BACK, GONE, LEFT, Outcome
from queuekit.backend import Action, ErrorClass, ErrorCode, IncomingMessage, OutgoingMessage, Support
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, raise_after, raise_before, refused, unavailable

from .calls import Call

LIMIT_S = 20.0
NOW = qk.RetryPolicy(max_attempts=3, wait=lambda _state: 7)


class Pushing:
    """Takes messages out of a queue in memory, as a service does that pushes them, and settles by the outcomes."""

    def __init__(self, app: App, queue: str) -> None:
        self.doorway: Doorway = app._doorway()
        self.named = next(each for each in self.doorway.queues() if each.name == queue)
        assert self.named.url is not None
        self.pipe: Pipe = self.doorway.pipe(self.named.name, self.named.url, self.named.options)
        self.backend: Any = self.pipe.link.backend

    def take(self) -> Sequence[IncomingMessage]:
        taken: Sequence[IncomingMessage] = self.backend.receive(max_messages=100, wait_s=0, lease_s=600)
        return taken

    def run(self, messages: Sequence[IncomingMessage], limits: Limits = Limits()) -> list[Outcome]:  # noqa: B008
        try:
            return self.pipe.run(messages, limits)
        finally:
            self.doorway.rest(math.inf)

    def push(self, limits: Limits = Limits()) -> list[Outcome]:  # noqa: B008
        messages = self.take()
        outcomes = self.run(messages, limits)
        self.pipe.put_off(messages, outcomes, math.inf)
        assert self.pipe.remove(messages, outcomes, math.inf) == 0
        return outcomes

    def counts(self) -> tuple[int, int, int]:
        """Ready, delayed, dead."""
        stats = self.backend.stats()
        assert stats.leased == 0
        return stats.ready, stats.delayed, stats.dead


Push = Callable[[str], Pushing]


@pytest.fixture
def push(app: App) -> Push:
    return lambda queue: Pushing(app, queue)


@pytest.fixture(autouse=True)
def _no_thread_outlives_a_round() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread.name == "queuekit-in-time":  # waited for no more, and on its last steps
            thread.join(LIMIT_S)
    assert [each.name for each in threading.enumerate() if each not in before] == []


def do(what: str) -> object:
    if what == "raise":
        raise ValueError(what)
    if what == "retry":
        raise qk.Retry(delay=timedelta(seconds=90))
    if what == "dead":
        return qk.DeadLetter("no use")
    return None


ALL = ["done", "raise", "retry", "dead", "done"]
COME_TO = [DONE, Outcome(Action.RETRY, 7), Outcome(Action.RETRY, 90), GONE, DONE]


def sync(app: App) -> Any:
    @app.handler("orders", retry=NOW)
    def handle(what: str) -> object:
        return do(what)

    return handle


def on_loop(app: App) -> Any:
    @app.handler("orders", retry=NOW)
    async def handle(what: str) -> object:
        await asyncio.sleep(0)
        return do(what)

    return handle


def awaitable(app: App) -> Any:
    @app.handler("orders", retry=NOW)
    def handle(what: str) -> object:
        async def later() -> object:
            return do(what)

        return later()

    return handle


def settle_entries(batch: qk.Batch[str]) -> None:
    for each in batch:
        if each.payload == "raise":
            each.retry()
        elif each.payload == "retry":
            each.retry(delay=timedelta(seconds=90))
        elif each.payload == "dead":
            each.dead_letter("no use")


def in_batches(app: App) -> Any:
    @app.batch_handler("orders", retry=NOW, max_size=2)
    def handle(batch: qk.Batch[str]) -> None:
        assert len(batch) <= 2
        settle_entries(batch)

    return handle


def in_batches_on_loop(app: App) -> Any:
    @app.batch_handler("orders", retry=NOW, max_size=2)
    async def handle(batch: qk.Batch[str]) -> None:
        await asyncio.sleep(0)
        settle_entries(batch)

    return handle


FORMS = [sync, on_loop, awaitable, in_batches, in_batches_on_loop]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_handler_comes_to_the_same(
    app: App, push: Push, form: Callable[[App], Any], dead: Callable[[str], list[DeadMessage]]
) -> None:
    form(app).send_many(ALL)
    pushing = push("orders")
    assert pushing.push() == COME_TO
    assert pushing.counts() == (0, 2, 1)
    assert [(each.reason, each.attempts) for each in dead("orders")] == [("no use", 1)]


@pytest.mark.parametrize("form", FORMS)
def test_a_second_round_finds_everything_in_order(
    app: App, push: Push, form: Callable[[App], Any], clock: VirtualClock
) -> None:
    handler = form(app)
    pushing = push("orders")
    for _ in range(3):
        handler.send("done")
        assert pushing.push() == [DONE]


def test_attempts_are_used_up_as_in_a_worker(app: App, push: Push, clock: VirtualClock) -> None:
    sync(app).send("raise")
    pushing = push("orders")
    for expected in (COME_TO[1], COME_TO[1], GONE):
        assert pushing.push() == [expected]
        clock.advance(7)


def test_nothing_begins_when_the_time_is_over_and_the_rest_is_given_back(
    app: App, push: Push, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    @app.handler("orders", concurrency=1)
    def handle(text: str) -> None:
        assert not qk.current().draining
        clock.advance(4)
        assert qk.current().draining is (clock.monotonic() >= begin_by)

    handle.send_many(["a", "b", "c", "d"])
    pushing = push("orders")
    begin_by = clock.monotonic() + 6
    outcomes = pushing.push(Limits(begin_by, begin_by + 50, begin_by + 60))
    assert outcomes == [DONE, DONE, GIVEN_BACK, GIVEN_BACK]
    assert pushing.counts() == (2, 0, 0)
    assert [r.count for r in caplog.records if getattr(r, "action", "") == "push.out_of_time"] == [2]  # type: ignore[attr-defined]


def test_time_that_ends_while_all_slots_are_busy_gives_back_what_waits(
    app: App, push: Push, clock: VirtualClock
) -> None:
    began, end = threading.Event(), threading.Event()

    @app.handler("orders", concurrency=1)
    def handle(text: str) -> None:
        began.set()
        assert end.wait(LIMIT_S)

    handle.send_many(["a", "b"])
    pushing = push("orders")
    messages = pushing.take()
    now = clock.monotonic()
    call = Call(lambda: pushing.run(messages, Limits(now + 5, now + 50, now + 60)), clock)
    assert began.wait(LIMIT_S)
    clock.wait_for_waiters(1)
    clock.advance(5)
    end.set()
    assert call.result() == [DONE, GIVEN_BACK]


def test_a_sync_handler_over_the_end_is_left_and_its_late_result_dropped(
    app: App, push: Push, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    began, end = threading.Event(), threading.Event()

    @app.handler("orders")
    def handle(text: str) -> None:
        if text == "slow":
            began.set()
            assert end.wait(LIMIT_S)

    handle.send_many(["slow", "quick"])
    pushing = push("orders")
    messages = pushing.take()
    now = clock.monotonic()
    call = Call(lambda: pushing.run(messages, Limits(now + 5, now + 7, now + 60)), clock)
    assert began.wait(LIMIT_S)
    assert call.result(step_s=0.5) == [LEFT, DONE]
    assert now + 7 <= clock.monotonic() < now + 60
    assert "worker.hung" in {getattr(each, "action", "") for each in caplog.records}
    assert pushing.pipe.counts()["lost"] == 1
    end.set()
    for each in threading.enumerate():
        if each.name.startswith("queuekit-run"):
            each.join(LIMIT_S)
    assert pushing.pipe.counts()["settled"] == 1


def test_a_handler_that_nothing_stops_is_waited_for_until_the_answer(
    app: App, clock: VirtualClock, push: Push
) -> None:
    began, end = threading.Event(), threading.Event()

    @app.batch_handler("orders")
    def handle(batch: qk.Batch[str]) -> None:
        batch[0].ack()
        began.set()
        assert end.wait(LIMIT_S)

    handle.send_many(["a", "b"])
    pushing = push("orders")
    messages = pushing.take()
    now = clock.monotonic()
    call = Call(lambda: pushing.run(messages, Limits(now + 5, math.inf, now + 8)), clock)
    assert began.wait(LIMIT_S)
    assert call.result(step_s=0.5) == [DONE, LEFT]
    end.set()
    for each in threading.enumerate():
        if each.name.startswith("queuekit-run"):
            each.join(LIMIT_S)


def test_an_async_handler_over_the_end_has_failed(app: App, push: Push) -> None:
    @app.handler("orders", retry=NOW)
    async def handle(text: str) -> None:
        await asyncio.Event().wait()

    handle.send("a")
    pushing = push("orders")
    # The loop's own time is real.
    now = pushing.doorway.clock.monotonic()
    assert pushing.push(Limits(now + 0.02, now + 0.02, math.inf)) == [Outcome(Action.RETRY, 7)]


def of_one_key(messages: Sequence[IncomingMessage], keys: str) -> list[IncomingMessage]:
    return [each._replace(ordering_key=key) for each, key in zip(messages, keys, strict=True)]


@pytest.mark.parametrize("form", [sync, on_loop, in_batches, in_batches_on_loop])
def test_after_a_failure_the_rest_of_its_key_goes_back_unstarted(
    app: App, push: Push, form: Callable[[App], Any]
) -> None:
    form(app).send_many(["done", "raise", "done", "done", "done"])
    pushing = push("orders")
    outcomes = pushing.run(of_one_key(pushing.take(), "aabab"))
    assert outcomes[:3] == [DONE, Outcome(Action.RETRY, 7), DONE]
    assert [outcomes[3].action, outcomes[4]] == [Action.RELEASE, DONE]


def test_a_key_goes_on_behind_a_dead_letter_only_when_that_is_kept(app: App, push: Push) -> None:
    order: list[str] = []

    @app.handler("orders", dead_letter="memory://graveyard")
    def handle(text: str) -> None:
        order.append(text)
        if text == "dead":
            raise qk.DeadLetter("no")

    handle.send_many(["dead", "next"])
    pushing = push("orders")
    assert pushing.run(of_one_key(pushing.take(), "aa")) == [DONE, DONE]
    assert order == ["dead", "next"]


def test_expired_messages_are_done_without_a_handler(app: App, push: Push, clock: VirtualClock) -> None:
    handler = sync(app)
    handler.send("raise", expires_in=timedelta(seconds=5))
    pushing = push("orders")
    messages = pushing.take()
    clock.advance(6)
    assert pushing.run(messages) == [DONE]


def test_a_message_before_its_time_goes_on_as_a_copy(app: App, push: Push, clock: VirtualClock) -> None:
    handler = sync(app)
    handler.send("raise")
    pushing = push("orders")
    due = {"v": "1", "hop": "0", "hop-wait": "1.000", "hop-left": "3600.000"}
    messages = [each._replace(metadata={**each.metadata, **due}) for each in pushing.take()]
    outcomes = pushing.run(messages)
    # Memory keeps orders by key, and a message without one may be copied.
    assert outcomes == [DONE]
    assert pushing.backend.stats().delayed == 1


def test_unknown_types_are_retried_and_then_dead_as_no_handler(
    app: App, push: Push, clock: VirtualClock, dead: Callable[[str], list[DeadMessage]]
) -> None:
    sync(app)
    with qk.Producer("memory://orders", payload=str, message_type="other", clock=clock) as producer:
        producer.send("x")
    pushing = push("orders")
    for _ in range(4):
        assert pushing.push()[0].action is Action.RETRY
        clock.advance(600)
    assert pushing.push() == [GONE]
    assert [each.reason for each in dead("orders")] == ["no_handler"]


def test_middleware_events_and_current_are_as_in_a_worker(clock: VirtualClock) -> None:
    entered: list[str] = []

    class Noting(qk.Middleware):
        def handling(self, delivery: qk.Current) -> Any:
            entered.append(delivery.message_id)
            if delivery.body == b"broken":
                raise RuntimeError("of the middleware")
            return super().handling(delivery)

    events: list[qk.Event] = []
    with App("memory://", clock=clock, middleware=[Noting()]) as app:
        app.listen(events.append)

        @app.handler("orders", retry=NOW)
        def handle(text: str) -> None:
            running = qk.current()
            assert (running.attempt, running.type, running.lease_lost) == (1, "handle", False)
            if text == "extend":
                running.extend(by=timedelta(seconds=30))
            if text == "too long":
                running.extend(by=timedelta(days=400))

        handle.send_many(["fine", "broken", "extend", "too long"])
        outcomes = Pushing(app, "orders").push()
        assert [each.is_done for each in outcomes] == [True, False, True, False]
        assert len(entered) == 4
        told = sorted((each.name, each.reason) for each in events)
        assert told == [
            ("completed", None),
            ("completed", None),
            ("retried", "RuntimeError"),
            ("retried", "UsageError"),
        ]
        counts = app.counts()["orders"]
        assert (counts["received"], counts["settled"], counts["in_flight"]) == (4, 4, 0)
        assert app.timings()["orders"]["handler_time"].count == 4


def test_a_lease_that_was_lost_is_told_to_whoever_extends_it(app: App, push: Push, clock: VirtualClock) -> None:
    seen: list[bool] = []

    @app.handler("orders")
    def handle(text: str) -> None:
        clock.advance(601)
        with pytest.raises(qk.LeaseLostError):
            qk.current().extend(by=timedelta(seconds=30))
        seen.append(qk.current().lease_lost)

    handle.send("a")
    pushing = push("orders")
    assert pushing.run(pushing.take()) == [DONE]
    assert seen == [True]


@pytest.mark.parametrize("form", [sync, on_loop])
def test_idempotent_handlers_leave_no_thread(app: App, push: Push, form: Callable[[App], Any]) -> None:
    runs: list[str] = []
    if form is sync:

        @app.handler("once", idempotent="memory://")
        def handle(text: str) -> None:
            runs.append(text)

    else:

        @app.handler("once", idempotent="memory://")
        async def handle(text: str) -> None:
            runs.append(text)

    pushing = push("once")
    handle.send("x", dedup_id="one")
    messages = pushing.take()
    assert pushing.run(messages) == [DONE]
    assert pushing.run(messages) == [DONE]
    assert runs == ["x"]


def test_what_handlers_send_soon_is_sent_before_the_end(app: App, push: Push) -> None:
    @app.handler("next")
    def following(text: str) -> None: ...

    @app.handler("orders")
    def handle(text: str) -> None:
        for _ in range(50):
            following.send_soon(text)

    for _ in range(2):
        handle.send("x")
        assert push("orders").push() == [DONE]
    assert push("next").counts() == (100, 0, 0)


def test_a_loop_lasts_over_rounds_so_that_what_is_bound_to_it_works(app: App, push: Push) -> None:
    loops: set[asyncio.AbstractEventLoop] = set()
    held: list[asyncio.Lock] = []

    @app.handler("orders")
    async def handle(text: str) -> None:
        loops.add(asyncio.get_running_loop())
        held.append(held[0] if held else asyncio.Lock())
        async with held[0]:
            await asyncio.get_running_loop().run_in_executor(None, int)

    pushing = push("orders")
    for _ in range(3):
        handle.send("x")
        assert pushing.push() == [DONE]
    assert len(loops) == 1
    assert len(held) == 3


def faulty(app: App, script: Script | None = None, **capabilities: Any) -> Script:
    script = script or Script()
    app._opener = FaultyOpener(app._opener, script, **capabilities)
    return script


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(each, "action", "") for each in caplog.records]


def test_waits_that_the_service_refuses_are_told_once_and_asked_for_no_more(
    app: App, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    denied = ErrorClass(ErrorCode.ACCESS_DENIED, sent="no", detail="not allowed")
    script = faulty(app, Script().always("settle", raise_before(denied)))
    handler = sync(app)
    pushing = push("orders")
    for _ in range(2):
        handler.send("raise")
        messages = pushing.take()
        pushing.pipe.put_off(messages, pushing.run(messages), math.inf)
    assert actions(caplog).count("push.waits_refused") == 1
    assert len(script.calls("settle")) == 1


def test_a_wait_that_fails_is_asked_for_again_while_there_is_time(
    app: App, push: Push, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    script = faulty(app, Script().on("settle", raise_before(unavailable()), raise_after(unavailable())))
    sync(app).send("raise")
    pushing = push("orders")
    messages = pushing.take()
    outcomes = pushing.run(messages)
    Call(lambda: pushing.pipe.put_off(messages, outcomes, clock.monotonic() + 10), clock).result()
    assert len(script.calls("settle")) >= 2
    assert pushing.counts() == (0, 1, 0)
    script.always("settle", raise_before(unavailable()))
    Call(lambda: pushing.pipe.put_off(messages, outcomes, clock.monotonic() + 1), clock).result(step_s=0.1)
    assert "push.waits_refused" not in actions(caplog)


def test_done_messages_that_cannot_be_removed_are_told(app: App, push: Push, clock: VirtualClock) -> None:
    faulty(app, Script().always("settle", raise_before(unavailable())))
    sync(app).send("done")
    pushing = push("orders")
    messages = pushing.take()
    outcomes = pushing.run(messages)
    removing = Call(lambda: pushing.pipe.remove(messages, outcomes, clock.monotonic() + 1), clock)
    assert removing.result(step_s=0.1) == 1


def test_a_dead_letter_that_the_queue_itself_does_not_take_is_no_end(
    app: App, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    faulty(app, Script().always("settle", raise_before(ErrorClass(ErrorCode.REFUSED, sent="no"))))

    @app.handler("orders")
    def handle(text: str) -> None:
        raise qk.DeadLetter("no")

    with qk.Producer("memory://orders", payload=str, clock=app._clock) as producer:
        producer.send("x")
    pushing = push("orders")
    assert pushing.run(pushing.take()) == [Outcome(Action.RETRY, 600)]
    assert "dead_letter.failed" in actions(caplog)


def test_a_dead_letter_that_is_not_kept_leaves_the_message_where_it_was(
    app: App, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    faulty(app, Script().always("send", raise_before(unavailable())))

    @app.handler("orders", dead_letter="memory://graveyard")
    def handle(text: str) -> None:
        raise qk.DeadLetter("no")

    with qk.Producer("memory://orders", payload=str, clock=app._clock) as producer:
        producer.send("x")
    assert push("orders").push() == [Outcome(Action.RETRY, 600)]
    assert "dead_letter.failed" in actions(caplog)


def test_without_a_dead_letter_queue_the_service_decides(
    app: App, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    faulty(app, dead_letters=Support.BRIDGED)
    sync(app).send("dead")
    pushing = push("orders")
    assert pushing.run(pushing.take()) == [LEFT]
    assert "dead_letter.missing" in actions(caplog)


def test_discarding_is_by_name(app: App, push: Push, caplog: pytest.LogCaptureFixture) -> None:
    @app.handler("orders", dead_letter="discard")
    def handle(text: str) -> None:
        raise qk.DeadLetter("no")

    handle.send("x")
    assert push("orders").push() == [DONE]
    assert "dead_letter.discarded" in actions(caplog)


def test_a_wait_beyond_the_longest_is_a_copy_or_shortened(
    app: App, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    faulty(app, max_retry_delay_s=60.0)
    sync(app).send("retry")
    pushing = push("orders")
    messages = pushing.take()
    assert pushing.run(messages) == [DONE]
    keyed = [each._replace(ordering_key="a") for each in messages]
    assert pushing.run(keyed) == [Outcome(Action.RETRY, 60)]
    assert "retry.shortened" in actions(caplog)


def test_an_empty_round_is_nothing(app: App, push: Push) -> None:
    on_loop(app)
    assert push("orders").push() == []


def test_a_queue_that_strict_refuses_begins_nothing(app: App) -> None:
    begun: list[str] = []

    @app.handler("memory://unsafe?strict=true")
    def handle(text: str) -> None:
        begun.append(text)

    pushing = Pushing(app, "memory://unsafe?strict=true")
    pushing.backend.send([OutgoingMessage("m", b"x")], timeout_s=1)
    messages = pushing.take()
    for _ in range(2):
        with pytest.raises(qk.UnsafeSettingsError, match="the memory of this process"):
            pushing.run(messages)
    assert begun == []


@pytest.mark.parametrize("form", [sync, on_loop])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bug_between_a_verdict_and_its_outcome_holds_nobody_up(
    app: App, push: Push, monkeypatch: pytest.MonkeyPatch, form: Callable[[App], Any]
) -> None:
    form(app).send_many(["done", "raise", "done"])
    pushing = push("orders")

    def write(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("queuekit._portable.rulings.why", write)
    outcomes = pushing.run(pushing.take())
    assert outcomes[1] == LEFT
    assert LEFT in outcomes


def test_a_dead_letter_that_the_queue_does_not_keep_leaves_the_message(
    app: App, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    faulty(app, Script().always("settle", raise_before(refused())))
    sync(app).send("dead")
    pushing = push("orders")
    assert pushing.run(pushing.take()) == [Outcome(Action.RETRY, 600)]
    assert "dead_letter.failed" in actions(caplog)
    assert pushing.backend.stats().leased == 1


NOBODY_COUNTS: dict[str, Any] = {
    "attempts": "none",
    "ordering": "none",
    "max_delay_s": 0.0,
    "max_retry_delay_s": 0.0,
}


@pytest.mark.parametrize(
    ("step", "outcome", "copies"),
    [
        (None, DONE, 1),
        (raise_before(unavailable(sent="no")), Outcome(Action.RETRY, 0), 0),
        (raise_after(unavailable()), Outcome(Action.RETRY, 0), 1),
    ],
    ids=["sent", "refused", "answer lost"],
)
def test_a_copy_that_cannot_wait_is_sent_when_its_time_has_come_and_confirmed_before_its_message_is_done(
    app: App, push: Push, clock: VirtualClock, step: Any, outcome: Outcome, copies: int
) -> None:
    script = faulty(app, **NOBODY_COUNTS)
    sync(app).send("retry")
    pushing = push("orders")
    script.always("send", step)
    passage = pushing.pipe.pass_through(pushing.take(), Limits(), hold_by=clock.monotonic() + 120)
    (waiting,) = passage.waiting.values()
    assert waiting.due - clock.monotonic() == 90.0
    assert len(script.calls("send")) == 1, "the first, and no copy yet"
    assert pushing.pipe.finish(waiting, math.inf) == outcome
    assert pushing.backend.stats().ready == copies
    pushing.doorway.rest(math.inf)


def test_a_copy_that_is_not_answered_in_time_leaves_its_message(app: App, push: Push, clock: VirtualClock) -> None:
    script = faulty(app, **NOBODY_COUNTS)
    sync(app).send("retry")
    pushing = push("orders")
    asked, answered = threading.Event(), threading.Event()

    def hang(call: Any, proceed: Any) -> Any:
        asked.set()
        answered.wait(LIMIT_S)
        return proceed(call.batch)

    script.always("send", hang)
    passage = pushing.pipe.pass_through(pushing.take(), Limits(), hold_by=clock.monotonic() + 120)
    finishing = Call(lambda: pushing.pipe.finish(passage.waiting[0], clock.monotonic() + 1), clock)
    assert asked.wait(LIMIT_S)
    assert finishing.result(step_s=0.1) == LEFT
    answered.set()
    pushing.doorway.rest(math.inf)


def test_a_wait_that_one_message_is_denied_is_still_asked_for_with_the_others(
    app: App, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    denied = ErrorClass(ErrorCode.ACCESS_DENIED, sent="no", detail="not allowed")
    script = faulty(app, Script().on("settle", raise_before(denied)), mixed_settles=False, max_settle_batch=2)
    handler = sync(app)
    pushing = push("orders")
    handler.send_many(["raise", "retry", "raise", "retry"])
    messages = pushing.take()
    outcomes = pushing.run(messages)
    pushing.pipe.put_off(messages, outcomes, math.inf)
    assert [{each.delay_s for each in call.batch} for call in script.calls("settle")] == [{7.0}, {90.0}]
    assert "settle.failed" in actions(caplog)
    assert "push.waits_refused" not in actions(caplog)
    pushing.pipe.put_off(messages, outcomes, math.inf)
    assert len(script.calls("settle")) > 2
