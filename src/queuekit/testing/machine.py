# SPDX-License-Identifier: Apache-2.0
"""Random schedules of a backend's verbs against the reference model; Hypothesis shrinks what fails.

``run_machine(lambda: BackendMachine(harness), examples=200, steps=30)`` is all that a test needs.
Settlements draw from every handle that was ever given out, so stale ones are tried all the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as reproduce_with
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from queuekit._values.capability import Capabilities, Support
from queuekit._values.outcome import Settled
from queuekit.backend import (
    Action,
    Handle,
    OutgoingMessage,
    Settlement,
)
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.model import Model, Span
from queuekit.testing.schedule import STEPS, Draft, Intervene, Pick, Receive, Redrive, Send, Settle, Step, Tick, Where

EXAMPLES_VARIABLE = "QUEUEKIT_EXAMPLES"
"""How many examples of how many steps each machine runs, such as ``2000x50``; for long runs."""

_CALL_S = 30.0


class Place:
    """One queue: the backend and its model.

    Args:
        harness: Opens it.
        name: The queue.
        model: What it must hold.
    """

    def __init__(self, harness: Harness, name: str, model: Model) -> None:
        self.harness: Harness = harness
        self.name: str = name
        self.model: Model = model
        self.backend: Any = harness.open(name)
        self.handles: list[Handle] = []

    def call(self, function: Callable[[], Any]) -> tuple[Any, Span]:
        """Make one call; returns its answer, and when it was made."""
        clock = self.harness.clock
        first = clock.monotonic()
        answer = function()
        return answer, Span(first, clock.monotonic())

    def open_anew(self) -> None:
        """As after a crash: what the old backend object knew is gone."""
        self.backend.close()
        self.backend = self.harness.open(self.name)


class BackendMachine(RuleBasedStateMachine):
    """The verbs of one queue and of its own dead-letter queue, judged by the model at each step.

    Args:
        harness: Where the backend comes from, and whose time passes.
        timed: Whether leases and delays are let run out. Without it nothing waits, leases are long, and
            even a real service answers as the model does.
    """

    def __init__(self, harness: Harness, *, timed: bool = True) -> None:
        super().__init__()
        self.harness: Harness = harness
        self.timed: bool = timed
        name = harness.unique_name()
        tolerance_s = 0.0 if harness.virtual else harness.tolerance_s
        self.places: dict[str, Place] = {"queue": Place(harness, name, Model(harness.capabilities, tolerance_s))}
        if self.can.dead_letters is Support.NATIVE:
            self.places["dead"] = Place(harness, harness.dead_name(name), Model(self.can, tolerance_s))
        self.sent: int = 0

    @property
    def can(self) -> Capabilities:
        """What the backend declares."""
        return self.harness.capabilities

    @rule(step=STEPS)
    def do(self, step: Step) -> None:
        """Do one thing, as far as the backend can."""
        if isinstance(step, Send):
            self._send(step)
        elif isinstance(step, Receive):
            limit = min(step.limit, self.can.max_receive)
            self._receive(self._place(step.where), limit, self._lease_s(step.lease))
        elif isinstance(step, Settle):
            self._settle_picked(self._place(step.where), step.picks)
        elif isinstance(step, Tick):
            if self.timed:
                self.harness.pass_time(step.units * self.harness.min_lease_s)
        elif isinstance(step, Redrive):
            if self.can.redrive is Support.NATIVE and "dead" in self.places:
                self._redrive(step.most)
        else:
            self._intervene(self._place(step.where), step)

    def _send(self, step: Send) -> None:
        messages = [self._message(each) for each in step.batch][: self.can.max_send_batch]
        if self.can.one_key_per_send:
            messages = [each for each in messages if each.ordering_key == messages[0].ordering_key]
        place = self.places["queue"]
        outcomes, now = place.call(lambda: place.backend.send(messages, timeout_s=_CALL_S))
        place.model.send(messages, outcomes, now)

    def _message(self, draft: Draft) -> OutgoingMessage:
        can = self.can
        self.sent += 1
        key = draft.key if can.ordering != "none" else None
        if can.ordering_key_required:
            key = draft.key or "k"
        may_delay = self.timed and can.max_delay_s and (key is None or can.delay_with_ordering)
        return OutgoingMessage(
            message_id=f"m{self.sent}",
            body=f"body {self.sent}".encode(),
            attributes={"number": str(self.sent)},
            delay_s=min(draft.delay * self.harness.min_delay_s, can.max_delay_s) if may_delay else 0.0,
            ordering_key=key,
            dedup_id=draft.dedup_id if can.dedup_window_s else None,
            priority=min(draft.priority, can.priority_levels - 1) if can.priority_levels else 0,
        )

    def _receive(self, place: Place, limit: int, lease_s: float) -> Sequence[Any]:
        got, now = place.call(lambda: place.backend.receive(max_messages=limit, wait_s=0.0, lease_s=lease_s))
        place.model.receive(got, limit=limit, lease_s=lease_s, now=now)
        place.handles += [each.handle for each in got]
        return got  # type: ignore[no-any-return]

    def _settle_picked(self, place: Place, picks: Sequence[Pick]) -> None:
        batch: dict[Handle, Settlement] = {}
        for each in picks:
            if place.handles and (entry := self._settlement(place, each)) is not None:
                batch.setdefault(entry.handle, entry)
        self._settle(place, list(batch.values()))

    def _settlement(self, place: Place, pick: Pick) -> Settlement | None:
        can, handle = self.can, place.handles[-1 - pick.back % len(place.handles)]
        if pick.action is Action.EXTEND:
            possible = can.extend == "absolute"
            return Settlement(handle, pick.action, lease_s=self._lease_s(max(1, pick.length))) if possible else None
        if pick.action is Action.DEAD:
            # A dead-letter queue has no dead letters of its own.
            possible = "dead" in self.places and place is self.places["queue"]
            letter = place.model.handles[handle].message._replace(
                delay_s=0.0, dedup_id=None, metadata={"qk-dead-reason": "drawn"}
            )
            return Settlement(handle, pick.action, dead=letter) if possible else None
        if pick.action is Action.ACK or not self.timed:
            return Settlement(handle, pick.action)
        return Settlement(handle, pick.action, delay_s=min(pick.length * self._retry_unit_s, can.max_retry_delay_s))

    def _settle(self, place: Place, batch: Sequence[Settlement]) -> None:
        alike = len({(each.action, each.delay_s, each.lease_s) for each in batch}) <= 1
        whole = (alike or self.can.mixed_settles) and len(batch) <= self.can.max_settle_batch
        for part in ([batch] if whole else [[each] for each in batch]) if batch else []:
            outcomes, now = place.call(lambda part=part: place.backend.settle(part, timeout_s=_CALL_S))  # type: ignore[misc]
            assert len(outcomes) == len(part), "settle must answer once per entry (K1)"
            for entry, outcome in zip(part, outcomes, strict=True):
                gone = place.model.settle(entry, outcome, now)
                if gone is not None and entry.dead is not None:
                    self.places["dead"].model.store(entry.dead, now)

    def _redrive(self, count: int) -> None:
        dead, place = self.places["dead"], self.places["queue"]
        chosen = list(dead.model.held.values())[:count]
        letters = [each.message._replace(metadata={}) for each in chosen]
        if not letters:
            return
        outcomes, now = place.call(lambda: dead.backend.redrive(letters, timeout_s=_CALL_S))
        for tracked, letter, outcome in zip(chosen, letters, outcomes, strict=True):
            if isinstance(outcome, Settled):
                assert not tracked.surely_leased(now), "a leased dead letter was moved"
                dead.model.remove(tracked)
                place.model.store(letter, now)
            else:
                assert tracked.maybe_leased(now) or tracked.vague, f"a dead letter was not moved: {outcome}"

    def _intervene(self, place: Place, step: Intervene) -> None:
        can, what = self.can, step.what
        if what == "crash":
            # The consumer is gone with all that it knew; its leases run on.
            place.open_anew()
            place.handles.clear()
        elif what == "purge" and can.purge:
            self._purge(place)
        elif what == "cancel" and can.cancel:
            self._cancel(self.places["queue"], step.back)
        elif what == "peek" and can.peek:
            seen, now = place.call(lambda: place.backend.peek(limit=1000))
            clock = self.harness.clock
            place.model.check_peek(seen, now, clock.time() - clock.monotonic())
        elif what == "forget dedup ids" and self.timed and self.harness.virtual:
            self.harness.pass_time(can.dedup_window_s)

    def _purge(self, place: Place) -> None:
        model = place.model
        count, now = place.call(place.backend.purge)
        gone = [each for each in model.held.values() if not each.maybe_leased(now)]
        assert self._unsure or count in {None, len(gone)}, f"{count} were purged, and {len(gone)} could be"
        for each in gone:
            model.remove(each)
        if self._unsure:
            for each in model.held.values():
                each.vague = True

    def _cancel(self, place: Place, back: int) -> None:
        names = list(place.model.held)
        if not names:
            return
        tracked = place.model.held[names[-1 - back % len(names)]]
        done, now = place.call(lambda: place.backend.cancel(tracked.message.message_id))
        tried = tracked.attempt > 0 or tracked.maybe_leased(now)
        if not tracked.vague:
            assert done is not tried, f"cancel answered {done} after {tracked.attempt} deliveries"
        if done:
            place.model.remove(tracked)

    @property
    def _unsure(self) -> bool:
        """Whether some lease may or may not be over on a real clock, so that a count is a guess."""
        return not self.harness.virtual and self.timed

    @invariant()
    def conserves(self) -> None:
        """Ready, delayed, leased and dead make up what was accepted and is not finished (I8)."""
        if self.can.depth != "exact" or (self._unsure and any(place.handles for place in self.places.values())):
            return
        dead = len(self.places["dead"].model.held) if "dead" in self.places else 0
        for name, place in self.places.items():
            stats, now = place.call(place.backend.stats)
            place.model.check_stats(stats, dead if name == "queue" else 0, now)

    def teardown(self) -> None:
        """Whatever is not finished can be received after a long enough time (I1)."""
        for place in self.places.values():
            self._drain(place)
            place.backend.close()

    def _drain(self, place: Place) -> None:
        if self.timed:
            longest = max((each.until.last for each in place.model.held.values()), default=0.0)
            due = max((each.due.last for each in place.model.held.values()), default=0.0)
            self.harness.pass_time(max(0.0, max(longest, due) - self.harness.clock.monotonic()))
        else:
            live = [each.handle for each in place.model.held.values() if each.handle is not None]
            self._settle(place, [Settlement(handle, Action.RELEASE) for handle in live])
        patience = self.harness.clock.monotonic() + REAL_LIMIT_S
        while any(not each.vague for each in place.model.held.values()):
            got = self._receive(place, self.can.max_receive, self._lease_s(4))
            assert got or not self.harness.virtual, f"never received: {sorted(place.model.held)} (I1)"
            self._settle(place, [Settlement(each.handle, Action.ACK) for each in got])
            if not got:
                assert self.harness.clock.monotonic() < patience, f"not received: {sorted(place.model.held)} (I1)"
                self.harness.pass_time(self.harness.tolerance_s / 8)

    def _place(self, where: Where) -> Place:
        return self.places.get(where, self.places["queue"])

    def _lease_s(self, units: int) -> float:
        if not self.timed:
            return self.harness.lease_s
        return min(max(units * self.harness.min_lease_s, self.can.min_lease_s), self.can.max_lease_s)

    @property
    def _retry_unit_s(self) -> float:
        return max(self.harness.min_delay_s, self.can.min_retry_delay_s)


def run_machine(
    make: Callable[[], RuleBasedStateMachine],
    *,
    examples: int,
    steps: int = 30,
    seed: int | None = None,
    shrink: bool = True,
) -> None:
    """Run random schedules, and raise the shortest that fails.

    Args:
        make: Makes a machine in its first state.
        examples: How many schedules; ``QUEUEKIT_EXAMPLES`` wins.
        steps: The longest schedule; ``QUEUEKIT_EXAMPLES`` wins.
        seed: Makes the schedules the same each time.
        shrink: Whether to look for the shortest, or to raise the first that fails.

    Raises:
        AssertionError: A schedule that fails, in its notes.
    """
    demanded = os.environ.get(EXAMPLES_VARIABLE, "")
    if demanded:
        examples, steps = (int(number) for number in demanded.split("x"))

    class Machine(RuleBasedStateMachine):
        """Hypothesis wants a class, and calls it once per example."""

        def __new__(cls) -> Any:
            return make()

    run_state_machine_as_test(
        Machine if seed is None else reproduce_with(seed)(Machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            # One failure, shrunk: to explain it, and to look for others, takes many times as long.
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=cast("list[HealthCheck]", list(HealthCheck)),
        ),
    )
