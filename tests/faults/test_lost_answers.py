# SPDX-License-Identifier: Apache-2.0
"""Answers that never come: of a send, of an ack, and to a caller who was cancelled while it waited."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections import Counter
from typing import Any

import pytest

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, Settlement
from queuekit.testing import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, as_is, raise_after, raise_before, unavailable

from .places import Place
from .rows import Result, figure
from .test_one_process import held
from .working import LIMIT_S, on_both, on_each, until

pytestmark = pytest.mark.slow


def seeded() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed: {seed}\n")
    return random.Random(seed)


def received(place: Place, queue: str, clock: VirtualClock | None = None) -> Counter[int]:
    """Everything that a queue holds, by its number, taken out until it is empty."""
    found: Counter[int] = Counter()
    with qk.Consumer(place.url(queue), payload=int, clock=clock) as consumer:
        backend: Any = consumer._link.backend
        while (stats := backend.stats()).ready + stats.leased + stats.delayed:
            if stats.ready == 0 and clock is not None:
                clock.advance(1)
            batch = backend.receive(max_messages=10, wait_s=0 if clock else 1, lease_s=60)
            found.update(int(each.body) for each in batch)
            backend.settle([Settlement(each.handle, Action.ACK) for each in batch], timeout_s=10) if batch else None
    return found


@on_both
def test_R36_the_answer_of_an_ack_is_lost(row: Result, place: Place, backend: str) -> None:
    """Of half of them the ack was done, of the other half it never arrived; nobody can tell which."""
    cuts, chance = figure(500), seeded()
    clock, script = VirtualClock(), Script()
    with qk.Producer(place.url("jobs"), payload=int, clock=clock) as producer:
        producer.send_many(range(cuts)).raise_for_failures()
    opener = FaultyOpener(Opener(clock), script)
    handled, outcomes, done_first = Counter[int](), Counter[str](), 0
    with qk.Consumer(place.url("jobs"), payload=int, prefetch=0, _opener=opener) as consumer:
        for _ in range(cuts):
            delivery = consumer.receive(timeout=5)
            assert delivery is not None
            handled[delivery.payload] += 1
            done = chance.random() < 0.5
            done_first += done
            script.on("settle", (raise_after if done else raise_before)(unavailable()))
            delivery.ack()
            settling = Settling(delivery)
            until(settling.ended, clock=clock, step_s=0.05)
            outcomes[settling.outcome] += 1
    handled += received(place, "jobs", clock)
    row.ran(cuts=cuts)
    row.found(lost=cuts - len(handled), duplicates=handled.total() - cuts, bound=cuts, unknown=outcomes["unknown"])
    assert set(handled) == set(range(cuts))
    assert handled.total() <= 2 * cuts
    assert outcomes == {"unknown": done_first, "settled": cuts - done_first}


class Settling:
    """Waits for the outcome of a settlement, on a thread of its own."""

    def __init__(self, delivery: qk.Delivery[int]) -> None:
        self.outcome = ""
        self._delivery = delivery
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._delivery.settled(timeout=20)
            self.outcome = "settled"
        except qk.UnavailableError:
            self.outcome = "unknown"

    def ended(self) -> bool:
        return not self._thread.is_alive()


@on_both
@pytest.mark.parametrize("dedup", [True, False], ids=["dedup", "none"])
def test_R37_the_answer_of_a_send_is_lost(row: Result, place: Place, backend: str, dedup: bool) -> None:
    cuts, chance = figure(500), seeded()
    row.case = "with a dedup id" if dedup else "without one"
    clock, script = VirtualClock(), Script()
    outcomes: Counter[str] = Counter()
    with qk.Producer(place.url("jobs"), payload=int, _opener=FaultyOpener(Opener(clock), script)) as producer:
        for number in range(cuts):
            harmless = [as_is] * chance.randrange(2)
            script.on("send", *harmless, raise_after(unavailable()))
            sending = Sending(producer, number, dedup_id=str(number) if dedup else None)
            until(sending.ended, clock=clock, step_s=0.05)
            outcomes[sending.outcome] += 1
    came = received(place, "jobs", clock)
    row.ran(cuts=cuts)
    row.found(
        lost=cuts - len(came),
        duplicates=came.total() - cuts,
        bound=0 if dedup else cuts,
        **outcomes,
    )
    assert set(came) == set(range(cuts)), "whatever was told, each of them had been stored"
    assert came.total() - cuts <= (0 if dedup else cuts)
    if dedup:
        assert set(outcomes) <= {"accepted", "duplicate"}


class Sending:
    """One send, on a thread of its own."""

    def __init__(self, producer: qk.Producer[int], number: int, *, dedup_id: str | None) -> None:
        self.outcome = ""
        self._call = lambda: producer.send(number, dedup_id=dedup_id)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = type(self._call()).__name__.lower()
        except qk.UnavailableError:
            self.outcome = "unknown"

    def ended(self) -> bool:
        return not self._thread.is_alive()


@on_each
def test_R48_cancelled_at_a_random_await(row: Result, place: Place, backend: str) -> None:
    """Each of seven clients sends, receives and settles by turns, and is cancelled at any of its steps."""
    times, chance = figure(10_000, 600), seeded()
    row.ran(cancellations=times, clients=7)
    sent, handled = set[int](), Counter[int]()
    cancelled: Counter[str] = Counter()

    async def one(number: int, producer: qk.Producer[int], consumer: qk.Consumer[int], step: list[str]) -> None:
        if number % 2 == 0:  # the others find an empty queue, mostly, and wait
            step[0] = "send"
            accepted = await producer.asend(number, attributes={"n": str(number)})
            assert isinstance(accepted, qk.Accepted)
            sent.add(number)
        step[0] = "receive"
        delivery = await consumer.areceive(timeout=LIMIT_S)
        assert delivery is not None
        assert delivery.attributes == {"n": str(delivery.payload)}, "an answer is its own caller's"
        handled[delivery.payload] += 1
        step[0] = "ack"
        delivery.ack()
        await delivery.asettled(timeout=LIMIT_S)

    async def client(numbers: list[int], producer: qk.Producer[int], consumer: qk.Consumer[int]) -> None:
        for number in numbers:
            step = [""]
            task = asyncio.get_running_loop().create_task(one(number, producer, consumer, step))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0 if chance.random() < 0.8 else 0.0005)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                cancelled[step[0]] += 1

    async def main() -> None:
        async with (
            qk.Producer[int](place.url("jobs"), payload=int) as producer,
            qk.Consumer[int](place.url("jobs"), payload=int) as consumer,
        ):
            await one(-2, producer, consumer, [""])
            shares = [list(range(first, times, 7)) for first in range(7)]
            await asyncio.gather(*(client(share, producer, consumer) for share in shares))
            sockets.append(held()["sockets"])

    before, sockets = threading.active_count(), [held()["sockets"]]
    asyncio.run(main())
    after = threading.active_count()
    left_over = received(place, "jobs")
    lost = sent - set(handled) - set(left_over)
    row.found(
        lost=len(lost),
        threads_more=after - before,
        sockets_at_most=sockets[1] - sockets[0],
        **{f"in_{step}": n for step, n in cancelled.items() if step},
    )
    assert not lost
    assert after == before
    assert sockets[1] - sockets[0] <= 7 + 6, "one for each client, those of the engine, and the loop's own two"
    assert set(left_over) <= set(range(0, times, 2))
    assert max(handled.values()) == 1, "what was handed over to somebody was not given to another"
    assert cancelled["send"], "else nothing was shown"
    assert cancelled["receive"]
