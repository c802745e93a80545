# SPDX-License-Identifier: Apache-2.0
"""The oracle judged: each verdict can be produced, and what a crash or a lost answer explains is no problem."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from queuekit.backend import Capabilities
from queuekit.testing import VirtualClock
from queuekit.testing.oracle import Expectations, History, Problem, Report, check, kept_history

LEASE_S = 10.0


class Run:
    """A history written by hand, a second per step."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.history = History.in_memory(worker="sender", clock=self.clock)
        self.workers = {name: self.history.beside(name) for name in ("ann", "bob")}

    def send(self, message: str = "m", outcome: str = "ok", **options: object) -> None:
        self.history.send(message, **options).end(outcome)  # type: ignore[arg-type]
        self.clock.advance(1)

    def deliver(self, worker: str = "ann", message: str = "m", *, leased: bool = True, key: str | None = None):  # type: ignore[no-untyped-def]
        until = self.clock.monotonic() + LEASE_S if leased else None
        delivered = self.workers[worker].deliver(message, until=until, key=key)
        self.clock.advance(1)
        return delivered

    def check(self, left_over: Sequence[str] = (), **expect: object) -> Report:
        return check(self.history.records(), expect=Expectations(**expect), left_over=left_over)  # type: ignore[arg-type]


@pytest.fixture
def run() -> Run:
    return Run()


def verdicts(report: Report) -> list[str]:
    return [each.verdict for each in report.problems]


def test_a_run_without_a_fault_is_ok(run: Run) -> None:
    run.send()
    run.deliver().settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert (report.attempted, report.acknowledged, report.delivered, report.ok, report.deliveries) == (1, 1, 1, 1, 1)
    assert report.duplicated == 0


def test_a_message_that_never_came_is_lost(run: Run) -> None:
    run.send()
    report = run.check()
    assert (verdicts(report), report.lost) == (["lost"], 1)
    with pytest.raises(AssertionError, match=r"lost: m at .*never delivered"):
        report.assert_ok()


def test_a_message_whose_holder_died_is_lost_unless_it_comes_again(run: Run) -> None:
    run.send()
    run.deliver()
    run.history.kill("ann", held=["m"])
    assert verdicts(run.check()) == ["lost"]
    run.clock.advance(LEASE_S)
    run.deliver("bob").settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert (report.explained, report.bound) == ({"kill": 1}, 1)
    assert report.longest_redelivery_s == 1.0  # since the end of the lease


def test_what_is_left_over_is_not_lost(run: Run) -> None:
    run.send()
    report = run.check(left_over=["m"])
    report.assert_ok()
    assert report.left_over == 1


@pytest.mark.parametrize("outcome", ["unknown", "failed"])
def test_what_was_not_accepted_is_not_lost(run: Run, outcome: str) -> None:
    run.send(outcome=outcome)
    assert run.check().problems == ()


def test_a_message_that_nobody_sent_is_unexpected(run: Run) -> None:
    run.deliver().settle("ack").ok()
    assert verdicts(run.check()) == ["unexpected"]


def test_a_message_whose_send_surely_failed_is_unexpected(run: Run) -> None:
    run.send(outcome="failed")
    run.deliver().settle("ack").ok()
    report = run.check()
    assert (verdicts(report), report.unexpected) == (["unexpected"], 1)


def test_a_message_whose_send_was_unknown_is_recovered(run: Run) -> None:
    run.history.send("m")  # and the sender was killed before the answer
    run.deliver().settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert (report.acknowledged, report.recovered) == (0, 1)


@pytest.mark.parametrize("action", ["retry", "release"])
def test_a_duplicate_after_giving_back_is_explained(run: Run, action: str) -> None:
    run.send()
    run.deliver().settle(action).ok()  # type: ignore[arg-type]
    run.deliver("bob").settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert (report.duplicated, report.explained) == (1, {action: 1})


def test_a_duplicate_after_the_lease_is_explained(run: Run) -> None:
    run.send()
    run.deliver()
    run.clock.advance(LEASE_S)
    run.deliver("bob").settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert report.explained == {"expiry": 1}


def test_a_duplicate_without_a_lease_in_the_history_is_explained_by_a_lost_answer(run: Run) -> None:
    run.send()
    with run.workers["ann"].handling("m", attempt=1):
        pass
    run.deliver("bob", leased=False).settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert report.explained == {"unknown": 1}


def test_a_duplicate_after_the_holder_heard_of_its_loss_is_explained(run: Run) -> None:
    run.send()
    run.deliver(leased=False).lost()
    run.deliver("bob", leased=False).settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert report.explained == {"lost": 1}


