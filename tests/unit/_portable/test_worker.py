# SPDX-License-Identifier: Apache-2.0
"""Workers whose handlers run in this process: what each way to end means for the message."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

import queuekit as qk
from queuekit import App, DeadMessage, ExitCode
from queuekit._portable.worker import Worker
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, raise_before, unavailable

LIMIT_S = 20.0
ONCE = qk.RetryPolicy(max_attempts=1)
AT_ONCE = qk.RetryPolicy(max_attempts=3, wait=lambda _state: 0)

Left = Callable[[str], int]
Dead = Callable[[str], list[DeadMessage]]


class Landing:
    """Counts what handlers did, and waits for it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._changed = threading.Condition()

    def note(self, what: Any) -> None:
        with self._changed:
            self.seen.append(what)
            self._changed.notify_all()

    def wait(self, count: int = 1) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, LIMIT_S), self.seen
            return list(self.seen)


@pytest.fixture
def landing() -> Landing:
    return Landing()


def test_sync_and_async_handlers_of_two_queues_share_a_worker(
    app: App, work: Any, landing: Landing, left: Left
) -> None:
    @app.handler("a")
    def sync(text: str) -> None:
        landing.note(("sync", text))

    @app.handler("b")
    async def other(text: str) -> None:
        await asyncio.sleep(0)
        landing.note(("async", text))

    sync.send("1")
    other.send("2")
    worker = work()
    assert set(landing.wait(2)) == {("sync", "1"), ("async", "2")}
    assert worker.stop() is ExitCode.DRAINED
    assert left("a") == left("b") == 0


