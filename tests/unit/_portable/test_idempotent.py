# SPDX-License-Identifier: Apache-2.0
"""Handlers whose work is done once by key: what the store's answers mean for the message."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, DeadMessage, ExitCode, Idempotency
from queuekit._portable.claims import ClaimKeeper, Run
from queuekit.backends._memory_idempotency import MemoryIdempotency
from queuekit.stores import Claim, ClaimState, SystemClock
from queuekit.testing.clock import VirtualClock

AT_ONCE = qk.RetryPolicy(max_attempts=20, wait=lambda _state: 0)
Dead = Callable[[str], list[DeadMessage]]
Left = Callable[[str], int]


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [action for record in caplog.records if (action := getattr(record, "action", "")).startswith("idemp")]


def test_the_dedup_id_is_the_key_and_else_the_message_id(app: App, work: Any, left: Left) -> None:
    seen: list[str] = []

    @app.handler("q", idempotent="memory://")
    def handle(text: str) -> None:
        seen.append(text)

    producer = qk.Producer("memory://q", payload=str, clock=app._clock, dedup_window=timedelta(0))
    with producer:
        report = producer.send_many([qk.Message("a", message_id="m"), qk.Message("b", message_id="m2")])
        report.raise_for_failures()
        producer.send("a", message_id="m")
    worker = work()
    worker.let(lambda: len(seen) == 2 and left("q") == 0)
    assert worker.stop() is ExitCode.DRAINED
    assert seen == ["a", "b"]


def test_two_messages_with_one_dedup_id_are_one_work(app: App, work: Any, left: Left, clock: VirtualClock) -> None:
    seen: list[str] = []

    @app.handler("q", idempotent="memory://", lease=timedelta(seconds=1))
    def handle(text: str) -> None:
        seen.append(text)

    handle.send("a", dedup_id="order-7")
    clock.advance(2 * 3600)  # the queue's own window is over, the store remembers for a day
    handle.send("a", dedup_id="order-7")
    worker = work()
    worker.let(lambda: left("q") == 0)
    assert worker.stop() is ExitCode.DRAINED
    assert seen == ["a"]


@pytest.mark.parametrize("by_url", [False, True], ids=["keyword", "url"])
def test_each_subscription_of_a_queue_has_work_of_its_own(clock: VirtualClock, work: Any, by_url: bool) -> None:
    seen: list[str] = []

    def subscriber(name: str) -> App:
        app = App(f"memory://?subscription={name}", clock=clock) if by_url else App(
            "memory://", subscription=name, clock=clock
        )  # fmt: skip

        @app.handler("q", message_type="order", idempotent="memory://")
        def handle(text: str) -> None:
            seen.append(f"{name} {text}")

        return app

    apps = [subscriber("bills"), subscriber("parcels")]
    for name in ("bills", "parcels"):
        with qk.Consumer(f"memory://q?subscription={name}", clock=clock) as consumer:
            consumer.check().raise_for_problems()
    with qk.Producer("memory://q", payload=str, message_type="order", clock=clock) as producer:
        producer.send("tea", message_id="m")
    for worker in [work(each) for each in apps]:
        worker.let(lambda: len(seen) == 2 or sum(each.counts()["q"]["settled"] for each in apps) == 2)
        assert worker.stop() is ExitCode.DRAINED
    assert sorted(seen) == ["bills tea", "parcels tea"]
    for each in apps:
        each.close()


@pytest.mark.parametrize("awaits", [False, True])
def test_a_key_with_another_payload_is_dead_with_its_reason(app: App, work: Any, dead: Dead, awaits: bool) -> None:
    seen: list[str] = []

    def handle(text: str) -> None:
        seen.append(text)

    async def ahandle(text: str) -> None:
        seen.append(text)

    handler = app.handler("q", idempotent=Idempotency(store="memory://", key=lambda _: "same"))(
        ahandle if awaits else handle
    )
    handler.send("a")
    worker = work()
    worker.let(lambda: len(seen) == 1)
    handler.send("b")
    worker.let(lambda: len(dead("q")) == 1)
    assert worker.stop() is ExitCode.DRAINED
    assert dead("q")[0].reason == "the idempotency key was used with another payload"
    assert seen == ["a"]


def test_a_claim_is_renewed_while_its_handler_runs(app: App, work: Any, clock: VirtualClock) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.handler("q", idempotent=Idempotency(store="memory://", key=lambda _: "k"), lease=timedelta(seconds=9))
    def handle(text: str) -> None:
        begun.set()
        assert go_on.wait(20)

    handle.send("a")
    worker = work()
    assert begun.wait(20)
    store = MemoryIdempotency("", clock)
    renewed = clock.monotonic() + 40
    worker.let(lambda: clock.monotonic() > renewed, step_s=0.5)
    assert store.claim("q:handle:k", owner="other", lease_s=9, fingerprint=FINGERPRINT_OF_A).state is ClaimState.BUSY
    go_on.set()
    assert worker.stop() is ExitCode.DRAINED
    assert store.claim("q:handle:k", owner="other", lease_s=9, fingerprint=FINGERPRINT_OF_A).state is ClaimState.DONE


FINGERPRINT_OF_A = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
"""SHA-256 of the body ``a``."""


class Failing:
    """A store that does its work but for the methods that it is told to fail."""

    def __init__(self, clock: VirtualClock, *fails: str) -> None:
        self._real = MemoryIdempotency("failing", clock)
        self.fails = list(fails)

    def _maybe(self, name: str) -> None:
        if name in self.fails:
            msg = f"{name} cannot be reached"
            raise ConnectionError(msg)

    def claim(self, key: str, *, owner: str, lease_s: float, fingerprint: str) -> Claim:
        self._maybe("claim")
        return self._real.claim(key, owner=owner, lease_s=lease_s, fingerprint=fingerprint)

    def renew(self, key: str, *, owner: str, lease_s: float) -> bool:
        self._maybe("renew")
        return self._real.renew(key, owner=owner, lease_s=lease_s)

    def complete(self, key: str, *, owner: str, keep_s: float) -> bool:
        self._maybe("complete")
        return self._real.complete(key, owner=owner, keep_s=keep_s)

    def forget(self, key: str, *, owner: str) -> bool:
        self._maybe("forget")
        return self._real.forget(key, owner=owner)

    def close(self) -> None:
        self.fails.append("closed")


def test_work_that_cannot_be_recorded_is_acked_all_the_same(
    app: App, work: Any, clock: VirtualClock, left: Left, caplog: pytest.LogCaptureFixture
) -> None:
    store, seen = Failing(clock, "complete"), []

    @app.handler("q", idempotent=Idempotency(store=store))
    def handle(text: str) -> None:
        seen.append(text)

    handle.send("a")
    worker = work()
    worker.let(lambda: left("q") == 0)
    assert worker.stop() is ExitCode.DRAINED
    assert seen == ["a"]
    assert actions(caplog) == ["idempotency.unrecorded"]
    app.close()
    assert "closed" not in store.fails, "a store of the user's own is the user's to close"


def test_a_key_that_cannot_be_freed_is_free_when_its_claim_runs_out(
    app: App, work: Any, clock: VirtualClock, left: Left, caplog: pytest.LogCaptureFixture
) -> None:
    store, attempts = Failing(clock, "forget"), list[int | None]()

    @app.handler("q", idempotent=Idempotency(store=store), retry=AT_ONCE, lease=timedelta(seconds=3))
    async def handle(text: str) -> None:
        attempts.append(qk.current().attempt)
        if len(attempts) == 1:
            raise ValueError(text)

    handle.send("a")
    worker = work()
    worker.let(lambda: left("q") == 0)
    assert worker.stop() is ExitCode.DRAINED
    assert attempts == [1, 2], "waiting for the claim spent no attempt"
    assert set(actions(caplog)) == {"idempotency.unavailable", "idempotency.busy"}


@pytest.mark.parametrize("key", ["", "k" * 1001, 7, "k\ud800"], ids=["empty", "long", "number", "surrogate"])
def test_a_key_that_cannot_be_one_fails_the_attempt(app: App, work: Any, dead: Dead, key: Any) -> None:
    @app.handler("q", idempotent=Idempotency(store="memory://", key=lambda _: key), retry=qk.RetryPolicy(1))
    def handle(text: str) -> None:
        raise AssertionError(text)

    handle.send("a")
    worker = work()
    worker.let(lambda: len(dead("q")) == 1)
    assert worker.stop() is ExitCode.DRAINED
    assert "an idempotency key must be a str of 1 to 1000 characters" in (dead("q")[0].error or "")


def test_the_mark_is_written_with_the_effect_or_not_at_all(
    app: App, work: Any, tmp_path: Path, left: Left, clock: VirtualClock
) -> None:
    database = tmp_path / "app.db"
    with sqlite3.connect(database) as made:
        made.execute("CREATE TABLE paid (what TEXT)")
    made.close()

    @app.handler("q", idempotent=f"sqlite:///{database}", retry=AT_ONCE)
    def pay(what: str) -> None:
        connection = sqlite3.connect(database)
        try:
            with connection:
                connection.execute("INSERT INTO paid VALUES (?)", (what,))
                qk.current().complete_in(connection)
                if qk.current().attempt == 1:
                    raise ValueError("before the commit")
        finally:
            connection.close()

    pay.send("rent", message_id="m")
    worker = work()
    worker.let(lambda: left("q") == 0)
    pay.send("rent", message_id="m")
    worker.let(lambda: left("q") == 0)
    assert worker.stop() is ExitCode.DRAINED
    check = sqlite3.connect(database)
    assert check.execute("SELECT what FROM paid").fetchall() == [("rent",)]
    check.close()


def test_complete_in_needs_a_handler_and_a_store_that_can(app: App, work: Any, left: Left) -> None:
    said: list[str] = []

    def attempt(text: str) -> None:
        try:
            qk.current().complete_in(sqlite3.connect(":memory:"))
        except qk.UsageError as error:
            said.append(f"{text}: {error}")

    app.handler("plain", message_type="a")(attempt).send("plain")
    app.handler("memory", message_type="a", idempotent="memory://")(attempt).send("memory")
    worker = work()
    worker.let(lambda: len(said) == 2)
    assert worker.stop() is ExitCode.DRAINED
    assert sorted(said) == [
        "memory: MemoryIdempotency has no transactions; use a store in the database of the handler's effects",
        "plain: complete_in() needs a handler with idempotent=, whose store was asked",
    ]


class Slow(Failing):
    """A store whose claims wait for a word of the test."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.asked, self.answer = threading.Event(), threading.Event()

    def claim(self, key: str, *, owner: str, lease_s: float, fingerprint: str) -> Claim:
        self.asked.set()
        assert self.answer.wait(20)
        return super().claim(key, owner=owner, lease_s=lease_s, fingerprint=fingerprint)


