# SPDX-License-Identifier: Apache-2.0
"""Leases that are kept, delays that are kept, and wall clocks that are wrong or that jump."""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, NamedTuple

import pytest

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, Settled, SystemClock
from queuekit.testing import VirtualClock
from queuekit.testing.faults import Call, FaultyOpener, Proceed, Script

from .killed_app import Task
from .places import Place
from .rows import Result, figure
from .test_killed_workers import handled
from .workers import Workers, duplicates
from .working import on_both, until, working

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
EARLY_S = 0.05


class Sent(NamedTuple):
    """When a send began and ended; its delay counts from somewhere in between."""

    before: float
    after: float


class Leases(Script):
    """Knows until when each delivery is leased, as the store said, and how many came, and came again."""

    def __init__(self) -> None:
        super().__init__()
        self.until: dict[object, float] = {}
        self.came = self.again = 0
        self.lock = threading.Lock()
        self.always("receive", self._received).always("settle", self._settled)

    def safe(self, now: float, leased: int, at_least: float) -> bool:
        """Whether every lease of the store is known here, and runs at least that much longer."""
        with self.lock:
            return len(self.until) == leased and min(self.until.values(), default=math.inf) - now > at_least

    def _received(self, call: Call, proceed: Proceed) -> object:
        messages = proceed(call.batch)
        with self.lock:
            self.until.update((each.handle, each.lease_until) for each in messages)
            self.came += len(messages)
            self.again += sum(each.attempt > 1 for each in messages)
            return messages

    def _settled(self, call: Call, proceed: Proceed) -> object:
        outcomes = proceed(call.batch)
        with self.lock:
            for settlement, outcome in zip(call.batch, outcomes, strict=True):
                if settlement.action is Action.EXTEND and isinstance(outcome, Settled):
                    self.until[settlement.handle] = outcome.lease_until
                else:
                    self.until.pop(settlement.handle, None)
            return outcomes


@on_both
def test_R13_handlers_of_ten_leases_with_messages_waiting(row: Result, place: Place, backend: str) -> None:
    """On virtual time, which moves on only while every lease, also of those that wait, has been extended."""
    jobs, lease_s, slots, prefetch = figure(200, 30), 100.0, 10, 20
    row.ran(jobs=jobs, leases_each=10, prefetch=prefetch)
    clock, leases = VirtualClock(), Leases()
    app = qk.App(place.app_url, clock=clock)
    app._opener = FaultyOpener(Opener(clock), leases)
    changed, done, most_waiting = threading.Condition(), list[int](), 0

    @app.handler("jobs", concurrency=slots, prefetch=prefetch, lease=timedelta(seconds=lease_s))
    def take_long(number: int) -> None:
        end = clock.monotonic() + 10 * lease_s
        with changed:
            while clock.monotonic() < end:
                clock.wait(changed, end - clock.monotonic())
        done.append(number)

    with app, qk.Consumer(place.url("jobs"), clock=clock) as asking:
        backend_: Any = asking._link.backend
        take_long.send_many(range(jobs)).raise_for_failures()
        with working(app, clock=clock) as stop:
            until(lambda: leases.came > slots)  # ten run, and others wait
            while len(done) < jobs:
                # Renewed while half is left, so that a tenth more ends none. What is given back lingers a moment.
                until(
                    lambda: leases.safe(clock.monotonic(), backend_.stats().leased, 0.15 * lease_s),
                    clock=clock,
                    step_s=0.001,
                )
                most_waiting = max(most_waiting, len(leases.until) - slots)
                clock.advance(0.1 * lease_s)
            stop()
    row.found(lost=jobs - len(set(done)), duplicates=leases.again, bound=0, waited=most_waiting)
    assert most_waiting > 0
    assert sorted(done) == list(range(jobs))
    assert leases.again == 0


def assert_in_time(row: Result, came: list[tuple[float, Sent]], delay_s: float) -> None:
    late = max(at - sent.after for at, sent in came) - delay_s
    early = delay_s - min(at - sent.before for at, sent in came)
    row.took(late=late, early=max(0.0, early))
    assert early <= EARLY_S
    assert late <= 5 * 1.0