def test_a_duplicate_of_what_was_sent_again_is_explained(run: Run) -> None:
    run.send(outcome="unknown")
    run.send()
    for worker in ("ann", "bob"):
        run.deliver(worker).settle("ack").ok()
    report = run.check()
    report.assert_ok()
    assert report.explained == {"resend": 1}


def test_a_duplicate_of_what_was_acked_is_unexplained(run: Run) -> None:
    run.send()
    run.deliver().settle("ack").ok()
    run.clock.advance(LEASE_S)
    run.deliver("bob").settle("release").ok()
    report = run.check()
    assert (verdicts(report), report.unexplained) == (["unexplained"], 1)
    assert run.check(unexplained=True).problems == ()


def test_a_killed_worker_explains_only_what_it_held(run: Run) -> None:
    run.send()
    with run.workers["ann"].handling("m"):
        pass
    run.deliver("ann", "other", leased=False)
    run.history.kill("ann", held=["other"])
    assert run.check(left_over=["other"]).bound == 1
    run.send("other")
    run.deliver("bob", "other", leased=False).settle("ack").ok()
    assert run.check().explained == {"kill": 1}


def test_two_holders_at_once_are_an_overlap(run: Run) -> None:
    run.send()
    first = run.deliver()
    second = run.deliver("bob")
    second.settle("ack").ok()
    report = run.check()
    assert verdicts(report) == ["unexplained", "overlap"]
    assert run.check(overlap=True, unexplained=True).problems == ()
    first.settle("ack").ok()
    assert verdicts(run.check(overlap=True, unexplained=True)) == ["settled_twice", "stale"]


def test_a_late_ack_proves_nothing_where_the_service_does_not_fence(run: Run) -> None:
    run.send()
    first = run.deliver()
    run.clock.advance(LEASE_S)
    second = run.deliver("bob")
    first.settle("ack").ok()
    second.settle("ack").ok()
    assert set(verdicts(run.check())) == {"settled_twice", "stale"}
    report = run.check(stale=True)
    assert (report.problems, report.explained) == ((), {"expiry": 1})


def test_an_ack_that_the_next_delivery_overtook_explains_it_only_where_the_service_does_not_fence(run: Run) -> None:
    run.send()
    ack = run.deliver().settle("ack")
    run.clock.advance(LEASE_S)
    ack.ok()
    run.deliver("bob").settle("ack").ok()
    assert set(verdicts(run.check())) == {"settled_twice", "unexplained"}
    report = run.check(stale=True)
    assert (report.problems, report.explained) == ((), {"expiry": 1})


def test_two_acks_within_their_leases_are_one_too_many_everywhere(run: Run) -> None:
    run.send()
    for worker in ("ann", "bob"):
        run.deliver(worker).settle("ack").ok()
    assert "settled_twice" in verdicts(run.check(stale=True))


def test_an_extended_lease_still_holds(run: Run) -> None:
    run.send()
    held = run.deliver()
    held.settle("extend", until=run.clock.monotonic() + 5 * LEASE_S).end(
        "ok", until=run.clock.monotonic() + 5 * LEASE_S
    )
    run.clock.advance(2 * LEASE_S)
    run.deliver("bob").settle("ack").ok()
    assert verdicts(run.check()) == ["unexplained", "overlap"]


def test_an_extension_without_an_answer_is_not_relied_on(run: Run) -> None:
    run.send()
    run.deliver().settle("extend", until=run.clock.monotonic() + 5 * LEASE_S).unknown()
    run.clock.advance(2 * LEASE_S)
    run.deliver("bob").settle("ack").ok()
    run.check().assert_ok()


def test_a_kill_ends_a_lease_only_where_leases_are_bound_to_the_connection(run: Run) -> None:
    run.send()
    run.deliver()
    run.history.kill("ann")
    run.deliver("bob").settle("ack").ok()
    assert verdicts(run.check()) == ["overlap"]
    assert run.check(kill_ends_lease=True).problems == ()


def test_a_delivery_before_the_delay_is_early(run: Run) -> None:
    run.send(delay_s=5.0)
    run.deliver().settle("ack").ok()
    report = run.check()
    assert (verdicts(report), report.early) == (["early"], 1)
    assert run.check(tolerance_s=4.0).problems == ()
    assert run.check(early=True).problems == ()


