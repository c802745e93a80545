# SPDX-License-Identifier: Apache-2.0
"""R11 in the worker itself: what can be stopped is stopped, and what cannot is told and given up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import tenacity

import queuekit as qk

from .places import Place
from .rows import Result
from .working import on_both, until, working

pytestmark = pytest.mark.slow

LIMIT = timedelta(seconds=0.5)
NEIGHBOURS = 40
AT_ONCE = qk.RetryPolicy(max_attempts=2, wait=tenacity.wait_none())


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Ends what a test has let hang."""
    event = threading.Event()
    yield event
    event.set()


@on_both
def test_R11_an_await_without_end(row: Result, place: Place, backend: str) -> None:
    row.case = "an await without end"
    row.ran(hanging=5, good=NEIGHBOURS, limit_s=LIMIT.total_seconds())
    app, done, cancelled = qk.App(place.app_url), list[int](), list[float]()

    @app.handler("jobs", timeout=LIMIT, retry=AT_ONCE)
    async def work(number: int) -> None:
        if number < 0:
            began = time.monotonic()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(time.monotonic() - began)
        done.append(number)

    with app:
        work.send_many([*[-1] * 5, *range(NEIGHBOURS)]).raise_for_failures()
        with working(app) as stop:
            until(lambda: len(done) == NEIGHBOURS)
            until(lambda: place.left("jobs") == 0)
            assert stop() is qk.ExitCode.DRAINED
    dead = place.letters("jobs")
    row.found(lost=NEIGHBOURS - len(done), dead=len(dead))
    row.took(cancelled_after=max(cancelled))
    assert (len(cancelled), len(dead)) == (10, 5)
    assert {(each.error or "").partition(":")[0] for each in dead} == {"TimeoutError"}
    assert min(cancelled) >= 0.99 * LIMIT.total_seconds()
    assert max(cancelled) <= LIMIT.total_seconds() + 5 * 1.0


@on_both
def test_R11_a_blocking_call_on_a_thread(
    row: Result, place: Place, backend: str, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be stopped: it is told, its lease is kept no longer, and the message goes to another slot."""
    row.case = "a blocking call on a thread"
    row.ran(hanging=1, good=NEIGHBOURS, limit_s=LIMIT.total_seconds())
    app, done, began = qk.App(place.app_url), list[int](), list[float]()
    back: list[float] = []

    @app.handler("jobs", concurrency=4, timeout=LIMIT, retry=AT_ONCE, lease=timedelta(seconds=1))
    def work(number: int) -> None:
        if number < 0 and not began:
            began.append(time.monotonic())
            released.wait(60)
        elif number < 0:
            back.append(time.monotonic())
        done.append(number)

    with app:
        work.send(-1)
        with working(app) as stop:
            until(lambda: bool(began))
            work.send_many(range(NEIGHBOURS)).raise_for_failures()
            until(lambda: bool(back) and len(done) == NEIGHBOURS + 1)
            released.set()
            until(lambda: len(done) == NEIGHBOURS + 2)
            until(lambda: place.left("jobs") == 0)
            assert stop() is qk.ExitCode.DRAINED
    told = [record for record in caplog.records if getattr(record, "action", "") == "worker.hung"]
    row.found(lost=0, told=len(told))
    row.took(
        told_after=told[0].created - (time.time() - (time.monotonic() - began[0])), back_after=back[0] - began[0]
    )
    assert len(told) == 1
    assert back[0] - began[0] <= 5 * (LIMIT.total_seconds() + 1.0 + 1.0)
    assert place.letters("jobs") == []


@on_both
def test_R11_a_blocking_call_in_async_code(
    row: Result, place: Place, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds up every handler of the loop: it is told while it lasts, with the place, and the rest is done then."""
    row.case = "a blocking call in async code"
    row.ran(hanging=1, good=NEIGHBOURS)
    app, done, began, events = qk.App(place.app_url), list[int](), list[float](), list[qk.Event]()
    app.listen(events.append, "stalled")

    def told() -> list[logging.LogRecord]:
        return [record for record in caplog.records if getattr(record, "action", "") == "worker.loop_blocked"]

    @app.handler("jobs")
    async def work(number: int) -> None:
        if number < 0:
            began.append(time.time())
            until(lambda: bool(told()))  # blocks the loop, as a call without await does
        done.append(number)

    with app:
        work.send_many([-1, *range(NEIGHBOURS)]).raise_for_failures()
        with working(app) as stop:
            until(lambda: len(done) == NEIGHBOURS + 1)
            until(lambda: place.left("jobs") == 0)
            assert stop() is qk.ExitCode.DRAINED
    row.found(lost=0, told=len(told()))
    row.took(told_after=told()[0].created - began[0])
    assert told()[0].created - began[0] <= 5 * 2.0
    assert "test_hanging_handlers.py" in told()[0].getMessage()
    assert events
    assert "the event loop does not answer" in (events[0].reason or "")