@pytest.mark.parametrize("backend", ["sqlite", "redis", "sqs"])
def test_R15_delayed_messages_and_five_processes(workers: Workers, row: Result, backend: str) -> None:
    count, delay_s = figure(1_000), 3.0
    row.ran(messages=count, delay_s=delay_s, workers=5)
    for _ in range(5):
        workers.start("delayed")
    workers.until_started(5)
    sent = dict[str, Sent]()
    with qk.Producer[Task](workers.url("delayed"), payload=Task) as producer:
        for number in range(count):
            began = time.monotonic()
            accepted = producer.send(Task(number=number), delay=timedelta(seconds=delay_s))
            sent[accepted.message_id] = Sent(began, time.monotonic())
    workers.until_lines(count)
    workers.until_empty()
    assert set(workers.stop().values()) == {0}
    lines = workers.lines()
    row.found(lost=count - len(handled(lines)), duplicates=len(duplicates(lines)), bound=0)
    assert handled(lines) == set(sent)
    assert duplicates(lines) == []
    assert_in_time(row, [(each.at, sent[each.message_id]) for each in lines], delay_s)


@pytest.mark.parametrize("backend", ["memory"])
def test_R15_delayed_messages_and_five_workers(row: Result, place: Place, backend: str) -> None:
    work_delayed(row, place, delay_s=1.5, lease_s=0.5)


@pytest.mark.parametrize("backend", ["sqs"])
def test_R15_delays_of_several_hops_and_five_workers(row: Result, place: Place, backend: str) -> None:
    """The queue is declared to keep 2 s at most: what is left is sent again, as beyond the 900 s that SQS keeps."""
    row.case = "in hops of 2 s"
    work_delayed(row, place, delay_s=5.0, lease_s=2.0, max_delay_s=2.0)
    assert int(row.seen["hops"]) >= int(row.figures["messages"])


def work_delayed(row: Result, place: Place, *, delay_s: float, lease_s: float, **limits: float) -> None:
    count, script = figure(1_000), Script()
    row.ran(messages=count, delay_s=delay_s, workers=5)
    came: list[tuple[int, float]] = []
    openers = [FaultyOpener(Opener(SystemClock()), script, **limits) for _ in range(6)]
    apps = [qk.App(place.app_url) for _ in range(5)]
    sent = dict[int, Sent]()
    with ExitStack() as stack:
        for app, opener in zip(apps, openers, strict=False):
            app._opener = opener

            @app.handler("jobs", concurrency=4, lease=timedelta(seconds=lease_s))
            def note(number: int) -> None:
                came.append((number, time.monotonic()))

            stack.enter_context(app)
            stack.enter_context(working(app))
        with qk.Producer(place.url("jobs"), payload=int, _opener=openers[-1]) as producer:
            for number in range(count):
                began = time.monotonic()
                producer.send(number, delay=timedelta(seconds=delay_s))
                sent[number] = Sent(began, time.monotonic())
        until(lambda: len(came) >= count)
    hops = sum(len(call.batch) for call in script.calls("send")) - count
    row.found(lost=count - len(dict(came)), duplicates=len(came) - len(dict(came)), bound=0)
    row.seen.update({"hops": hops} if hops else {})
    assert sorted(number for number, _ in came) == list(range(count))
    assert_in_time(row, [(at, sent[number]) for number, at in came], delay_s)


class WrongClock(SystemClock):
    """A host's clock that is set wrong; its monotonic scale is the host's."""

    __slots__ = ("_off_s",)

    def __init__(self, off_s: float) -> None:
        super().__init__()
        self._off_s = off_s

    def time(self) -> float:  # type: ignore[override]
        return time.time() + self._off_s


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
@pytest.mark.parametrize("first_s", [600.0, -600.0])
def test_R31_consumers_with_wrong_wall_clocks(row: Result, place: Place, backend: str, first_s: float) -> None:
    """A lease counts on the host's monotonic clock alone, or on the server's."""
    count, lease = figure(500), timedelta(seconds=figure(4, 1))  # longer than it takes to receive all of them
    row.case = f"the holder is {'ahead' if first_s > 0 else 'behind'}"
    row.ran(messages=count)
    options = {"lease": lease, "keep_leases": False, "prefetch": 0}
    with qk.Producer(place.url("jobs"), payload=int, clock=WrongClock(first_s)) as producer:
        producer.send_many(range(count)).raise_for_failures()
    with ExitStack() as stack:
        ahead, behind = (
            stack.enter_context(qk.Consumer(place.url("jobs"), payload=int, clock=WrongClock(off_s), **options))
            for off_s in (first_s, -first_s)
        )
        asked, held = dict[int, float](), []
        for _ in range(count):
            now = time.monotonic()
            held.append(delivery := ahead.receive(timeout=10))
            assert delivery is not None
            asked[delivery.payload] = now
        back = dict[int, float]()
        for _ in range(count):
            delivery = behind.receive(timeout=10)
            assert delivery is not None
            back[delivery.payload] = time.monotonic() - asked[delivery.payload]
            delivery.ack()
    early = sum(after < lease.total_seconds() for after in back.values())
    row.found(lost=count - len(back), early=early)
    row.took(back=max(back.values()))
    assert (len(asked), len(back), early) == (count, count, 0)
    assert place.letters("jobs") == []


