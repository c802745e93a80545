# SPDX-License-Identifier: Apache-2.0
"""Forwarding beside a server: it outlives what would end a worker, and ends with the server."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit._portable.forwarding_beside import ForwardingBeside
from queuekit._wiring.opening import Opener
from queuekit.backend import Backend, QueueURL
from queuekit.testing import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, access_denied, not_found, raise_before

from .calls import Call
from .conftest import let


class Undelayed(FaultyOpener):
    """Opens queues that keep no delays, but for the one that is there to keep them."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(Opener(clock), max_delay_s=0.0, max_retry_delay_s=10.0)
        self.waiting = Script()

    def open(self, url: QueueURL, keywords: Any = None) -> Backend:
        if url.hosts[0].name == "waiting":
            return FaultyOpener(self._opener, self.waiting).open(url, keywords)
        return super().open(url, keywords)


@pytest.fixture
def opener(clock: VirtualClock) -> Undelayed:
    return Undelayed(clock)


@pytest.fixture
def beside(opener: Undelayed, clock: VirtualClock) -> Iterator[ForwardingBeside]:
    app = qk.App("memory://", delay_via="memory://waiting", clock=clock)
    app._opener = opener  # an App has no argument for it

    @app.handler("jobs")
    def handle(_body: bytes) -> None: ...

    handle.send(b"x", delay=timedelta(minutes=1))
    made = ForwardingBeside(lambda: app._forwarders([app.open_queue("jobs")[0]]), clock)
    yield made
    Call(made.stop, clock).result(step_s=0.5)
    app.close()


def _told(caplog: pytest.LogCaptureFixture) -> int:
    return sum(getattr(each, "action", "") == "worker.failed" for each in caplog.records)


@pytest.mark.parametrize("flaw", [access_denied(), not_found()], ids=["refused", "gone"])
def test_what_would_end_a_worker_is_told_and_it_goes_on_later(
    beside: ForwardingBeside,
    opener: Undelayed,
    clock: VirtualClock,
    left: Callable[[str], int],
    caplog: pytest.LogCaptureFixture,
    flaw: Any,
) -> None:
    opener.waiting.on("receive", raise_before(flaw))
    with caplog.at_level(logging.ERROR, "queuekit"):
        beside.start()
        let(clock, lambda: _told(caplog) == 1, step_s=0.5)
        assert left("jobs") == 0
        let(clock, lambda: left("jobs") == 1, step_s=0.5)
    assert _told(caplog) == 1


def test_a_stop_while_it_waits_to_go_on_is_at_once(
    beside: ForwardingBeside, opener: Undelayed, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    opener.waiting.on("receive", raise_before(access_denied()))
    with caplog.at_level(logging.ERROR, "queuekit"):
        beside.start()
        let(clock, lambda: _told(caplog) == 1, step_s=0.5)
    before = clock.monotonic()
    Call(beside.stop, clock).result(step_s=0.001)
    assert clock.monotonic() - before < 30.0
    assert not [each for each in threading.enumerate() if each.name == "queuekit-forward"]


def test_it_begins_anew_after_a_stop(
    beside: ForwardingBeside, clock: VirtualClock, left: Callable[[str], int]
) -> None:
    beside.start()
    beside.start()
    Call(beside.stop, clock).result(step_s=0.5)
    assert left("jobs") == 0
    beside.start()
    let(clock, lambda: left("jobs") == 1, step_s=0.5)
