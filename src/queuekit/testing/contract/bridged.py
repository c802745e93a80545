# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""What queuekit adds where a service lacks it: hops, the last word on attempts, lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest

from queuekit._engine.lanes_order import STARVED_AFTER
from queuekit._portable.app import App
from queuekit._portable.context import current
from queuekit._portable.producer import Producer
from queuekit._portable.retry import Retry, RetryPolicy
from queuekit._portable.worker import ExitCode
from queuekit._values.capability import Support
from queuekit._values.errors import UnsupportedError
from queuekit._values.url import QueueURL
from queuekit.backend import Backend
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import FaultyOpener, Script, raise_after, raise_before, unavailable

Flaw = Callable[[Script], object]

_FLAWS: tuple[Flaw, ...] = (
    lambda script: script.on("send", raise_before(unavailable(sent="no"))),
    lambda script: script.on("send", raise_after(unavailable())),
    lambda script: script.on("settle", raise_before(unavailable())),
    lambda script: script.on("settle", raise_after(unavailable())),
)


class Bridged(Group):
    """What is bridged is as good as native, but for what it costs."""

    @requires("delay")
    def test_DEL_13_delay_move_is_atomic(self, harness: Harness, face: Face) -> None:
        """A hop that fails at its copy or at its ack, before or after it was carried out, loses nothing and is
        not early; nor does one whose worker ends between the two."""
        if harness.capabilities.long_delay is not Support.BRIDGED:
            _expect_refused(harness, face)
            return
        for flaw in (*_FLAWS, None):
            queue, script, native = Queue(harness), Script(), harness.min_delay_s
            opener = FaultyOpener(harness.opener, script, max_delay_s=native)
            sent_at = harness.clock.monotonic()
            face.send(
                face.producer(queue, opener=harness.limits(max_delay_s=native)), b"x", delay=_length(2 * native)
            )
            if flaw is not None:
                flaw(script)
                consumer = face.consumer(queue, opener=opener)
            else:
                script.always("settle", raise_before(unavailable()))
                first = face.consumer(queue, opener=opener, lease=_length(harness.min_lease_s))
                harness.start(partial(first.receive, timeout=60))
                harness.until(partial(script.calls, "settle"), within_s=4 * native, what="it hops")
                harness.let(first.close, within_s=90.0)  # it tries for a while
                consumer = face.consumer(queue, opener=harness.limits(max_delay_s=native))
            delivery = face.next(consumer, within_s=8 * native + 4 * harness.min_lease_s)
            assert delivery.body == b"x"
            assert harness.clock.monotonic() - sent_at >= 2 * native - 0.005
            delivery.ack()
            face.settled(delivery)
            face.close(consumer)

    @requires("delay")
    def test_DEL_14_long_delay_hops(self, harness: Harness, face: Face) -> None:
        """A delay of three and a half times the service's own arrives once, not early, as the first attempt."""
        if harness.capabilities.long_delay is not Support.BRIDGED:
            _expect_refused(harness, face)
            return
        queue, native = Queue(harness), harness.min_delay_s
        opener = harness.limits(max_delay_s=native)
        total = 3.5 * native
        sent_at = harness.clock.monotonic()
        accepted = face.send(
            face.producer(queue, opener=opener), b"x", delay=_length(total), attributes={"Color": "red"}
        )
        delivery = face.next(face.consumer(queue, opener=opener), within_s=2 * total)
        took_s = harness.clock.monotonic() - sent_at
        assert total - 0.005 <= took_s <= 1.5 * total + 4 * harness.tolerance_s
        assert (delivery.body, delivery.message_id) == (b"x", accepted.message_id)
        assert dict(delivery.attributes) == {"Color": "red"}
        assert delivery.attempt in ({1} if queue.capabilities.attempts == "exact" else {None, 1})
        delays = [each.delay_s for call in opener.script.calls("send") for each in call.batch]
        assert max(delays) <= native, "no hop asks for more than the service can"
        assert 2 <= len(delays) <= 5, "as few hops as there can be: a fifth where clocks differ, fewer if it ran late"
        delivery.ack()
        face.settled(delivery)
        queue.expect_nothing("it arrived once")

    def test_DEL_17_delay_via_waits_elsewhere(self, harness: Harness) -> None:
        """A queue that keeps no delays has another one keep them, of a send and of a retry: what is due is forwarded
        by the worker, not early, the id unchanged, each attempt counted."""
        queue, native, via = Queue(harness), harness.min_delay_s, f"sqlite:///{harness.directory}/via.db?queue=via"
        opener = _Undelayed(harness.another_opener(), max_delay_s=0.0, max_retry_delay_s=0.0)
        url = harness.url(queue.name)
        url += f"{'&' if '?' in url else '?'}delay_via={quote(via, safe='')}"
        if harness.capabilities.ordering_key_required:
            with pytest.raises(UnsupportedError, match="delay"), Producer(url, _opener=opener) as refusing:
                refusing.send(b"x", delay=_length(native), ordering_key="k")
            return
        begun = list[tuple[float, str, bytes, int | None]]()

        def handle(payload: bytes) -> Retry | None:
            begun.append((harness.clock.monotonic(), current().message_id, payload, current().attempt))
            return Retry(delay=_length(native)) if len(begun) == 1 else None

        app = App(clock=harness.clock)
        app._opener = opener  # an App has no argument for it
        made = app.handler(url)(handle)
        sent_at = harness.clock.monotonic()
        accepted = made.send(b"x", delay=_length(native), attributes={"Color": "red"})
        running = harness.start(partial(app.run, signals=False))
        harness.until(lambda: len(begun) == 2, within_s=30 * native, what="both attempts are made", steps=600)
        app.stop()
        harness.until(lambda: running.done, within_s=60.0, what="the worker ends")
        assert running.result() is ExitCode.DRAINED
        app.close()
        assert [each[1:3] for each in begun] == [(accepted.message_id, b"x")] * 2
        assert [each[3] for each in begun] in ([1, 2], [None, None])
        times = [sent_at, *(each[0] for each in begun)]
        assert all(after - before >= native - 0.005 for before, after in pairwise(times))
        queue.expect_nothing("it is done")

    def test_DLQ_11_native_and_core_do_not_fight(self, harness: Harness, face: Face) -> None:
        """A worker refuses a queue whose service gives a message up before max_attempts, and names both numbers;
        it works one whose service has more patience."""
        queue, policy, done = Queue(harness), RetryPolicy(max_attempts=7), list[bytes]()
        queue.put(b"x")
        refused = Work(face, queue, done.append, retry=policy, opener=harness.limits(native_max_attempts=7))
        refused.await_true(lambda: refused.ended() or bool(done), "the worker refuses the queue")
        assert done == []
        with pytest.raises(UnsupportedError, match=r"after 7 deliveries.*max_attempts is 7"):
            refused.stop()
        work = Work(face, queue, done.append, retry=policy, opener=harness.limits(native_max_attempts=18))
        work.await_true(lambda: done == [b"x"], "it is worked")
        assert work.stop() is ExitCode.DRAINED


