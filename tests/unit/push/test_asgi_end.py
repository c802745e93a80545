# SPDX-License-Identifier: Apache-2.0
"""The HTTP door at its end: what runs, what has not begun, and what is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import queuekit as qk
from queuekit.push import NoAuth
from queuekit.testing.clock import VirtualClock

from .pushes import Client, pushed_app, wrapped

LIMIT_S = 20.0


@pytest.fixture
def app(clock: VirtualClock) -> Iterator[qk.App]:
    with pushed_app(clock) as made:
        yield made


class Busy:
    """A handler that runs until `gate` is open; one at once."""

    def __init__(self, app: qk.App) -> None:
        self.gate, self.begun = threading.Event(), list[str]()
        self._has_begun = threading.Event()

        @app.handler("orders", concurrency=1)
        def handle(text: str) -> None:
            self.begun.append(text)
            self._has_begun.set()
            self.gate.wait(LIMIT_S)

    async def work(self, client: Client) -> asyncio.Future[Any]:
        """A request whose handler runs."""
        running = asyncio.ensure_future(client.post(wrapped("runs")))
        assert await asyncio.to_thread(self._has_begun.wait, LIMIT_S)
        return running


def test_what_has_not_begun_is_given_back_while_another_handler_runs_on(app: qk.App) -> None:
    busy, endpoint = Busy(app), app.asgi(auth=NoAuth())

    async def run() -> list[int]:
        client = Client(endpoint)
        async with endpoint.lifespan():
            running = await busy.work(client)
            waiting = [asyncio.ensure_future(client.post(wrapped(text))) for text in "ab"]
            await asyncio.sleep(0)
            endpoint.drain()
            given_back = await asyncio.wait_for(asyncio.gather(*waiting), LIMIT_S / 2)
            assert not running.done()
            busy.gate.set()
            return [each.status for each in (*given_back, await running)]

    assert asyncio.run(run()) == [503, 503, 204]
    assert busy.begun == ["runs"]


@pytest.mark.parametrize("late", [False, True], ids=["before-the-end", "at-the-end"])
def test_who_asks_for_the_end_at_once_does_not_wait_for_what_runs(app: qk.App, late: bool) -> None:
    busy, endpoint = Busy(app), app.asgi(auth=NoAuth())

    async def run() -> None:
        async with endpoint.lifespan():
            running = await busy.work(Client(endpoint))
            if late:
                asyncio.get_running_loop().call_later(0.05, lambda: endpoint.drain(at_once=True))
            else:
                endpoint.drain(at_once=True)
        assert not running.done(), "its message comes again"
        busy.gate.set()
        await running

    # The drain is longer than this.
    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_the_totals_of_each_queue_are_told_once(app: qk.App, caplog: pytest.LogCaptureFixture) -> None:
    app.handler("orders")(_do_nothing)
    app.handler("mails")(_do_nothing)
    caplog.set_level("INFO", "queuekit")
    endpoint = app.asgi(auth=NoAuth())

    async def run() -> None:
        async with endpoint.lifespan():
            assert (await Client(endpoint).post(wrapped("x"))).status == 204

    asyncio.run(run())
    app.close()
    told = [each.__dict__ for each in caplog.records if each.__dict__.get("action") == "push.closed"]
    totals = {each["queue"].rpartition("/")[2].partition("?")[0]: each["totals"] for each in told}
    assert [(totals[name]["received"], totals[name]["settled"]) for name in ("orders", "mails")] == [(1, 1), (0, 0)]
    assert len(told) == 2


def _do_nothing(text: str) -> None:
    """The work is that it was called."""
