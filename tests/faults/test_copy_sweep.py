# SPDX-License-Identifier: Apache-2.0
"""Every call of a step that copies fails once, before and after it was carried out: nothing is lost, nothing
is settled twice, and no original is acked before its copy is there."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import Accepted, Action, Duplicate, QueueURL, Settled
from queuekit.testing import VirtualClock, reset_memory
from queuekit.testing.faults import Answers, Call, FaultyOpener, InjectedFault, Proceed, Script, unavailable

_NATIVE_S = 5.0
_DELAY_S = 12.0
_STEPS = 1000


class Sweep:
    """A consumer whose nth call fails; it acts on what it receives until the queue is empty.

    Args:
        act: What is done with each delivery.
        fail_at: Which call fails.
        after: Whether it fails after it was carried out, so that only the answer is lost.
        limits: What the queue declares less than it can.
    """

    def __init__(
        self, act: Callable[["Sweep", qk.Delivery[bytes]], None], fail_at: int, *, after: bool, limits: dict[str, Any]
    ) -> None:
        reset_memory()
        self.clock = VirtualClock()
        self._act, self._fail_at, self._after = act, fail_at, after
        self.calls = 0
        self.settled = Counter[object]()
        self.copies_there = 0
        self.acked = 0
        self._lock = threading.Lock()
        self._plain = Opener(self.clock)
        script = Script()
        for verb in ("send", "receive", "settle"):
            script.always(verb, self._step)
        self._opener = FaultyOpener(self._plain, script, **limits)
        self._limited = FaultyOpener(self._plain, **limits)
        self.received: list[float] = []

    def _step(self, call: Call, proceed: Proceed) -> Answers:
        with self._lock:
            self.calls += 1
            fails = self.calls == self._fail_at
        if fails and not self._after:
            raise InjectedFault(unavailable())
        answers = proceed(call.batch)
        with self._lock:
            self._judge(call, answers)
        if fails:
            raise InjectedFault(unavailable())
        return answers

    def _judge(self, call: Call, answers: Answers) -> None:
        for entry, answer in zip(call.batch, answers, strict=False):
            if call.verb == "send" and isinstance(answer, (Accepted, Duplicate)):
                self.copies_there += 1
            elif call.verb == "settle" and isinstance(answer, Settled) and entry.action is not Action.EXTEND:
                self.settled[entry.handle] += 1
                self.acked += entry.action is Action.ACK

    def run(self, *, delay_s: float = 0.0, dead_letter: str | None = None) -> None:
        with qk.Producer("memory://q", _opener=self._limited) as producer:
            producer.send(b"x", delay=timedelta(seconds=delay_s), message_id="m")
        began = self.clock.monotonic()
        consumer = qk.Consumer(
            "memory://q", _opener=self._opener, lease=timedelta(minutes=10), dead_letter=dead_letter
        )
        # Small steps while something should happen, large ones where a lease must end first.
        for step in range(_STEPS):
            delivery = self._receive(consumer)
            if delivery is not None:
                self.received.append(self.clock.monotonic() - began)
                self._act(self, delivery)
            elif self.left("q") == 0:
                break
            threading.Event().wait(0.001)
            self.clock.advance(1.0 if step < _STEPS / 4 else 30.0)
        closing = threading.Thread(target=consumer.close, daemon=True)
        closing.start()
        while closing.is_alive():
            closing.join(0.001)
            self.clock.advance(0.05)

    def _receive(self, consumer: qk.Consumer[bytes]) -> qk.Delivery[bytes] | None:
        try:
            return consumer.receive(timeout=0)
        except qk.UnavailableError:
            return None

    def left(self, queue: str) -> int:
        stats: Any = self._plain.open(QueueURL.parse(f"memory://{queue}")).stats()  # type: ignore[attr-defined]
        return int(stats.ready + stats.delayed + stats.leased)


def _ack(_sweep: Sweep, delivery: qk.Delivery[bytes]) -> None:
    delivery.ack()


def _retry_once(sweep: Sweep, delivery: qk.Delivery[bytes]) -> None:
    if len(sweep.received) == 1:
        delivery.retry(delay=timedelta(seconds=_DELAY_S))
    else:
        delivery.ack()


def _bury(_sweep: Sweep, delivery: qk.Delivery[bytes]) -> None:
    delivery.dead_letter("broken")


_HOPS: dict[str, Any] = {"max_delay_s": _NATIVE_S}
_COPIES: dict[str, Any] = {"max_retry_delay_s": _NATIVE_S}
_HELD: dict[str, Any] = {**_COPIES, "copies": "fanout"}


def _sweep(run: Callable[[int, bool], Sweep]) -> None:
    """Fail each call in turn, until a run has no call of that number any more."""
    for after in (False, True):
        number = 1
        while run(number, after).calls >= number:
            number += 1
        assert number > 3, "there was hardly anything to fail"


@pytest.mark.parametrize("dedup", [True, False])
def test_a_hop_that_fails_anywhere_loses_nothing(dedup: bool) -> None:
    def run(fail_at: int, after: bool) -> Sweep:
        sweep = Sweep(_ack, fail_at, after=after, limits=_HOPS if dedup else {**_HOPS, "dedup_window_s": 0.0})
        sweep.run(delay_s=_DELAY_S)
        assert sweep.received
        assert min(sweep.received) >= _DELAY_S
        assert set(sweep.settled.values()) == {1}
        assert sweep.left("q") == 0
        return sweep

    _sweep(run)


@pytest.mark.parametrize("limits", [_COPIES, _HELD], ids=["copied", "held"])
def test_a_retry_that_is_bridged_and_fails_anywhere_loses_nothing(limits: dict[str, Any]) -> None:
    def run(fail_at: int, after: bool) -> Sweep:
        sweep = Sweep(_retry_once, fail_at, after=after, limits=limits)
        sweep.run()
        assert len(sweep.received) >= 2
        assert set(sweep.settled.values()) == {1}
        assert sweep.left("q") == 0
        return sweep

    _sweep(run)


def test_a_dead_letter_that_is_copied_and_fails_anywhere_is_not_lost() -> None:
    def run(fail_at: int, after: bool) -> Sweep:
        sweep = Sweep(_bury, fail_at, after=after, limits={})
        sweep.run(dead_letter="memory://grave")
        assert sweep.received
        assert set(sweep.settled.values()) == {1}
        assert sweep.acked <= sweep.copies_there
        assert sweep.left("grave") >= 1
        assert sweep.left("q") == 0
        return sweep

    _sweep(run)
