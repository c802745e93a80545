# SPDX-License-Identifier: Apache-2.0
"""Batch handlers in a worker: what is gathered, when, and what becomes of each message."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, DeadMessage, ExitCode
from queuekit._portable.batch_running import BatchJob, open_batch
from queuekit._portable.retry import Verdict
from queuekit._portable.triage import Triage
from queuekit.backend import IncomingMessage
from queuekit.testing import Rig
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import Answers, Call, FaultyOpener, Proceed

LIMIT_S = 20.0
ONCE = qk.RetryPolicy(max_attempts=1)
AT_ONCE = qk.RetryPolicy(max_attempts=3, wait=lambda _state: 0)
Left = Callable[[str], int]
Dead = Callable[[str], list[DeadMessage]]
Texts = qk.Batch[str]
BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class Loads:
    """Registers a batch handler in either colour, and notes the batches that it got."""

    def __init__(self, app: App, answer: Callable[[Texts], Any], *, is_async: bool = False, **options: Any) -> None:
        self.batches: list[list[str]] = []
        self.heard: list[qk.Event] = []
        app.listen(self.heard.append)
        self._answer = answer

        def load(batch: Texts) -> Any:
            self.batches.append(batch.payloads)
            return answer(batch)

        async def aload(batch: Texts) -> Any:
            await asyncio.sleep(0)
            return load(batch)

        options = {"max_wait": timedelta(seconds=1), "retry": AT_ONCE, "message_type": "t"} | options
        self.handler = app.batch_handler("q", **options)(aload if is_async else load)

    @property
    def handled(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def nothing(_batch: Texts) -> None:
    """All are done."""


@BOTH
def test_a_full_batch_goes_at_once_and_the_rest_after_max_wait(
    app: App, clock: VirtualClock, work: Any, left: Left, is_async: bool
) -> None:
    loads = Loads(app, nothing, is_async=is_async, max_size=4, max_wait=timedelta(seconds=30))
    loads.handler.send_many([str(number) for number in range(6)]).raise_for_failures()
    worker = work()
    began = clock.monotonic()
    worker.let(lambda: len(loads.batches) == 1, step_s=0)
    assert clock.monotonic() == began, "a full batch waits for nothing"
    worker.let(lambda: len(loads.batches) == 2, step_s=0.5)
    assert clock.monotonic() - began >= 30
    assert loads.batches == [["0", "1", "2", "3"], ["4", "5"]]
    assert worker.stop() is ExitCode.DRAINED
    assert left("q") == 0


def test_max_wait_counts_from_the_first_message_of_a_batch(app: App, clock: VirtualClock, work: Any) -> None:
    loads = Loads(app, nothing, max_size=10, max_wait=timedelta(seconds=10))
    loads.handler.send("first")
    worker = work()
    worker.let(lambda: taken(app) == 1, step_s=0)
    began = clock.monotonic()
    worker.let(lambda: clock.monotonic() >= began + 8, step_s=0.5)
    assert not loads.batches
    loads.handler.send("second")
    worker.let(lambda: taken(app) == 2, step_s=0)
    clock.advance(2)
    worker.let(lambda: bool(loads.batches), step_s=0)
    assert loads.batches == [["first", "second"]]
    worker.stop()


def test_the_leases_of_gathered_messages_are_kept(
    app: App, clock: VirtualClock, work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "queuekit")
    loads = Loads(app, nothing, max_size=10, max_wait=timedelta(seconds=100), lease=timedelta(seconds=10))
    loads.handler.send("x")
    worker = work()
    worker.let(lambda: bool(loads.batches), step_s=0.5)
    worker.stop()
    assert [each.attempt for each in loads.heard] == [1]
    assert "lease.lost" not in caplog.text


@BOTH
def test_an_open_batch_is_run_as_it_stands_when_the_worker_stops(
    app: App, clock: VirtualClock, work: Any, left: Left, is_async: bool
) -> None:
    loads = Loads(app, nothing, is_async=is_async, max_size=10, max_wait=timedelta(hours=1))
    loads.handler.send_many(["a", "b"])
    worker = work()
    worker.let(lambda: taken(app) == 2, step_s=0)
    began = clock.monotonic()
    assert worker.stop() is ExitCode.DRAINED
    assert clock.monotonic() - began < 60
    assert loads.batches == [["a", "b"]]
    assert left("q") == 0


def test_what_finds_no_free_slot_when_the_worker_stops_is_released_uncounted(app: App, work: Any, left: Left) -> None:
    began, done, handled, heard = threading.Event(), threading.Event(), list[str](), list[qk.Event]()
    app.listen(heard.append)

    def wait(batch: qk.Batch[str]) -> None:
        handled.extend(batch.payloads)
        began.set()
        done.wait(LIMIT_S)

    first = app.batch_handler("q", max_size=2, max_wait=timedelta(hours=1), message_type="a")(wait)
    second = app.batch_handler("q", max_size=5, max_wait=timedelta(hours=1), message_type="b")(wait)
    second.send("open")
    first.send_many(["1", "2"])
    worker = work()
    assert began.wait(LIMIT_S)
    app.stop()
    done.set()
    worker.end()
    # It went to the slot that was free again, or back to the queue uncounted: never away.
    assert handled == ["1", "2", "open"] or left("q") == 1
    assert all(each.attempt == 1 for each in heard)


def taken(app: App) -> int:
    """How many messages the worker has taken, and not settled yet."""
    return sum(intake.receiver.standing().running for _, intake in app._figures._intakes)


def test_a_pause_gives_an_open_batch_back(app: App, clock: VirtualClock, work: Any, left: Left) -> None:
    loads = Loads(app, nothing, max_size=3, max_wait=timedelta(hours=1))
    loads.handler.send_many(["a", "b"])
    worker = work()
    worker.let(lambda: taken(app) == 2, step_s=0)
    app.pause("q")
    worker.let(lambda: taken(app) == 0)
    assert not loads.batches
    app.resume("q")
    loads.handler.send("c")
    worker.let(lambda: bool(loads.batches))
    worker.let(lambda: left("q") == 0)
    assert sorted(loads.handled) == ["a", "b", "c"]
    assert [each.attempt for each in loads.heard] == [1, 1, 1]


def test_a_stop_waits_for_no_batch_that_nobody_can_take(app: App, clock: VirtualClock, work: Any, left: Left) -> None:
    begun, end = threading.Event(), threading.Event()

    def hold(_batch: Texts) -> None:
        begun.set()
        end.wait(LIMIT_S)

    loads = Loads(app, hold, max_size=1)

    @app.batch_handler("q", max_size=10, max_wait=timedelta(hours=1), message_type="other", retry=AT_ONCE)
    def other(_batch: Texts) -> None:
        pytest.fail("nobody is free for it")

    other.send("waits")
    worker = work(drain=timedelta(seconds=30))
    worker.let(lambda: taken(app) == 1)
    loads.handler.send("runs")
    worker.let(begun.is_set)
    app.stop()
    receiver = app._worker._queues[0].intake.receiver  # type: ignore[union-attr]
    worker.let(lambda: receiver.standing().running == 1, step_s=0)
    began = clock.monotonic()
    worker.end(step_s=0.5)
    assert clock.monotonic() - began < 35, "at the end of the drain nobody is waited for"
    end.set()


@BOTH
def test_named_failures_are_retried_or_dead_and_the_rest_is_done(
    app: App, work: Any, left: Left, dead: Dead, is_async: bool
) -> None:
    def answer(batch: Texts) -> qk.BatchResult:
        return qk.BatchResult(
            retry=[each for each in batch if each.payload == "again" and each.attempt == 1],
            dead_letter=[each.message_id for each in batch if each.payload == "never"],
        )

    loads = Loads(app, answer, is_async=is_async)
    loads.handler.send_many(["fine", "again", "never"])
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert loads.batches == [["fine", "again", "never"], ["again"]]
    assert [(each.body, each.reason) for each in dead("q")] == [(b"never", "the batch handler said so")]


@BOTH
def test_an_exception_fails_what_was_not_settled(app: App, work: Any, left: Left, dead: Dead, is_async: bool) -> None:
    def answer(batch: Texts) -> None:
        for entry in batch:
            if entry.payload == "acked":
                entry.ack()
            elif entry.payload == "buried":
                entry.dead_letter("bad row")
        raise ValueError("no")

    loads = Loads(app, answer, is_async=is_async, retry=ONCE)
    loads.handler.send_many(["acked", "buried", "left"])
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert {each.body: each.reason for each in dead("q")} == {
        b"buried": "bad row",
        b"left": "attempts used up: 1 of 1",
    }


@pytest.mark.parametrize("answer", [qk.Retry(), qk.Retry, qk.Retry(delay=timedelta(seconds=5))], ids=str)
def test_a_retry_is_for_the_whole_rest(app: App, work: Any, left: Left, answer: Any) -> None:
    def handle(batch: Texts) -> Any:
        batch[0].ack()
        return answer if batch[1].attempt == 1 else None

    loads = Loads(app, lambda batch: handle(batch) if len(batch) == 3 else None)
    loads.handler.send_many(["a", "b", "c"])
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert loads.batches == [["a", "b", "c"], ["b", "c"]]
    assert [each.name for each in loads.heard].count("retried") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda batch: qk.BatchResult(retry=["foreign"]),
        lambda batch: qk.BatchResult(retry=[5]),  # type: ignore[list-item]
        lambda batch: qk.BatchResult(retry=[batch[0]], dead_letter=[batch[0]]),
        lambda batch: qk.BatchResult(dead_letter=None),  # type: ignore[arg-type]
        lambda batch: [batch[0].message_id],
        lambda batch: (each for each in batch),
    ],
    ids=["foreign", "type", "both", "none", "list", "generator"],
)
def test_a_result_that_makes_no_sense_acks_nothing_by_implication(
    app: App, work: Any, dead: Dead, wrong: Callable[[Texts], Any]
) -> None:
    def answer(batch: Texts) -> Any:
        batch[1].ack()
        return wrong(batch)

    loads = Loads(app, answer, retry=ONCE)
    loads.handler.send_many(["a", "b", "c"])
    worker = work()
    worker.let(lambda: len(dead("q")) == 2, step_s=0.1)
    worker.stop()
    assert {each.body for each in dead("q")} == {b"a", b"c"}
    assert all("Error: " in (each.error or "") for each in dead("q"))


def test_a_result_that_contradicts_a_settlement_fails_the_rest(app: App, work: Any, dead: Dead) -> None:
    def answer(batch: Texts) -> qk.BatchResult:
        batch[0].ack()
        return qk.BatchResult(retry=[batch[0]])

    loads = Loads(app, answer, retry=ONCE)
    loads.handler.send_many(["a", "b"])
    worker = work()
    worker.let(lambda: bool(dead("q")), step_s=0.1)
    worker.stop()
    assert [each.body for each in dead("q")] == [b"b"]


def test_what_a_strict_handler_does_not_mention_has_failed(
    app: App, work: Any, dead: Dead, left: Left, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(batch: Texts) -> qk.BatchResult:
        batch[0].ack()
        return qk.BatchResult(dead_letter=[batch[1]])

    loads = Loads(app, answer, strict=True, retry=ONCE)
    loads.handler.send_many(["acked", "named", "forgotten"])
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert {each.body for each in dead("q")} == {b"named", b"forgotten"}
    (note,) = [each for each in caplog.records if getattr(each, "action", "") == "batch.forgotten"]
    assert (note.levelno, note.count) == (logging.WARNING, 1)  # type: ignore[attr-defined]


@BOTH
@pytest.mark.parametrize(
    ("on_error", "calls"),
    [
        ("bisect", ["abcdpfgh", "abcd", "pfgh", "pf", "p", "f", "gh"]),
        ("one_by_one", ["abcdpfgh", "a", "b", "c", "d", "p", "f", "g", "h"]),
    ],
)
def test_poison_is_found_and_the_others_are_done(
    app: App, work: Any, dead: Dead, left: Left, on_error: Any, calls: list[str], is_async: bool
) -> None:
    def answer(batch: Texts) -> None:
        if "p" in batch.payloads:
            raise ValueError("poison")

    loads = Loads(app, answer, is_async=is_async, on_error=on_error, retry=ONCE)
    loads.handler.send_many(list("abcdpfgh"))
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert ["".join(each) for each in loads.batches] == calls
    assert [each.body for each in dead("q")] == [b"p"]


def test_a_retry_that_is_raised_is_no_reason_to_look_for_poison(app: App, work: Any, left: Left) -> None:
    def answer(batch: Texts) -> None:
        if batch[0].attempt == 1:
            raise qk.Retry

    loads = Loads(app, answer, on_error="bisect")
    loads.handler.send_many(["a", "b"])
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert loads.batches == [["a", "b"], ["a", "b"]]


def test_settling_an_entry_twice_is_refused(app: App, work: Any, left: Left) -> None:
    errors: list[str] = []

    def answer(batch: Texts) -> None:
        batch[0].ack()
        for settle in (batch[0].ack, batch[0].retry, batch[0].release, lambda: batch[0].dead_letter("x")):
            with pytest.raises(qk.AlreadySettledError) as caught:
                settle()
            errors.append(str(caught.value))

    loads = Loads(app, answer)
    loads.handler.send("x")
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert len(errors) == 4


def test_a_reason_that_is_no_text_is_refused(app: App, work: Any, dead: Dead) -> None:
    loads = Loads(app, lambda batch: batch[0].dead_letter(""), retry=ONCE)
    loads.handler.send("x")
    worker = work()
    worker.let(lambda: bool(dead("q")), step_s=0.1)
    worker.stop()
    assert "UsageError" in (dead("q")[0].error or "")


def test_a_released_entry_keeps_its_attempts(app: App, work: Any, left: Left) -> None:
    attempts: list[int | None] = []

    def answer(batch: Texts) -> None:
        attempts.append(batch[0].attempt)
        if len(attempts) < 3:
            batch[0].release()

    loads = Loads(app, answer)
    loads.handler.send("x")
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert attempts == [1, 1, 1]


def test_what_does_not_decode_is_dead_and_does_not_reach_the_handler(
    app: App, work: Any, dead: Dead, left: Left
) -> None:
    seen: list[list[int]] = []

    @app.batch_handler("q", max_wait=timedelta(seconds=1))
    def load(batch: qk.Batch[int]) -> None:
        seen.append(batch.payloads)

    with qk.Producer("memory://q", payload=bytes, clock=app._clock) as raw:
        raw.send(b"{not json", type="load")
    load.send_many([1, 2])
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert seen == [[1, 2]]
    assert [each.reason for each in dead("q")] == ["undecodable"]


class Row:
    """One message of a batch, as a child process has it."""

    def __init__(self, number: int, *, lease_lost: bool) -> None:
        self.message = IncomingMessage(None, str(number), b'"x"', {}, {"type": "t"}, 1, None, None, None)
        self.lease_lost = lease_lost
        self.verdicts: list[Verdict] = []

    def settle(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)

    def abandon(self) -> None:
        """Its handler does not hang."""

    def extend(self, by_s: float) -> None:
        """Its lease is the parent's."""


