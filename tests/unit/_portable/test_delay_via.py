# SPDX-License-Identifier: Apache-2.0
"""Delays that another queue keeps, as a user sees them: sends, retries, the forwarder, and what is refused."""

import asyncio
import itertools
import logging
import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

import queuekit as qk
from queuekit._engine import metadata as meta
from queuekit._portable import forwarding
from queuekit._portable.round import Limits
from queuekit._portable.rulings import DONE, GONE
from queuekit._wiring.opening import Opener
from queuekit.backend import Backend, ErrorClass, ErrorCode, OutgoingMessage, QueueURL
from queuekit.testing import VirtualClock
from queuekit.testing.faults import (
    FaultyOpener,
    Script,
    fail_entries,
    raise_after,
    raise_before,
    refused,
    throttled,
    unavailable,
)

from .calls import Call

Work = Callable[..., Any]
_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_LEASE = timedelta(hours=10)  # time moves in steps here, and a busy host must not lose a lease for it
_VIA = "memory://waiting"
_JOBS = "memory://jobs?delay_via=memory%3A%2F%2Fwaiting"


class Undelayed(FaultyOpener):
    """Opens queues that keep no delays, but for the one that is there to keep them, which has a script of its own."""

    def __init__(self, clock: VirtualClock, script: Script | None = None, **limits: Any) -> None:
        super().__init__(Opener(clock), script, **{"max_delay_s": 0.0, "max_retry_delay_s": 10.0} | limits)
        self.waiting = Script()

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        if url.hosts[0].name.startswith("waiting"):
            return FaultyOpener(self._opener, self.waiting).open(url, keywords)
        return super().open(url, keywords)

    def close(self) -> None:
        self._opener.close()


@pytest.fixture
def opener(clock: VirtualClock) -> Undelayed:
    return Undelayed(clock)


def _app(opener: Undelayed, url: str = "memory://", **options: Any) -> qk.App:
    made = qk.App(url, clock=opener.clock, **options)
    made._opener = opener  # an App has no argument for it
    return made


def _delivery(consumer: qk.Consumer[bytes], clock: VirtualClock) -> qk.Delivery[bytes]:
    got: qk.Delivery[bytes] = Call(consumer.receive, clock).result(step_s=0.5)
    return got


def _keeping(seen: list[bytes]) -> Callable[[bytes], None]:
    def keep(body: bytes) -> None:
        seen.append(body)

    return keep


def _raw(queue: str, clock: VirtualClock, metadata: Mapping[str, str], **parts: Any) -> None:
    backend = Opener(clock).open(QueueURL.parse(queue))
    backend.send([OutgoingMessage("raw", b"x", {}, metadata, **parts)], timeout_s=5.0)
    backend.close()


# Sends


def test_each_face_sends_what_waits_elsewhere_and_answers_for_each_message(
    opener: Undelayed, clock: VirtualClock, left: Callable[[str], int]
) -> None:
    with qk.Producer(_JOBS, _opener=opener) as jobs:
        one = jobs.send(b"1", delay=_HOUR, message_id="one")
        report = jobs.send_many([b"2", qk.Message(b"3", delay=_HOUR), b"4", qk.Message(b"5", delay=2 * _HOUR)])
        soon = jobs.send_soon(b"6", delay=_HOUR)
        assert isinstance(soon.result(timeout=20), qk.Accepted)

        async def asend() -> None:
            await jobs.asend(b"7", delay=_HOUR)
            (await jobs.asend_many([qk.Message(b"8", delay=_HOUR)])).raise_for_failures()

        asyncio.run(asend())
        assert jobs.counts()["accepted"] == 8
    report.raise_for_failures()
    assert (one.message_id, len(report.outcomes)) == ("one", 4)
    assert (left("jobs"), left("waiting")) == (2, 6)


def test_what_cannot_wait_is_answered_for_alone(opener: Undelayed) -> None:
    error = ErrorClass(ErrorCode.REFUSED, sent="no", detail="no more")
    opener.waiting.on("send", fail_entries([1], lambda entry: qk.Rejected(error, entry.message_id)))
    with qk.Producer(_JOBS, _opener=opener) as jobs:
        report = jobs.send_many([b"1", qk.Message(b"2", delay=_HOUR), qk.Message(b"3", delay=_HOUR), b"4"])
    kinds = [type(each) for each in report.outcomes]
    assert kinds == [qk.Accepted, qk.Accepted, qk.Rejected, qk.Accepted]
    assert "on the way through memory://waiting: no more" in report.outcomes[2].error.detail  # type: ignore[union-attr]


