# SPDX-License-Identifier: Apache-2.0
"""Simulated workers on a harness's queue, with a history of all that they ask of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from queuekit._engine.held import Held
from queuekit._values.url import QueueURL
from queuekit.backend import Accepted, Action, OutgoingMessage, Settlement
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import FaultyOpener
from queuekit.testing.faults.script import Step
from queuekit.testing.history import History
from queuekit.testing.oracle import Expectations, Report, check
from queuekit.testing.recorder import Recorder
from queuekit.testing.simulation import Crew, SimulatedWorker, Simulation, Work


class Shift:
    """A queue, and the workers that a case hires for it.

    Args:
        harness: Where the queue is, and whose time passes.
        work: What a handler does with a delivery.
        **crew: The rest of the `Crew`.
    """

    def __init__(self, harness: Harness, work: Callable[[Held], Work], **crew: Any) -> None:
        self.harness: Harness = harness
        self.queue: Queue = Queue(harness)
        self.simulation: Simulation = Simulation(harness.clock, harness.pass_time)
        self.history: History = History.in_memory(worker="sender", clock=harness.clock)
        crew = {"lease_s": harness.min_lease_s} | crew
        self.crew: Crew = Crew(url=harness.url(self.queue.name), work=work, **crew)
        self.workers: list[SimulatedWorker] = []

    def hire(self, settle: Step | None = None) -> SimulatedWorker:
        """Another worker; ``settle`` stands between it and the answers to its settlements."""
        name = f"w{len(self.workers)}"
        recorder = Recorder(self.history.beside(name), str(QueueURL.parse(self.crew.url)))
        recorder.always("settle", settle)
        worker = SimulatedWorker(self.simulation, name, FaultyOpener(self.harness.opener, recorder), self.crew)
        self.workers.append(worker)
        return worker

    def send(self, message: OutgoingMessage) -> None:
        """Send one message, and insist that it is accepted."""
        pending = self.history.send(message.message_id, key=message.ordering_key, delay_s=message.delay_s)
        (outcome,) = self.queue.send(message)
        assert isinstance(outcome, Accepted), f"not accepted: {outcome}"
        pending.answered(outcome)

    def run(self, over: Callable[[], bool]) -> None:
        """Let the workers work until it is over."""
        limit_s = 1000 * self.harness.min_lease_s if self.harness.virtual else REAL_LIMIT_S
        assert self.simulation.run(over, limit_s=limit_s), "\n".join(self.simulation.trace[-20:])

    def stop(self) -> None:
        """Let every worker that lives drain, and insist that it does so in its time."""
        alive = [each for each in self.workers if not each.dead]
        for each in alive:
            each.stop()
        close_by = max((each.close_by for each in alive), default=0.0)
        self.run(lambda: all(each.stopped for each in alive))
        late_s = self.harness.clock.monotonic() - close_by
        assert late_s <= self.harness.tolerance_s + 0.1, f"closed {late_s:g} s after its time"

    def left_over(self) -> list[str]:
        """Ack what is left in the queue, and say what it was."""
        self.harness.pass_time(self.crew.lease_s + self.harness.tolerance_s)
        left: list[str] = []
        most = self.queue.capabilities.max_receive
        while got := self.queue.receive(most) or self.queue.take_up_to(1):
            left += [each.message_id for each in got]
            self.queue.settle(*(Settlement(each.handle, Action.ACK) for each in got))
        return left

    def judge(self, left_over: Sequence[str] = ()) -> Report:
        """Hold the history against what the queue promises."""
        tolerance_s = 0.0 if self.harness.virtual else self.harness.tolerance_s
        expect = Expectations.of(self.queue.capabilities, tolerance_s=tolerance_s)
        report = check(self.history.records(), expect=expect, left_over=left_over)
        report.assert_ok()
        return report
