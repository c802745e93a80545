# SPDX-License-Identifier: Apache-2.0
"""Functions of AWS Lambda behind queues of a local server, which a loop polls as Lambda does."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import OutgoingMessage, SystemClock
from queuekit.testing.emulators import LocalFauxqs
from queuekit.testing.local_lambda import REGION

from .conftest import MakeQueue, Map, until_empty

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("QUEUEKIT_SHARED", ROOT.parent / "shared"))
WEBHOOKS = SHARED / "data" / "github-webhooks.jsonl"
COUNT = 451
AT_ONCE = qk.RetryPolicy(max_attempts=3, wait=lambda _state: 0)


Run = Callable[[str, int | None], object]


def sync(app: qk.App, queue: str, run: Run) -> Any:
    @app.handler(queue, retry=AT_ONCE)
    def handle(text: str) -> object:
        return run(text, qk.current().attempt)

    return handle


def on_loop(app: qk.App, queue: str, run: Run) -> Any:
    @app.handler(queue, retry=AT_ONCE)
    async def handle(text: str) -> object:
        return run(text, qk.current().attempt)

    return handle


@pytest.mark.parametrize("form", [sync, on_loop])
def test_what_fails_comes_again_at_once_and_the_rest_is_deleted(
    app: qk.App, make_queue: MakeQueue, mapped: Map, form: Callable[..., Any]
) -> None:
    # Without a visibility change, a failure would come again after 15 minutes.
    queue, seen = make_queue(VisibilityTimeout="900"), defaultdict[str, list[int | None]](list)

    def run(text: str, attempt: int | None) -> object:
        seen[text].append(attempt)
        return qk.Retry() if int(text) % 3 == 0 and attempt != 3 else None

    handle = form(app, queue, run)
    handle.send_many([str(number) for number in range(25)]).raise_for_failures()
    source = mapped(queue, app.aws_lambda())
    until_empty(source)
    assert seen == {str(number): [1, 2, 3] if number % 3 == 0 else [1] for number in range(25)}
    assert source.errors == []


def test_used_up_attempts_go_to_the_dead_letter_queue_with_their_reason(
    app: qk.App, make_queue: MakeQueue, mapped: Map, server: Any
) -> None:
    queue, dead = make_queue(VisibilityTimeout="900"), make_queue()
    target = f"sqs://{REGION}/{dead}?endpoint={server.endpoint}"

    @app.handler(queue, retry=AT_ONCE, dead_letter=target)
    def handle(text: str) -> None:
        raise ValueError(text)

    handle.send("x", attributes={"tenant": "acme"})
    until_empty(mapped(queue, app.aws_lambda()))
    with qk.Consumer(target, poll=timedelta(seconds=1)) as letters:
        letter = letters.receive(timeout=10)
        assert letter is not None
        known = letter._held.message.metadata
        assert (letter.body, letter.attributes["tenant"]) == (b"x", "acme")
        assert (known["dead-attempts"], known["dead-error"]) == ("3", "ValueError: x")
        letter.ack()


@pytest.mark.parametrize("suffix", ["", ".fifo"], ids=["standard", "fifo"])
def test_without_one_of_its_own_a_handler_s_dead_letters_go_where_the_service_puts_them(
    app: qk.App, make_queue: MakeQueue, mapped: Map, client: Any, suffix: str
) -> None:
    dead = make_queue(suffix)
    arn = f"arn:aws:sqs:{REGION}:{client.get_queue_url(QueueName=dead)['QueueUrl'].split('/')[-2]}:{dead}"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 100})
    queue = make_queue(suffix, VisibilityTimeout="900", RedrivePolicy=policy)

    @app.handler(queue)
    def handle(text: str) -> object:
        return qk.DeadLetter("broken")

    handle.send("x", ordering_key="k" if suffix else None)
    until_empty(mapped(queue, app.aws_lambda()))
    with qk.Consumer(
        f"sqs://{REGION}/{dead}", endpoint=app._options["endpoint"], poll=timedelta(seconds=1)
    ) as letters:
        letter = letters.receive(timeout=10)
        assert letter is not None
        assert (letter.body, letter._held.message.metadata["dead-reason"]) == (b"x", "broken")
        letter.ack()


def test_groups_keep_their_order_whatever_fails(app: qk.App, make_queue: MakeQueue, mapped: Map) -> None:
    queue, done = make_queue(".fifo", VisibilityTimeout="900"), defaultdict[str | None, list[int]](list)

    @app.handler(queue, retry=AT_ONCE)
    def handle(number: int) -> object:
        running = qk.current()
        if number % 4 == 1 and running.attempt != 2:
            return qk.Retry()
        done[running.ordering_key].append(number)
        return None

    for number in range(40):
        handle.send(number, ordering_key=f"group {number % 3}")
    until_empty(mapped(queue, app.aws_lambda()))
    assert done == {f"group {at}": list(range(at, 40, 3)) for at in range(3)}


def test_raising_is_safe_where_the_mapping_reports_nothing(app: qk.App, make_queue: MakeQueue, mapped: Map) -> None:
    queue, seen = make_queue(VisibilityTimeout="900"), defaultdict[int, int](int)

    @app.handler(queue, retry=AT_ONCE)
    def handle(number: int) -> None:
        seen[number] += 1
        if number == 3 and seen[number] < 3:
            raise ValueError

    handle.send_many(range(8)).raise_for_failures()
    source = mapped(queue, app.aws_lambda(report="raise"), reports=False)
    until_empty(source)
    assert seen == {number: 3 if number == 3 else 1 for number in range(8)}
    assert {type(each) for each in source.errors} == {qk.PartialFailureError}


def test_a_message_before_its_time_goes_on_as_a_copy(
    app: qk.App, make_queue: MakeQueue, mapped: Map, server: Any
) -> None:
    queue = make_queue(VisibilityTimeout="900")

    @app.handler(queue)
    def handle(text: str) -> None:
        raise AssertionError

    hop = {"v": "1", "hop": "0", "hop-wait": "0.000", "hop-left": "3600.000"}
    url = qk.QueueURL.parse(f"sqs://{REGION}/{queue}?endpoint={server.endpoint}")
    backend = Opener(SystemClock()).open(url)
    backend.send([OutgoingMessage("later", b"x", {}, hop)], timeout_s=10)
    source = mapped(queue, app.aws_lambda())
    assert source.turn(wait_s=1) == 1
    assert source.left() == (0, 0, 1)


def test_a_handler_may_ask_for_more_time(app: qk.App, make_queue: MakeQueue, mapped: Map, client: Any) -> None:
    queue = make_queue(VisibilityTimeout="30")
    calls: list[str] = []

    @app.handler(queue)
    def handle(text: str) -> None:
        qk.current().extend(by=timedelta(minutes=10))
        calls.extend(pipe_of(function, queue).link.backend.api_calls())

    handle.send("x")
    function = app.aws_lambda()
    assert mapped(queue, function).turn(wait_s=1) == 1
    assert "ChangeMessageVisibilityBatch" in calls


def test_where_it_is_not_permitted_the_queues_own_wait_applies(
    app: qk.App, make_queue: MakeQueue, mapped: Map, caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(VisibilityTimeout="2")
    attempts: list[int | None] = []

    @app.handler(queue, retry=AT_ONCE)
    def handle(text: str) -> None:
        attempts.append(qk.current().attempt)
        if len(attempts) < 3:
            raise ValueError

    def deny(**_: object) -> tuple[Any, Any]:
        error = {"Code": "AccessDenied", "Message": "not authorized to perform: sqs:ChangeMessageVisibility"}
        return SimpleNamespace(status_code=403), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403}}

    handle.send("x")
    function = app.aws_lambda()
    function({"Records": []}, None)
    events = pipe_of(function, queue).link.backend._clients.calling().meta.events
    events.register("before-call.sqs.ChangeMessageVisibilityBatch", deny)
    until_empty(mapped(queue, function))
    assert attempts == [1, 2, 3]
    actions = [getattr(each, "action", "") for each in caplog.records]
    assert actions.count("push.waits_refused") == 1


def pipe_of(function: Any, queue: str) -> Any:
    doorway = function._doorway
    named = next(each for each in doorway.queues() if each.name == queue)
    return doorway.pipe(named.name, named.url, named.options)


class Webhook(BaseModel):
    event: str
    file: str
    payload: dict[str, Any]


@pytest.fixture
def bodies(request: pytest.FixtureRequest, server: Any) -> list[bytes]:
    if isinstance(server, LocalFauxqs):
        reason = "fauxqs refuses characters beyond U+FFFF, which SQS takes"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    if not WEBHOOKS.exists():
        pytest.skip(f"{WEBHOOKS.name} is not there; name the folder that holds data/ with QUEUEKIT_SHARED")
    lines = WEBHOOKS.read_bytes().splitlines()
    assert len(lines) == COUNT
    return lines


def test_webhooks_of_strangers_arrive_byte_by_byte_and_as_their_model(
    app: qk.App, make_queue: MakeQueue, mapped: Map, client: Any, bodies: list[bytes]
) -> None:
    queue = make_queue(VisibilityTimeout="900")
    address = client.get_queue_url(QueueName=queue)["QueueUrl"]
    arrived: list[tuple[bytes, Webhook]] = []

    @app.handler(queue)
    async def handle(webhook: Webhook) -> None:
        arrived.append((qk.current().body, webhook))

    source = mapped(queue, app.aws_lambda(), batch=50)
    for start in range(0, COUNT, 10):
        part = [body.decode() for body in bodies[start : start + 10]]
        entries = [{"Id": str(at), "MessageBody": body} for at, body in enumerate(part)]
        assert not client.send_message_batch(QueueUrl=address, Entries=entries).get("Failed")
        if start % 50 == 40:
            source.turn()  # a few at a time: the local server takes ever longer, the more there are
    until_empty(source)
    assert sorted(body for body, _ in arrived) == sorted(bodies)
    assert all(webhook.model_dump() == json.loads(body) for body, webhook in arrived)


def test_our_own_webhooks_arrive_in_batches(
    app: qk.App, make_queue: MakeQueue, mapped: Map, bodies: list[bytes]
) -> None:
    queue, arrived = make_queue(VisibilityTimeout="900"), list[bytes]()

    @app.batch_handler(queue, max_size=20)
    def handle(batch: qk.Batch[bytes]) -> None:
        arrived.extend(batch.payloads)

    source = mapped(queue, app.aws_lambda(), batch=50)
    for start in range(0, COUNT, 50):
        handle.send_many(bodies[start : start + 50]).raise_for_failures()
        source.turn()
    until_empty(source)
    assert sorted(arrived) == sorted(bodies)