RAISED: list[BaseException] = [
    ValueError("no"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    MemoryError(),
    BaseExceptionGroup("many", [ValueError(), SystemExit()]),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_whatever_a_handler_raises_is_a_failed_attempt(
    app: App, work: Any, landing: Landing, dead: Dead, error: BaseException, is_async: bool
) -> None:
    def run(text: str) -> None:
        if text == "bad":
            raise error
        landing.note(text)

    async def arun(text: str) -> None:
        run(text)

    handler = app.handler("q", retry=ONCE, message_type="t")(arun if is_async else run)
    handler.send("bad")
    handler.send("good")
    worker = work()
    landing.wait()
    assert worker.stop() is ExitCode.DRAINED
    (letter,) = dead("q")
    assert letter.body == b"bad"
    assert letter.attempts == 1
    assert type(error).__name__ in (letter.error or "")


def test_an_exception_that_cannot_be_printed_harms_nobody_else(
    app: App, work: Any, landing: Landing, dead: Dead
) -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    @app.handler("q", concurrency=1, retry=qk.RetryPolicy(max_attempts=2, wait=lambda _state: 0))
    def handle(text: str) -> None:
        if text == "bad":
            raise UnprintableError
        landing.note(text)

    handle.send("bad")
    handle.send("good")
    worker = work()
    landing.wait()
    worker.let(lambda: bool(dead("q")))
    assert worker.stop() is ExitCode.DRAINED
    assert dead("q")[0].error is not None


class Picky(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return {"ada": name}[name]  # a bug of the user's: KeyError, which pydantic lets through


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_validator_with_a_bug_does_not_stop_the_worker(
    app: App, work: Any, landing: Landing, dead: Dead, is_async: bool
) -> None:
    def run(who: Picky) -> None:
        landing.note(who.name)

    async def arun(who: Picky) -> None:
        run(who)

    handler = app.handler("q", retry=ONCE, message_type="t")(arun if is_async else run)
    handler.send(Picky.model_construct(name="bob"))
    handler.send(Picky(name="ada"))
    worker = work()
    assert landing.wait() == ["ada"]
    assert worker.stop() is ExitCode.DRAINED
    assert [each.body for each in dead("q")] == [b'{"name":"bob"}']


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_returned_awaitable_is_awaited(app: App, work: Any, landing: Landing, left: Left, is_async: bool) -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        landing.note("ran")

    def run(text: str) -> Awaitable[None]:
        return inner()

    async def arun(text: str) -> Awaitable[None]:
        return inner()

    handler = app.handler("q", message_type="t")(arun if is_async else run)
    handler.send("x")
    worker = work()
    landing.wait()
    worker.stop()
    assert left("q") == 0


def test_what_an_awaitable_answers_is_the_verdict(app: App, work: Any, dead: Dead, landing: Landing) -> None:
    async def inner() -> qk.DeadLetter:
        landing.note("ran")
        return qk.DeadLetter("so it was said")

    @app.handler("q")
    def handle(text: str) -> Any:
        return inner()

    handle.send("x")
    worker = work()
    landing.wait()
    worker.stop()
    assert [each.reason for each in dead("q")] == ["so it was said"]


def test_generator_functions_are_refused() -> None:
    app = App("memory://")

    def lazy(text: str) -> Iterator[int]:
        yield 1

    with pytest.raises(qk.UsageError, match="generator"):
        app.handler("q")(lazy)


def test_a_returned_generator_which_never_ran_is_not_acked(app: App, work: Any, dead: Dead, landing: Landing) -> None:
    def lazy() -> Generator[int, None, None]:
        yield 1

    @app.handler("q", retry=ONCE)
    def handle(text: str) -> Any:
        landing.note(text)
        return lazy()

    handle.send("x")
    worker = work()
    landing.wait()
    worker.stop()
    (letter,) = dead("q")
    assert "generator" in (letter.error or "")


def test_an_unknown_type_is_retried_and_then_dead_as_no_handler(
    app: App, clock: VirtualClock, work: Any, dead: Dead, landing: Landing
) -> None:
    @app.handler("q")
    def handle(text: str) -> None:
        landing.note(text)

    handle.send("x", type="other")
    worker = work()
    worker.let(lambda: bool(dead("q")), step_s=20)
    worker.stop()
    (letter,) = dead("q")
    assert letter.reason == "no_handler"
    assert letter.attempts == 5
    assert not landing.seen


def test_what_does_not_decode_is_dead_with_its_raw_bytes(app: App, work: Any, dead: Dead, landing: Landing) -> None:
    @app.handler("q")
    def handle(number: int) -> None:
        landing.note(number)

    with qk.Producer("memory://q", payload=bytes, clock=app._clock) as raw:
        raw.send(b"\xff{not json")
    handle.send(1)
    worker = work()
    landing.wait()
    worker.stop()
    (letter,) = dead("q")
    assert (letter.reason, letter.body) == ("undecodable", b"\xff{not json")


def test_the_second_handler_of_a_queue_takes_its_own_type(app: App, work: Any, landing: Landing) -> None:
    @app.handler("q", default=True)
    def first(text: str) -> None:
        landing.note(("first", text))

    @app.handler("q")
    def second(text: str) -> None:
        landing.note(("second", text))

    first.send("1")
    second.send("2")
    with qk.Producer("memory://q", payload=str, clock=app._clock) as plain:
        plain.send("3")
    worker = work()
    assert set(landing.wait(3)) == {("first", "1"), ("second", "2"), ("first", "3")}
    worker.stop()


def test_stop_from_inside_a_handler_drains(app: App, work: Any, left: Left) -> None:
    @app.handler("q", concurrency=1)
    def handle(text: str) -> None:
        app.stop()

    handle.send("x")
    assert work().end() is ExitCode.DRAINED
    assert left("q") == 0


def test_a_released_message_keeps_its_attempts_when_the_drain_cancels_its_handler(
    app: App, clock: VirtualClock, work: Any, landing: Landing
) -> None:
    @app.handler("q")
    async def handle(text: str) -> None:
        landing.note("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            landing.note("cancelled")
            raise

    handle.send("x")
    worker = work(drain=timedelta(seconds=5))
    landing.wait()
    app.stop()
    worker.let(lambda: not worker.alive, step_s=0.5)
    assert worker.end() is ExitCode.DRAINED
    assert landing.seen == ["began", "cancelled"]
    with qk.Consumer("memory://q", clock=clock) as consumer:
        again = consumer.receive(timeout=1)
        assert again is not None
        assert again.attempt == 1


def test_a_second_request_to_stop_gives_handlers_no_more_time(
    app: App, clock: VirtualClock, work: Any, landing: Landing
) -> None:
    @app.handler("q")
    async def handle(text: str) -> None:
        landing.note("began")
        await asyncio.Event().wait()

    handle.send("x")
    worker = work(drain=timedelta(hours=1))
    landing.wait()
    app.stop()
    app.stop()
    began = clock.monotonic()
    worker.let(lambda: not worker.alive or clock.monotonic() > began + 60, step_s=0.1)
    assert worker.end() is ExitCode.DRAINED
    assert clock.monotonic() < began + 60


def test_two_requests_before_the_drain_began_count_as_two(app: App, clock: VirtualClock) -> None:
    @app.handler("q")
    def handle(text: str) -> None:
        """Never runs."""

    worker = Worker(app._plan(None), clock, drain_s=3600.0)
    worker.stop()
    worker.stop()
    worker.run(signals=False)
    assert worker._plan is not None
    assert worker._plan.drain_until <= clock.monotonic()


def test_a_timeout_of_an_async_handler_is_a_failed_attempt(app: App, work: Any, dead: Dead, landing: Landing) -> None:
    @app.handler("q", timeout=timedelta(milliseconds=1), retry=ONCE)
    async def handle(text: str) -> None:
        landing.note("began")
        await asyncio.Event().wait()

    handle.send("x")
    worker = work()
    landing.wait()
    worker.let(lambda: bool(dead("q")))
    worker.stop()
    assert "TimeoutError" in (dead("q")[0].error or "")


def test_hung_handlers_end_the_worker_with_a_code_of_its_own(
    app: App, clock: VirtualClock, work: Any, landing: Landing
) -> None:
    freed = threading.Event()

    @app.handler("q", concurrency=2, timeout=timedelta(seconds=10))
    def handle(text: str) -> None:
        landing.note("began")
        freed.wait(LIMIT_S)

    handle.send("x")
    worker = work()
    landing.wait()
    worker.let(lambda: not worker.alive, step_s=1)
    assert worker.end() is ExitCode.STUCK
    freed.set()
    with qk.Consumer("memory://q", clock=clock) as consumer:
        clock.advance(60)
        again = consumer.receive(timeout=1)
        assert again is not None
        assert again.attempt == 2


def test_the_late_result_of_a_hung_handler_is_dropped(
    app: App, clock: VirtualClock, work: Any, landing: Landing
) -> None:
    freed, hangs = threading.Event(), threading.Event()

    @app.handler("q", concurrency=4, timeout=timedelta(seconds=10), lease=timedelta(seconds=30))
    def handle(text: str) -> None:
        landing.note(qk.current().attempt)
        if qk.current().attempt == 1:
            freed.wait(LIMIT_S)
            hangs.set()

    handle.send("x")
    worker = work()
    landing.wait()
    worker.let(lambda: len(landing.seen) >= 2, step_s=0.5)
    freed.set()
    assert hangs.wait(LIMIT_S)
    assert landing.wait(2) == [1, 2]
    assert worker.stop() is ExitCode.DRAINED


@pytest.fixture
def real_app() -> Iterator[App]:
    """On the real clock, for tests whose own thread is busy with the worker."""
    with App("memory://") as made:
        yield made


def test_the_caller_of_arun_runs_the_handlers_on_its_own_loop(real_app: App, left: Left) -> None:
    ran: list[asyncio.AbstractEventLoop] = []
    app = real_app

    @app.handler("q")
    async def handle(text: str) -> None:
        ran.append(asyncio.get_running_loop())
        app.stop()

    async def main() -> tuple[ExitCode, asyncio.AbstractEventLoop]:
        await handle.asend("x")
        return await app.arun(signals=False), asyncio.get_running_loop()

    code, loop = asyncio.run(main())
    assert code is ExitCode.DRAINED
    assert ran == [loop]
    assert left("q") == 0


def test_a_cancelled_arun_drains_before_it_ends(real_app: App, landing: Landing, left: Left) -> None:
    app = real_app
    began, freed = asyncio.Event(), asyncio.Event()

    @app.handler("q")
    async def handle(text: str) -> None:
        began.set()
        await freed.wait()
        landing.note("done")

    async def main() -> None:
        await handle.asend("x")
        task = asyncio.create_task(app.arun(signals=False))
        await began.wait()
        task.cancel()
        freed.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert landing.seen == ["done"]
    assert left("q") == 0


def test_a_tenacity_decorated_function_keeps_queuekits_own_policy(app: App) -> None:
    import tenacity

    @app.handler("q", retry=qk.RetryPolicy(max_attempts=7))
    @tenacity.retry(stop=tenacity.stop_after_attempt(2))
    def handle(text: str) -> None:
        """Decorated functions bring attributes of their own."""

    assert handle.retry.max_attempts == 7
    assert vars(handle)["__name__"] == "handle"


class Nameless:
    def __call__(self, text: str) -> None:
        """An instance has no name of its own."""


@pytest.mark.parametrize("thing", [5, Nameless(), "text", None], ids=lambda each: type(each).__name__)
def test_what_is_no_function_is_refused_by_name(app: App, thing: Any) -> None:
    with pytest.raises(qk.UsageError):
        app.handler("q")(thing)


def test_an_annotation_that_cannot_be_read_is_refused_by_name(app: App) -> None:
    def handle(text: "list[") -> None:  # type: ignore[valid-type] # noqa: F722
        """Never registered."""

    with pytest.raises(qk.UsageError, match="annotation"):
        app.handler("q")(handle)


def test_the_lease_of_a_message_with_a_slow_handler_is_kept(
    app: App, clock: VirtualClock, work: Any, landing: Landing, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    @app.handler("q", concurrency=2, lease=timedelta(seconds=10))
    def handle(text: str) -> None:
        landing.note(qk.current().attempt)
        done.wait(LIMIT_S)

    handle.send("x")
    caplog.set_level(logging.INFO, "queuekit")
    worker = work()
    landing.wait()
    until = clock.monotonic() + 50
    worker.let(lambda: clock.monotonic() > until, step_s=0.5)
    done.set()
    assert worker.stop() is ExitCode.DRAINED
    assert landing.seen == [1]
    assert "lease.lost" not in caplog.text


def test_an_async_worker_asks_for_as_many_messages_as_it_has_free_slots(
    app: App, clock: VirtualClock, work: Any, landing: Landing
) -> None:
    opener = FaultyOpener(app._opener, None, release_counts=True, max_receive=10)
    app._opener = opener

    @app.handler("q", concurrency=100)
    async def handle(text: str) -> None:
        landing.note(text)

    handle.send_many([str(number) for number in range(200)]).raise_for_failures()
    worker = work()
    landing.wait(200)
    worker.stop()
    assert len(opener.script.calls("receive")) <= 25


def test_a_worker_holds_its_queues_against_what_is_required_before_it_takes_anything(clock: VirtualClock) -> None:
    script = Script().on("probe", raise_before(unavailable()))
    with App("memory://", clock=clock, require=["ordering"]) as app:
        opener = FaultyOpener(app._opener, script)
        app._opener = opener

        @app.handler("q")
        def handle(text: str) -> None:
            """Never runs."""

        with pytest.raises(qk.UnavailableError):
            app.run(signals=False)
        assert not script.calls("receive")


def test_no_message_waits_behind_a_slow_one_among_very_quick_ones(real_app: App, landing: Landing) -> None:
    # Quick ones are run by one thread. When it is held up, twice here, another takes what waits behind.
    free = threading.Event()

    @real_app.handler("q", concurrency=3)
    def handle(text: str) -> None:
        if text == "slow":
            landing.note("slow began")
            assert free.wait(20)
        landing.note(text)

    quick = [str(number) for number in range(400)]
    sent = [*quick[:300], "slow", *quick[300:350], "slow", *quick[350:]]
    handle.send_many(sent).raise_for_failures()
    worker = threading.Thread(target=real_app.run, kwargs={"signals": False}, daemon=True)
    worker.start()
    assert set(landing.wait(402)) == {*quick, "slow began"}
    free.set()
    landing.wait(404)
    real_app.stop()
    worker.join(20)
    assert not worker.is_alive()