def test_a_message_that_is_lost_before_its_batch_begins_is_answered_for_all_the_same(app: App) -> None:
    loads = Loads(app, nothing)
    link, handlers = app.open_queue("q")
    triage = Triage(handlers, link, app._clock, lambda: False, lambda _: None)
    rows = [Row(1, lease_lost=True), Row(2, lease_lost=False)]
    run = open_batch(triage, BatchJob(rows))
    assert run is not None
    assert [len(each.verdicts) for each in rows] == [1, 0], "a parent waits for every message that it handed over"
    assert not loads.batches


def test_two_types_of_one_queue_are_gathered_apart_and_an_unknown_one_is_retried(app: App, work: Any) -> None:
    seen: list[tuple[str, list[str]]] = []
    heard: list[qk.Event] = []
    app.listen(heard.append, "retried")

    @app.batch_handler("q", max_wait=timedelta(seconds=1), default=True)
    def first(batch: qk.Batch[str]) -> None:
        seen.append(("first", batch.payloads))

    @app.batch_handler("q", max_size=2, max_wait=timedelta(seconds=2))
    def second(batch: qk.Batch[str]) -> None:
        seen.append(("second", batch.payloads))

    for number in range(3):
        first.send(f"f{number}")
        second.send(f"s{number}")
    first.send("unknown", type="third")
    worker = work()
    worker.let(lambda: len(seen) == 3 and bool(heard), step_s=0.1)
    worker.stop()
    assert seen == [("second", ["s0", "s1"]), ("first", ["f0", "f1", "f2"]), ("second", ["s2"])]
    assert heard[0].message_type == "third"


