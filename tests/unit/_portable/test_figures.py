# SPDX-License-Identifier: Apache-2.0
"""Counts that add up, and times, of consumers and apps."""

import threading
from datetime import timedelta
from typing import Any

import queuekit as qk
from queuekit import App, Consumer, ExitCode, Timing
from queuekit._engine.tally import RECEIVED, SENT
from queuekit.testing.clock import VirtualClock

from .calls import Call
from .conftest import let

LIMIT_S = 20.0


def test_what_a_consumer_received_is_settled_lost_or_in_flight(clock: VirtualClock) -> None:
    with qk.Producer("memory://q", clock=clock) as producer:
        producer.send_many([b"1", b"2", b"3", b"4"])
    clock.advance(7)
    consumer: Consumer[Any] = Consumer(
        "memory://q", clock=clock, lease=timedelta(seconds=10), keep_leases=False, prefetch=0
    )
    taken = [Call(lambda: consumer.receive(timeout=60), clock).result() for _ in range(4)]
    taken[0].ack()
    taken[1].retry(delay=timedelta(hours=1))
    for each in taken[:2]:
        Call(each.settled, clock).result()
    counts = consumer.counts()
    assert {name: counts[name] for name in RECEIVED} == {
        "received": 4, "settled": 2, "lost": 0, "unconfirmed": 0, "failed": 0, "in_flight": 2,
    }  # fmt: skip
    let(clock, lambda: consumer.counts()["lost"] == 2, step_s=1.0)
    counts = consumer.counts()
    assert (counts["received"], counts["settled"], counts["in_flight"], counts["lease.lost"]) == (4, 2, 0, 2)
    Call(consumer.close, clock).result()
    assert consumer.timings()["queue_age"].longest >= timedelta(seconds=7)


def test_an_app_counts_by_queue_over_all_of_its_runs(app: App, work: Any) -> None:
    seen = threading.Semaphore(0)

    @app.handler("busy")
    def busy(text: str) -> None:
        seen.release()

    @app.handler("idle")
    def idle(text: str) -> None: ...

    assert app.counts() == {"busy": dict.fromkeys((*SENT, *RECEIVED), 0), "idle": app.counts()["idle"]}
    assert app.timings()["busy"] == {"queue_age": Timing(), "handler_time": Timing()}
    for run in range(1, 3):
        busy.send_many(["1", "2"])
        running = work()
        assert all(seen.acquire(timeout=LIMIT_S) for _ in range(2))
        assert running.stop() is ExitCode.DRAINED
        counts = app.counts()["busy"]
        assert (counts["sent"], counts["accepted"], counts["pending"]) == (2 * run, 2 * run, 0)
        assert (counts["received"], counts["settled"], counts["in_flight"]) == (2 * run, 2 * run, 0)
        assert counts["worker.stopped"] == run
        timings = app.timings()["busy"]
        assert timings["handler_time"].count == 2 * run
        assert timings["queue_age"].count >= run
    assert app.counts()["idle"]["received"] == 0
    app.close()
    assert app.counts()["busy"]["sent"] == 4


def test_a_timing_knows_its_mean() -> None:
    assert Timing().mean == timedelta(0)
    assert Timing(4, timedelta(seconds=6), timedelta(seconds=3)).mean == timedelta(seconds=1.5)
