# SPDX-License-Identifier: Apache-2.0
"""A network that resets, swallows, and cuts: the bytes of real connections, by a proxy in front of a real server."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

import queuekit as qk
from queuekit.testing.proxy import TcpProxy

from .load import Load, told
from .places import Place
from .rows import FULL, Result, figure
from .test_lost_answers import received, seeded
from .test_one_process import held
from .working import LIMIT_S, on_networks, on_redis, on_servers, until

pytestmark = pytest.mark.slow

BACK_S = 5.0
LATE_S = 1.0
AT_FIRST_USE = 8
"""Descriptors that come with time, whatever happens: a connection for each thread that needs one, a pipe."""
ACK = {"redis": b"EVALSHA", "sqs": b"DeleteMessageBatch"}
"""What tells a request that settles from others."""


@pytest.fixture
def proxy(place: Place) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", place.port) as running:
        yield running


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def own(proxy: TcpProxy) -> Counter[str]:
    """What this process holds, the proxy's own connections apart."""
    mine = Counter(held())
    mine["descriptors"] -= 2 * proxy.connections
    mine["sockets"] -= 2 * proxy.connections
    return mine


@on_networks
def test_R19_every_connection_is_reset_again_and_again(
    row: Result, proxy: TcpProxy, place: Place, backend: str
) -> None:
    seconds, chance = figure(60, 5), seeded()
    resets = 0
    with Load(place.behind(proxy), None, pause_s=0.01) as load:
        load.until_handled(200)
        load.rest()
        before, end = own(proxy), time.monotonic() + seconds
        load.go_on()
        while time.monotonic() < end:
            wait(chance.uniform(1, 3) if seconds > 10 else chance.uniform(0.2, 0.6))
            resets += proxy.reset()
        reset = time.monotonic()
        row.took(back=load.back_after(reset))
        load.until_handled(len(load.handled) + 200)
        load.rest()
        most = before["descriptors"] + AT_FIRST_USE
        until(lambda: own(proxy)["descriptors"] <= most)  # a connection may be ending just now
        after = own(proxy)
        load.finish(row)
    row.ran(seconds=seconds, resets=resets)
    row.found(
        descriptors_more=after["descriptors"] - before["descriptors"],
        threads_more=after["threads"] - before["threads"],
    )
    assert row.lost == 0
    assert after["descriptors"] <= most
    assert resets > 3 * AT_FIRST_USE or not FULL, "what a reset leaves behind would show"
    assert after["threads"] <= before["threads"]
    assert row.times["back"] <= BACK_S


@on_redis
@pytest.mark.parametrize("to", [None, "client"], ids=["both ways", "answers only"])
def test_R20_a_half_open_link(
    row: Result, proxy: TcpProxy, place: Place, backend: str, to: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    silent_s, send_s = figure(30, 7), 1.0
    row.case = "both ways" if to is None else "answers only"
    row.ran(silent_s=silent_s)
    with Load(place.behind(proxy), None, send_s=send_s, pause_s=0.01) as load:
        load.until_handled(200)
        proxy.black_hole(to=to)  # type: ignore[arg-type]
        began = time.monotonic()
        until(lambda: told(caplog)["receive.failed"] > 0)
        row.took(noticed=time.monotonic() - began)
        wait(began + silent_s - time.monotonic())
        proxy.heal()
        row.took(back=load.back_after(time.monotonic()))
        load.finish(row)
    row.found(failed_sends=load.failed_sends)
    assert load.failed_sends > 0
    assert row.lost == 0
    assert load.slowest_send_s <= send_s + LATE_S
    assert row.times["noticed"] <= 2 * BACK_S
    assert row.times["back"] <= BACK_S
    assert told(caplog)["receive.failed"] == 1


@on_redis
def test_R20_calls_without_a_connection_end_in_time_too(
    row: Result, proxy: TcpProxy, place: Place, backend: str
) -> None:
    """Where the first of them must connect, and the server's greeting does not come."""
    row.case = "nothing open yet"
    limit = timedelta(seconds=1)
    proxy.black_hole()
    with qk.Producer(place.behind(proxy).url("jobs"), timeout=limit) as producer:
        began = time.monotonic()
        with pytest.raises(qk.UnavailableError):
            producer.send(b"x")
        row.took(send=time.monotonic() - began)
    with qk.Consumer(place.behind(proxy).url("jobs")) as consumer:
        began = time.monotonic()
        with pytest.raises(qk.UnavailableError):
            ask_until_told(consumer, limit)
        row.took(receive=time.monotonic() - began)
        proxy.heal()
    assert row.times["send"] <= limit.total_seconds() + LATE_S
    assert row.times["receive"] <= 2 * BACK_S


def ask_until_told(consumer: qk.Consumer[bytes], limit: timedelta) -> None:
    while True:
        consumer.receive(timeout=limit)


@on_servers
def test_R36_the_answer_of_an_ack_is_cut(row: Result, place: Place, proxy: TcpProxy, backend: str) -> None:
    """Of some the answer, of the others the request: nobody can tell which."""
    cuts, chance = figure(500), seeded()
    row.ran(cuts=cuts)
    with qk.Producer(place.url("jobs"), payload=int) as producer:
        producer.send_many(range(cuts)).raise_for_failures()
    handled, outcomes = Counter[int](), Counter[str]()
    with qk.Consumer(
        place.behind(proxy).url("jobs"), payload=int, prefetch=0, lease=timedelta(seconds=60)
    ) as consumer:
        for _ in range(cuts):
            delivery = consumer.receive(timeout=LIMIT_S)
            assert delivery is not None
            handled[delivery.payload] += 1
            to = chance.choice(["server", "client"])
            cut = proxy.cut(
                to=to,
                after=chance.randrange(20) if to == "server" else 0,
                matching=ACK[backend] if to == "client" else b"",
            )
            delivery.ack()
            try:
                delivery.settled(timeout=LIMIT_S)
                outcomes[f"{to}_settled"] += 1
            except qk.UnavailableError:
                outcomes[f"{to}_unknown"] += 1
            assert cut.is_set()
    handled += received(place, "jobs")
    row.found(lost=cuts - len(handled), duplicates=handled.total() - cuts, bound=cuts, **outcomes)
    assert set(handled) == set(range(cuts))
    assert handled.total() <= 2 * cuts
    # SQS deletes a message again, and says so: that is an answer, and not a guess.
    assert outcomes["client_unknown" if backend == "sqs" else "client_settled"] == outcomes["server_unknown"] == 0


@on_redis
@pytest.mark.parametrize("dedup", [True, False], ids=["dedup", "none"])
def test_R37_the_answer_of_a_send_is_cut(
    row: Result, place: Place, proxy: TcpProxy, backend: str, dedup: bool
) -> None:
    cuts, chance = figure(500), seeded()
    row.case = "with a dedup id" if dedup else "without one"
    row.ran(cuts=cuts)
    outcomes = Counter[str]()
    with qk.Producer(place.behind(proxy).url("jobs"), payload=int) as producer:
        for number in range(cuts):
            cut = proxy.cut(to=chance.choice(["client", "client", "server"]), after=0)
            outcome = producer.send(number, dedup_id=str(number) if dedup else None)
            outcomes[type(outcome).__name__.lower()] += 1
            assert cut.is_set()
    came = received(place, "jobs")
    row.found(lost=cuts - len(came), duplicates=came.total() - cuts, bound=0 if dedup else cuts, **outcomes)
    assert set(came) == set(range(cuts))
    assert came.total() - cuts <= (0 if dedup else cuts)
