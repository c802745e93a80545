# SPDX-License-Identifier: Apache-2.0
"""Redriving with a rate: what the contract cannot see from outside."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from queuekit import ClosedError, Consumer, DeadLetters, Producer, Rate, RedriveReport
from queuekit.testing import VirtualClock

URL = "memory://redriven"


def bury(count: int) -> None:
    with Producer(URL) as producer, Consumer(URL) as consumer:
        producer.send_many([b"x"] * count).raise_for_failures()
        for _ in range(count):
            delivery = consumer.receive(timeout=10)
            assert delivery is not None
            delivery.dead_letter("broken")


def test_close_ends_a_redrive_that_waits_for_its_rate_and_what_was_moved_stays_moved() -> None:
    bury(3)
    clock, raised = VirtualClock(), list[BaseException]()
    letters = DeadLetters(URL, clock=clock)

    def redrive() -> None:
        with pytest.raises(ClosedError, match="stays moved") as caught:
            letters.redrive(rate=Rate(1, per=timedelta(hours=1), burst=2))
        raised.append(caught.value)

    thread = threading.Thread(target=redrive)
    thread.start()
    clock.wait_for_waiters()
    letters.close()
    thread.join(10)
    assert len(raised) == 1
    with DeadLetters(URL) as rest:
        assert len(list(rest.letters())) == 1


def test_a_rate_within_its_burst_waits_for_nothing() -> None:
    bury(3)
    with DeadLetters(URL, clock=VirtualClock()) as letters:
        report = letters.redrive(rate=Rate(1, per=timedelta(hours=1), burst=3))
    assert isinstance(report, RedriveReport)
    assert len(report.moved) == 3
