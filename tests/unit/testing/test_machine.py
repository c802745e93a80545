# SPDX-License-Identifier: Apache-2.0
"""The machine judged: a backend that breaks a promise fails, with a schedule short enough to be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from queuekit.backend import Action, IncomingMessage, Settled
from queuekit.testing import reset_memory
from queuekit.testing.contract import Harness
from queuekit.testing.machine import BackendMachine, run_machine


class Broken:
    """Memory with a flaw."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Unfenced(Broken):
    """Whoever had a message can settle it for whoever has it now."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.message_of: dict[Any, str] = {}
        self.live: dict[str, Any] = {}

    def receive(self, **arguments: Any) -> Sequence[IncomingMessage]:
        got = self.inner.receive(**arguments)
        for each in got:
            self.message_of[each.handle] = each.message_id
            self.live[each.message_id] = each.handle
        return got  # type: ignore[no-any-return]

    def settle(self, batch: Any, **arguments: Any) -> Any:
        now = [
            each._replace(handle=self.live.get(self.message_of.get(each.handle, ""), each.handle)) for each in batch
        ]
        return [self.inner.settle([each], **arguments)[0] for each in now]


class Forgetful(Broken):
    """A retry is answered, and the message is gone."""

    def settle(self, batch: Any, **arguments: Any) -> Any:
        return [
            Settled(applied_delay_s=each.delay_s)
            if each.action is Action.RETRY
            and self.inner.settle([each._replace(action=Action.ACK)], **arguments) == [Settled()]
            else self.inner.settle([each], **arguments)[0]
            for each in batch
        ]


class Impatient(Broken):
    """Delays are half as long as asked for."""

    def send(self, batch: Any, **arguments: Any) -> Any:
        return self.inner.send([each._replace(delay_s=each.delay_s / 2) for each in batch], **arguments)


class AlwaysFirst(Broken):
    """Every delivery is the first."""

    def receive(self, **arguments: Any) -> Sequence[IncomingMessage]:
        return [each._replace(attempt=1) for each in self.inner.receive(**arguments)]


class Keyless(Broken):
    """Ordering keys are carried, and mean nothing."""

    keys: ClassVar[dict[str, str | None]] = {}

    def send(self, batch: Any, **arguments: Any) -> Any:
        for each in batch:
            self.keys[each.message_id] = each.ordering_key
        return self.inner.send([each._replace(ordering_key=None) for each in batch], **arguments)

    def receive(self, **arguments: Any) -> Sequence[IncomingMessage]:
        got = self.inner.receive(**arguments)
        return [each._replace(ordering_key=self.keys.get(each.message_id)) for each in got]


class BrokenHarness(Harness):
    virtual = True
    one_process = True
    min_lease_s = 10.0
    min_delay_s = 5.0
    tolerance_s = 0.0
    flaw: type[Broken] = Broken

    def base_url(self) -> str:
        return "memory://"

    def open(self, queue: str, **arguments: Any) -> Any:
        return self.flaw(super().open(queue, **arguments))


@pytest.fixture
def schedule_of(tmp_path: Path) -> Iterator[Callable[[type[Broken]], tuple[str, list[str]]]]:
    harness = BrokenHarness(tmp_path)

    def find(flaw: type[Broken], **how: Any) -> tuple[str, list[str]]:
        """What was said, and the schedule."""
        harness.flaw = flaw
        with pytest.raises(AssertionError) as failure:
            run_machine(lambda: BackendMachine(harness), examples=300, steps=15, seed=1, **how)
        notes = "\n".join(failure.value.__notes__)
        return str(failure.value), re.findall(r"state\.do\(step=(\w+)", notes)

    yield find
    reset_memory()


@pytest.mark.slow
def test_an_unfenced_backend_fails_with_a_short_schedule(schedule_of: Any) -> None:
    _said, steps = schedule_of(Unfenced)
    assert {"Send", "Receive", "Settle"} <= set(steps)
    assert len(steps) <= 7, "send, receive, let the lease end, receive, settle the first handle"


@pytest.mark.parametrize(
    ("flaw", "said"),
    [(Forgetful, r"I\d|ready"), (Impatient, r"I\d|ready"), (AlwaysFirst, "I5"), (Keyless, r"I\d|ready")],
)
@pytest.mark.slow
def test_a_broken_promise_is_found(flaw: type[Broken], said: str, schedule_of: Any) -> None:
    found, _steps = schedule_of(flaw, shrink=False)
    assert re.search(said, found)


def test_the_number_of_examples_can_be_demanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEKIT_EXAMPLES", "7x3")
    harness = BrokenHarness(tmp_path)
    made = 0

    def make() -> BackendMachine:
        nonlocal made
        made += 1
        return BackendMachine(harness)

    run_machine(make, examples=1)
    assert made >= 7
