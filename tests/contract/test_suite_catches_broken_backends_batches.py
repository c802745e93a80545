# SPDX-License-Identifier: Apache-2.0
"""Backends with one flaw each, for the cases of batch handlers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import Action, IncomingMessage, OutgoingMessage, Settlement
from queuekit.testing import reset_memory
from queuekit.testing.contract import BackendContract
from queuekit.testing.contract.faces import Face
from queuekit.testing.faults import Answers, Call, Proceed

from .test_suite_catches_broken_backends import Flaw, FlawedHarness, _case, _on_settle

ARGUMENTS: dict[str, dict[str, Any]] = {"BPF-15": {"strict": True}, "BPF-16": {"on_error": "bisect"}}


@pytest.mark.parametrize("case", ["BPF-11", "BPF-12", "BPF-13", "BPF-14", "BPF-15", "BPF-17", "BPF-20"])
def test_a_retry_that_is_an_ack_is_caught(tmp_path: Path, case: str) -> None:
    _expect_caught(tmp_path, _on_settle({Action.RETRY: Action.ACK}), case)


@pytest.mark.parametrize("case", ["BPF-11", "BPF-13", "BPF-14", "BPF-15", "BPF-16", "BPF-20"])
def test_settlements_that_are_all_what_the_first_is_are_caught(tmp_path: Path, case: str) -> None:
    """The first of all, as how many go in one call is the host's business."""
    first: list[Settlement] = []

    def all_as_the_first(call: Call, proceed: Proceed) -> Answers:
        first.extend(call.batch[:1])
        return proceed([each._replace(action=first[0].action, dead=first[0].dead) for each in call.batch])

    _expect_caught(tmp_path, lambda backend: backend.script.always("settle", all_as_the_first), case)


def test_an_ack_that_is_a_release_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_settle({Action.ACK: Action.RELEASE}), "BPF-13")


def test_a_dead_letter_that_is_dropped_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_settle({Action.DEAD: Action.ACK}), "BPF-16")


def test_an_order_that_is_claimed_and_not_kept_is_caught(tmp_path: Path) -> None:
    """The keys come back with the messages, so they share a batch, and what was released comes before its head."""
    keys: dict[str, str | None] = {}

    def forget(sent: OutgoingMessage) -> OutgoingMessage:
        keys[sent.message_id] = sent.ordering_key
        return sent._replace(ordering_key=None)

    def remember(got: IncomingMessage) -> IncomingMessage:
        return got._replace(ordering_key=keys[got.message_id])

    def flaw(backend: Any) -> None:
        backend.script.always("send", lambda call, go: go([forget(each) for each in call.batch]))
        backend.script.always("receive", lambda call, go: [remember(each) for each in go(())])

    _expect_caught(tmp_path, flaw, "BPF-17")


@pytest.mark.parametrize("case", ["BPF-12", "BPF-16", "BPF-17"])
def test_an_ack_that_is_a_retry_is_caught(tmp_path: Path, case: str) -> None:
    _expect_caught(tmp_path, _on_settle({Action.ACK: Action.RETRY}), case)


def _expect_caught(directory: Path, flaw: Flaw, case: str) -> None:
    harness = FlawedHarness(directory)
    harness.flaw = flaw
    face = Face(harness, awaits=False)
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            _case(case)(BackendContract(), harness, face=face, **ARGUMENTS.get(case, {}))
    finally:
        face.cleanup()
        harness.cleanup()
        reset_memory()
