# SPDX-License-Identifier: Apache-2.0
"""A dead-letter queue that cannot take anything, and dead letters that go back: no message is lost on the way."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import queuekit as qk
from queuekit._engine import metadata as meta
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, IncomingMessage, Settlement, SystemClock
from queuekit.testing.faults import FaultyOpener
from queuekit.testing.proxy import TcpProxy

from .load import told
from .places import Place, SqsPlace
from .pubsub_place import PubSubPlace
from .rows import FULL, Result, figure
from .working import LIMIT_S, until, working

pytestmark = pytest.mark.slow

BODY = "x" * 2_000
RATE = 500


def unreachable(_place: Place, proxy: TcpProxy) -> Callable[[], None]:
    proxy.refuse()
    proxy.reset()
    return proxy.heal


def deleted(place: SqsPlace | PubSubPlace, _proxy: TcpProxy) -> Callable[[], None]:
    place.delete("grave")
    return lambda: place.create("grave")


def refusing(place: SqsPlace | PubSubPlace, _proxy: TcpProxy) -> Callable[[], None]:
    return place.refuse("grave")


@pytest.mark.parametrize(
    ("backend", "trouble"),
    [
        ("redis", unreachable),
        ("sqs", unreachable),
        ("sqs", deleted),
        ("sqs", refusing),
        ("pubsub", unreachable),
        ("pubsub", deleted),
        ("pubsub", refusing),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_R45_a_dead_letter_queue_takes_nothing(
    row: Result, place: Any, backend: str, trouble: Callable[[Any, TcpProxy], Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Here a message whose dead letter was refused is tried again after a second, and not after ten minutes."""
    count = figure(200)
    row.case = trouble.__name__
    row.ran(messages=count)
    with TcpProxy("127.0.0.1", place.port) as proxy:
        place.url("grave")
        app = qk.App(place.app_url)
        app._opener = FaultyOpener(Opener(SystemClock()), max_retry_delay_s=1.0)

        @app.handler("jobs", dead_letter=place.behind(proxy).url("grave"))
        def bury(_text: str) -> qk.DeadLetter:
            return qk.DeadLetter("not now")

        with app, working(app) as stop:
            bury.send("the first")  # by then both queues were looked at
            until(lambda: place.left("grave") == 1)
            end = trouble(place, proxy)
            bury.send_many([f"{number} {BODY}" for number in range(count)]).raise_for_failures()
            until(lambda: told(caplog)["dead_letter.failed"] >= count)
            kept = place.left("jobs")
            end()
            until(lambda: place.left("jobs") == 0)
            stop()
    there = Counter(int(text) for text in buried(place) if text != "the")
    row.found(lost=count - len(there), duplicates=there.total() - len(there), kept=kept)
    assert kept == count, "nothing left its queue as long as its dead letter was nowhere"
    assert set(there) == set(range(count))
    assert told(caplog)["delivery.dead"] >= count


def buried(place: Place) -> list[str]:
    """What stands first in each letter of the grave."""
    return [each.body.decode().partition(" ")[0] for each in taken(place, "grave")]


def taken(place: Place, queue: str) -> list[IncomingMessage]:
    """Everything that a queue holds; it is empty afterwards."""
    found = list[IncomingMessage]()
    with qk.Consumer(place.url(queue)) as consumer:
        backend: Any = consumer._link.backend
        while place.left(queue):
            got = backend.receive(max_messages=10, wait_s=1, lease_s=60)
            found += got
            if got:
                backend.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=10)
    return found


def bury(place: Place, count: int) -> set[str]:
    """Let so many messages die. Returns their ids."""
    app = qk.App(place.app_url)

    @app.handler("jobs", concurrency=20)
    def refuse(number: int) -> qk.DeadLetter:
        return qk.DeadLetter(f"{number}")

    with app, working(app) as stop:
        report = refuse.send_many(qk.Message(number, attributes={"n": f"{number}"}) for number in range(count))
        report.raise_for_failures()
        until(lambda: place.counts("jobs") == (0, count))
        stop()
    return {each.message_id for each in report if isinstance(each, qk.Accepted)}


@pytest.mark.parametrize("backend", ["sqlite", "redis", "sqs"])
def test_R46_whoever_sends_dead_letters_back_is_killed(row: Result, place: Place, backend: str) -> None:
    """By the command line, at 500 a second; whoever comes next goes on with the rest."""
    count, kills = figure(10_000, 300 if backend == "sqs" else 1_000), figure(5, 2)
    batch = 10 if backend == "sqs" else 100
    row.ran(messages=count, kills=kills, rate=RATE)
    sent = bury(place, count)
    seen = Paces()
    for index in range(kills + 1):
        due = count * (index + 1) // (kills + 1)
        redriver = redriving(place.url("jobs"))
        try:
            seen.watch(lambda: place.left("jobs"), due, redriver)
            if index < kills:
                redriver.kill()
            else:
                assert redriver.wait(LIMIT_S) == 0
        finally:
            redriver.kill()
            redriver.wait()
    kept = place.counts("jobs")[1]  # SQS keeps what was received for the minute that a redrive asks for
    back = taken(place, "jobs")
    times = Counter(each.message_id for each in back)
    row.found(
        lost=max(0, len(sent - set(times)) - kept),
        duplicates=times.total() - len(times),
        bound=batch * kills,
        kept_for_a_minute=kept,
        per_second=round(seen.per_second),
    )
    assert kept <= (batch * kills if backend == "sqs" else 0)
    assert len(sent - set(times)) <= kept
    assert set(times) <= sent
    assert times.total() - len(times) <= batch * kills
    assert all(each.attributes == {"n": each.body.decode()} for each in back)
    assert {meta.read(each.metadata).redriven for each in back} == {1}
    assert seen.per_second <= 1.1 * RATE
    assert seen.per_second >= 0.9 * RATE or not FULL, "a busy host may be slower"


class Paces:
    """How fast a number grew, while somebody was at it."""

    def __init__(self) -> None:
        self._grown = self._took_s = 0.0

    @property
    def per_second(self) -> float:
        return self._grown / self._took_s

    def watch(self, count: Callable[[], int], due: int, worker: subprocess.Popen[bytes]) -> None:
        """Until it is due, or the worker has ended; what comes before it begins does not count."""
        before, limit, pause = count(), time.monotonic() + LIMIT_S, threading.Event()
        first: tuple[float, int] | None = None
        now, there = time.monotonic(), before
        while there < due and worker.poll() is None:
            assert now < limit, f"{there} of {due}, and no more in time"
            pause.wait(0.01)
            now, there = time.monotonic(), count()
            first = first or ((now, there) if there > before else None)
        if first is not None:
            self._grown += there - first[1]
            self._took_s += now - first[0]


def redriving(url: str) -> subprocess.Popen[bytes]:
    """Somebody who sends all dead letters of a queue back."""
    return subprocess.Popen(
        [sys.executable, "-m", "queuekit.cli", "dead", "redrive", url, "--rate", f"{RATE}/s"],
        stdout=subprocess.DEVNULL,
    )
