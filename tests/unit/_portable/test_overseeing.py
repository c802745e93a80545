# SPDX-License-Identifier: Apache-2.0
"""Rates, pauses, watchdogs and early stops of workers."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import tenacity

import queuekit as qk
from queuekit import App, Consumer, ExitCode, Rate
from queuekit._engine.pulse import Pulse, Watchdog
from queuekit._portable.watching import LoopWatch
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script

from .calls import Call
from .conftest import let

LIMIT_S = 20.0


def _until(done: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not done():
        pause.wait(0.001)


def test_no_second_sees_more_messages_than_the_rate_and_the_burst(app: App, work: Any, clock: VirtualClock) -> None:
    began: list[float] = []

    @app.handler("q", rate=Rate(5, burst=2), concurrency=4)
    def handle(number: int) -> None:
        began.append(clock.monotonic())

    handle.send_many(range(20))
    work().let(lambda: len(began) == 20, step_s=0.05)
    began.sort()
    assert max(sum(since <= each < since + 1 for each in began) for since in began) <= 5 + 2
    assert began[-1] - began[0] >= (20 - 2) / 5 - 0.1


def test_pausing_gives_back_what_waits_and_lets_run_what_runs(app: App, work: Any, clock: VirtualClock) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    @app.handler("q", concurrency=1, prefetch=10)
    def handle(number: int) -> None:
        begun.release()
        assert go_on.wait(LIMIT_S)

    handle.send_many(range(3))
    running = work()
    assert begun.acquire(timeout=LIMIT_S)
    app.pause("q")
    app.pause("q")
    assert app.paused == {"q"}
    with Consumer("memory://q", payload=int, clock=clock) as other:
        taken = [Call(lambda: other.receive(timeout=60), clock).result() for _ in range(2)]
        assert [each.payload for each in taken] == [1, 2]
        assert [each.attempt for each in taken] == [1, 1]
    go_on.set()
    running.let(lambda: app.counts()["q"]["in_flight"] == 0)
    assert not begun.acquire(blocking=False)
    app.resume("q")
    assert all(begun.acquire(timeout=LIMIT_S) for _ in range(2))
    assert running.stop() is ExitCode.DRAINED
    assert (app.counts()["q"]["worker.paused"], app.counts()["q"]["worker.resumed"]) == (1, 1)


def test_a_queue_that_is_paused_before_the_run_is_not_received_from(app: App, work: Any, clock: VirtualClock) -> None:
    seen = threading.Event()

    @app.handler("q")
    def handle(number: int) -> None:
        seen.set()

    handle.send(1)
    app.pause("q")
    running = work()
    running.let(lambda: app.counts()["q"].get("worker.started", 0) == 1)
    clock.advance(60)
    assert app.counts()["q"]["received"] == 0
    app.resume("q")
    assert seen.wait(LIMIT_S)
    with pytest.raises(qk.UsageError, match="no handler works"):
        app.pause("other")


def test_a_stop_before_the_run_is_remembered_once(app: App, work: Any) -> None:
    seen = threading.Event()

    @app.handler("q")
    def handle(number: int) -> None:
        seen.set()

    app.stop()
    assert work().end() is ExitCode.DRAINED
    before = app._worker
    again = work()
    again.let(lambda: app._worker is not before)
    assert app._worker is not None
    assert not app._worker.draining
    handle.send(1)
    assert seen.wait(LIMIT_S)
    assert again.stop() is ExitCode.DRAINED


def test_an_interrupt_without_signals_drains_and_is_raised(clock: VirtualClock) -> None:
    app, done = App("memory://"), threading.Event()

    @app.handler("q")
    def handle(number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        done.set()

    handle.send(1)
    with pytest.raises(KeyboardInterrupt):
        app.run(signals=False)
    assert done.is_set()
    assert app.counts()["q"]["settled"] == 1
    app.close()


def test_a_settlement_that_never_ends_ends_the_worker(clock: VirtualClock) -> None:
    script, stuck, told = Script(), threading.Event(), []
    reached = threading.Event()

    def hang(call: Any, proceed: Any) -> Any:
        reached.set()
        stuck.wait(LIMIT_S)
        return proceed(call.batch)

    script.on("settle", hang)
    app = App("memory://", clock=clock, drain=timedelta(seconds=1))
    app._opener = FaultyOpener(app._opener, script)
    app.listen(told.append, "stalled")

    @app.handler("q")
    def handle(number: int) -> None: ...

    handle.send(1)
    running: Any = Call(lambda: app.run(signals=False), clock)
    assert reached.wait(LIMIT_S)
    let(clock, lambda: bool(told), step_s=10.0)
    stuck.set()
    assert running.result(step_s=0.5) is ExitCode.STUCK
    assert told[0].reason == "the settle thread makes no progress"
    assert app.counts()["q"]["worker.stalled"] == 1
    app.close()


@pytest.mark.parametrize("watchdog", [None, timedelta(minutes=1)])
def test_handlers_that_never_end_are_noticed_where_a_watchdog_was_asked_for(
    clock: VirtualClock, watchdog: timedelta | None
) -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)
    app = App("memory://", clock=clock, watchdog=watchdog, drain=timedelta(seconds=1))

    @app.handler("q", concurrency=2)
    def handle(number: int) -> None:
        begun.release()
        assert go_on.wait(LIMIT_S)

    handle.send_many([1, 2])
    running: Any = Call(lambda: app.run(signals=False), clock)
    assert all(begun.acquire(timeout=LIMIT_S) for _ in range(2))
    if watchdog is None:
        until = clock.monotonic() + 1000
        let(clock, lambda: clock.monotonic() > until, step_s=5.0)
        assert "worker.stalled" not in app.counts()["q"]
        app.stop()
    else:
        let(clock, lambda: app.counts()["q"].get("worker.stalled", 0) == 1, step_s=2.0)
    go_on.set()
    assert running.result(step_s=0.5) is (ExitCode.DRAINED if watchdog is None else ExitCode.STUCK)
    app.close()


def test_an_idle_worker_that_waits_in_its_polls_is_not_stuck(app: App, work: Any, clock: VirtualClock) -> None:
    @app.handler("q")
    def handle(number: int) -> None: ...

    running = work()
    until = clock.monotonic() + 2000
    running.let(lambda: clock.monotonic() > until, step_s=5.0)
    assert running.stop() is ExitCode.DRAINED


def test_a_watchdog_believes_only_what_it_saw_again_and_again() -> None:
    pulse, dog = Pulse(), Watchdog(patience_s=10.0, slots=None)
    pulse.beat(100.0)

    def look(now: float) -> str | None:
        return dog.look(now, {"poll": pulse}, running=0, taken=0)

    assert [look(now) for now in (105, 109, 110)] == [None] * 3
    # A clock that jumps far ahead is no proof.
    assert [look(now) for now in (5000, 5001)] == [None] * 2
    pulse.beat(5002.0)
    assert [look(now) for now in (5013, 5014)] == [None] * 2
    assert look(5015) == "the poll thread makes no progress"


def test_a_loop_that_is_blocked_is_told_once_with_its_place() -> None:
    places: list[str] = []
    told, go_on = threading.Event(), threading.Event()

    def blocked(where: str) -> None:
        places.append(where)
        told.set()

    def block_here() -> None:
        assert go_on.wait(LIMIT_S)

    async def main() -> None:
        watch = LoopWatch(asyncio.get_running_loop(), blocked, limit_s=0.05)
        watch.start()
        await asyncio.to_thread(_until, lambda: watch._loop_thread is not None)
        threading.Thread(target=lambda: (told.wait(LIMIT_S), go_on.set())).start()
        block_here()
        await asyncio.to_thread(watch.stop, LIMIT_S)

    asyncio.run(main())
    assert len(places) == 1
    assert "block_here" in places[0]


@pytest.mark.parametrize(("wait", "cut"), [(tenacity.wait_fixed(700), 1), (tenacity.wait_fixed(600), 0), (None, 0)])
def test_a_policy_that_waits_longer_than_the_service_is_told_at_the_start(
    clock: VirtualClock, wait: Any, cut: int
) -> None:
    app = App("memory://", clock=clock, drain=timedelta(seconds=1))
    app._opener = FaultyOpener(app._opener, Script(), max_retry_delay_s=600.0)

    @app.handler("q", retry=qk.RetryPolicy(wait=wait))
    def handle(number: int) -> None: ...

    app.stop()
    Call(lambda: app.run(signals=False), clock).result()
    assert app.counts()["q"].get("retry.cut", 0) == cut
    app.close()


def test_areceive_keeps_its_timeout_on_a_clock_of_its_own(clock: VirtualClock) -> None:
    with Consumer("memory://q", clock=clock) as consumer:
        running = Call(lambda: asyncio.run(consumer.areceive(timeout=3600)), clock)
        began = clock.monotonic()
        assert running.result(step_s=100.0) is None
        assert clock.monotonic() >= began + 3600