@BOTH
def test_a_batch_past_its_timeout_has_failed(app: App, work: Any, is_async: bool) -> None:
    heard: list[qk.Event] = []
    app.listen(heard.append)
    done = threading.Event()
    options: dict[str, Any] = {"timeout": timedelta(milliseconds=50), "lease": timedelta(seconds=5), "retry": ONCE}

    def load(batch: qk.Batch[str]) -> None:
        batch[0].ack()
        done.wait(LIMIT_S)

    async def aload(batch: qk.Batch[str]) -> None:
        batch[0].ack()
        await asyncio.Event().wait()

    handler = app.batch_handler("q", max_size=2, concurrency=3, message_type="t", **options)(
        aload if is_async else load
    )
    handler.send_many(["acked", "hung"])
    worker = work()
    worker.let(lambda: len(heard) >= 2, step_s=0.2)
    done.set()
    worker.stop()
    # A thread cannot be stopped, so its message comes back when its lease ends.
    assert [each.name for each in heard[:2]] == ["completed", "dead" if is_async else "lease_lost"]


def test_what_an_async_batch_still_runs_at_the_end_of_the_drain_is_released(
    app: App, clock: VirtualClock, work: Any
) -> None:
    began = threading.Event()

    @app.batch_handler("q", max_size=2)
    async def load(batch: qk.Batch[str]) -> None:
        batch[0].ack()
        began.set()
        await asyncio.Event().wait()

    load.send_many(["acked", "running"])
    worker = work(drain=timedelta(seconds=1))
    assert began.wait(LIMIT_S)
    app.stop()
    worker.end(step_s=0.1)
    with qk.Consumer("memory://q", payload=str, clock=clock) as consumer:
        found = consumer.receive(timeout=0.1)
        assert found is not None
        assert (found.payload, found.attempt) == ("running", 1)


