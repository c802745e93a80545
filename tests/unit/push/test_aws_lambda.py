# SPDX-License-Identifier: Apache-2.0
"""The AWS Lambda door: exactly those ids are answered whose messages are to come again."""

import asyncio
import json
import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

import queuekit as qk
from queuekit import App, UsageError
from queuekit._engine import metadata as meta
from queuekit._wiring.opening import Opener
from queuekit.backend import OutgoingMessage, Peekable, StoredMessage
from queuekit.testing.clock import VirtualClock

from .events import FIFO, STANDARD, Context, changed, event, failed, ours, record
from .forms import FORMS, in_batches

RANDOM_CASES = 1000


class Order(BaseModel):
    number: int


def test_foreign_messages_are_decoded_by_the_handlers_own_codec(app: App) -> None:
    seen: list[Order] = []

    @app.handler("orders")
    def handle(order: Order) -> None:
        seen.append(order)
        assert qk.current().attempt == 3
        assert qk.current().enqueued_at is not None

    answer = app.aws_lambda()(event([record('{"number": 7}', attempt=3)]), Context())
    assert failed(answer) == []
    assert seen == [Order(number=7)]


def test_documented_events_go_through(app: App) -> None:
    seen: list[tuple[str, dict[str, str], str | None]] = []

    def handle(text: str) -> None:
        running = qk.current()
        seen.append((text, dict(running.attributes), running.ordering_key))

    app.handler("my-queue")(handle)
    app.handler("fifo.fifo")(handle)
    function = app.aws_lambda()
    assert failed(function(STANDARD, Context())) == []
    assert failed(function(FIFO, Context())) == []
    assert sorted(seen, key=repr) == [
        ("a message", {"myAttribute": "myValue"}, None),
        ("a message", {}, "1"),
        ("a message", {}, None),
    ]


def test_our_messages_come_whole(app: App) -> None:
    seen: list[qk.Current] = []

    @app.handler("orders", message_type="order")
    def handle(body: bytes) -> None:
        seen.append(qk.current())
        bodies.append(body)

    bodies: list[bytes] = []
    sent = [
        OutgoingMessage("one", b"\x00\xff", {"tenant": "acme"}, {"v": "1", "type": "order", "base": "2"}),
        OutgoingMessage("two", b"", {"Ünsafe name": "é"}, {"v": "1", "type": "order"}),
    ]
    function = app.aws_lambda()
    assert failed(function(event([ours(each, number=at) for at, each in enumerate(sent)]))) == []
    assert sorted(bodies) == [b"", b"\x00\xff"]
    by_id = {each.message_id: each for each in seen}
    assert by_id["one"].attributes == {"tenant": "acme"}
    assert by_id["one"].attempt == 3
    assert by_id["two"].attributes == {"Ünsafe name": "é"}


SOON = qk.RetryPolicy(wait=lambda _state: 5)


