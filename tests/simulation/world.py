# SPDX-License-Identifier: Apache-2.0
"""A world of its own for each seed: a queue in memory, some workers, and what goes wrong around them."""

from __future__ import annotations

import sys
from typing import Any

import tenacity

import queuekit as qk
from queuekit._engine.held import Held
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Accepted, OutgoingMessage
from queuekit.testing import VirtualClock, reset_memory
from queuekit.testing.faults import Answers, Call, FaultyOpener, InjectedFault, Proceed, unavailable
from queuekit.testing.oracle import Expectations, History, Recorder, Report, check
from queuekit.testing.simulation import Crew, SimulatedWorker, Simulation, Work

URL = "memory://jobs"
LEASE_S = 10.0
CHAOS_S = 30.0
LIMIT_S = 3600.0

KINDS = ("calm", "answers", "kills", "clogs", "clocks", "everything")
"""What goes wrong in a world: nothing; lost and refused answers; killed workers; parts that pause; jumps of the
wall clock; or all of it."""


class World:
    """One simulation.

    Args:
        seed: Decides everything.
        kind: One of `KINDS`; drawn where it is empty.
    """

    def __init__(self, seed: int, kind: str = "") -> None:
        reset_memory()
        self.clock = VirtualClock(seed)
        self.simulation = Simulation(self.clock, self.clock.advance)
        self.random: Any = self.clock.random
        self.kind = kind or self.random.choice(KINDS)
        self.history = History.in_memory(worker="sender", clock=self.clock)
        self.crew = Crew(
            url=URL,
            work=self.work,
            lease_s=LEASE_S,
            slots=self.random.choice([1, 2, 4]),
            prefetch=self.random.choice([0, 2, 8]),
            policy=qk.RetryPolicy(max_attempts=4, wait=tenacity.wait_fixed(2)),
        )
        self.troubled = True
        self.done = self.jumped = False
        self.workers: list[SimulatedWorker] = []
        self.numbers = iter(range(1_000_000))
        self.queue: Any = Opener(self.clock).open(QueueURL.parse(URL))
        self.recorders: dict[str, History] = {}

    def goes_wrong(self, kind: str) -> bool:
        return self.troubled and self.kind in {kind, "everything"}

    def hire(self) -> SimulatedWorker:
        name = f"w{next(self.numbers)}"
        history = self.recorders[name] = self.history.beside(name)
        recorder = Recorder(history, URL)
        recorder.always("settle", self.answer).always("receive", self.answer)
        worker = SimulatedWorker(self.simulation, name, FaultyOpener(Opener(self.clock), recorder), self.crew)
        self.workers.append(worker)
        return worker

    def answer(self, call: Call, proceed: Proceed) -> Answers:
        if not self.goes_wrong("answers"):
            return proceed(call.batch)
        draw = self.random.random()
        if draw < 0.1:
            raise InjectedFault(unavailable(sent="no"))
        # A receive whose answer is lost leaves its messages to their lease.
        answers = proceed(call.batch)
        if draw < (0.12 if call.verb == "receive" else 0.2):
            raise InjectedFault(unavailable())
        return answers

    def work(self, _held: Held) -> Work:
        draw, quick_s = self.random.random(), self.random.uniform(0.0, 2.0)
        if draw < 0.1:
            return Work(self.random.uniform(LEASE_S, 3 * LEASE_S))
        if draw < 0.2:
            return Work(quick_s, ValueError("a bug"))
        if draw < 0.25:
            return Work(quick_s, qk.Retry())
        if draw < 0.3:
            return Work(quick_s, qk.DeadLetter("not wanted"))
        return Work(quick_s)

    def send(self) -> None:
        if not self.troubled:
            return
        name, delay_s = f"m{next(self.numbers)}", self.random.choice([0.0, 0.0, 1.0, 7.0])
        key = self.random.choice([None, None, "k", "l"])
        pending = self.history.send(name, key=key, delay_s=delay_s)
        message = OutgoingMessage(name, b"1", delay_s=delay_s, ordering_key=key)
        (outcome,) = self.queue.send([message], timeout_s=1)
        assert isinstance(outcome, Accepted)
        pending.answered(outcome)
        self.simulation.after(self.random.uniform(0.0, 4.0), self.send)

    def disturb(self) -> None:
        if not self.troubled:
            return
        worker = self.random.choice(self.workers)
        if self.goes_wrong("kills") and self.random.random() < 0.4:
            self.workers.remove(worker)
            worker.kill()
            self.history.kill(worker.name)
            self.hire()
        elif self.goes_wrong("clogs"):
            part = self.random.choice(["poll", "run", "settle", "leases"])
            worker.pause(part, self.random.uniform(0.0, 1.5 * LEASE_S))
        elif self.goes_wrong("clocks"):
            self.jumped = True
            self.clock.jump_wall(self.random.choice([-5.0, 60.0, 3600.0]))
        if self.random.random() < 0.1:
            worker = self.random.choice(self.workers)
            self.workers.remove(worker)
            worker.stop()
            self.hire()
        self.simulation.after(self.random.uniform(1.0, 10.0), self.disturb)

    def run(self) -> Report:
        """Trouble, then quiet; whatever is accepted is finished at the end."""
        for _ in range(self.random.choice([1, 2])):
            self.hire()
        self.simulation.after(0.0, self.send)
        self.simulation.after(3.0, self.disturb)
        self.simulation.after(CHAOS_S, self.calm_down)
        assert self.simulation.run(lambda: self.done, limit_s=LIMIT_S), f"not done: {self.queue.stats()}"
        for worker in self.workers:
            worker.stop()
        assert self.simulation.run(lambda: all(each.stopped for each in self.workers), limit_s=60), "not stopped"
        return self.judge()

    def calm_down(self) -> None:
        self.troubled = False
        stats = self.queue.stats()
        self.done = not (stats.ready or stats.delayed or stats.leased)
        self.simulation.after(2.0, self.calm_down)

    def judge(self) -> Report:
        report = check(self.history.records(), expect=Expectations(early=self.jumped))
        report.assert_ok()
        if self.kind in {"calm", "answers", "clocks"}:
            # Leases are kept, and settlements tried again, for as long as they last.
            assert set(report.explained) <= {"retry", "release"}, f"needless repeats: {report.explained}"
        return report

    def digest(self) -> str:
        """Everything that happened, in one number."""
        self.simulation.trace += [each.to_json() for each in self.history.records()]
        return self.simulation.digest()


def replay(seed: int, kind: str = "") -> tuple[Report, str]:
    """Run one world, and name the seed where it fails."""
    world = World(seed, kind)
    try:
        return world.run(), world.digest()
    except AssertionError as error:
        error.add_note(
            f"seed {seed}, kind {world.kind}; QUEUEKIT_SEED={seed}:{world.kind} pytest tests/simulation replays it"
        )
        raise
    finally:
        reset_memory()


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(f"{replay(int(argument))[1]}\n")
