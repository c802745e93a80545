# SPDX-License-Identifier: Apache-2.0
"""Handlers behind a real server that the emulator calls."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from tenacity import wait_fixed

import queuekit as qk
from queuekit._engine import metadata as meta
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.push import NoAuth
from queuekit.stores import ClaimState
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.serving import Serving

SHARED = Path(os.environ.get("QUEUEKIT_SHARED", Path(__file__).parents[3].parent / "shared"))
WEBHOOKS = SHARED / "data" / "github-webhooks.jsonl"
COUNT = 451
LIMIT_S = 60.0
PLACE = "shop/europe-west1"


class Shop:
    """An app, the emulator, and a server between them."""

    def __init__(self, emulator: LocalCloudTasks, **options: str) -> None:
        self.serving = Serving(self._serve)
        settings = {"endpoint": emulator.address, "target": f"{self.serving.url}/tasks", **options}
        query = "&".join(f"{name}={text}" for name, text in settings.items())
        self.base = f"cloudtasks://{PLACE}?{query}"
        self.app = qk.App(self.base)
        self._asgi: Any = None

    def url(self, queue: str) -> str:
        return self.base.replace(PLACE, f"{PLACE}/{queue}")

    def make(self, *queues: str) -> None:
        opener = Opener(SystemClock())
        for queue in queues:
            made: Any = opener.open(qk.QueueURL.parse(self.url(queue)))
            made.create()
        opener.close()

    def __enter__(self) -> Self:
        self._asgi = self.app.asgi(auth=NoAuth())
        self.serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.serving.stop()
        self.app.close()

    def statuses(self, count: int) -> list[int]:
        return [each.status for each in self.serving.wait_for(count, within_s=LIMIT_S)]

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self._asgi(scope, receive, send)


@pytest.fixture
def emulator() -> Iterator[LocalCloudTasks]:
    with LocalCloudTasks() as emulator:
        yield emulator


@pytest.fixture
def shop(emulator: LocalCloudTasks) -> Iterator[Callable[..., Shop]]:
    with ExitStack() as closing:

        def make(**options: str) -> Shop:
            made = Shop(emulator, **options)
            closing.callback(made.serving.stop)
            return made

        yield make


def test_every_body_of_real_input_goes_through_byte_by_byte(shop: Callable[..., Shop]) -> None:
    if not WEBHOOKS.exists():
        pytest.skip(f"{WEBHOOKS.name} is not in {WEBHOOKS.parent}; name the folder with QUEUEKIT_SHARED")
    bodies, seen, made = WEBHOOKS.read_bytes().splitlines(), list[bytes](), shop()
    assert len(bodies) == COUNT
    made.make("orders")

    @made.app.handler("orders")
    def handle(body: bytes) -> None:
        seen.append(body)

    with made:
        handle.send_many(bodies).raise_for_failures()
        assert made.statuses(COUNT) == [204] * COUNT
    assert sorted(seen) == sorted(bodies)


def test_one_server_works_several_queues_and_knows_them_by_name(shop: Callable[..., Shop]) -> None:
    made, seen = shop(), list[tuple[str, str]]()
    made.make("orders", "mails")

    @made.app.handler("orders")
    def order(what: str) -> None:
        seen.append(("orders", what))

    @made.app.handler("mails")
    async def mail(what: str) -> None:
        seen.append(("mails", what))

    with made:
        order.send("1")
        mail.send("2")
        assert made.statuses(2) == [204, 204]
    assert sorted(seen) == [("mails", "2"), ("orders", "1")]


def test_attempts_are_counted_across_new_tasks_and_what_fails_for_good_is_kept(shop: Callable[..., Shop]) -> None:
    made, attempts = shop(), list[int | None]()
    made.make("orders")
    policy = qk.RetryPolicy(max_attempts=4, wait=wait_fixed(0.2))

    @made.app.handler("orders", retry=policy, dead_letter="memory://dead")
    def fail(what: str) -> None:
        attempts.append(qk.current().attempt)
        raise ValueError(what)

    with made:
        fail.send("bad")
        assert made.statuses(4) == [204] * 4, "each attempt was done for by its copy, and the last by its letter"
    dead: Any = Opener(SystemClock()).open(qk.QueueURL.parse("memory://dead"))
    (letter,) = dead.peek(limit=9)
    assert (letter.body, letter.metadata[meta.DEAD_REASON]) == (b"bad", "attempts used up: 4 of 4")
    assert attempts == [1, 2, 3, 4]


def test_by_the_queues_own_backoff_the_answer_says_that_it_failed(shop: Callable[..., Shop]) -> None:
    made, attempts = shop(queue_backoff="true"), list[int | None]()
    made.make("orders")

    @made.app.handler("orders")
    def handle(_what: str) -> None:
        attempts.append(qk.current().attempt)
        if len(attempts) == 1:
            raise ValueError

    with made:
        handle.send("x")
        assert made.statuses(2) == [500, 204]
    assert attempts == [1, 2]


@pytest.mark.parametrize("queue_backoff", ["false", "true"])
def test_a_wait_that_the_handler_demands_is_a_new_task_in_either_case(
    shop: Callable[..., Shop], queue_backoff: str
) -> None:
    made, attempts, clock = shop(queue_backoff=queue_backoff), list[tuple[int | None, float]](), SystemClock()
    made.make("orders")

    @made.app.handler("orders")
    def handle(_what: str) -> qk.Retry | None:
        attempts.append((qk.current().attempt, clock.monotonic()))
        return qk.Retry(delay=timedelta(seconds=1.5)) if len(attempts) == 1 else None

    with made:
        handle.send("x")
        assert made.statuses(2) == [204, 204]
    (first, began), (second, again) = attempts
    assert (first, second) == (1, 2)
    assert again - began >= 1.45


def test_what_somebody_else_is_doing_comes_again_as_a_new_task_without_an_attempt(
    shop: Callable[..., Shop], tmp_path: Path
) -> None:
    made, attempts, opener = shop(), list[int | None](), Opener(SystemClock())
    made.make("orders")
    store, begun = f"sqlite:///{tmp_path}/done.db", threading.Event()
    claims = opener.open_store(qk.QueueURL.parse(store))
    place = qk.QueueURL.parse(made.url("orders"))
    assert claims.claim(f"{place}:work:k", owner="dead", lease_s=2.0, fingerprint="").state is ClaimState.CLAIMED
    once = qk.Idempotency(store=store, key=lambda _: "k", check_payload=False)

    @made.app.handler(made.url("orders"), idempotent=once, message_type="work", retry=qk.RetryPolicy(max_attempts=1))
    def handle(_what: str) -> None:
        attempts.append(qk.current().attempt)
        begun.set()

    with made:
        handle.send("x")
        assert begun.wait(LIMIT_S)
        made.serving.wait_for(2, within_s=LIMIT_S)
    assert attempts == [1], "what waited was no attempt"
    assert {each.status for each in made.serving.answers} == {204}
    claims.close()
    opener.close()


def test_a_consumer_and_a_worker_are_refused_and_told_what_to_do(shop: Callable[..., Shop]) -> None:
    made = shop()
    made.make("orders")

    @made.app.handler("orders")
    def handle(_what: str) -> None:
        pass

    for start in (lambda: qk.Consumer(made.url("orders")), made.app.run):
        with pytest.raises(qk.UnsupportedError, match=r"cannot be received from.*queuekit worker.*App\.asgi"):
            start()
