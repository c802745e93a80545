# SPDX-License-Identifier: Apache-2.0
"""Whoever waits for a delivery is never forgotten, whoever takes what had come for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from queuekit._engine.flow import Flow
from queuekit._engine.held import Held
from queuekit._engine.inbox import Inbox
from queuekit._engine.leading import Lead
from queuekit._engine.prospects import Prospects
from queuekit._engine.tally import Handling
from queuekit._values.clock import SystemClock

LIMIT_S = 20.0
FAR_S = 1e12


def inbox_of(flow: Flow, *, wanted: Callable[[], None], somebody_waits: Callable[[], None]) -> Inbox:
    return Inbox(
        threading.RLock(),
        SystemClock(),
        flow,
        queue="memory://q",
        wanted=wanted,
        somebody_waits=somebody_waits,
        lead=Lead(Handling()),
        prospects=Prospects(0.0, 1.0),
        expired=lambda _: None,
    )


def test_more_is_asked_for_at_half_of_what_was_fetched_ahead_and_when_nothing_is_left(
    make_held: Callable[..., Held],
) -> None:
    asked: list[int] = []
    flow = Flow(batch=10, prefetch=4, max_in_flight=100, max_bytes=1 << 20)
    inbox = inbox_of(flow, wanted=lambda: asked.append(len(inbox.buffer)), somebody_waits=lambda: None)
    inbox.put([make_held(until=FAR_S) for _ in range(4)])
    taken = [inbox.take_now() for _ in range(4)]
    assert None not in taken
    assert asked == [2, 0]


@pytest.mark.parametrize("take", ["take", "take_in_turn"])
def test_who_finds_that_another_has_taken_what_came_asks_again(make_held: Callable[..., Held], take: str) -> None:
    asks = threading.Semaphore(0)
    flow = Flow(batch=10, prefetch=0, max_in_flight=100, max_bytes=1 << 20)
    inbox = inbox_of(flow, wanted=lambda: None, somebody_waits=asks.release)
    wait = {"take": lambda: inbox.take(None), "take_in_turn": inbox.take_in_turn}[take]
    take_now = {"take": inbox.take_now, "take_in_turn": inbox.take_in_turn}[take]
    taken: list[Held | None] = []
    waiting = threading.Thread(target=lambda: taken.append(wait()), daemon=True)
    waiting.start()
    assert asks.acquire(timeout=LIMIT_S)
    with inbox.arrived:
        inbox.put([make_held(until=FAR_S)])
        inbox.arrived.notify()
        assert take_now() is not None
    assert asks.acquire(timeout=LIMIT_S)
    with inbox.arrived:
        inbox.put([make_held(until=FAR_S)])
        inbox.arrived.notify()
    waiting.join(LIMIT_S)
    assert len(taken) == 1


def test_whoever_takes_many_waits_for_as_many(make_held: Callable[..., Held]) -> None:
    demands: list[int] = []
    flow = Flow(batch=10, prefetch=0, max_in_flight=100, max_bytes=1 << 20)
    inbox = inbox_of(flow, wanted=lambda: None, somebody_waits=lambda: demands.append(inbox.demand))
    assert inbox.take_many(7, 0.0) == []
    assert (demands[0], inbox.demand) == (7, 0)


def test_whoever_forgets_a_callback_waits_no_more(make_held: Callable[..., Held]) -> None:
    flow = Flow(batch=10, prefetch=0, max_in_flight=100, max_bytes=1 << 20)
    inbox = inbox_of(flow, wanted=lambda: None, somebody_waits=lambda: None)
    called: list[str] = []
    callbacks = {name: partial(called.append, name) for name in "ab"}
    inbox.when_ready(callbacks["a"], 3)
    inbox.when_ready(callbacks["b"], 4)
    assert inbox.demand == 7
    inbox.forget(callbacks["a"])
    inbox.forget(callbacks["a"])
    assert inbox.demand == 4
    for each in inbox.take_callbacks():
        each()
    assert (called, inbox.demand) == (["b"], 0)
