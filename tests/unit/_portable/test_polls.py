# SPDX-License-Identifier: Apache-2.0
"""Several polls at once: when they begin, what they hold up, and how they end. And one on an idle queue."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, ExitCode, Rate
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, ErrorClass
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, raise_before, throttled, unavailable
from queuekit.testing.faults.script import Answers, Call, Proceed

from .conftest import let

LIMIT_S = 20.0
Left = Callable[[str], int]


class Gate:
    """A step that lets polls through as told, or end without a message, and knows how many are in flight."""

    def __init__(self, *, brings: bool = True) -> None:
        self._brings = brings
        self._changed = threading.Condition()
        self._free = 0
        self.inside = self.most = self.begun = 0

    def __call__(self, call: Call, proceed: Proceed) -> Answers:
        with self._changed:
            self.inside += 1
            self.begun += 1
            self.most = max(self.most, self.inside)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._free, LIMIT_S)
            self._free -= 1
        try:
            return proceed(call.batch) if self._brings else []
        finally:
            with self._changed:
                self.inside -= 1
                self._changed.notify_all()

    def let(self, count: int) -> None:
        """Let so many through."""
        with self._changed:
            self._free += count
            self._changed.notify_all()

    def wait(self, inside: int, begun: int) -> None:
        """Wait until so many are in flight, and so many have begun in all."""
        with self._changed:
            told = self._changed.wait_for(lambda: self.inside == inside and self.begun == begun, LIMIT_S)
            assert told, f"{self.inside} in flight, {self.begun} begun"


@pytest.fixture
def script(app: App) -> Script:
    """What reaches a service that brings ten at a time, and takes three polls at once."""
    opener = FaultyOpener(app._opener, None, max_receive=10, max_polls=3)
    app._opener = opener
    return opener.script


def started(app: App, count: int) -> list[str]:
    """Register a handler that many run at once, and send to it."""
    seen: list[str] = []

    @app.handler("q", concurrency=100, prefetch=0)
    async def handle(text: str) -> None:
        await asyncio.sleep(0)
        seen.append(text)

    if count:
        handle.send_many([str(number) for number in range(count)]).raise_for_failures()
    return seen


def until(done: Callable[[], bool]) -> None:
    """Wait for what threads do without any time passing."""
    pause, end = threading.Event(), time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end, "it did not come to pass"
        pause.wait(0.001)


def test_one_more_poll_begins_after_each_full_one_and_none_after_an_empty_one(
    app: App, work: Any, script: Script
) -> None:
    gate = Gate()
    script.always("receive", gate)
    seen = started(app, 60)
    worker = work()
    gate.wait(inside=1, begun=1)
    gate.let(1)
    gate.wait(inside=2, begun=3)
    gate.let(2)
    gate.wait(inside=3, begun=6)
    gate.let(3)
    gate.wait(inside=3, begun=9)
    until(lambda: len(seen) == 60)
    assert gate.most == 3
    gate.let(3)  # these find nothing, and wait for as long as a poll does
    worker.let(lambda: gate.begun == 10, step_s=1.0)
    assert gate.inside == 1, "one goes on"
    gate.let(1000)
    assert worker.stop() is ExitCode.DRAINED


def test_settlements_and_extensions_never_wait_for_polls(app: App, work: Any, script: Script) -> None:
    gate = Gate()
    script.always("receive", gate)
    free = threading.Event()

    @app.handler("q", concurrency=30, lease=timedelta(seconds=10))
    async def handle(text: str) -> None:
        if text == "slow":
            await asyncio.to_thread(free.wait, LIMIT_S)

    handle.send_many(["quick"] * 5 + ["slow"] * 5).raise_for_failures()
    worker = work()
    gate.let(1)
    gate.wait(inside=2, begun=3)

    def entries(action: Action) -> int:
        return sum(each.action is action for call in script.answered("settle") for each in call.batch)

    worker.let(lambda: entries(Action.ACK) == 5 and entries(Action.EXTEND) >= 15)
    assert (gate.inside, gate.begun) == (2, 3), "no poll has ended meanwhile"
    free.set()
    worker.let(lambda: entries(Action.ACK) == 10)
    gate.let(1000)
    assert worker.stop() is ExitCode.DRAINED


def test_an_outage_of_all_polls_is_one_outage(
    app: App, work: Any, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    script.always("receive", gate)
    seen = started(app, 90)
    worker = work()
    gate.let(1)
    gate.wait(inside=2, begun=3)
    gate.let(2)
    gate.wait(inside=3, begun=6)
    with caplog.at_level(logging.INFO, "queuekit"):
        script.always("receive", raise_before(unavailable()))
        gate.let(3)  # the last that come
        worker.let(lambda: len(script.calls("receive")) >= 12)
        script.always("receive", None)
        worker.let(lambda: len(seen) == 90)
        worker.let(lambda: "receive.resumed" in actions(caplog))
    assert actions(caplog).count("receive.failed") == 1
    assert actions(caplog).count("receive.resumed") == 1
    assert worker.stop() is ExitCode.DRAINED


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "action", "") for record in caplog.records]


def test_what_late_polls_bring_to_a_worker_that_stops_is_given_back(
    app: App, work: Any, script: Script, left: Left
) -> None:
    gate = Gate()
    script.always("receive", gate)
    seen = started(app, 60)
    worker = work()
    gate.let(1)
    gate.wait(inside=2, begun=3)
    gate.let(2)
    gate.wait(inside=3, begun=6)
    until(lambda: len(seen) == 30)
    app.stop()
    # Which three wait is not known: one that began later may have been let through first.
    until(lambda: sum(poll.ended.is_set() for poll in script.calls("receive")) == 3)
    gate.let(3)
    assert worker.end() is ExitCode.DRAINED
    assert (len(seen), left("q")) == (30, 30)
    released = [each for call in script.calls("settle") for each in call.batch if each.action is Action.RELEASE]
    assert len(released) == 30


def test_with_no_more_threads_to_be_had_the_first_goes_on(
    app: App, work: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("queuekit-poll-2"):
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    seen = started(app, 100)
    worker = work()
    worker.let(lambda: len(seen) == 100)
    assert worker.stop() is ExitCode.DRAINED


def test_an_idle_worker_makes_one_call_in_each_wait_and_no_other(
    app: App, work: Any, script: Script, clock: VirtualClock
) -> None:
    gate = Gate(brings=False)
    script.always("receive", gate)
    started(app, 0)
    worker = work()
    gate.wait(inside=1, begun=1)
    calls = len(script.calls())
    for polls in range(2, 182):  # an hour of them
        clock.advance(20)
        gate.let(1)
        gate.wait(inside=1, begun=polls)
    assert [each.verb for each in script.calls()[calls:]] == ["receive"] * 180
    assert not any(each.name.startswith("queuekit-poll-2") for each in threading.enumerate())
    gate.let(1000)
    assert worker.stop() is ExitCode.DRAINED


Take = Callable[[int], None]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def opener(clock: VirtualClock, gate: Gate) -> FaultyOpener:
    """Of a queue with fifty messages that brings ten at a time, and takes three polls at once through the gate."""
    made = FaultyOpener(Opener(clock), max_receive=10, max_polls=3)
    made.script.always("receive", gate)
    with qk.Producer("memory://q", _opener=made) as producer:
        producer.send_many([b""] * 50).raise_for_failures()
    return made


def test_whoever_comes_during_a_poll_has_another_begin(opener: FaultyOpener, gate: Gate) -> None:
    with qk.Consumer("memory://q", prefetch=0, max_in_flight=100, _opener=opener) as consumer:
        took: list[int] = []
        take = partial(take_many, consumer, took)
        take(10)
        gate.wait(inside=1, begun=1)
        gate.let(1)
        until(lambda: took == [10])
        take(10)
        gate.wait(inside=1, begun=2)
        take(10)  # the one before was full, and there is room for two
        gate.wait(inside=2, begun=3)
        gate.let(2)
        until(lambda: took == [10] * 3)
        take(1)
        gate.wait(inside=1, begun=4)
        take(12)
        gate.wait(inside=2, begun=5)
        gate.let(1000)
        until(lambda: len(took) == 5)


def take_many(consumer: qk.Consumer[Any], took: list[int], most: int) -> None:
    receiver = consumer._intake.receiver
    threading.Thread(target=lambda: took.append(len(receiver.take_many(most, None))), daemon=True).start()


def test_polls_that_fail_at_once_have_failed_once(opener: FaultyOpener, gate: Gate, clock: VirtualClock) -> None:
    failing = Gate(brings=False)

    def fail(call: Call, proceed: Proceed) -> Answers:
        failing(call, proceed)
        return raise_before(unavailable())(call, proceed)

    with qk.Consumer("memory://q", prefetch=0, max_in_flight=100, _opener=opener) as consumer:
        took: list[int] = []
        take, poller = partial(take_many, consumer, took), consumer._intake.receiver._poller
        for _ in range(5):
            take(10)
        gate.wait(inside=1, begun=1)
        gate.let(1)
        gate.wait(inside=2, begun=3)
        opener.script.always("receive", fail)
        gate.let(2)
        failing.wait(inside=2, begun=2)  # for the twenty that are still waited for
        failing.let(2)
        until(lambda: poller._idle == 3)
        assert poller._failures == 1
        opener.script.always("receive", None)
        let(clock, lambda: len(took) == 5)
        assert poller._failures == 0


def test_beside_another_poll_a_rate_pays_for_whole_ones_alone(app: App, work: Any, script: Script) -> None:
    gate = Gate()
    script.always("receive", gate)
    seen: list[bytes] = []

    @app.handler("q", concurrency=100, prefetch=0, rate=Rate(15, per=timedelta(seconds=10), burst=15))
    async def handle(body: bytes) -> None:
        seen.append(body)

    handle.send_many([b""] * 60).raise_for_failures()
    worker = work()
    gate.wait(inside=1, begun=1)
    gate.let(1)
    gate.wait(inside=1, begun=2)  # five tokens are left: for a poll alone, and for none beside it
    gate.let(1000)
    worker.let(lambda: len(seen) == 60, step_s=0.5)
    assert worker.stop() is ExitCode.DRAINED


@pytest.mark.parametrize(("failing", "most"), [(unavailable(), 150), (throttled(300.0), 1)])
def test_a_service_that_fails_is_not_asked_again_and_again(
    app: App, work: Any, script: Script, clock: VirtualClock, failing: ErrorClass, most: int
) -> None:
    script.always("receive", raise_before(failing))
    seen = started(app, 1)
    began = clock.monotonic()
    worker = work()
    until(lambda: len(script.calls("receive")) == 1)
    worker.let(lambda: clock.monotonic() - began >= 100.0, step_s=0.5)
    assert len(script.calls("receive")) <= most
    script.always("receive", None)
    worker.let(lambda: bool(seen), step_s=1.0)
    assert worker.stop() is ExitCode.DRAINED