def test_capabilities_show_it_as_bridged_and_require_sees_it(opener: Undelayed) -> None:
    with qk.Producer(_JOBS, _opener=opener, require={"delay": timedelta(days=30)}) as jobs:
        report = jobs.check()
    assert report.ok
    can = report.capabilities
    assert (can.max_delay_s, can.long_delay, can.via_delay_s > 86_400) == (0.0, "bridged", True)
    assert can.longest_delay_s == can.longest_retry_s == can.via_delay_s
    with pytest.raises(qk.UnsupportedError, match="delay"):
        qk.Producer("memory://jobs", _opener=opener, require={"delay": timedelta(days=30)})


def test_a_check_asks_the_other_queue_too(opener: Undelayed) -> None:
    opener.waiting.always("probe", raise_before(unavailable()))
    with qk.Producer(_JOBS, _opener=opener) as jobs:
        report = jobs.check()
    assert not report.ok
    assert "delay_via=memory://waiting" in report.problems[0]


def test_without_it_a_delay_is_refused_and_the_remedy_named(opener: Undelayed) -> None:
    with (
        qk.Producer("memory://jobs", _opener=opener) as jobs,
        pytest.raises(qk.UnsupportedError, match="delay_via="),
    ):
        jobs.send(b"x", delay=_HOUR)


def test_a_message_that_is_too_large_to_wait_is_refused_before_anything_is_sent(
    opener: Undelayed, clock: VirtualClock
) -> None:
    class Small(Undelayed):
        def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
            if url.hosts[0].name == "waiting":
                return FaultyOpener(self._opener, self.waiting, max_message_bytes=400).open(url, keywords)
            return super().open(url, keywords)

    small = Small(clock)
    with qk.Producer(_JOBS, _opener=small) as jobs:
        jobs.send(bytes(500))
        with pytest.raises(qk.MessageTooLargeError, match="delay_via="):
            jobs.send(bytes(500), delay=_HOUR)
    assert small.waiting.calls("send") == []


def test_a_key_with_a_delay_is_refused_as_ever(opener: Undelayed) -> None:
    with qk.Producer(_JOBS, _opener=opener) as jobs, pytest.raises(qk.UnsupportedError, match="delay"):
        jobs.send(b"x", delay=_HOUR, ordering_key="ada")


def test_a_native_delay_stays_native(clock: VirtualClock, left: Callable[[str], int]) -> None:
    opener = Undelayed(clock, max_delay_s=900.0)
    with qk.Producer(_JOBS, _opener=opener) as jobs:
        jobs.send(b"1", delay=timedelta(seconds=900))
        jobs.send(b"2", delay=timedelta(seconds=901))
    assert (left("jobs"), left("waiting")) == (1, 1)


@pytest.mark.parametrize(
    ("url", "via", "kind", "why"),
    [
        ("memory://jobs", "memory://jobs", qk.UsageError, "itself"),
        ("memory://jobs?lanes=a,b", "memory://jobs-a", qk.UsageError, "itself"),
        ("memory://jobs", "memory://", qk.UsageError, "names no queue"),
        ("memory://jobs", "memory://x?delay_via=memory%3A%2F%2Fy", qk.UsageError, "of its own"),
        ("memory://jobs", "memory://x.dead", qk.UsageError, "dead letters"),
        ("memory://jobs", "nowhere://x", qk.SetupError, "nowhere"),
        ("memory://jobs", "memory://x?color=red", qk.InvalidURLError, "color"),
        ("memory://jobs", "memory://plain", qk.UnsupportedError, "no longer than"),
        ("memory://jobs", "memory://waiting?foreign=true&subscription=a", qk.UnsupportedError, "several"),
        ("sqlite:///x.db?queue=jobs", "memory://waiting", qk.UnsupportedError, "loses what it holds"),
    ],
)
def test_what_cannot_keep_delays_is_refused_when_opening(
    opener: Undelayed, url: str, via: str, kind: type[Exception], why: str
) -> None:
    with pytest.raises(kind, match=why):
        qk.Producer(url, delay_via=via, _opener=opener if url.startswith("memory") else Opener(opener.clock))