def test_a_claim_that_comes_after_a_cancellation_is_given_up(clock: VirtualClock, work: Any, app: App) -> None:
    store = Slow(clock)

    @app.handler("q", idempotent=Idempotency(store=store, key=lambda _: "k"))
    async def handle(text: str) -> None:
        raise AssertionError(text)

    handle.send("a")
    freed = MemoryIdempotency("failing", clock)
    worker = work(drain=timedelta(seconds=1))
    assert store.asked.wait(20)
    app.stop()
    app.stop()
    store.answer.set()
    worker.end()
    worker.let(lambda: freed.claim("q:handle:k", owner="x", lease_s=1, fingerprint="").state is ClaimState.CLAIMED)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"store": 7}, "store must be a URL or an IdempotencyStore and is int"),
        ({"store": "memory://", "ttl": timedelta(0)}, "ttl must be at least 1 s"),
        ({"store": "memory://", "key": "id"}, "key must be a function of the payload and is str"),
    ],
)
def test_a_choice_that_cannot_be_one_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(qk.UsageError, match=said):
        Idempotency(**arguments)


def test_threads_end_with_the_app(app: App, work: Any, clock: VirtualClock) -> None:
    @app.handler("q", idempotent="memory://")
    async def handle(text: str) -> None:
        await asyncio.sleep(0)

    handle.send("a")
    worker = work()
    worker.let(lambda: any(each.name == "queuekit-claims" for each in threading.enumerate()))
    assert worker.stop() is ExitCode.DRAINED
    app.close()
    assert not [each for each in threading.enumerate() if each.name == "queuekit-claims"]


def test_a_keeper_that_is_closed_at_once_waits_for_nothing() -> None:
    """Also when its thread has not begun to wait by then: with a lease of an hour it would be noticed."""
    renewed: list[Run] = []

    def renew(run: Run) -> bool:
        renewed.append(run)
        return True

    for number in range(200):
        keeper = ClaimKeeper(renew, 3600.0, SystemClock())
        keeper.add(Run("key", str(number), None))  # type: ignore[arg-type]  # only its names matter here
        thread = keeper._thread
        keeper.close()
        assert thread is not None
        assert not thread.is_alive()
    assert renewed == []
