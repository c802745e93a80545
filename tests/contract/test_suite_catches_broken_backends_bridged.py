# SPDX-License-Identifier: Apache-2.0
"""Backends with one flaw each, for the cases of what queuekit bridges: the case that is named must fail."""

from __future__ import annotations

from pathlib import Path

from queuekit.backend import Duplicate, OutgoingMessage
from queuekit.testing.faults import Answers, Call, Proceed

from .test_suite_catches_broken_backends import _expect_caught, _on_send


def test_metadata_that_is_dropped_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_send(lambda sent: sent._replace(metadata={})), "DEL-13", "DEL-14", "ACK-06")


def test_a_copy_that_is_taken_for_a_duplicate_is_caught(tmp_path: Path) -> None:
    def swallow(call: Call, proceed: Proceed) -> Answers:
        kept = [each for each in call.batch if not _is_copy(each)]
        answers = iter(proceed(kept) if kept else ())
        return [Duplicate(each.message_id) if _is_copy(each) else next(answers) for each in call.batch]

    _expect_caught(tmp_path, lambda backend: backend.script.always("send", swallow), "DEL-13", "DEL-14", "ACK-06")


def test_a_copy_that_loses_its_id_is_caught(tmp_path: Path) -> None:
    def rename(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(message_id="new") if _is_copy(sent) else sent

    _expect_caught(tmp_path, _on_send(rename), "DEL-14", "ACK-06")


def test_delays_that_are_dropped_where_they_are_longest_are_caught(tmp_path: Path) -> None:
    def forget(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(delay_s=0.0, metadata={}) if sent.delay_s >= 5.0 else sent

    _expect_caught(tmp_path, _on_send(forget), "DEL-07", "DEL-13", "DEL-14")


def test_lanes_in_the_wrong_order_are_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_send(lambda sent: sent._replace(priority=9 - sent.priority)), "CCY-13")


def _is_copy(message: OutgoingMessage) -> bool:
    return message.dedup_id is not None and message.dedup_id.startswith("qk-")