class _Undelayed(FaultyOpener):
    """Lowers what queues declare, but for the one that is there for delays."""

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        is_via = url.options.get("queue") == "via"
        return self._opener.open(url, keywords) if is_via else super().open(url, keywords)

    def close(self) -> None:
        """The harness closes what the other opener shares."""


def expect_lanes(harness: Harness) -> None:
    """Of several lanes the highest is served first and starves none; with weights each has its share."""
    if harness.capabilities.ordering_key_required:
        with pytest.raises(UnsupportedError):
            harness.open(harness.unique_name(), lanes="high,low")
        return
    strict = _lanes(harness)
    strict.send(message(b"low"), *(message(b"high", priority=9) for _ in range(STARVED_AFTER + 5)))
    got = [strict.take()[0] for _ in range(STARVED_AFTER + 1)]
    assert {each.body for each in got[:STARVED_AFTER]} == {b"high"}
    assert (got[-1].body, got[-1].priority, got[0].priority) == (b"low", 0, 9)
    weighted = _lanes(harness, lane_weights="3,1")
    weighted.send(*(message(b"%d" % (priority,), priority=priority) for priority in [0, 9] * 8))
    bodies = [weighted.take()[0].body for _ in range(8)]
    assert (bodies.count(b"9"), bodies.count(b"0")) == (6, 2)


def _lanes(harness: Harness, **options: Any) -> Queue:
    """A queue over two lanes; each is a queue that must exist."""
    name = harness.unique_name()
    for lane in ("high", "low"):
        harness.url(f"{name}-{lane}")
    return Queue(harness, name, backend=harness.open(name, lanes="high,low", **options))


def _expect_refused(harness: Harness, face: Face) -> None:
    """Where copies are out of place a longer delay is refused, and nothing is sent."""
    opener = harness.limits(max_delay_s=harness.min_delay_s)
    producer = face.producer(harness.unique_name(), opener=opener)
    with pytest.raises(UnsupportedError, match="delay"):
        face.send(producer, b"x", delay=_length(2 * harness.min_delay_s))
    assert opener.script.calls("send") == []


def _length(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
