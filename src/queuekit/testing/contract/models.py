# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""MOD: random schedules against models, and long runs judged by their history."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import cast

import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queuekit._engine.batching import BatchLimits, SendBatcher
from queuekit._engine.held import Held
from queuekit._engine.turns import TurnBatcher
from queuekit._portable.retry import DeadLetter, Retry, RetryPolicy
from queuekit._values.capability import Support
from queuekit.backend import Action, OutgoingMessage
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.shift import Shift
from queuekit.testing.faults import Answers, Call, InjectedFault, Proceed, unavailable
from queuekit.testing.machine import BackendMachine, run_machine
from queuekit.testing.simulation import Work


class Models(Group):
    """What no hand-written schedule would find."""

    def test_MOD_01_model_backend(self, harness: Harness) -> None:
        """Any schedule of the verbs is answered as the reference model answers it.

        On a virtual clock with leases and delays that run out; on a service's own clock without them, so
        that there too each answer is the only right one.
        """
        examples = harness.examples if harness.virtual else max(1, harness.examples // 2)
        run_machine(lambda: BackendMachine(harness, timed=harness.virtual), examples=examples)

    def test_MOD_02_model_backend_real(self, harness: Harness) -> None:
        """On a real clock each answer is one that the reference model allows, while leases and delays run out."""
        real = harness.in_real_time()
        if harness.virtual:
            # Its lateness was measured on the virtual clock; what is left is the rounding of times.
            real.tolerance_s = harness.tolerance_s + 0.01
            real.min_lease_s = real.min_delay_s = max(0.02, harness.capabilities.min_lease_s)
        run_machine(lambda: BackendMachine(real), examples=max(1, harness.examples // 10), steps=15)

    def test_MOD_03_model_core_retry_dlq(self, harness: Harness) -> None:
        """Any script of handler results comes to as many attempts as the policy says, and to its end."""

        @_drawn(harness)
        @given(scripts=st.lists(st.lists(st.sampled_from(_RESULTS), max_size=5), min_size=1, max_size=4))
        def scripted(scripts: list[list[str]]) -> None:
            _expect_scripted(harness, scripts)

        scripted()

    @requires("ordering")
    def test_MOD_04_model_ordering(self, harness: Harness) -> None:
        """Whatever fails, with several consumers: a key's messages begin one after the other, in order."""

        @_drawn(harness)
        @given(
            keys=st.lists(st.sampled_from("kl"), min_size=2, max_size=6),
            results=st.lists(st.sampled_from(_RESULTS), min_size=12, max_size=12),
        )
        def ordered(keys: list[str], results: list[str]) -> None:
            _expect_order(harness, keys, results)

        ordered()

    def test_MOD_05_model_batcher(self, harness: Harness) -> None:
        """Any sizes, keys and pauses: every message is in exactly one batch, within the limits, its key in order."""
        limits = BatchLimits.of(harness.capabilities)

        @settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(items=st.lists(_ITEMS, max_size=40), linger_s=st.sampled_from([0.0, 1.0]))
        def gathered(items: list[tuple[int, str | None, float]], linger_s: float) -> None:
            for within in (limits, dataclasses.replace(limits, count=min(limits.count, 3), size=10)):
                _expect_batches(within, items, linger_s)

        gathered()

    @requires("lease", "extend")
    def test_MOD_06_model_lease_keeper(self, harness: Harness) -> None:
        """Handlers of any length, extensions that fail: no lease ends needlessly, none is extended after its end."""

        @_drawn(harness)
        @given(
            lengths=st.lists(st.sampled_from([0.1, 0.6, 1.5, 3.0]), min_size=1, max_size=4),
            failing=st.lists(st.booleans(), max_size=8),
        )
        def kept(lengths: list[float], failing: list[bool]) -> None:
            _expect_kept(harness, lengths if harness.virtual else lengths[:1], failing)

        kept()

    def test_MOD_07_model_shutdown(self, harness: Harness) -> None:
        """Stopped at any step a worker ends in its time, and what it has not finished is in the queue."""

        @_drawn(harness)
        @given(steps=st.integers(0, 60), takes=st.sampled_from([0.0, 0.3, 2.0]))
        def stopped(steps: int, takes: float) -> None:
            _expect_clean_stop(harness, steps, takes * harness.min_lease_s)

        stopped()


_RESULTS = ("ok", "ok", "error", "retry", "dead", "fatal")
_MAX_ATTEMPTS = 3
_ITEMS = st.tuples(st.integers(1, 10), st.sampled_from([None, None, "k", "l"]), st.sampled_from([0.0, 0.4, 2.0]))


def _drawn(harness: Harness) -> settings:
    """Fewer examples than of the verbs alone: each is a whole run."""
    return settings(
        max_examples=max(1, harness.examples // 5) if harness.virtual else 1,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=cast("list[HealthCheck]", list(HealthCheck)),
    )


def _result(name: str) -> object:
    return {
        "error": ValueError("drawn"),
        "retry": Retry(),
        "dead": DeadLetter("drawn"),
        "fatal": LookupError("drawn"),
    }.get(name)


def _policy(harness: Harness) -> RetryPolicy:
    wait_s = max(harness.min_delay_s if harness.virtual else 0.0, harness.capabilities.min_retry_delay_s)
    return RetryPolicy(max_attempts=_MAX_ATTEMPTS, wait=tenacity.wait_fixed(wait_s), dead_letter_on=LookupError)


def _expected_end(script: Sequence[str]) -> tuple[int, bool]:
    """How many attempts a script comes to, and whether the message is dead then."""
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        result = script[attempt - 1] if attempt <= len(script) else "ok"
        if result == "ok":
            return attempt, False
        if result in {"dead", "fatal"} or attempt == _MAX_ATTEMPTS:
            return attempt, True
    raise AssertionError


def _expect_scripted(harness: Harness, scripts: Sequence[Sequence[str]]) -> None:
    keeps = harness.capabilities.dead_letters is Support.NATIVE
    if not keeps:  # without a dead-letter queue what should die is tried for ever
        scripts = [[each for each in script if each in {"ok", "retry"}][: _MAX_ATTEMPTS - 1] for script in scripts]
    begun: Counter[str] = Counter()
    names = [f"m{number}" for number in range(len(scripts))]
    by_name = dict(zip(names, scripts, strict=True))

    def work(held: Held) -> Work:
        name = held.message.message_id
        begun[name] += 1
        script = by_name[name]
        result = script[begun[name] - 1] if begun[name] <= len(script) else "ok"
        return Work(0.01 * harness.min_lease_s, _result(result))

    shift = Shift(harness, work, policy=_policy(harness))
    for name in names:
        shift.send(_message(harness, name))
    shift.hire()
    expected = {name: _expected_end(by_name[name]) for name in names}
    shift.run(lambda: begun.total() >= sum(attempts for attempts, _dead in expected.values()))
    shift.stop()
    assert dict(begun) == {name: attempts for name, (attempts, _dead) in expected.items()}
    report = shift.judge()
    assert report.ok == len(names)
    if keeps:
        dead = shift.queue.dead().take(sum(dead for _attempts, dead in expected.values()))
        assert {each.message_id for each in dead} == {name for name, (_, is_dead) in expected.items() if is_dead}
        assert all(each.body == each.message_id.encode() for each in dead)


def _message(harness: Harness, name: str, key: str | None = None) -> OutgoingMessage:
    needed = "k" if harness.capabilities.ordering_key_required else None
    return OutgoingMessage(name, name.encode(), ordering_key=key or needed)


def _expect_order(harness: Harness, keys: Sequence[str], results: Sequence[str]) -> None:
    if harness.capabilities.dead_letters is not Support.NATIVE:
        results = ["ok"]
    drawn, begun = cycle(results), list[str]()

    def work(held: Held) -> Work:
        begun.append(held.message.message_id)
        return Work(0.05 * harness.min_lease_s, _result(next(drawn)))

    shift = Shift(harness, work, policy=_policy(harness))
    names = [f"m{number:02}" for number in range(len(keys))]
    for name, key in zip(names, keys, strict=True):
        shift.send(_message(harness, name, key))
    for _ in range(2):
        shift.hire()
    shift.run(lambda: set(begun) == set(names) and not any(each.running for each in shift.workers))
    left = _finish(shift)
    assert shift.judge(left).delivered == len(names)
    if harness.capabilities.one_in_flight_per_key:
        for key in set(keys):
            of_key = [name for name in begun if keys[int(name[1:])] == key]
            assert of_key == sorted(of_key), f"of key {key!r} these began, in this order: {of_key}"


def _finish(shift: Shift) -> list[str]:
    shift.stop()
    return shift.left_over()


def _expect_batches(limits: BatchLimits, items: Sequence[tuple[int, str | None, float]], linger_s: float) -> None:
    made: type[SendBatcher[int] | TurnBatcher[int]] = TurnBatcher[int] if limits.one_per_key else SendBatcher[int]
    batcher = made(limits, linger_s=linger_s, max_pending=1000)
    now, batches = 0.0, list[list[int]]()
    for number, (size, key, pause_s) in enumerate(items):
        batcher.add(number, size=size, key=key, now=now)
        now += pause_s
        if pause_s:
            batches += iter(lambda now=now: batcher.take(now), None)  # type: ignore[misc]
    batcher.flush()
    batches += iter(lambda: batcher.take(now), None)
    assert sorted(number for batch in batches for number in batch) == list(range(len(items)))
    for batch in batches:
        assert len(batch) <= limits.count
        assert limits.size is None or sum(items[number][0] for number in batch) <= limits.size
        keys = [items[number][1] for number in batch]
        assert not limits.one_key_per_call or len(set(keys)) == 1
        assert not limits.one_per_key or all(keys.count(key) == 1 for key in keys if key is not None)
    for key in "kl":
        of_key = [number for batch in batches for number in batch if items[number][1] == key]
        assert of_key == sorted(of_key), "the messages of a key changed their order"


def _expect_kept(harness: Harness, lengths: Sequence[float], failing: Sequence[bool]) -> None:
    drawn = iter(failing)
    begun: list[str] = []

    def fail_some(call: Call, proceed: Proceed) -> Answers:
        # One failure at a time: a lease that can never be extended may end.
        if call.batch[0].action is Action.EXTEND and next(drawn, False):
            next(drawn, None)
            raise InjectedFault(unavailable(sent="no"))
        return proceed(call.batch)

    def work(held: Held) -> Work:
        begun.append(held.message.message_id)
        return Work(lengths[int(begun[-1][1:])] * harness.min_lease_s)

    shift = Shift(harness, work, slots=4)
    for number in range(len(lengths)):
        shift.send(_message(harness, f"m{number}"))
    shift.hire(fail_some)
    shift.run(lambda: len(begun) >= len(lengths) and not shift.workers[0].running)
    shift.stop()
    report = shift.judge()
    assert report.duplicated == 0, f"a lease ended needlessly: {report.explained}"
    settled: set[str] = set()
    for each in shift.history.records():
        assert each.action != "extend" or each.delivery not in settled, "extended after its settlement"
        if each.action == "ack" and each.phase == "ok":
            settled.add(each.delivery)


def _expect_clean_stop(harness: Harness, steps: int, takes_s: float) -> None:
    shift = Shift(harness, lambda _held: Work(takes_s), slots=2, drain_s=harness.min_lease_s)
    for number in range(8):
        shift.send(_message(harness, f"m{number}"))
    shift.hire()
    left = iter(range(steps))
    shift.run(lambda: next(left, None) is None)
    shift.stop()
    shift.judge(shift.left_over())