def test_a_password_in_it_is_shown_nowhere(clock: VirtualClock) -> None:
    producer = qk.Producer("sqlite:///x.db?queue=jobs", delay_via="redis://:hunter2@localhost/0?queue=w", clock=clock)
    assert "hunter2" not in repr(producer) + producer.queue
    producer.close()


# The forwarder


def test_what_is_due_is_forwarded_as_it_was_sent(opener: Undelayed, work: Work, clock: VirtualClock) -> None:
    app = _app(opener, delay_via=_VIA)
    seen: list[Any] = []

    @app.handler("jobs", lease=_LEASE)
    def keep(body: bytes) -> None:
        now = qk.current()
        seen.append((clock.monotonic(), body, now.message_id, now.attempt, dict(now.attributes), now.type))

    began = clock.monotonic()
    keep.send(b"x", delay=_MINUTE, message_id="one", attributes={"Color": "red"})
    keep.send(b"now")
    running = work(app)
    running.let(lambda: len(seen) == 2, step_s=0.5)
    running.stop()
    assert seen[0][1] == b"now"
    at, *rest = seen[1]
    assert at - began >= 60.0
    assert rest == [b"x", "one", 1, {"Color": "red"}, "keep"]
    app.close()


def test_a_priority_and_a_dedup_id_count_where_the_message_arrives(
    opener: Undelayed, work: Work, clock: VirtualClock
) -> None:
    app = _app(opener, delay_via=_VIA)
    seen: list[bytes] = []
    app.handler("other")(_keeping(seen))
    with qk.Producer("memory://jobs", delay_via=_VIA, _opener=opener) as jobs:
        jobs.send(b"x", delay=_MINUTE, priority=7, dedup_id="one")
        jobs.send(b"x", delay=_MINUTE, dedup_id="one")
    running = work(app)
    with qk.Consumer("memory://jobs", clock=clock) as consumer:
        got = _delivery(consumer, clock)
        assert (got.body, got.priority) == (b"x", 7)
        assert got._held.message.metadata[meta.VIA] == "1"
        assert not set(got._held.message.metadata) & meta.OF_A_DETOUR
        got.ack()
        running.let(lambda: _forwarded(opener) >= 2, step_s=1.0)
        assert Call(lambda: consumer.receive(timeout=5), clock).result(step_s=0.5) is None, (
            "the second is a duplicate"
        )
    running.stop()
    app.close()


def _forwarded(opener: Undelayed) -> int:
    return sum(each.action.value == "ack" for call in opener.waiting.calls("settle") for each in call.batch)


def test_a_crash_between_sending_and_acking_is_seen_once_where_dedup_ids_are_known(
    opener: Undelayed, work: Work
) -> None:
    app = _app(opener, delay_via=_VIA)
    seen: list[bytes] = []
    handler = app.handler("jobs", message_type="job", lease=_LEASE)(_keeping(seen))
    opener.waiting.on("settle", raise_before(ErrorClass(ErrorCode.LEASE_LOST)))
    handler.send(b"x", delay=_MINUTE)
    running = work(app)
    running.let(lambda: _sent(opener) >= 2 and _forwarded(opener) >= 2, step_s=0.5)
    running.stop()
    assert seen == [b"x"]
    app.close()


def _sent(opener: Undelayed) -> int:
    return sum(len(call.batch) for call in opener.script.calls("send"))


