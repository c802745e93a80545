# SPDX-License-Identifier: Apache-2.0
"""More than can be worked: what waits keeps its lease, memory stays bounded, and a long run ends as it began."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk
from queuekit.testing.proxy import TcpProxy

from .load import Load, told
from .places import Place
from .rows import FULL, Result, figure
from .servers import Servers
from .test_lost_answers import seeded
from .test_network import AT_FIRST_USE, own
from .working import on_networks, on_redis, until, working

pytestmark = pytest.mark.slow

LARGE = 100_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


@on_networks
def test_R13_handlers_of_many_leases_with_messages_waiting(
    row: Result, place: Place, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On the server's own clock."""
    if backend == "redis":
        work_slowly(row, place, slots=20, prefetch=20, jobs=figure(200, 40), leases=figure(10, 3), lease_s=1.0)
    else:  # whole seconds, of which one is soon over on a busy host
        lease_s = 2.0 if FULL else 4.0
        work_slowly(row, place, slots=20, prefetch=20, jobs=figure(200, 30), leases=figure(10, 2), lease_s=lease_s)
    assert told(caplog)["lease.lost"] == 0


@pytest.mark.parametrize("backend", ["redis", "pubsub"])
def test_R35_a_handler_far_slower_than_its_lease(row: Result, place: Place, backend: str) -> None:
    """The last message waits for as many handlers as there are before it."""
    if backend == "redis":
        work_slowly(row, place, slots=1, prefetch=20, jobs=20, leases=figure(5, 1), lease_s=1.0 if FULL else 0.6)
    else:
        work_slowly(row, place, slots=1, prefetch=20, jobs=figure(20, 3), leases=figure(5, 1), lease_s=4.0)


def work_slowly(
    row: Result, place: Place, *, slots: int, prefetch: int, jobs: int, leases: int, lease_s: float
) -> None:
    row.ran(jobs=jobs, slots=slots, prefetch=prefetch, leases_each=leases)
    app, attempts = qk.App(place.app_url), list[tuple[int, int]]()
    most_waiting = 0

    @app.handler("jobs", concurrency=slots, prefetch=prefetch, lease=timedelta(seconds=lease_s))
    def take_long(number: int) -> None:
        if number >= 0:
            threading.Event().wait(leases * lease_s)
            attempts.append((number, qk.current().attempt or 0))

    def intakes() -> Any:
        return app._figures._intakes

    with app:
        take_long.send(-1)  # by it the worker learns that messages are small, so that many come at once
        with working(app) as stop:
            until(lambda: place.left("jobs") == 0)
            take_long.send_many(range(jobs)).raise_for_failures()
            while len(attempts) < jobs:
                most_waiting = max(most_waiting, *(each.receiver.standing().waiting for _, each in intakes()))
                threading.Event().wait(0.05)
            until(lambda: place.left("jobs") == 0)
            stop()
    done = Counter(number for number, _ in attempts)
    again = done.total() - len(done)
    row.found(lost=jobs - len(done), duplicates=again, bound=0, waited=most_waiting)
    assert sorted(done) == list(range(jobs))
    assert again == 0
    given_back = sum(attempt - 1 for _, attempt in attempts)
    if place.backend in {
        "sqs",
        "pubsub",
    }:  # which count what was given back, as it would have waited for more than three leases
        row.found(given_back=given_back)
    else:
        assert given_back == 0, "no lease was lost, and no message came again"
    assert most_waiting > 0


@on_redis
def test_R34_a_backlog_of_large_messages(row: Result, servers: Servers, backend: str) -> None:
    """On a server that keeps nothing on the disk, as its append-only file would be as large as the backlog."""
    backlog, prefetch, slots, looked_at = figure(20_000, 1_500), 20, 2, figure(600, 60)
    row.ran(backlog=backlog, bytes=LARGE, prefetch=prefetch)
    handled = list[int]()
    most = 0
    with servers.own(durable=False) as server:
        app = qk.App(server.url)

        @app.handler("jobs", concurrency=slots, prefetch=prefetch)
        def take_slowly(body: bytes) -> None:
            threading.Event().wait(0.05)
            handled.append(len(body))

        with app, qk.Consumer(f"{server.url}?queue=jobs") as asking:
            backend_: Any = asking._link.backend
            body = b"x" * LARGE
            for _ in range(backlog // 50):
                take_slowly.send_many([body] * 50).raise_for_failures()
            before, grown = memory(), 0
            with working(app) as stop:
                while len(handled) < looked_at:
                    most = max(most, backend_.stats().leased)
                    grown = max(grown, memory() - before)
                    threading.Event().wait(0.02)
                stop()
            there = Place("redis", server.url).left("jobs")
    row.found(lost=backlog - len(handled) - there, most_in_flight=most, megabytes_more=round(grown / 1e6, 1))
    assert len(handled) + there == backlog
    assert most <= prefetch + 2 * slots, "beside what waits and runs, what was done in the last moment"
    assert grown <= prefetch * LARGE + (50 << 20)


@on_redis
def test_R51_a_soak_with_a_fault_every_few_seconds(row: Result, servers: Servers, backend: str) -> None:
    """Some 500 messages a second through a proxy; the server is killed, the network resets, cuts and falls silent."""
    seconds, pause_s = figure(600, 14), figure(15, 2)
    chance, faults = seeded(), Counter[str]()
    with (
        servers.own() as server,
        TcpProxy("127.0.0.1", server.port) as proxy,
        Load(Place("redis", server.url).behind(proxy), None, pause_s=0.1) as load,
    ):
        load.until_handled(1_000)
        load.rest()
        before, memory_before, end = own(proxy), memory(), time.monotonic() + seconds
        load.go_on()
        while time.monotonic() < end:
            fault = chance.choice(["killed", "reset", "cut", "silent"])
            faults[fault] += 1
            if fault == "killed":
                server.restart()
            elif fault == "reset":
                proxy.reset()
            elif fault == "cut":
                proxy.cut(to=chance.choice(["server", "client"]), after=chance.randrange(2_000))
            else:
                proxy.black_hole()
                threading.Event().wait(1)
                proxy.heal()
            threading.Event().wait(pause_s)
        row.took(back=load.back_after(time.monotonic()))
        load.until_handled(len(load.handled) + 500)
        load.rest()
        grown = memory() - memory_before
        until(lambda: own(proxy)["descriptors"] <= before["descriptors"] + AT_FIRST_USE)
        after = own(proxy)
        load.finish(row)
    row.ran(seconds=seconds, faults=faults.total())
    row.found(
        threads_more=after["threads"] - before["threads"],
        descriptors_more=after["descriptors"] - before["descriptors"],
        megabytes_more=round(grown / 1e6, 1),
    )
    assert row.lost == 0
    assert after["threads"] <= before["threads"]
    assert grown <= (20 << 20) + 500 * len(load.handled), "but for the list of this test itself"
