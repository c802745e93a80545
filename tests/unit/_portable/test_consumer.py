# SPDX-License-Identifier: Apache-2.0
"""Consumers and their deliveries, over a backend whose faults are scripted."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit import Consumer, Delivery
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, ErrorClass, ErrorCode, Failed, Settled, Unknown
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, fail_entries, hold, raise_after, raise_before, unavailable

from .calls import Call
from .conftest import let

LIMIT_S = 20.0
DENIED = ErrorClass(ErrorCode.ACCESS_DENIED, sent="no")
Open = Callable[..., Consumer[bytes]]
Let = Callable[..., None]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def consume(clock: VirtualClock, script: Script) -> Iterator[Open]:
    opened: list[Consumer[bytes]] = []

    def open_one(url: str = "memory://q", *, limits: dict[str, Any] | None = None, **options: Any) -> Consumer[bytes]:
        opener = FaultyOpener(Opener(clock), script, **limits or {})
        opened.append(Consumer(url, _opener=opener, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        Call(each.close, clock).result()


def send(clock: VirtualClock, *bodies: bytes, queue: str = "q", **options: Any) -> None:
    with qk.Producer(f"memory://{queue}", clock=clock) as producer:
        producer.send_many([qk.Message(body, **options) for body in bodies]).raise_for_failures()


def receive(consumer: Consumer[bytes], clock: VirtualClock, timeout: float | None = 60) -> Delivery[bytes]:
    found = Call(lambda: consumer.receive(timeout=timeout), clock).result()
    assert isinstance(found, Delivery)
    return found


def settled(script: Script, *actions: Action) -> list[Any]:
    return [each for call in script.calls("settle") for each in call.batch if each.action in actions]


ACTS: dict[Action, Callable[[Delivery[bytes]], None]] = {
    Action.ACK: lambda delivery: delivery.ack(),
    Action.RETRY: lambda delivery: delivery.retry(delay=timedelta(seconds=5)),
    Action.RELEASE: lambda delivery: delivery.release(),
    Action.DEAD: lambda delivery: delivery.dead_letter("no good"),
}


@pytest.mark.parametrize("action", ACTS)
def test_a_settlement_reaches_the_service_as_such(
    consume: Open, clock: VirtualClock, script: Script, action: Action
) -> None:
    send(clock, b"1")
    delivery = receive(consume(), clock)
    ACTS[action](delivery)
    Call(delivery.settled, clock).result()
    (entry,) = settled(script, *ACTS)
    assert (entry.action, entry.delay_s) == (action, 5.0 if action is Action.RETRY else 0.0)
    assert (entry.dead is not None) == (action is Action.DEAD)


@pytest.mark.parametrize(
    ("asked_s", "applied_s"), [(0, 0), (0.2, 10), (10, 10), (10.5, 11), (599.5, 600), (600.5, 600), (9999, 600)]
)
def test_a_delay_is_made_possible_upwards_and_beyond_the_longest_openly(
    consume: Open, clock: VirtualClock, script: Script, asked_s: float, applied_s: float
) -> None:
    send(clock, b"1")
    limits = {"min_retry_delay_s": 10.0, "max_retry_delay_s": 600.0, "retry_delay_resolution_s": 1.0}
    consumer = consume(limits={**limits, "copies": "fanout", "extend": "none"})
    delivery = receive(consumer, clock)
    delivery.retry(delay=timedelta(seconds=asked_s))
    Call(delivery.settled, clock).result()
    assert [each.delay_s for each in settled(script, Action.RETRY)] == [applied_s]
    assert consumer.counts().get("retry.shortened", 0) == (asked_s > 600)


@pytest.mark.parametrize("second", ["ack", "release", "retry", "extend"])
def test_a_second_settlement_is_an_error(consume: Open, clock: VirtualClock, script: Script, second: str) -> None:
    send(clock, b"1")
    delivery = receive(consume(), clock)
    delivery.ack()
    with pytest.raises(qk.AlreadySettledError):
        delivery.extend(by=timedelta(seconds=90)) if second == "extend" else getattr(delivery, second)()
    Call(delivery.settled, clock).result()
    assert not settled(script, Action.EXTEND)


def test_a_failed_settlement_is_tried_again_until_it_is_settled(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    send(clock, b"1")
    later = ErrorClass(ErrorCode.THROTTLED, retryable=True, sent="no")
    script.on("settle", raise_before(unavailable()), fail_entries([0], lambda _: Failed(later)))
    delivery = receive(consume(), clock)
    delivery.ack()
    Call(delivery.settled, clock).result()
    assert len(settled(script, Action.ACK)) == 3


def test_an_answer_that_is_lost_and_a_lease_that_is_gone_are_unknown(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    send(clock, b"1")
    script.on("settle", raise_after(unavailable()))
    delivery = receive(consume(), clock)
    delivery.ack()
    with pytest.raises(qk.UnavailableError, match="lost"):
        Call(delivery.settled, clock).result()


def test_an_outage_up_to_the_end_of_the_lease_is_a_lost_lease(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    send(clock, b"1")
    script.always("settle", raise_before(unavailable(sent="no")))
    delivery = receive(consume(lease=timedelta(seconds=10)), clock)
    delivery.ack()
    with pytest.raises(qk.LeaseLostError):
        Call(delivery.settled, clock).result(step_s=0.1)


def test_a_refused_settlement_says_so(consume: Open, clock: VirtualClock, script: Script) -> None:
    send(clock, b"1")
    script.on("settle", raise_before(DENIED))
    delivery = receive(consume(), clock)
    delivery.ack()
    with pytest.raises(qk.AccessDeniedError):
        Call(delivery.settled, clock).result()


def test_waiting_for_an_answer_ends_in_time(consume: Open, clock: VirtualClock, script: Script) -> None:
    send(clock, b"1")
    script.always("settle", raise_before(unavailable(sent="no")))
    delivery = receive(consume(), clock)
    delivery.ack()
    began = clock.monotonic()
    with pytest.raises(qk.UnavailableError, match="in time"):
        Call(lambda: delivery.settled(timeout=5), clock).result(step_s=0.1)
    assert clock.monotonic() < began + 20


def test_waiting_for_an_answer_ends_when_the_consumer_is_closed(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    send(clock, b"1")
    script.always("settle", raise_before(unavailable(sent="no")))
    consumer = consume()
    delivery = receive(consumer, clock)
    delivery.ack()
    waiting = Call(delivery.settled, clock)
    Call(consumer.close, clock).result(step_s=0.5)
    for each in (waiting, Call(delivery.settled, clock)):
        with pytest.raises(qk.UnavailableError):
            each.result(step_s=0.0)


def test_settled_without_a_settlement_is_a_usage_error(consume: Open, clock: VirtualClock) -> None:
    send(clock, b"1")
    with pytest.raises(qk.UsageError, match="nothing was settled"):
        receive(consume(), clock).settled()


def test_dead_letters_that_fail_beside_others_are_sent_as_the_backend_wants_them(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    send(clock, b"1", b"2", b"3", b"4")
    consumer = consume(limits={"mixed_settles": False}, dead_letter="memory://graveyard")
    script.on("send", fail_entries([1, 2], lambda _: Unknown(unavailable())))
    deliveries = [receive(consumer, clock) for _ in range(4)]
    for each in deliveries:
        each.dead_letter("no good")
    for each in deliveries:
        Call(each.settled, clock).result()
    calls = [call.batch for call in script.calls("settle")]
    assert sum(len(batch) for batch in calls) == 4
    for batch in calls:
        assert len({(entry.action, entry.delay_s, entry.lease_s) for entry in batch}) == 1
        assert all(entry.dead is None for entry in batch)
    assert len(settled(script, Action.ACK)) == len(settled(script, Action.RETRY)) == 2


# Leases


@pytest.mark.parametrize("late_ack_safe", [True, False])
def test_a_delivery_whose_lease_is_lost_says_so_and_only_an_ack_is_tried_where_it_is_safe(
    consume: Open, clock: VirtualClock, script: Script, late_ack_safe: bool
) -> None:
    send(clock, b"1")
    limits = {"late_ack_safe": late_ack_safe}
    consumer = consume(limits=limits, keep_leases=False, lease=timedelta(seconds=10))
    delivery = receive(consumer, clock)
    assert not delivery.lease_lost
    clock.wait_for_waiters(2)
    clock.advance(10)
    Call(lambda: spin(lambda: delivery.lease_lost), clock).result()
    delivery.ack()
    with pytest.raises(qk.LeaseLostError):
        delivery.settled()
    with pytest.raises(qk.LeaseLostError):
        delivery.extend(by=timedelta(seconds=5))
    assert len(settled(script, Action.ACK)) == late_ack_safe
    assert "lease.acked_late" not in consumer.counts()
    again = receive(consumer, clock)
    assert again.attempt == 2


def test_a_late_ack_that_the_service_takes_is_an_ack(consume: Open, clock: VirtualClock, script: Script) -> None:
    send(clock, b"1")
    consumer = consume(limits={"late_ack_safe": True}, keep_leases=False, lease=timedelta(seconds=10))
    delivery = receive(consumer, clock)
    clock.wait_for_waiters(2)
    clock.advance(10)
    Call(lambda: spin(lambda: delivery.lease_lost), clock).result()
    script.on("settle", lambda call, _: [Settled() for _ in call.batch])
    delivery.ack()
    Call(delivery.settled, clock).result()
    assert len(settled(script, Action.ACK)) == 1
    assert consumer.counts()["lease.acked_late"] == 1
    assert consumer.counts()["received"] == consumer.counts()["lost"] == 1


def test_a_settlement_that_waits_for_another_try_keeps_its_lease(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    send(clock, b"1")
    down = True

    def refuse_acks(call: Any, proceed: Any) -> Any:
        if down and any(each.action is Action.ACK for each in call.batch):
            return [Failed(unavailable(sent="no")) for _ in call.batch]
        return proceed(call.batch)

    script.always("settle", refuse_acks)
    consumer = consume(lease=timedelta(seconds=10))
    delivery = receive(consumer, clock)
    began = clock.monotonic()
    delivery.ack()
    let(clock, lambda: clock.monotonic() > began + 35, step_s=0.1)
    down = False
    Call(delivery.settled, clock).result(step_s=0.1)
    assert len(settled(script, Action.EXTEND)) >= 3
    assert consumer.counts()["settled"] == 1


def spin(done: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not done():
        pause.wait(0.001)


def test_an_extension_that_finds_the_lease_gone_marks_the_delivery(consume: Open, clock: VirtualClock) -> None:
    send(clock, b"1")
    delivery = receive(consume(), clock)
    handle = delivery._held.message.handle
    with Consumer("memory://q", clock=clock) as other:
        backend: Any = other._link.backend
        backend._place().leases.pop(handle)
        with pytest.raises(qk.LeaseLostError):
            delivery.extend(by=timedelta(seconds=5))
    assert delivery.lease_lost


def test_an_ack_during_an_extension_wins(consume: Open, clock: VirtualClock, script: Script) -> None:
    send(clock, b"1")
    released, reached = threading.Event(), threading.Event()
    script.on("settle", hold(released, reached))
    delivery = receive(consume(), clock)
    extending = Call(lambda: delivery.extend(by=timedelta(seconds=90)), clock)
    assert reached.wait(LIMIT_S)
    delivery.ack()
    Call(delivery.settled, clock).result()
    released.set()
    extending.result()
    assert not delivery.lease_lost


@pytest.mark.parametrize("by", [timedelta(0), timedelta(days=2), 5, "5s"], ids=str)
def test_an_extension_out_of_range_is_refused_before_any_io(
    consume: Open, clock: VirtualClock, script: Script, by: Any
) -> None:
    send(clock, b"1")
    delivery = receive(consume(), clock)
    with pytest.raises(qk.UsageError):
        delivery.extend(by=by)
    assert not script.calls("settle")


# Polling


def test_an_outage_is_told_once_and_its_end_once(
    consume: Open, clock: VirtualClock, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "queuekit")
    script.on("receive", *[raise_before(unavailable())] * 5)
    send(clock, b"1")
    consumer = consume()
    began = clock.monotonic()
    delivery = receive(consumer, clock)
    assert delivery.body == b"1"
    assert clock.monotonic() > began  # it backed off
    actions = [record.action for record in caplog.records]  # type: ignore[attr-defined]
    assert actions.count("receive.failed") == actions.count("receive.resumed") == 1


def test_an_outage_during_the_whole_wait_is_an_error_and_no_empty_answer(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    script.always("receive", raise_before(unavailable()))
    consumer = consume()
    for _ in range(2):
        with pytest.raises(qk.UnavailableError):
            Call(lambda: consumer.receive(timeout=5), clock).result(step_s=0.1)
    script.always("receive", None)
    assert Call(lambda: consumer.receive(timeout=60), clock).result(step_s=0.5) is None


def test_an_outage_during_the_whole_wait_is_an_error_for_areceive_too(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    script.always("receive", raise_before(unavailable()))
    consumer = consume()
    with pytest.raises(qk.UnavailableError):
        Call(lambda: asyncio.run(consumer.areceive(timeout=0.2)), clock).result()


def test_a_fatal_error_reaches_every_taker(consume: Open, clock: VirtualClock, script: Script) -> None:
    reached, released = threading.Event(), threading.Event()
    script.on("receive", hold_and_raise(reached, released, DENIED))
    consumer = consume()
    takers = [Call(lambda: consumer.receive(timeout=None), clock) for _ in range(3)]
    assert reached.wait(LIMIT_S)
    released.set()
    for each in [*takers, Call(lambda: asyncio.run(consumer.areceive()), clock)]:
        with pytest.raises(qk.AccessDeniedError):
            each.result()


def hold_and_raise(reached: threading.Event, released: threading.Event, what: ErrorClass) -> Any:
    def step(call: Any, proceed: Any) -> Any:
        reached.set()
        released.wait(LIMIT_S)
        return raise_before(what)(call, proceed)

    return step


@pytest.mark.parametrize("what", [unavailable(), DENIED], ids=["transient", "fatal"])
def test_a_poll_that_fails_while_stopping_does_not_hold_up_close(
    consume: Open, clock: VirtualClock, script: Script, what: ErrorClass
) -> None:
    reached, released = threading.Event(), threading.Event()
    script.on("receive", hold_and_raise(reached, released, what))
    consumer = consume()
    taker = Call(lambda: consumer.receive(timeout=None), clock)
    assert reached.wait(LIMIT_S)
    closing = Call(consumer.close, clock)
    with pytest.raises(qk.ClosedError):
        taker.result(step_s=0.0)
    released.set()
    began = clock.monotonic()
    closing.result(step_s=0.1)
    assert clock.monotonic() < began + 3


def test_what_a_poll_brings_after_the_stop_is_released(consume: Open, clock: VirtualClock, script: Script) -> None:
    send(clock, b"1")
    reached, released = threading.Event(), threading.Event()
    script.on("receive", hold(released, reached))
    consumer = consume()
    taker = Call(lambda: consumer.receive(timeout=None), clock)
    assert reached.wait(LIMIT_S)
    closing = Call(consumer.close, clock)
    with pytest.raises(qk.ClosedError):
        taker.result(step_s=0.0)
    released.set()
    closing.result()
    assert len(settled(script, Action.RELEASE)) == 1
    with Consumer("memory://q", clock=clock) as other:
        assert receive(other, clock).attempt == 1


def test_what_waits_is_given_back_only_when_nobody_took_any_for_three_leases(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    """Handlers that pause, and children that start anew, take nothing for a while; giving back may cost attempts."""
    send(clock, *(b"%d" % number for number in range(10)))
    consumer = consume(prefetch=10, lease=timedelta(seconds=10))
    for _ in range(6):
        receive(consumer, clock).ack()
    paused_at = clock.monotonic()
    let(clock, lambda: bool(settled(script, Action.RELEASE)), step_s=0.5)
    assert clock.monotonic() - paused_at >= 30
    assert len({each.handle for each in settled(script, Action.EXTEND)}) == 4
    let(clock, lambda: len(settled(script, Action.RELEASE)) == 4, step_s=0.5)


def test_close_hands_back_what_was_prefetched_and_what_is_unsettled(
    consume: Open, clock: VirtualClock, script: Script
) -> None:
    send(clock, b"1", b"2", b"3")
    consumer = consume(prefetch=10)
    delivery = receive(consumer, clock)
    Call(consumer.close, clock).result()
    assert len(settled(script, Action.RELEASE)) == 3
    with pytest.raises(qk.AlreadySettledError):
        delivery.ack()
    with Consumer("memory://q", clock=clock) as other:
        assert [receive(other, clock).attempt for _ in range(3)] == [1, 1, 1]


def test_close_sends_what_was_recorded(consume: Open, clock: VirtualClock, script: Script) -> None:
    send(clock, b"1")
    consumer = consume()
    receive(consumer, clock).ack()
    Call(consumer.close, clock).result()
    assert len(settled(script, Action.ACK)) == 1


def test_close_from_several_threads_at_once(consume: Open, clock: VirtualClock) -> None:
    send(clock, b"1", b"2")
    consumer = consume()
    receive(consumer, clock)
    closing = [Call(consumer.close, clock) for _ in range(5)]
    for each in closing:
        each.result()
    with pytest.raises(qk.ClosedError):
        consumer.receive(timeout=1)


@pytest.mark.parametrize("face", ["sync", "async"])
def test_leaving_an_iteration_gives_back_what_was_fetched_ahead(
    consume: Open, clock: VirtualClock, script: Script, face: str
) -> None:
    send(clock, *(b"%d" % n for n in range(5)))
    leaving, other = consume(prefetch=10), consume(prefetch=0)

    def first() -> Delivery[bytes]:
        for delivery in leaving:
            return delivery
        raise AssertionError

    async def afirst() -> Delivery[bytes]:
        async with aclosing(aiter(leaving)) as deliveries:
            return await anext(deliveries)

    kept = first() if face == "sync" else asyncio.run(afirst())
    rest = [receive(other, clock, 1) for _ in range(4)]
    assert [each.body for each in rest] == [b"1", b"2", b"3", b"4"]
    assert [each.attempt for each in rest] == [1] * 4
    kept.ack()
    Call(lambda: kept.settled(timeout=60), clock).result()
    send(clock, b"later")
    assert receive(other, clock, 1).body == b"later", "nobody waits on the one that was left"


def test_close_wakes_takers_and_ends_iterations(consume: Open, clock: VirtualClock) -> None:
    consumer = consume()
    taker = Call(lambda: consumer.receive(timeout=None), clock)
    iterating = Call(lambda: list(consumer), clock)

    async def aiterate() -> list[Any]:
        return [each async for each in consumer]

    aiterating = Call(lambda: asyncio.run(aiterate()), clock)
    spin(lambda: consumer._receiver._inbox.demand >= 3)
    Call(consumer.close, clock).result()
    with pytest.raises(qk.ClosedError):
        taker.result()
    assert iterating.result() == []
    assert aiterating.result() == []


@pytest.mark.parametrize("prefetch", [0, 5])
def test_a_timeout_of_nothing_finds_what_is_there(consume: Open, clock: VirtualClock, prefetch: int) -> None:
    send(clock, b"1", b"2", b"3")
    consumer = consume(prefetch=prefetch)
    found: list[bytes] = []

    def look() -> None:
        pause = threading.Event()
        while len(found) < 3:
            delivery = consumer.receive(timeout=0)
            if delivery is not None:
                delivery.ack()
                found.append(delivery.body)
            pause.wait(0.001)

    Call(look, clock).result()
    assert found == [b"1", b"2", b"3"]


def test_areceive_with_a_timeout_of_nothing_finds_what_is_there(consume: Open, clock: VirtualClock) -> None:
    send(clock, b"1")
    consumer = consume()

    async def look() -> bytes:
        while (delivery := await consumer.areceive(timeout=0)) is None:
            await asyncio.to_thread(threading.Event().wait, 0.001)
        return delivery.body

    assert asyncio.run(asyncio.wait_for(look(), LIMIT_S)) == b"1"


def test_a_cancelled_areceive_loses_nothing(consume: Open, clock: VirtualClock) -> None:
    consumer = consume()

    async def main() -> bytes:
        waiting = asyncio.create_task(consumer.areceive())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        send(clock, b"1")
        delivery = await consumer.areceive()
        assert delivery is not None
        return delivery.body

    assert asyncio.run(asyncio.wait_for(main(), LIMIT_S)) == b"1"


def test_an_event_loop_that_was_closed_while_waiting_harms_nobody(consume: Open, clock: VirtualClock) -> None:
    consumer = consume()
    loop = asyncio.new_event_loop()
    task = loop.create_task(consumer.areceive())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    send(clock, b"1")
    assert receive(consumer, clock).body == b"1"
    del task


def test_expired_messages_are_dropped_unseen(consume: Open, clock: VirtualClock, script: Script) -> None:
    send(clock, b"old", expires_in=timedelta(seconds=5))
    clock.advance(5)
    send(clock, b"new")
    consumer = consume()
    assert receive(consumer, clock).body == b"new"
    assert consumer.counts()["delivery.expired"] == 1


def test_payloads_that_do_not_decode_can_still_be_settled(consume: Open, clock: VirtualClock) -> None:
    send(clock, b"\xff")
    consumer = consume(payload=int)
    delivery = receive(consumer, clock)
    with pytest.raises(qk.DecodeError):
        _ = delivery.payload
    delivery.dead_letter("undecodable")
    Call(delivery.settled, clock).result()
    with qk.DeadLetters("memory://q", clock=clock) as letters:
        assert [each.body for each in letters.letters()] == [b"\xff"]


def test_the_async_face_does_all_of_it(consume: Open, clock: VirtualClock) -> None:
    send(clock, b"1", b"2")

    async def main() -> list[bytes]:
        seen = []
        async with qk.Consumer("memory://q", clock=clock) as consumer:
            async for delivery in consumer:
                await delivery.aextend(by=timedelta(seconds=90))
                delivery.ack()
                await delivery.asettled()
                seen.append(delivery.body)
                if len(seen) == 2:
                    return seen
        return seen

    assert Call(lambda: asyncio.run(main()), clock).result() == [b"1", b"2"]