def test_a_target_that_cannot_be_reached_is_tried_again_and_nothing_is_lost(
    opener: Undelayed, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    app = _app(opener, delay_via=_VIA)
    seen: list[bytes] = []
    handler = app.handler("jobs", message_type="job", lease=_LEASE)(_keeping(seen))
    flaws = [raise_before(unavailable(sent="no"))] * 3 + [raise_after(unavailable())]
    opener.script.on("send", *flaws)
    handler.send_many([qk.Message(bytes([n]), delay=_MINUTE) for n in range(5)]).raise_for_failures()
    with caplog.at_level(logging.WARNING, "queuekit"):
        running = work(app)
        running.let(lambda: len(seen) == 5, step_s=0.5)
        running.stop()
    assert sorted(seen) == [bytes([n]) for n in range(5)]
    assert any(getattr(each, "action", "") == "delay.not_forwarded" for each in caplog.records)
    app.close()


def test_what_is_for_another_app_waits_for_that_one_and_is_told_once(
    opener: Undelayed, work: Work, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    with qk.Producer("memory://theirs?space=there", delay_via=_VIA, _opener=opener) as theirs:
        theirs.send(b"x", delay=timedelta(seconds=1))
    ours, other = _app(opener, delay_via=_VIA), _app(opener, "memory://?space=there", delay_via=_VIA)
    seen: list[bytes] = []
    ours.handler("jobs")(_nothing)
    other.handler("theirs", default=True, lease=_LEASE)(_keeping(seen))
    with caplog.at_level(logging.WARNING, "queuekit"):
        running = work(ours)
        running.let(lambda: _released(opener) >= 3, step_s=1.0)
        running.stop()
    told = [each for each in caplog.records if getattr(each, "action", "") == "delay.stranger"]
    assert len(told) == 1
    assert "memory://theirs?space=there" in told[0].getMessage()
    running = work(other)
    running.let(lambda: seen == [b"x"], step_s=1.0)
    running.stop()
    ours.close()
    other.close()


class Counting(Undelayed):
    """Knows how many queues were opened by its user, and how many of them are open."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.opened = self.closed = 0

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        backend = super().open(url, keywords)
        close = backend.close

        def count() -> None:
            self.closed += 1
            close()

        self.opened += 1
        backend.close = count  # type: ignore[method-assign]  # this one object is watched
        return backend


def test_however_many_queues_are_named_so_many_stay_open_and_so_many_are_told_of(
    clock: VirtualClock, work: Work, left: Callable[[str], int], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr(forwarding, "_MOST_KNOWN", 2)
    opener = Counting(clock)
    for number in range(5):
        for space in ("", "?space=there"):
            with qk.Producer(f"memory://target{number}{space}", delay_via=_VIA, _opener=opener) as theirs:
                theirs.send(b"x", delay=_MINUTE)
    app = _app(opener, delay_via=_VIA)
    app.handler("jobs")(_nothing)
    before = opener.opened - opener.closed
    with caplog.at_level(logging.WARNING, "queuekit"):
        running = work(app)
        running.let(lambda: all(left(f"target{number}") == 1 for number in range(5)), step_s=1.0)
        running.let(lambda: _released(opener) >= 10, step_s=1.0)
        working = opener.opened - opener.closed - before
        running.stop()
    told = [each for each in caplog.records if getattr(each, "action", "") == "delay.stranger"]
    assert len(told) == 2
    assert working == 3 + 2 * 2, (
        "the handler's queue and two that were forwarded to, each with its way to the one for delays"
    )
    app.close()


def _released(opener: Undelayed) -> int:
    return sum(each.action.value == "release" for call in opener.waiting.calls("settle") for each in call.batch)


def _nothing(_body: bytes) -> None:
    """A handler that has nothing to do."""


@pytest.mark.parametrize(
    "metadata",
    [{}, {"via-to": "no url"}, {"via-to": "memory://waiting"}, {"via-to": "memory://user:pass@jobs"}],
    ids=str,
)
def test_what_was_not_sent_so_is_dead_lettered_with_its_bytes(
    opener: Undelayed, work: Work, clock: VirtualClock, dead: Any, metadata: dict[str, str]
) -> None:
    app = _app(opener, delay_via=_VIA)
    app.handler("jobs", lease=_LEASE)(_nothing)
    _raw(_VIA, clock, metadata)
    running = work(app)
    running.let(lambda: bool(dead("waiting")))
    running.stop()
    (letter,) = dead("waiting")
    assert (letter.body, letter.message_id) == (b"x", "raw")
    assert "forwarded" in letter.reason
    app.close()


def test_what_its_queue_will_never_take_is_dead_lettered_with_the_reason(
    opener: Undelayed, work: Work, dead: Any
) -> None:
    app = _app(opener, delay_via=_VIA)
    handler = app.handler("jobs", lease=_LEASE)(_nothing)
    too_large = ErrorClass(ErrorCode.TOO_LARGE, sent="no", detail="too large")
    opener.script.on("send", fail_entries([0], lambda entry: qk.Rejected(too_large, entry.message_id)))
    handler.send(b"x", delay=timedelta(seconds=1))
    running = work(app)
    running.let(lambda: bool(dead("waiting")), step_s=1.0)
    running.stop()
    assert "memory://jobs" in dead("waiting")[0].reason
    app.close()


def test_handlers_on_the_queue_for_delays_are_refused(opener: Undelayed) -> None:
    app = _app(opener, delay_via=_VIA)
    app.handler("jobs", lease=_LEASE)(_nothing)
    app.handler("waiting2")(_nothing)
    app.handler("memory://waiting")(_nothing)
    with pytest.raises(qk.UsageError, match="handlers take its messages"):
        app.run(signals=False)
    app.close()


def test_on_a_queue_for_delays_that_keeps_no_retry_delay_what_waits_keeps_its_lease(
    clock: VirtualClock, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "_LEASE_S", _LEASE.total_seconds())

    class Impatient(Undelayed):
        def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
            if url.hosts[0].name == "waiting":
                return FaultyOpener(self._opener, self.waiting, max_retry_delay_s=0.0).open(url, keywords)
            return super().open(url, keywords)

    opener = Impatient(clock)
    app = _app(opener, delay_via=_VIA)
    seen: list[bytes] = []
    handler = app.handler("jobs", message_type="job", lease=_LEASE)(_keeping(seen))
    opener.script.on("send", raise_before(unavailable(sent="no")))
    handler.send(b"x", delay=timedelta(seconds=1))
    running = work(app)
    running.let(lambda: seen == [b"x"], step_s=0.2)
    running.stop()
    assert _sent(opener) == 2, "it was not tried again and again meanwhile"
    app.close()


# Retries


def test_a_demanded_wait_beyond_the_queues_own_goes_through_it_and_is_counted(
    opener: Undelayed, work: Work, clock: VirtualClock
) -> None:
    app = _app(opener, delay_via=_VIA)
    tries: list[tuple[float, str, int | None]] = []

    @app.handler("jobs", lease=_LEASE)
    def put_off(_body: bytes) -> qk.Retry | None:
        tries.append((clock.monotonic(), qk.current().message_id, qk.current().attempt))
        return qk.Retry(delay=_MINUTE) if len(tries) < 3 else None

    put_off.send(b"x", message_id="one")
    running = work(app)
    running.let(lambda: app.counts()["jobs"]["settled"] == 3, step_s=0.5)
    running.stop()
    assert [each[1:] for each in tries] == [("one", 1), ("one", 2), ("one", 3)]
    assert all(later[0] - earlier[0] >= 60.0 for earlier, later in itertools.pairwise(tries))
    app.close()


def test_a_policy_waits_as_long_as_it_says_and_a_key_as_long_as_the_queue_can(
    opener: Undelayed, work: Work, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = _app(opener, delay_via=_VIA)
    tries: dict[str | None, list[float]] = {None: [], "ada": []}

    @app.handler("jobs", lease=_LEASE, retry=qk.RetryPolicy(max_attempts=2, wait=wait_fixed(100)))
    def fail(_body: bytes) -> None:
        tries[qk.current().ordering_key].append(clock.monotonic())
        raise ValueError("broken")

    fail.send(b"x")
    fail.send(b"y", ordering_key="ada")
    with caplog.at_level(logging.WARNING, "queuekit"):
        running = work(app)
        running.let(lambda: all(len(each) == 2 for each in tries.values()), step_s=0.5)
        running.stop()
    assert tries[None][1] - tries[None][0] >= 100.0
    assert 10.0 <= tries["ada"][1] - tries["ada"][0] < 100.0
    assert not [each for each in caplog.records if getattr(each, "action", "") in {"retry.cut", "retry.shortened"}]
    app.close()


def test_where_nobody_counts_retries_through_it_are_counted_up_to_the_dead_letter(
    clock: VirtualClock, work: Work, dead: Any
) -> None:
    opener = Undelayed(clock, attempts="none", ordering="none")
    app = _app(opener, delay_via=_VIA)
    attempts: list[int | None] = []

    @app.handler("jobs", lease=_LEASE, retry=qk.RetryPolicy(max_attempts=3, wait=wait_fixed(30)))
    def fail(_body: bytes) -> None:
        attempts.append(qk.current().attempt)
        raise ValueError("broken")

    fail.send(b"x", delay=_MINUTE, message_id="one")
    running = work(app)
    running.let(lambda: bool(dead("jobs")), step_s=0.5)
    running.stop()
    (letter,) = dead("jobs")
    assert (attempts, letter.attempts, letter.message_id) == ([1, 2, 3], 3, "one")
    assert letter.first is not None
    app.close()


def test_a_copy_that_is_too_large_to_wait_elsewhere_waits_with_its_lease(clock: VirtualClock, work: Work) -> None:
    class Small(Undelayed):
        def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
            if url.hosts[0].name == "waiting":
                return FaultyOpener(self._opener, self.waiting, max_message_bytes=400).open(url, keywords)
            return super().open(url, keywords)

    opener = Small(clock, attempts="none", ordering="none")
    app = _app(opener, delay_via=_VIA)
    attempts: list[int | None] = []

    @app.handler("jobs", lease=_LEASE)
    def fail(_body: bytes) -> qk.Retry | None:
        attempts.append(qk.current().attempt)
        return qk.Retry(delay=timedelta(seconds=60)) if len(attempts) < 2 else None

    fail.send(bytes(500))
    running = work(app)
    running.let(lambda: attempts == [1, 2], step_s=1.0)
    running.stop()
    assert opener.waiting.calls("send") == []
    app.close()


def test_a_consumer_retries_through_it(opener: Undelayed, clock: VirtualClock, left: Callable[[str], int]) -> None:
    with qk.Producer(_JOBS, _opener=opener) as jobs:
        jobs.send(b"x")
    consumer = qk.Consumer(_JOBS, _opener=opener, lease=_LEASE)
    _delivery(consumer, clock).retry(delay=_HOUR)
    Call(consumer.close, clock).result()
    assert (left("jobs"), left("waiting")) == (0, 1)


def test_foreign_consumers_rule_out_retries_through_it_and_not_sends(
    opener: Undelayed, left: Callable[[str], int]
) -> None:
    with qk.Producer(_JOBS + "&foreign=true", _opener=opener) as jobs:
        jobs.send(b"x", delay=_HOUR)
        can = jobs.check().capabilities
    assert left("waiting") == 1
    assert (can.longest_delay_s, can.longest_retry_s) == (can.via_delay_s, can.max_retry_delay_s)


def test_batches_count_their_retries_through_it(clock: VirtualClock, work: Work, dead: Any) -> None:
    opener = Undelayed(clock, attempts="none", ordering="none")
    app = _app(opener, delay_via=_VIA)
    attempts: list[int | None] = []

    @app.batch_handler("jobs", max_size=2, lease=_LEASE, retry=qk.RetryPolicy(max_attempts=2, wait=wait_none()))
    def fail(batch: qk.Batch[bytes]) -> None:
        attempts.extend(each.attempt for each in batch)
        raise ValueError("broken")

    fail.send(b"x")
    running = work(app)
    running.let(lambda: bool(dead("jobs")), step_s=0.5)
    running.stop()
    assert attempts == [1, 2]
    app.close()


def test_a_pushed_message_waits_through_it_before_it_is_retried(
    opener: Undelayed, clock: VirtualClock, left: Callable[[str], int]
) -> None:
    app = _app(opener, delay_via=_VIA)

    @app.handler("jobs", lease=_LEASE)
    def put_off(_body: bytes) -> qk.Retry:
        return qk.Retry(delay=_HOUR)

    put_off.send(b"x")
    doorway = app._doorway()
    (named,) = doorway.queues()
    assert named.url is not None
    pipe = doorway.pipe(named.name, named.url, named.options)
    taken = pipe.link.backend.receive(max_messages=1, wait_s=0.0, lease_s=600.0)
    outcomes = pipe.run(taken, Limits())
    doorway.rest(math.inf)
    assert (outcomes, left("waiting")) == ([DONE], 1)
    app.close()


def test_pushed_retries_are_counted_up_to_the_dead_letter_where_nobody_counts(clock: VirtualClock, dead: Any) -> None:
    app = _app(Undelayed(clock, attempts="none", ordering="none"))
    attempts: list[int | None] = []

    @app.handler("jobs", retry=qk.RetryPolicy(max_attempts=3, wait=wait_none()))
    def fail(_body: bytes) -> None:
        attempts.append(qk.current().attempt)
        raise ValueError("broken")

    fail.send(b"x", message_id="one")
    doorway = app._doorway()
    (named,) = doorway.queues()
    assert named.url is not None
    pipe = doorway.pipe(named.name, named.url, named.options)
    outcomes: list[Any] = []
    for _ in range(3):
        taken = pipe.link.backend.receive(max_messages=1, wait_s=0.0, lease_s=600.0)
        outcomes += pipe.run(taken, Limits())
        pipe.remove(taken, outcomes[-1:], math.inf)
        doorway.rest(math.inf)
    assert (attempts, outcomes) == ([1, 2, 3], [DONE, DONE, GONE])
    (letter,) = dead("jobs")
    assert (letter.message_id, letter.attempts) == ("one", 3)
    app.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", ["jobs", "waiting"])
@pytest.mark.parametrize("verb", ["send", "settle", "receive"])
def test_a_call_that_fails_anywhere_on_the_way_loses_nothing_and_is_seen_once(
    clock: VirtualClock, work: Work, left: Callable[[str], int], verb: Any, place: str, after: bool
) -> None:
    opener = Undelayed(clock)
    app = _app(opener, delay_via=_VIA)
    seen: list[bytes] = []
    # What came with an answer that was lost comes again when its lease ends.
    lease = timedelta(minutes=2) if verb == "receive" else _LEASE
    handler = app.handler("jobs", message_type="job", lease=lease)(_keeping(seen))
    script = opener.script if place == "jobs" else opener.waiting
    script.on(verb, (raise_after if after else raise_before)(unavailable()))
    bodies = [bytes([n]) for n in range(3)]
    sending = Call(lambda: handler.send_many([qk.Message(each, delay=_MINUTE) for each in bodies]), clock)
    sending.result().raise_for_failures()
    running = work(app)
    running.let(lambda: len(set(seen)) == 3 and not (left("jobs") or left("waiting")), step_s=0.5)
    running.stop()
    assert sorted(set(seen)) == bodies
    assert len(seen) == 3 or verb == "receive", "a busy host may lose that lease once more"
    app.close()


@pytest.mark.parametrize(
    "what",
    [throttled(None), refused(), ErrorClass(ErrorCode.TOO_LARGE, retryable=True, sent="no")],
    ids=["throttled", "refused", "too large for now"],
)
def test_what_its_queue_does_not_take_for_now_waits_and_is_no_dead_letter(
    opener: Undelayed, work: Work, dead: Any, what: ErrorClass, caplog: pytest.LogCaptureFixture
) -> None:
    app = _app(opener, delay_via=_VIA)
    seen: list[bytes] = []
    handler = app.handler("jobs", message_type="job", lease=_LEASE)(_keeping(seen))
    refuse = fail_entries([0], lambda entry: qk.Rejected(what, entry.message_id))
    opener.script.on("send", *[refuse] * 6)
    handler.send(b"x", delay=timedelta(seconds=1))
    with caplog.at_level(logging.WARNING, "queuekit"):
        running = work(app)
        running.let(lambda: seen == [b"x"], step_s=1.0)
        running.stop()
    assert dead("waiting") == []
    told = [each.getMessage() for each in caplog.records if getattr(each, "action", "") == "delay.not_forwarded"]
    waits = [float(re.search(r"again in ([0-9.]+) s", each)[1]) for each in told]  # type: ignore[index]
    assert all(wait <= 2.0 ** (number + 1) for number, wait in enumerate(waits))
    assert len(waits) == 6
    assert max(waits) > 1.0, "they grow"
    app.close()