@on_both
def test_R32_the_wall_clock_steps_while_a_worker_runs(row: Result, place: Place, backend: str) -> None:
    """Delays follow the wall clock that is in force; leases, budgets and everything else the monotonic one."""
    steps = figure(40)
    row.ran(steps=steps, messages=5 * steps)
    clock, done, lease_s = VirtualClock(), list[str](), 20.0
    app = qk.App(place.app_url, clock=clock)

    @app.handler("jobs", concurrency=4, lease=timedelta(seconds=lease_s))
    def note(text: str) -> None:
        done.append(text)

    def came_after(seconds: float) -> list[str]:
        """What comes while that much time passes; a last message proves that all that was due has come."""
        clock.advance(seconds)
        note.send(mark := f"mark {clock.monotonic()}", priority=0)
        until(lambda: mark in done)
        with qk.Consumer(place.url("jobs"), clock=clock) as consumer:  # else time would pass before its ack
            until(lambda: consumer._link.backend.stats().leased == 0)  # type: ignore[attr-defined]
        found = [each for each in done if not each.startswith("mark")]
        done.clear()
        return found

    with app, working(app, clock=clock) as stop:
        for index in range(steps):
            back, forth = (-HOUR, HOUR) if index % 2 else (HOUR, -HOUR)
            clock.jump_wall(back.total_seconds())
            note.send("30 min", delay=HOUR / 2)
            note.send("90 min", delay=1.5 * HOUR)
            assert came_after(0) == [], "neither is due"
            clock.jump_wall(forth.total_seconds())
            if back < forth:  # an hour on: 30 min are over, 90 are not
                stepped = clock.monotonic()
                until(lambda: "30 min" in done, clock=clock, step_s=0.05)
                row.took(stalled=clock.monotonic() - stepped)
                assert clock.monotonic() - stepped <= lease_s + 1
                with qk.Consumer(place.url("jobs"), clock=clock) as consumer:  # its ack, before time leaps on
                    count = consumer._link.backend.stats  # type: ignore[attr-defined]
                    until(lambda count=count: count().leased == 0, clock=clock, step_s=0.05)
                assert came_after(29 * 60) == ["30 min"]
                assert came_after(61) == ["90 min"]
            else:  # an hour back: 90 and 150 min are left
                assert came_after(89 * 60) == []
                assert came_after(61) == ["30 min"]
                assert came_after(60 * 60) == ["90 min"]
        stop()
    row.found(lost=0, early=0)


class Berlin(tzinfo):
    """The night of 25 October 2026, in which the hour from 2 to 3 comes twice."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        assert moment is not None
        ends = datetime(2026, 10, 25, 3)  # noqa: DTZ001 - as the clock on the wall shows it
        shown = moment.replace(tzinfo=None)
        summer = shown < ends and not (moment.fold and shown >= ends - HOUR)
        return timedelta(hours=2 if summer else 1)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment) - timedelta(hours=1)

    def tzname(self, _moment: datetime | None) -> str:
        return "Berlin"


@on_both
@pytest.mark.parametrize("fold", [0, 1])
def test_R32_the_hour_that_comes_twice(row: Result, place: Place, backend: str, fold: int) -> None:
    row.case = f"the {'second' if fold else 'first'} of two equal hours"
    start = datetime(2026, 10, 24, 23, tzinfo=timezone.utc)  # noqa: UP017 - beside the other zone
    clock = VirtualClock(start=int(start.timestamp()))
    with qk.Producer(place.url("jobs"), clock=clock) as producer:
        producer.send(b"x", not_before=datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=Berlin()))
    with qk.Consumer(place.url("jobs"), clock=clock) as consumer:
        backend_: object = consumer._link.backend
        wait_s = (1.5 + fold) * 3600
        clock.advance(wait_s - 1)
        assert backend_.stats().delayed == 1  # type: ignore[attr-defined]
        clock.advance(1)
        assert backend_.stats().ready == 1  # type: ignore[attr-defined]
    row.found(lost=0, early=0)