@pytest.mark.row("R39", backend="sqs")
@pytest.mark.parametrize("form", FORMS)
def test_of_any_subset_that_fails_exactly_its_ids_are_answered(app: App, form: Callable[..., Any]) -> None:
    def run(text: str, attempt: int | None) -> object:
        if text == "raise":
            raise ValueError
        return qk.Retry() if text == "retry" else None

    form(app, "orders", run, retry=SOON)
    function = app.aws_lambda()
    chance = random.Random(39)
    for _ in range(RANDOM_CASES // len(FORMS) + 1):
        bodies = [chance.choice(["done", "done", "raise", "retry"]) for _ in range(chance.randint(1, 12))]
        records = [record(body, number=at) for at, body in enumerate(bodies)]
        expected = [f"id-{at}" for at, body in enumerate(bodies) if body != "done"]
        assert failed(function(event(records), Context())) == expected


def by_group(bodies: list[str], groups: list[str]) -> tuple[list[str], list[str]]:
    """The ids that must be answered, and the bodies that must have been begun."""
    broken: set[str] = set()
    expected: list[str] = []
    begun: list[str] = []
    for at, (body, group) in enumerate(zip(bodies, groups, strict=True)):
        if group not in broken:
            begun.append(body)
        if group in broken or body.endswith("raise"):
            broken.add(group)
            expected.append(f"id-{at}")
    return expected, begun


@pytest.mark.row("R39", backend="sqs", case="FIFO")
@pytest.mark.parametrize("form", FORMS)
def test_of_a_group_everything_behind_a_failure_is_answered_and_was_not_begun(
    app: App, form: Callable[..., Any]
) -> None:
    begun: list[str] = []

    def run(text: str, attempt: int | None) -> object:
        begun.append(text)
        return qk.Retry() if text.endswith("raise") else None

    form(app, "orders.fifo", run, retry=SOON)
    function = app.aws_lambda()
    chance = random.Random(40)
    for _ in range(RANDOM_CASES // 10):
        begun.clear()
        groups = [chance.choice("ab") for _ in range(chance.randint(1, 10))]
        bodies = [f"{at} {chance.choice(['done', 'done', 'raise'])}" for at in range(len(groups))]
        records = [record(body, number=at, queue="orders.fifo", group=groups[at]) for at, body in enumerate(bodies)]
        expected, must = by_group(bodies, groups)
        assert failed(function(event(records), Context())) == expected
        # A batch handler looks at what it was given; the others see only what may be begun.
        assert set(must) <= set(begun)
        assert form is in_batches or sorted(begun) == sorted(must)
        order = [int(each.split()[0]) for each in begun]
        for group in "ab":
            assert [at for at in order if groups[at] == group] == sorted(at for at in order if groups[at] == group)


def test_a_message_that_stands_twice_in_an_event_is_answered_once(app: App) -> None:
    @app.handler("orders")
    def handle(text: str) -> None:
        raise ValueError

    assert failed(app.aws_lambda()(event([record("a"), record("a")]))) == ["id-0"]


def test_several_queues_have_their_own_handlers(app: App) -> None:
    seen: list[str] = []

    @app.handler("orders")
    def one(text: str) -> None:
        seen.append("one " + text)

    @app.handler("sqs://us-east-2/emails")
    async def two(text: str) -> None:
        seen.append("two " + text)

    @app.handler("sqs://999999999999@us-east-2/orders")
    def foreign(text: str) -> None:
        seen.append("foreign " + text)

    function = app.aws_lambda()
    both = event([record("a"), record("b", queue="emails", number=1)])
    assert failed(function(both, Context())) == []
    arn = "arn:aws:sqs:us-east-2:999999999999:orders"
    assert failed(function(changed(event([record("c")]), eventSourceARN=arn), Context())) == []
    assert seen == ["one a", "two b", "foreign c"]


def test_an_app_without_a_url_knows_its_queues_by_the_event() -> None:
    with App(clock=VirtualClock()) as app:
        seen: list[str] = []

        @app.handler("orders")
        def handle(text: str) -> None:
            seen.append(qk.current().queue)

        assert failed(app.aws_lambda()(event([record("a")]))) == []
    assert seen == ["sqs://***@us-east-2/orders"]


def test_each_lane_is_a_queue_of_the_handler(clock: VirtualClock) -> None:
    with App("sqs://us-east-2?lanes=high,low", clock=clock) as app:
        seen: list[str] = []

        @app.handler("orders")
        def handle(text: str) -> None:
            seen.append(text)

        function = app.aws_lambda()
        assert failed(function(event([record("a", queue="orders-high")]))) == []
        assert failed(function(event([record("b", queue="orders-low")]))) == []
        assert failed(function(event([record("c", queue="orders")]))) == ["id-0"]
    assert seen == ["a", "b"]


def test_unknown_queues_and_types_are_retried_and_then_left_to_the_service(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.handler("orders")
    def handle(text: str) -> None: ...

    function = app.aws_lambda()
    typed = OutgoingMessage("x", b"x", {}, {"v": "1", "type": "unheard-of"})
    for attempt in (1, 5, 20):
        assert failed(function(event([record("a", queue="others", attempt=attempt)]))) == ["id-0"]
        assert failed(function(event([ours(typed, attempt=attempt)]))) == ["id-0"]
    assert actions(caplog).count("dead_letter.failed") == 4, "there is no login to ask for a dead-letter queue with"


def test_what_cannot_be_decoded_goes_to_the_dead_letters(app: App) -> None:
    @app.handler("orders", dead_letter="memory://graveyard")
    def handle(order: Order) -> None: ...

    assert failed(app.aws_lambda()(event([record("no json")]))) == []
    assert [each.body for each in stored(app, "memory://graveyard")] == [b"no json"]


def test_a_dead_letter_is_confirmed_before_its_message_is_done(app: App) -> None:
    @app.handler("orders", dead_letter="memory://graveyard?space=other", retry=qk.RetryPolicy(max_attempts=2))
    def handle(text: str) -> None:
        raise ValueError(text)

    function = app.aws_lambda()
    assert failed(function(event([record("a", attempt=1)]))) == ["id-0"]
    assert failed(function(event([record("a", attempt=2, attributes={"tenant": "acme"})]))) == []
    (letter,) = stored(app, "memory://graveyard?space=other")
    assert (letter.body, dict(letter.attributes)) == (b"a", {"tenant": "acme"})
    known = letter.metadata
    assert (known[meta.DEAD_ATTEMPTS], known[meta.DEAD_ERROR]) == ("2", "ValueError: a")
    assert known[meta.DEAD_SOURCE] == "sqs://us-east-2/orders"


def test_a_damaged_message_is_answered_and_its_group_with_it(app: App) -> None:
    begun: list[str] = []

    @app.handler("orders.fifo")
    def handle(text: str) -> None:
        begun.append(text)

    records = [record(str(at), number=at, queue="orders.fifo", group="ab"[at % 2]) for at in range(4)]
    records[0]["md5OfBody"] = "0" * 32
    assert failed(app.aws_lambda()(event(records))) == ["id-0", "id-2"]
    assert sorted(begun) == ["1", "3"]


def test_a_function_without_time_says_so_instead_of_turning_round_for_ever(app: App, clock: VirtualClock) -> None:
    @app.handler("orders")
    def handle(text: str) -> None: ...

    with pytest.raises(UsageError, match="longer timeout"):
        app.aws_lambda()(event([record("a")]), Context(clock, left_s=3))
    assert failed(app.aws_lambda(margin=timedelta(seconds=1))(event([record("a")]), Context(clock, left_s=3))) == []


def test_near_the_end_nothing_begins_and_the_rest_is_answered(app: App, clock: VirtualClock) -> None:
    begun: list[str] = []

    @app.handler("orders", concurrency=1)
    def handle(text: str) -> None:
        begun.append(text)
        clock.advance(4)

    records = [record(str(at), number=at) for at in range(5)]
    assert failed(app.aws_lambda()(event(records), Context(clock, left_s=15))) == ["id-3", "id-4"]
    assert begun == ["0", "1", "2"]


def test_a_handler_that_does_not_end_is_answered_as_failed_in_time(app: App, clock: VirtualClock) -> None:
    began, end = threading.Event(), threading.Event()

    @app.handler("orders")
    def handle(text: str) -> None:
        if text == "slow":
            began.set()
            assert end.wait(20)

    function = app.aws_lambda()
    context = Context(clock, left_s=15)
    answers: list[Any] = []
    records = [record("slow", number=0), record("quick", number=1)]
    thread = threading.Thread(target=lambda: answers.append(function(event(records), context)), daemon=True)
    thread.start()
    assert began.wait(20)
    while thread.is_alive():
        thread.join(0.002)
        clock.advance(0.1)
    assert failed(answers[0]) == ["id-0"]
    # Late by the last step of the clock at most, and before Lambda ends the function.
    assert context.get_remaining_time_in_millis() > 0
    end.set()
    for each in threading.enumerate():
        if each.name.startswith("queuekit-run"):
            each.join(20)


def test_raising_instead_of_answering(app: App) -> None:
    @app.handler("orders")
    def handle(text: str) -> None:
        if text == "bad":
            raise ValueError

    function = app.aws_lambda(report="raise")
    assert failed(function(event([record("fine")]))) == []
    with pytest.raises(qk.PartialFailureError) as raised:
        function(event([record("fine"), record("bad", number=1)]), Context())
    assert raised.value.failures == ("id-1",)


@pytest.mark.parametrize("options", [{"report": "sometimes"}, {"margin": 5}, {"margin": timedelta(seconds=-1)}])
def test_options_that_cannot_be_are_refused_at_once(app: App, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        app.aws_lambda(**options)


@pytest.mark.parametrize("options", [{"rate": qk.Rate(5)}, {"on_dead": "hold"}])
def test_what_only_a_worker_does_is_refused_by_name(app: App, options: dict[str, Any]) -> None:
    @app.handler("orders", **options)
    def handle(text: str) -> None: ...

    with pytest.raises((UsageError, qk.UnsupportedError), match=r"a rate|on_dead"):
        app.aws_lambda()(event([record("a")]))


def test_an_error_of_the_middleware_fails_its_message_alone(clock: VirtualClock) -> None:
    class Breaking(qk.Middleware):
        def handling(self, delivery: qk.Current) -> Any:
            if delivery.body == b"bad":
                raise RuntimeError
            return super().handling(delivery)

    with App("sqs://us-east-2", clock=clock, middleware=[Breaking()]) as app:

        @app.handler("orders")
        async def handle(text: str) -> None: ...

        records = [record(body, number=at) for at, body in enumerate(["fine", "bad", "fine"])]
        assert failed(app.aws_lambda()(event(records))) == ["id-1"]


def test_warm_events_share_what_lasts(app: App) -> None:
    loops: set[asyncio.AbstractEventLoop] = set()

    @app.handler("orders")
    async def handle(text: str) -> None:
        loops.add(asyncio.get_running_loop())

    others = set(threading.enumerate())  # of what else ran in this process
    function = app.aws_lambda()
    for _ in range(5):
        assert failed(function(event([record("a")]), Context())) == []
        assert not [each for each in set(threading.enumerate()) - others if each.name.startswith("queuekit")]
    assert len(loops) == 1
    assert app.counts()["orders"]["settled"] == 5
    app.close()
    assert failed(function(event([record("a")]), Context())) == []
    assert len(loops) == 2


def test_a_function_works_inside_of_a_running_loop(app: App) -> None:
    @app.handler("orders")
    async def handle(text: str) -> None: ...

    async def main() -> Any:
        return app.aws_lambda()(event([record("a")]))

    assert failed(asyncio.run(main())) == []


def test_what_handlers_send_is_sent_before_the_answer(app: App) -> None:
    @app.handler("memory://next")
    def following(text: str) -> None: ...

    @app.handler("orders")
    def handle(text: str) -> None:
        following.send_soon(text)

    assert failed(app.aws_lambda()(event([record("a")]))) == []
    assert [each.body for each in stored(app, "memory://next")] == [b"a"]


def test_waits_are_asked_for_once_where_there_are_no_credentials(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.handler("orders")
    def handle(text: str) -> None:
        raise ValueError

    function = app.aws_lambda()
    for _ in range(3):
        assert failed(function(event([record("a")]), Context())) == ["id-0"]
    assert actions(caplog).count("push.waits_refused") == 1


def test_nothing_of_the_sdk_is_imported_where_nothing_is_asked_of_the_service() -> None:
    code = f"""
import json, sys
import queuekit as qk
app = qk.App("sqs://us-east-2")
@app.handler("orders")
def handle(text: str) -> None: ...
print(app.aws_lambda()(json.loads({json.dumps(json.dumps(event([record("a")])))}), None))
print([each for each in sys.modules if each.partition(".")[0] in ("boto3", "botocore")])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines() == ["{'batchItemFailures': []}", "[]"]


def test_what_is_no_event_raises_so_that_lambda_keeps_everything(app: App) -> None:
    with pytest.raises(UsageError):
        app.aws_lambda()({"detail-type": "Scheduled Event"}, Context())


def stored(app: App, url: str) -> Sequence[StoredMessage]:
    """What a queue in memory holds."""
    backend = Opener(app._clock).open(qk.QueueURL.parse(url))
    assert isinstance(backend, Peekable)
    return backend.peek(limit=10)


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert logging.getLogger("queuekit").level <= logging.DEBUG
    return [getattr(each, "action", "") for each in caplog.records]


def test_the_time_that_is_kept_back_is_shared_out(app: App, clock: VirtualClock) -> None:
    function: Any = app.aws_lambda(margin=timedelta(seconds=10))
    now = clock.monotonic()
    limits, settle_by = function._limits(Context(clock, left_s=60))
    assert (limits.begin_by - now, limits.end_by - now, limits.answer_by - now, settle_by - now) == pytest.approx(
        (50.0, 55.0, 56.0, 58.5)
    ), "handlers, then what they leave to be sent, then waits, then Lambda's own end"
