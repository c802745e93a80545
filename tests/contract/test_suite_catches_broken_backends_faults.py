# SPDX-License-Identifier: Apache-2.0
"""Backends with one flaw each, for the cases of faults, concurrency and telemetry."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import (
    Accepted,
    Action,
    ErrorClass,
    ErrorCode,
    IncomingMessage,
    LeaseLost,
    OutgoingMessage,
    QueueURL,
    Settled,
)
from queuekit.testing import reset_memory
from queuekit.testing.contract import BackendContract
from queuekit.testing.contract.faces import Face
from queuekit.testing.faults import Answers, Call, InjectedFault, Proceed, pretend_settled

from .test_suite_catches_broken_backends import (
    Flaw,
    FlawedHarness,
    _case,
    _expect_caught,
    _no_fencing,
    _on_receive,
    _on_send,
)


class DurableHarness(FlawedHarness):
    """Memory that says that it is on a disk, and can be restarted, locked and full."""

    forgets = repeats = False

    def open(self, queue: str, *, opener: Any = None, **options: Any) -> Any:
        backend = super().open(queue, opener=opener, **options)
        backend._limits["durability"] = "disk"
        return backend

    def restart(self) -> None:
        if self.forgets:
            reset_memory()
        if self.repeats:
            for call in self.opener.script.calls("send"):
                self.open(QueueURL.parse(call.queue).hosts[0].name).inner.send(call.batch, timeout_s=1.0)

    @contextmanager
    def locked(self, _queue: str) -> Iterator[None]:
        self.opener.script.always("send", _store_half)
        yield
        self.opener.script.always("send", None)

    def full(self, queue: str) -> str:
        return self.url_of(queue) + "?max_messages=5"


def _store_half(call: Call, proceed: Proceed) -> Answers:
    proceed(call.batch[: len(call.batch) // 2])
    raise InjectedFault(ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, sent="no"))


def _expect_caught_when_durable(directory: Path, case: str, flaw: Flaw = lambda _backend: None, **how: Any) -> None:
    harness = DurableHarness(directory)
    harness.flaw, harness.flood = flaw, 200
    vars(harness).update(how)
    face = Face(harness, awaits=False)
    faces = {"face": face} if "face" in inspect.signature(_case(case)).parameters else {}
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            _case(case)(BackendContract(), harness, **faces)
    finally:
        face.cleanup()
        harness.cleanup()
        reset_memory()


def test_a_restart_that_loses_messages_is_caught(tmp_path: Path) -> None:
    _expect_caught_when_durable(tmp_path, "FLT-02", forgets=True)
    _expect_caught_when_durable(tmp_path, "FLT-15", forgets=True)


def test_a_restart_that_brings_back_what_was_settled_is_caught(tmp_path: Path) -> None:
    _expect_caught_when_durable(tmp_path, "FLT-03", repeats=True)


def test_confirmations_in_another_order_are_caught(tmp_path: Path) -> None:
    def reverse(call: Call, proceed: Proceed) -> Answers:
        return list(reversed(proceed(call.batch)))

    _expect_caught_when_durable(tmp_path, "FLT-15", lambda backend: backend.script.always("send", reverse))


def test_half_a_batch_in_a_locked_store_is_caught(tmp_path: Path) -> None:
    _expect_caught_when_durable(tmp_path, "FLT-17")


def test_a_late_ack_without_fencing_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _no_fencing(), "FLT-08")


def test_a_queue_that_is_made_again_in_silence_is_caught(tmp_path: Path) -> None:
    def silence(backend: Any) -> None:
        backend.recreated = lambda: 0

    _expect_caught(tmp_path, silence, "FLT-11")


def test_a_settlement_that_is_claimed_and_not_done_is_caught_under_faults(tmp_path: Path) -> None:
    _expect_caught(tmp_path, lambda backend: backend.script.always("settle", pretend_settled), "FLT-04", "FLT-05")


def test_a_lease_that_follows_the_wall_clock_is_caught(tmp_path: Path) -> None:
    def refuse_when_set(backend: Any) -> None:
        clock = backend.inner._clock
        offset = clock.time() - clock.monotonic()

        def settle(call: Call, proceed: Proceed) -> Answers:
            moved = abs(clock.time() - clock.monotonic() - offset) > 1
            extends = any(each.action is Action.EXTEND for each in call.batch)
            return [Settled(clock.monotonic()) for _ in call.batch] if moved and extends else proceed(call.batch)

        backend.script.always("settle", settle)

    _expect_caught(tmp_path, refuse_when_set, "FLT-16")


def test_sends_that_disturb_each_other_are_caught(tmp_path: Path) -> None:
    sending: list[bool] = []

    def disturb(call: Call, proceed: Proceed) -> Answers:
        sending.append(True)
        try:
            kept = call.batch if len(sending) == 1 else call.batch[:-1]
            threading.Event().wait(0.001)
            return [
                *(proceed(kept) if kept else ()),
                *(Accepted(each.message_id) for each in call.batch[len(kept) :]),
            ]
        finally:
            sending.pop()

    _expect_caught(tmp_path, lambda backend: backend.script.always("send", disturb), "CCY-01")


def test_a_message_for_two_receivers_at_once_is_caught(tmp_path: Path) -> None:
    taken: list[Any] = []

    def share(call: Call, proceed: Proceed) -> Answers:
        got = proceed(())
        if got and len(taken) % 2:
            got = [*got[:-1], taken[-1]]
        taken.extend(got[-1:])
        return got

    _expect_caught(tmp_path, lambda backend: backend.script.always("receive", share), "CCY-02")


def test_a_settlement_of_a_neighbour_is_caught(tmp_path: Path) -> None:
    def shift(call: Call, proceed: Proceed) -> Answers:
        actions = [each.action for each in call.batch]
        shifted = [
            each._replace(action=action) for each, action in zip(call.batch, [*actions[1:], actions[0]], strict=True)
        ]
        return proceed(shifted)

    _expect_caught(tmp_path, lambda backend: backend.script.always("settle", shift), "CCY-03")


def test_priorities_that_are_lost_are_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_send(lambda sent: sent._replace(priority=0)), "CCY-13")


def test_order_that_is_lost_between_calls_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_send(lambda sent: sent._replace(ordering_key=None)), "CCY-09")


def test_attributes_that_are_lost_beside_many_are_caught(tmp_path: Path) -> None:
    def ten(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(attributes=dict(list(sent.attributes.items())[:10]))

    _expect_caught(tmp_path, _on_send(ten), "MET-04")


def test_a_wrong_age_is_caught(tmp_path: Path) -> None:
    def in_milliseconds(got: IncomingMessage) -> IncomingMessage:
        return got._replace(enqueued_at=got.enqueued_at and got.enqueued_at * 1000)

    _expect_caught(tmp_path, _on_receive(in_milliseconds), "MET-02")


def test_an_attempt_that_is_always_1_never_ends_the_trace(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_receive(lambda got: got._replace(attempt=1)), "MET-05")


def test_a_backend_that_logs_bodies_is_caught(tmp_path: Path) -> None:
    def tell(got: IncomingMessage) -> IncomingMessage:
        logging.getLogger("queuekit.backends.acme").debug("received %r", got.body)
        return got

    def tell_handle(got: IncomingMessage) -> IncomingMessage:
        logging.getLogger("queuekit.backends.acme").debug("received %r", got.handle)
        return got

    _expect_caught(tmp_path, _on_receive(tell), "MET-07")
    _expect_caught(tmp_path, _on_receive(tell_handle), "MET-07")


def test_acks_that_are_answered_as_lost_are_caught(tmp_path: Path) -> None:
    def lose_acks(call: Call, proceed: Proceed) -> Answers:
        return [
            LeaseLost() if each.action is Action.ACK else answer
            for each, answer in zip(call.batch, proceed(call.batch), strict=True)
        ]

    _expect_caught(tmp_path, lambda backend: backend.script.always("settle", lose_acks), "MET-01", "MET-08")


class BreakingHarness(FlawedHarness):
    """The second send of each backend breaks, on the real clock too."""

    flaw = staticmethod(lambda _backend: None)

    def open(self, queue: str, *, opener: Any = None, **options: Any) -> Any:
        backend: Any = super().open(queue, opener=opener, **options)
        send, calls = backend.send, iter(range(1))

        def once(batch: Any, *, timeout_s: float) -> Any:
            if next(calls, None) is None:
                raise OSError("the service is gone")
            return send(batch, timeout_s=timeout_s)

        backend.send = once
        return backend


def test_a_sender_of_a_long_run_that_breaks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEKIT_OPERATIONS", "200")
    monkeypatch.setenv("QUEUEKIT_HISTORIES", str(tmp_path))
    harness = BreakingHarness(tmp_path)
    try:
        with pytest.raises(OSError, match="the service is gone"):
            _case("MOD-08")(BackendContract(), harness)
    finally:
        harness.cleanup()
        reset_memory()