class Witness(qk.Middleware):
    """Notes how the handling of each message ends."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    @contextmanager
    def handling(self, delivery: qk.Current) -> Iterator[None]:
        text = delivery.body.decode()
        if text == "refused":
            raise PermissionError
        try:
            yield
        except BaseException as error:
            self.log.append((text, type(error).__name__))
            if text != "swallowed":
                raise
        else:
            self.log.append((text, "done"))


def test_every_message_of_a_batch_has_a_handling_of_its_own(
    clock: VirtualClock, work: Any, left: Left, dead: Dead
) -> None:
    witness = Witness()

    def answer(batch: Texts) -> qk.BatchResult:
        known = {each.payload: each for each in batch}
        if len(batch) > 1:
            known["released"].release()
            known["buried"].dead_letter("bad")
            return qk.BatchResult(retry=[known["named"], known["swallowed"]])
        return qk.BatchResult()

    with App("memory://", clock=clock, middleware=[witness]) as app:
        loads = Loads(app, answer, retry=ONCE)
        loads.handler.send_many(["fine", "refused", "named", "buried", "swallowed", "released"])
        worker = work(app)
        worker.let(lambda: left("q") == 0, step_s=0.1)
        worker.stop()
    assert witness.log == [
        ("fine", "done"),
        ("named", "Retry"),
        ("buried", "DeadLetter"),
        ("swallowed", "Retry"),
        ("released", "CancelledError"),
        ("released", "done"),
    ]
    assert loads.batches == [["fine", "named", "buried", "swallowed", "released"], ["released"]]
    assert {each.body for each in dead("q")} == {b"refused", b"named", b"buried"}


def test_the_handling_of_a_batch_past_its_timeout_ends_with_its_handler(clock: VirtualClock, work: Any) -> None:
    witness, end, abandoned = Witness(), threading.Event(), threading.Event()

    def hang(batch: Texts) -> None:
        batch[0].ack()
        end.wait(LIMIT_S)

    with App("memory://", clock=clock, middleware=[witness]) as app:
        app.listen(lambda _event: abandoned.set(), "lease_lost")
        loads = Loads(app, hang, concurrency=5, max_size=2, timeout=timedelta(seconds=1), lease=timedelta(seconds=5))
        loads.handler.send_many(["acked", "hung"])
        worker = work(app)
        worker.let(abandoned.is_set, step_s=0.2)
        app.pause("q")
        end.set()
        worker.let(lambda: len(witness.log) >= 2)
        worker.stop()
    assert witness.log[:2] == [("acked", "done"), ("hung", "TimeoutError")]


def test_there_is_no_current_delivery_in_a_batch_handler(app: App, work: Any, dead: Dead) -> None:
    def answer(batch: Texts) -> None:
        qk.current()

    loads = Loads(app, answer, retry=ONCE)
    loads.handler.send("x")
    worker = work()
    worker.let(lambda: bool(dead("q")), step_s=0.1)
    worker.stop()
    assert "no handler is running here" in (dead("q")[0].error or "")


def test_a_batch_says_when_the_worker_stops(app: App, work: Any, left: Left) -> None:
    began, seen = threading.Event(), list[bool]()

    def answer(batch: Texts) -> None:
        seen.append(batch.draining)
        began.set()
        while not batch.draining:
            threading.Event().wait(0.001)
        seen.append(batch.draining)

    loads = Loads(app, answer, max_size=1)
    loads.handler.send("x")
    worker = work()
    assert began.wait(LIMIT_S)
    worker.stop()
    assert seen == [False, True]


def test_several_batches_run_at_once_where_it_is_allowed(app: App, work: Any, left: Left) -> None:
    barrier = threading.Barrier(2, timeout=LIMIT_S)

    def answer(batch: Texts) -> None:
        barrier.wait()

    loads = Loads(app, answer, max_size=1, concurrency=2)
    loads.handler.send_many(["a", "b"])
    worker = work()
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()


def test_the_function_stays_callable(app: App) -> None:
    loads = Loads(app, len)
    assert loads.handler(qk.Batch[str]([])) == 0
    assert not qk.Batch[str]([]).draining


def not_a_batch(text: str) -> None:
    """Takes one message."""


def bare(batch: qk.Batch) -> None:  # type: ignore[type-arg]
    """Says no type."""


def lazy(batch: qk.Batch[str]) -> Iterator[None]:
    yield


@pytest.mark.parametrize("function", [not_a_batch, bare, lazy], ids=lambda each: each.__name__)
def test_a_function_that_takes_no_batch_is_refused(app: App, function: Any) -> None:
    with pytest.raises(qk.UsageError):
        app.batch_handler("q")(function)


@pytest.mark.parametrize(
    "options",
    [
        {"max_size": 0},
        {"max_size": 10_001},
        {"max_size": 2.0},
        {"max_wait": timedelta(seconds=-1)},
        {"max_wait": 1},
        {"on_error": "ignore"},
        {"concurrency": 0},
        {"on_dead": "drop"},
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused(app: App, options: Any) -> None:
    with pytest.raises(qk.UsageError):
        app.batch_handler("q", **options)(nothing)


def test_single_and_batch_handlers_do_not_share_a_queue(app: App) -> None:
    app.batch_handler("q")(nothing)
    with pytest.raises(qk.UsageError, match="of single messages and of batches"):
        app.handler("q")(not_a_batch)


def test_gathering_for_longer_than_a_lease_that_cannot_be_extended_is_refused(app: App) -> None:
    app._opener = FaultyOpener(app._opener, None, extend="none")
    app.batch_handler("q", max_wait=timedelta(seconds=30), lease=timedelta(seconds=60))(nothing)
    with pytest.raises(qk.UsageError, match="max_wait"):
        app.run(signals=False)


@pytest.fixture
def unkept(app: App) -> App:
    """A service that hands out several messages of one key at once, as FIFO queues elsewhere do."""
    opener = FaultyOpener(app._opener)
    keys: dict[str, str | None] = {}

    def forget(call: Call, proceed: Proceed) -> Answers:
        keys.update((each.message_id, each.ordering_key) for each in call.batch)
        return proceed([each._replace(ordering_key=None) for each in call.batch])

    def remember(call: Call, proceed: Proceed) -> Answers:
        return [each._replace(ordering_key=keys[each.message_id]) for each in proceed(())]

    opener.script.always("send", forget).always("receive", remember)
    app._opener = opener
    return app


def fail_a1(batch: Texts) -> qk.BatchResult:
    return qk.BatchResult(retry=[each for each in batch if each.payload == "a1" and each.attempt == 1])


def raise_for_a1(batch: Texts) -> None:
    if any(each.payload == "a1" and each.attempt == 1 for each in batch):
        raise ValueError


def settle_a1(batch: Texts) -> None:
    for each in batch:
        if each.payload == "a1" and each.attempt == 1:
            each.retry(delay=timedelta(0))


@pytest.mark.parametrize(
    ("answer", "on_error", "others"),
    [
        (fail_a1, "retry", ["completed", "completed"]),
        (settle_a1, "retry", ["completed", "completed"]),
        (raise_for_a1, "retry", ["retried"]),  # b2 is released: b1 comes again
        (raise_for_a1, "one_by_one", ["completed", "completed"]),
        (raise_for_a1, "bisect", ["completed", "completed"]),
    ],
    ids=["named", "settled", "raised", "one by one", "bisected"],
)
def test_what_follows_a_failure_of_its_key_is_released_and_other_keys_go_on(
    unkept: App, work: Any, left: Left, answer: Any, on_error: Any, others: list[str]
) -> None:
    loads = Loads(unkept, answer, on_error=on_error, max_size=5)
    sent = ["a1", "b1", "a2", "b2", "a3"]
    for text in sent:
        loads.handler.send(text, message_id=text, ordering_key=text[0])
    worker = work(unkept)
    worker.let(lambda: len(loads.heard) >= 1 + len(others), step_s=0)
    first = loads.heard[: 1 + len(others)]
    assert loads.batches[0] == sent
    assert {(each.name, each.message_id) for each in first if (each.message_id or "")[0] == "a"} == {
        ("retried", "a1")
    }
    assert [each.name for each in first if (each.message_id or "")[0] == "b"] == others
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    done = [each for each in loads.heard if each.name == "completed"]
    assert {(each.message_id, each.attempt) for each in done if each.message_id in {"a2", "a3"}} == {
        ("a2", 1),
        ("a3", 1),
    }


def test_a_dead_letter_lets_its_key_go_on(unkept: App, work: Any, left: Left, dead: Dead) -> None:
    loads = Loads(unkept, lambda batch: qk.BatchResult(dead_letter=[e for e in batch if e.payload == "a1"]))
    for text in ("a1", "a2"):
        loads.handler.send(text, ordering_key="a")
    worker = work(unkept)
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert loads.batches == [["a1", "a2"]]
    assert [each.body for each in dead("q")] == [b"a1"]


def test_a_body_that_fails_to_decode_for_now_holds_its_key_up(unkept: App, work: Any, left: Left) -> None:
    """A validator with a bug fails the attempt; what follows of the key must not be done before it."""
    loads = Loads(unkept, nothing)
    loads.handler.send("a1", type="of another deploy", ordering_key="a", max_attempts=2, retry_delay=timedelta(0))
    loads.handler.send("a2", ordering_key="a")
    loads.handler.send("b1", ordering_key="b")
    worker = work(unkept)
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert sorted(loads.handled) == ["a2", "b1"]


def test_lambda_is_told_what_follows_a_failure_of_its_key_too(unkept: App, work: Any, left: Left) -> None:
    answers: list[Any] = []

    def answer(batch: Texts) -> None:
        result = qk.BatchResult(retry=["a1"] if len(batch) == 3 else [])
        answers.append(result.to_lambda_response(batch))

    loads = Loads(unkept, answer, max_size=3)
    for text in ("a1", "b1", "a2"):
        loads.handler.send(text, message_id=text, ordering_key=text[0])
    worker = work(unkept)
    worker.let(lambda: left("q") == 0, step_s=0.1)
    worker.stop()
    assert answers == [{"batchItemFailures": [{"itemIdentifier": "a1"}, {"itemIdentifier": "a2"}]}]


def test_a_rig_runs_batches_of_what_is_due() -> None:
    app = qk.App("memory://")
    loads = Loads(app, nothing, max_wait=timedelta(minutes=10))
    with Rig(app) as rig:
        loads.handler.send_many(["a", "b"])
        loads.handler.send("c", delay=timedelta(minutes=5))
        rig.run(timedelta(minutes=30))
        assert loads.batches == [["a", "b"], ["c"]]
    assert loads.handler.batch.max_wait == timedelta(minutes=10)


def test_a_batch_handler_that_is_to_be_idempotent_is_refused_with_a_remedy() -> None:
    app = qk.App("memory://")
    with pytest.raises(qk.UsageError, match=r"no idempotent=.*a second time changes nothing"):
        app.batch_handler("q", idempotent="memory://")  # type: ignore[arg-type]
