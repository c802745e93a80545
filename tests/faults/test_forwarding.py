# SPDX-License-Identifier: Apache-2.0
"""A worker that ends while it forwards: what it had sent and not acked is sent again, and nothing is lost."""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk

from .forwarding_app import VIA, Undelayed
from .workers import Workers

_MESSAGES = 60


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_forwarder_that_is_killed_between_sending_and_acking_loses_nothing(
    workers: Workers, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one sends it again, and the queue, which knows the dedup ids, takes it once."""
    monkeypatch.chdir(workers.folder)
    workers.app = "forwarding_app"
    sent = _send()
    victim = workers.start("other", env={"QK_DIE": "1"})
    assert workers.wait(victim) == -signal.SIGKILL, workers.log()
    forwarded = _count("jobs.db", "jobs")
    assert forwarded > 0, "it was killed after it had sent something"
    assert _count("waiting.db", "waiting") == _MESSAGES, "and before it had acked any"
    workers.start("jobs", "--processes", "2")
    workers.until(lambda lines: {each.message_id for each in lines} == sent)
    workers.until(lambda _: _count("waiting.db", "waiting") == 0)
    workers.until_empty()
    assert set(workers.stop().values()) == {0}
    handled = [each.message_id for each in workers.lines()]
    assert len(handled) == len(set(handled)), "each was taken once"
    assert "delay.not_forwarded" not in workers.log()


def _send() -> set[str]:
    with qk.Producer("sqlite:///jobs.db?queue=jobs", payload=int, delay_via=VIA, _opener=Undelayed()) as jobs:
        report = jobs.send_many(qk.Message(number, delay=timedelta(seconds=0.2)) for number in range(_MESSAGES))
    report.raise_for_failures()
    return {each.message_id for each in report if isinstance(each, qk.Accepted)}


def _count(file: str, queue: str) -> int:
    with qk.Consumer(f"sqlite:///{file}?queue={queue}") as consumer:
        backend: Any = consumer._link.backend
        stats = backend.stats()
    return int(stats.ready + stats.delayed + stats.leased)
