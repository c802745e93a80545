# SPDX-License-Identifier: Apache-2.0
"""Backends with one flaw each, for the cases of ordering, deduplication, redriving, administration and expiry."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from queuekit._engine import metadata as meta
from queuekit.backend import (
    Accepted,
    Action,
    Backend,
    Duplicate,
    IncomingMessage,
    OutgoingMessage,
    QueueStats,
    QueueURL,
    Settled,
    Settlement,
)
from queuekit.testing import reset_memory
from queuekit.testing.contract import BackendContract
from queuekit.testing.contract.ids import GROUPS
from queuekit.testing.contract.waiting import WAITING
from queuekit.testing.faults import Answers, Call, Proceed, do_nothing
from queuekit.testing.machine import BackendMachine, run_machine

from .test_suite_catches_broken_backends import (
    Flaw,
    FlawedHarness,
    FlawedOpener,
    _case,
    _expect_caught,
    _on_receive,
    _on_send,
    _on_settle,
)


def test_ordering_keys_that_are_ignored_are_caught(tmp_path: Path) -> None:
    def ignore(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(ordering_key=None)

    _expect_caught(tmp_path, _on_send(ignore), "ORD-03", "ORD-04", "ORD-05", "ORD-06")


def test_an_order_that_is_broken_by_a_retry_is_caught(tmp_path: Path) -> None:
    """A retry by copy puts the message behind those of its key, as a service without retries in place does."""
    _expect_caught(tmp_path, _retried_by_copy(), "ORD-05", "ORD-06")


def test_keys_that_wait_for_each_other_are_caught(tmp_path: Path) -> None:
    def one_for_all(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(ordering_key="all") if sent.ordering_key else sent

    _expect_caught(tmp_path, _on_send(one_for_all), "ORD-03")


def test_batches_that_are_stored_backwards_are_caught(tmp_path: Path) -> None:
    def backwards(call: Call, proceed: Proceed) -> Answers:
        return proceed(call.batch[::-1])[::-1]

    _expect_caught(tmp_path, _on("send", backwards), "ORD-07", "ORD-08")


def test_dedup_ids_that_are_ignored_are_caught(tmp_path: Path) -> None:
    def ignore(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(dedup_id=None)

    _expect_caught(tmp_path, _on_send(ignore), "DUP-01", "DUP-02", "DUP-03", "DUP-06")


def test_a_window_that_never_ends_is_caught(tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()

    def fold(call: Call, proceed: Proceed) -> Answers:
        def answer(sent: OutgoingMessage) -> Any:
            if sent.dedup_id and (call.queue, sent.dedup_id) in seen:
                return Duplicate(sent.message_id)
            seen.add((call.queue, sent.dedup_id or ""))
            return proceed([sent._replace(dedup_id=None)])[0]

        return [answer(each) for each in call.batch]

    _expect_caught(tmp_path, _on("send", fold), "DUP-02")


def test_a_duplicate_that_is_called_accepted_is_caught(tmp_path: Path) -> None:
    def hide(call: Call, proceed: Proceed) -> Answers:
        return [Accepted(each.message_id) for each in proceed(call.batch)]

    _expect_caught(tmp_path, _on("send", hide), "DUP-01", "DUP-03")


def test_deduplication_by_content_is_caught_in_each_face(tmp_path: Path) -> None:
    seen: set[bytes] = set()

    def fold(call: Call, proceed: Proceed) -> Answers:
        fresh = [each for each in call.batch if each.body not in seen and not seen.add(each.body)]
        if fresh:
            proceed(fresh)
        return [Accepted(each.message_id) for each in call.batch]

    _expect_caught(tmp_path, _on("send", fold), "DUP-05")


def test_a_redrive_that_is_claimed_and_not_done_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on("redrive", do_nothing(lambda _entry: Settled())), "RED-01", "RED-03", "RED-05")


def test_a_redrive_that_moves_the_first_of_a_batch_is_caught(tmp_path: Path) -> None:
    def first(call: Call, proceed: Proceed) -> Answers:
        return [*proceed(call.batch[:1]), *([Settled()] * (len(call.batch) - 1))]

    _expect_caught(tmp_path, _on("redrive", first), "RED-01", "RED-03")


def test_a_redrive_that_leaves_the_letter_is_caught(tmp_path: Path) -> None:
    def copy(backend: Any) -> None:
        def step(call: Call, proceed: Proceed) -> Answers:
            answers = proceed(call.batch)
            backend.inner.send(call.batch, timeout_s=1.0)
            return answers

        backend.script.always("redrive", step)

    _expect_caught(tmp_path, copy, "RED-01", "RED-05")


def test_a_redrive_that_keeps_its_death_is_caught(tmp_path: Path) -> None:
    def remember(call: Call, proceed: Proceed) -> Answers:
        dead = {meta.DEAD_REASON: "broken", meta.REDRIVEN: "1"}
        return proceed([each._replace(metadata={**each.metadata, **dead}) for each in call.batch])

    _expect_caught(tmp_path, _on("redrive", remember), "RED-02")


def test_a_redrive_of_a_queue_that_is_no_grave_is_caught(tmp_path: Path) -> None:
    def any_queue(call: Call, proceed: Proceed) -> Answers:
        return [Settled() for _ in proceed(call.batch)]

    _expect_caught(tmp_path, _on("redrive", any_queue), "RED-06")


def test_a_queue_that_is_not_deleted_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _instead("delete", lambda _backend: None), "ADM-01")


def test_a_question_that_makes_the_queue_is_caught(tmp_path: Path) -> None:
    def make(backend: Any) -> bool:
        backend.inner.create()
        return True

    _expect_caught(tmp_path, _instead("exists", make), "ADM-01")


def test_a_creation_that_begins_anew_is_caught(tmp_path: Path) -> None:
    def anew(backend: Any) -> None:
        backend.inner.delete()
        backend.inner.create()

    _expect_caught(tmp_path, _instead("create", anew), "ADM-02")


def test_settings_that_are_overwritten_in_silence_are_caught(tmp_path: Path) -> None:
    harness = FlawedHarness(tmp_path)
    harness.flaw = lambda _backend: None
    harness.stored_settings = {"max_messages": 10}
    with pytest.raises(pytest.fail.Exception, match="QueueExistsError"):
        _case("ADM-02")(BackendContract(), harness)
    harness.cleanup()


def test_a_purge_of_what_is_leased_is_caught(tmp_path: Path) -> None:
    def all_of_it(backend: Any) -> None:
        backend.purge = lambda: (backend.inner.stats().ready, backend.inner.delete())[0]

    _expect_caught(tmp_path, all_of_it, "ADM-04")


def test_a_purge_that_does_nothing_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _instead("purge", lambda _backend: None), "ADM-04")


def test_counts_that_are_made_up_are_caught(tmp_path: Path) -> None:
    zeros = QueueStats(ready=0, delayed=0, leased=0, dead=0)
    _expect_caught(tmp_path, _instead("stats", lambda _backend: zeros), "ADM-05")


def test_counts_of_what_was_acked_are_caught(tmp_path: Path) -> None:
    sent: list[bytes] = []

    def note(call: Call, proceed: Proceed) -> Answers:
        sent.extend(each.body for each in call.batch)
        return proceed(call.batch)

    def count(backend: Any) -> None:
        backend.script.always("send", note)
        backend.stats = lambda: QueueStats(ready=len(sent), delayed=0, leased=0, dead=0)

    _expect_caught(tmp_path, count, "ADM-06")


def test_a_look_that_leases_is_caught(tmp_path: Path) -> None:
    def lease(backend: Any) -> Any:
        found = backend.inner.peek(limit=10)
        backend.inner.receive(max_messages=1, wait_s=0.0, lease_s=1.0)
        return found

    def peek(backend: Any) -> None:
        backend.peek = lambda **_asked: lease(backend)

    _expect_caught(tmp_path, peek, "ADM-07")


def test_a_pause_of_this_opening_alone_is_caught(tmp_path: Path) -> None:
    def own(backend: Any) -> None:
        honest, paused = backend.receive, []
        backend.pause = lambda: paused.append(True)
        backend.resume = paused.clear
        backend.is_paused = lambda: bool(paused)
        backend.receive = lambda **asked: [] if paused else honest(**asked)

    _expect_caught(tmp_path, own, "ADM-09", "ADM-10", "ADM-11")


def test_a_pause_that_forgets_to_wake_is_caught(tmp_path: Path) -> None:
    def silent(backend: Any) -> None:
        def resume() -> None:
            found = backend.inner._find()
            if found is not None:
                found.paused = False

        backend.resume = resume

    _expect_caught(tmp_path, silent, "ADM-10")


def test_a_pause_that_makes_the_queue_by_asking_is_caught(tmp_path: Path) -> None:
    def make(backend: Any) -> bool:
        backend.inner.create()
        return bool(backend.inner.is_paused())

    _expect_caught(tmp_path, _instead("is_paused", make), "ADM-11")


def test_a_feature_that_an_old_server_has_not_is_caught(tmp_path: Path) -> None:
    harness = FlawedHarness(tmp_path)
    harness.flaw = lambda _backend: None
    harness.old_servers = lambda: [("memory://old", ["cancel"])]  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        _expect_uncaught(harness, "ADM-08")


def test_a_send_that_also_receives_is_caught(tmp_path: Path) -> None:
    def look(backend: Any) -> None:
        honest = backend.send

        def send(batch: Any, **how: Any) -> Any:
            backend.receive(max_messages=1, wait_s=0.0, lease_s=0.001)
            return honest(batch, **how)

        backend.send = send

    _expect_caught(tmp_path, look, "PRO-12")


def test_a_time_of_expiry_that_is_lost_is_caught(tmp_path: Path) -> None:
    def lose(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(metadata={name: text for name, text in sent.metadata.items() if name != meta.EXPIRES})

    _expect_caught(tmp_path, _on_send(lose), "EXP-01", "EXP-02")


def test_a_message_that_expires_too_soon_is_caught(tmp_path: Path) -> None:
    def soon(sent: OutgoingMessage) -> OutgoingMessage:
        known = meta.read_instant(sent.metadata.get(meta.EXPIRES))
        if known is None:
            return sent
        return sent._replace(metadata={**sent.metadata, meta.EXPIRES: meta.write_instant(known - 7200.0)})

    _expect_caught(tmp_path, _on_send(soon), "EXP-02", "EXP-03")


def test_a_dead_letter_that_is_not_kept_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_settle({Action.DEAD: Action.ACK}), "DLQ-02", "DLQ-03")


def test_a_dead_letter_that_is_not_whole_is_caught(tmp_path: Path) -> None:
    def strip(call: Call, proceed: Proceed) -> Answers:
        return proceed([each._replace(dead=each.dead and OutgoingMessage("new", b"gone")) for each in call.batch])

    _expect_caught(tmp_path, _on("settle", strip), "DLQ-02", "DLQ-08")


def test_a_release_that_is_an_ack_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_settle({Action.RELEASE: Action.ACK}), "SHU-06", "SHU-07", "ACK-17")


def test_an_entry_that_is_refused_with_its_neighbour_is_caught(tmp_path: Path) -> None:
    def first(call: Call, proceed: Proceed) -> Answers:
        proceed(call.batch[:1])
        return [Accepted(each.message_id) for each in call.batch]

    _expect_caught(tmp_path, _on("send", first), "BPF-01", "BPF-02", "BPF-03")


def test_an_attempt_that_is_not_counted_is_caught_by_the_model(tmp_path: Path) -> None:
    harness = FlawedHarness(tmp_path)
    harness.flaw = _on_receive(lambda got: got._replace(attempt=1))
    # As "MOD-01" does, but without the search for the shortest schedule that fails.
    with pytest.raises(AssertionError):
        run_machine(lambda: BackendMachine(harness), examples=20, shrink=False)
    harness.cleanup()


def test_options_that_are_ignored_are_caught(tmp_path: Path) -> None:
    class DeafOpener(FlawedOpener):
        def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
            return super().open(url.replace(options={}))

    for case in ("URL-04", "URL-05", "URL-06"):
        harness = FlawedHarness(tmp_path)
        harness.flaw = lambda _backend: None
        harness.opener = DeafOpener(harness)
        with pytest.raises(pytest.fail.Exception, match="InvalidURLError"):
            _case(case)(BackendContract(), harness)
        harness.cleanup()


def test_every_group_that_is_tested_has_a_backend_that_breaks_it() -> None:
    named = set()
    for path in Path(__file__).parent.glob("test_suite_catches_*.py"):
        named |= set(re.findall(r'"([A-Z]{3})-\d\d"', path.read_text("utf-8")))
    waiting = {
        group for group, (_, count) in GROUPS.items() if sum(each.startswith(group) for each in WAITING) == count
    }
    assert set(GROUPS) - waiting - named == set()


def _on(verb: Any, step: Any) -> Flaw:
    return lambda backend: backend.script.always(verb, step)


def _instead(name: str, function: Callable[[Any], Any]) -> Flaw:
    return lambda backend: setattr(backend, name, lambda: function(backend))


def _expect_uncaught(harness: FlawedHarness, case: str) -> None:
    from queuekit.testing.contract.faces import Face

    face = Face(harness, awaits=False)
    try:
        _case(case)(BackendContract(), harness, face=face)
    finally:
        face.cleanup()
        harness.cleanup()
        reset_memory()


def _retried_by_copy() -> Flaw:
    """RETRY sends the message anew, and acks the old one."""
    held: dict[Any, IncomingMessage] = {}

    def flaw(backend: Any) -> None:
        receive, settle = backend.receive, backend.settle

        def remember(**asked: Any) -> Any:
            got = receive(**asked)
            held.update((each.handle, each) for each in got)
            return got

        def copy(batch: Any, **how: Any) -> Any:
            retried = [each for each in batch if each.action is Action.RETRY]
            backend.inner.send([_again(held[each.handle], each.delay_s) for each in retried], timeout_s=1.0)
            acked = [Settlement(each.handle, Action.ACK) if each in retried else each for each in batch]
            return [
                Settled(applied_delay_s=each.delay_s) for each, _ in zip(batch, settle(acked, **how), strict=True)
            ]

        backend.receive, backend.settle = remember, copy

    return flaw


def _again(old: IncomingMessage, delay_s: float) -> OutgoingMessage:
    return OutgoingMessage(old.message_id, old.body, delay_s=delay_s, ordering_key=old.ordering_key)