def test_a_retry_before_its_delay_is_early_even_after_the_lease(run: Run) -> None:
    run.send()
    run.deliver().settle("retry", delay_s=100.0).ok()
    run.clock.advance(2 * LEASE_S)
    run.deliver("bob").settle("ack").ok()
    assert verdicts(run.check()) == ["early"]


def test_a_retry_that_may_be_lost_may_come_when_the_lease_ends(run: Run) -> None:
    run.send()
    run.deliver().settle("retry", delay_s=100.0).unknown()
    run.clock.advance(2 * LEASE_S)
    run.deliver("bob").settle("ack").ok()
    run.check().assert_ok()


def test_a_key_out_of_order_is_disorder(run: Run) -> None:
    for name in "abc":
        run.send(name, key="k")
    for name in "bac":
        run.deliver("ann", name).settle("ack").ok()
    report = run.check()
    assert [(each.verdict, each.message) for each in report.problems] == [("disorder", "b")]
    assert run.check(order=False).problems == ()


def test_redeliveries_do_not_count_for_the_order(run: Run) -> None:
    for name in "ab":
        run.send(name, key="k")
    for name, action in (("a", "retry"), ("b", "ack"), ("a", "ack")):
        run.deliver("ann", name).settle(action).ok()  # type: ignore[arg-type]
    run.check().assert_ok()


def test_two_messages_of_a_key_at_once_are_a_key_overlap(run: Run) -> None:
    for name in "ab":
        run.send(name, key="k")
    held = [run.deliver(worker, name) for worker, name in (("ann", "a"), ("bob", "b"))]
    for each in held:
        each.settle("ack").ok()
    report = run.check()
    assert [(each.verdict, each.message) for each in report.problems] == [("key_overlap", "b")]
    assert run.check(one_per_key=False).problems == ()


def test_a_settlement_that_was_refused_finishes_nothing(run: Run) -> None:
    run.send()
    held = run.deliver()
    run.clock.advance(LEASE_S)
    held.settle("ack").end("lease_lost")
    assert verdicts(run.check()) == ["lost"]


def test_the_longest_gap_is_between_deliveries(run: Run) -> None:
    for name in "ab":
        run.send(name)
    run.deliver("ann", "a").settle("ack").ok()
    run.clock.advance(41)
    run.deliver("ann", "b").settle("ack").ok()
    assert run.check().longest_gap_s == 42.0


def test_a_failing_check_shows_the_first_problems_and_the_figures() -> None:
    problems = [Problem("lost", f"m{number}", 1.0, "gone") for number in range(30)]
    with pytest.raises(AssertionError, match=r"(?s)m19.*and 10 more.*\"attempted\": 30") as failure:
        Report(attempted=30, explained={}, problems=problems).assert_ok()
    assert "m20" not in str(failure.value)


def test_a_failing_run_keeps_its_history_with_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEKIT_HISTORIES", str(tmp_path / "kept"))
    with kept_history("good", seed=1) as (history, path):
        history.send("m").ok()
        assert path.exists()
    assert not path.exists()

    def fail() -> None:
        with kept_history("bad", seed=4711) as (history, _path):
            history.send("m").ok()
            check(history.records()).assert_ok()

    with pytest.raises(AssertionError) as failure:
        fail()
    (path,) = path.parent.iterdir()
    assert failure.value.__notes__ == [f"seed 4711; the history is kept in {path}"]

    judged = subprocess.run(
        [sys.executable, "-m", "queuekit.testing.oracle", path], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 1
    assert json.loads(judged.stdout)["lost"] == 1
    assert judged.stderr.startswith("lost: m at ")


def test_the_command_needs_one_file() -> None:
    judged = subprocess.run([sys.executable, "-m", "queuekit.testing.oracle"], capture_output=True, check=False)
    assert (judged.returncode, judged.stdout) == (2, b"")


def test_what_a_queue_does_not_promise_is_no_problem() -> None:
    weak = Capabilities(queues="declared", durability="replicated", max_message_bytes=1, lease="connection")
    assert Expectations.of(weak) == Expectations(
        overlap=True, stale=True, order=False, one_per_key=False, kill_ends_lease=True
    )
    again = dataclasses.replace(weak, redelivers_unasked=True, fencing="lenient", lease="timed")
    assert Expectations.of(again) == Expectations(
        unexplained=True, after_ack=True, overlap=True, stale=True, order=False, one_per_key=False
    )
    strong = dataclasses.replace(
        weak, fencing="strict", ordering="per_key", one_in_flight_per_key=True, lease="timed"
    )
    assert Expectations.of(strong, tolerance_s=1.0) == Expectations(tolerance_s=1.0)
