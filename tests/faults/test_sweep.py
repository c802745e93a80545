# SPDX-License-Identifier: Apache-2.0
"""Every call of a good run fails once: before it is done, after it, after a long hang, and by the process's death.

Whatever was accepted is finished or still there, and nothing is settled twice. One thread and a virtual
clock, so the nth call is the same call each time.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import tenacity

import queuekit as qk
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, OutgoingMessage, Settlement
from queuekit.testing import VirtualClock, reset_memory
from queuekit.testing.faults import Answers, Call, FaultyOpener, InjectedFault, Proceed, unavailable
from queuekit.testing.oracle import History, Recorder, check
from queuekit.testing.simulation import Crew, SimulatedWorker, Simulation, Work

Mode = Literal["none", "before", "after", "hang", "death"]
MODES: tuple[Mode, ...] = ("before", "after", "hang", "death")
LEASE_S = 10.0
MOST_CALLS = 60


class Died(BaseException):
    """The process is gone: nothing after this runs in it."""


class SteppingClock(VirtualClock):
    """For a single thread: to wait is to let the time pass."""

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        assert timeout_s is not None, "nobody would ever wake this thread"
        self.advance(timeout_s)
        return False


class Bench:
    """One run, of which one call goes wrong.

    Args:
        base: The URL without the queue.
        name: The queue.
        mode: What goes wrong.
        at: Which call, from 1.
    """

    eager = False

    def __init__(self, base: str, name: str, mode: Mode, at: int) -> None:
        self.clock = SteppingClock()
        self.mode, self.at, self.calls = mode, at, 0
        self.url = base.format(name)
        self.dead_url = base.format(f"{name}.dead")
        self.simulation = Simulation(self.clock, self.clock.advance)
        self.history = History.in_memory(worker="w0", clock=self.clock)
        self.plain = Opener(self.clock)
        self.queue: Any = self.plain.open(QueueURL.parse(self.url))
        self.dead: Any = self.plain.open(QueueURL.parse(self.dead_url))
        recorder = Recorder(self.history, str(QueueURL.parse(self.url)))
        for verb in ("send", "receive", "settle", "redrive"):
            recorder.always(verb, self.step)  # type: ignore[arg-type]
        self.opener = FaultyOpener(self.plain, recorder)

    def step(self, call: Call, proceed: Proceed) -> Answers:
        self.calls += 1
        if self.eager and call.verb == "receive":
            return self.ack_at_once(proceed(call.batch))
        if self.calls != self.at or self.mode == "none":
            return proceed(call.batch)
        if self.mode != "before":
            proceed(call.batch)
        if self.mode == "hang":
            self.clock.advance(1.5 * LEASE_S)
        if self.mode == "death":
            raise Died
        raise InjectedFault(unavailable())

    def ack_at_once(self, got: Answers) -> Answers:
        """A bug for the sweep to find."""
        for each in got:
            self.queue.settle([Settlement(each.handle, Action.ACK)], timeout_s=1)
        return got

    def put(self, *names: str) -> None:
        for name in names:
            pending = self.history.send(name)
            (outcome,) = self.queue.send([OutgoingMessage(name, name.encode())], timeout_s=1)
            pending.answered(outcome)

    def work_off(self, crew: Crew, *, stop_after_s: float | None = None) -> None:
        """Work until the queue is empty; whoever dies or stops has a successor whose calls all go well."""
        workers = [SimulatedWorker(self.simulation, "w0", self.opener, crew)]

        def succeed() -> None:
            self.at = 0
            recorder = Recorder(self.history.beside(f"w{len(workers)}"), str(QueueURL.parse(self.url)))
            workers.append(
                SimulatedWorker(self.simulation, f"w{len(workers)}", FaultyOpener(self.plain, recorder), crew)
            )

        if stop_after_s is not None:
            self.simulation.after(stop_after_s, workers[0].stop)
            self.simulation.after(stop_after_s, succeed)
        while True:
            try:
                assert self.simulation.run(self.is_empty, limit_s=600.0), self.simulation.trace[-10:]
                for each in workers:
                    if not each.dead:
                        each.stop()
                assert self.simulation.run(lambda: all(w.stopped or w.dead for w in workers), limit_s=120.0)
            except Died:
                workers[0].kill()
                self.history.kill("w0")
                succeed()
            else:
                return

    def is_empty(self) -> bool:
        stats = self.queue.stats()
        return not (stats.ready or stats.delayed or stats.leased)

    def drain(self) -> Counter[str]:
        """What can be received from now on, by id; it is acked."""
        self.clock.advance(2 * LEASE_S)
        found = Counter[str]()
        while got := self.queue.receive(max_messages=100, wait_s=0, lease_s=LEASE_S):
            found.update(each.message_id for each in got)
            self.queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=1)
        return found

    def letters(self) -> Counter[str]:
        return Counter(each.message_id for each in self.dead.peek(limit=100))


def worked(bench: Bench, *, stop_after_s: float | None = None) -> None:
    """Receive, settle in every way, and dead-letter."""
    bench.put("ok", "again", "never", "slow")
    tried = Counter[str]()

    def work(held: Any) -> Work:
        name = held.message.message_id
        tried[name] += 1
        if name == "never":
            return Work(0.1, qk.DeadLetter("drawn"))
        if name == "again" and held.message.attempt == 1:
            return Work(0.1, ValueError("a bug"))
        return Work(1.4 * LEASE_S if name == "slow" else 0.1)

    policy = qk.RetryPolicy(max_attempts=9, wait=tenacity.wait_fixed(1))
    crew = Crew(url=bench.url, work=work, slots=2, lease_s=LEASE_S, prefetch=1, policy=policy)
    bench.work_off(crew, stop_after_s=stop_after_s)
    report = check(bench.history.records())
    report.assert_ok()
    assert report.acknowledged == 4
    assert bench.letters() == {"never": 1}


def stopped(bench: Bench) -> None:
    """The same, and the worker is asked to stop while it is at work."""
    worked(bench, stop_after_s=1.2)


def sent(bench: Bench) -> None:
    """Send one, then many."""
    accepted: set[str] = set()
    tried: set[str] = set()

    def send() -> None:
        with qk.Producer[bytes](bench.url, payload=bytes, clock=bench.clock, _opener=bench.opener) as producer:
            for name in ("a", "b"):
                tried.add(name)
                try:
                    accepted.add(producer.send(name.encode(), message_id=name).message_id)
                except qk.UnavailableError:
                    continue
            names = [str(number) for number in range(3)]
            tried.update(names)
            report = producer.send_many([qk.Message(name.encode(), message_id=name) for name in names])
            accepted.update(each.message_id for each in report if isinstance(each, qk.Accepted))

    try:
        send()
    except Died:
        assert bench.mode == "death"
    else:
        assert accepted == tried, "a failure that could be mended was not"
    found = bench.drain()
    assert accepted <= set(found) <= tried
    assert bench.mode in {"after", "hang"} or set(found.values()) <= {1}


def redriven(bench: Bench) -> None:
    """Bring dead letters back; who died in it begins anew."""
    names = ["a", "b", "c"]
    bench.dead.send([OutgoingMessage(name, b"x") for name in names], timeout_s=1)
    for opener in (bench.opener, bench.plain):
        try:
            with qk.DeadLetters(bench.url, _opener=opener) as letters:
                letters.redrive()
        except (Died, qk.UnavailableError):
            continue
    assert bench.letters() == {}
    assert bench.drain() == Counter(names)


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "work": worked,
    "stop": stopped,
    "send": sent,
    "redrive": redriven,
}


@pytest.fixture(params=["memory", "sqlite"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    logging.disable(logging.CRITICAL)
    yield "memory://{}" if request.param == "memory" else f"sqlite:///{tmp_path}/sweep.db?queue={{}}"
    logging.disable(logging.NOTSET)
    reset_memory()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whichever_call_fails_nothing_is_lost(base: str, scenario: str) -> None:
    good = Bench(base, "good", "none", 0)
    SCENARIOS[scenario](good)
    assert good.calls >= 1
    # To a store that forgets nothing, failing before and hanging are the same as in memory: the engine's matter.
    for mode in MODES if base.startswith("memory") else ("after", "death"):
        for at in range(1, min(good.calls, MOST_CALLS) + 1):
            bench = Bench(base, f"{mode}-{at}", mode, at)
            try:
                SCENARIOS[scenario](bench)
            except AssertionError as error:
                error.add_note(f"call {at} of {good.calls} went wrong: {mode}")
                raise
            assert bench.calls >= at, "the call was never made"


def test_a_worker_that_acks_before_its_handlers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "eager", True)
    logging.disable(logging.CRITICAL)
    with pytest.raises(AssertionError, match="lost: "):
        worked(Bench("memory://{}", "eager", "death", 3))
    logging.disable(logging.NOTSET)
    reset_memory()
