# SPDX-License-Identifier: Apache-2.0
"""What is bridged, as a user sees it: long delays and waits, counted attempts, lanes, and what is refused."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

import queuekit as qk
from queuekit._engine import metadata as meta
from queuekit._portable.retry import Judge, NotNow
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, ErrorClass, ErrorCode, QueueURL
from queuekit.testing import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, edit_answer, raise_before, unavailable

from .calls import Call
from .conftest import let

Work = Callable[..., Any]
_LEASE = timedelta(hours=10)  # time moves in steps here, and a busy host must not lose a lease for it


def _opener(clock: VirtualClock, script: Script | None = None, **limits: Any) -> FaultyOpener:
    return FaultyOpener(Opener(clock), script, **limits)


def _app(clock: VirtualClock, **limits: Any) -> qk.App:
    made = qk.App("memory://", clock=clock)
    made._opener = _opener(clock, **limits)  # an App has no argument for it
    return made


def _received(consumer: qk.Consumer[bytes], clock: VirtualClock, *, step_s: float = 0.5) -> qk.Delivery[bytes]:
    got: qk.Delivery[bytes] = Call(consumer.receive, clock).result(step_s=step_s)
    return got


def _closed(opened: Any, clock: VirtualClock) -> None:
    Call(opened.close, clock).result()


def _nothing(_body: bytes) -> None:
    """A handler that has nothing to do."""


# Attempts that the service does not count


def test_retries_are_counted_by_copies_where_the_service_does_not_count(
    clock: VirtualClock, work: Work, dead: Any
) -> None:
    app = _app(clock, attempts="none", ordering="none")
    attempts: list[int | None] = []

    @app.handler("jobs", retry=qk.RetryPolicy(max_attempts=3, wait=wait_fixed(1)))
    def fail(_body: bytes) -> None:
        attempts.append(qk.current().attempt)
        raise ValueError("broken")

    fail.send(b"x")
    running = work(app)
    running.let(lambda: bool(dead("jobs")))
    running.stop()
    assert attempts == [1, 2, 3]
    (letter,) = dead("jobs")
    assert letter.attempts == 3
    assert letter.first < letter.last
    app.close()


def test_who_works_on_dead_letters_has_attempts_of_its_own(clock: VirtualClock, work: Work) -> None:
    app = _app(clock, attempts="none", ordering="none")
    attempts: list[int | None] = []

    @app.handler("jobs", retry=qk.RetryPolicy(max_attempts=3, wait=wait_none()), dead_letter="memory://failed")
    def fail(_body: bytes) -> None:
        raise ValueError("broken")

    @app.handler("failed", retry=qk.RetryPolicy(max_attempts=2, wait=wait_none()), default=True, message_type="fail")
    def mend(_body: bytes) -> None:
        attempts.append(qk.current().attempt)

    fail.send(b"x")
    running = work(app)
    running.let(lambda: app.counts()["failed"]["settled"] == 1)
    running.stop()
    assert attempts == [1]
    app.close()


def test_a_policy_waits_as_long_as_a_copy_can_where_retries_are_copies(clock: VirtualClock) -> None:
    can = _opener(clock, attempts="none", ordering="none", max_retry_delay_s=0.0, max_delay_s=30.0).open(
        QueueURL.parse("memory://q")
    ).capabilities  # fmt: skip
    verdict = Judge(qk.RetryPolicy(wait=wait_fixed(100)), can, clock).on_error(ValueError(), 1)
    assert verdict.delay_s == 30.0


def test_a_message_that_was_not_tried_waits_no_longer_than_the_service_can(clock: VirtualClock) -> None:
    can = _opener(clock, attempts="none", ordering="none", max_retry_delay_s=5.0, max_delay_s=900.0).open(
        QueueURL.parse("memory://q")
    ).capabilities  # fmt: skip
    verdict = Judge(qk.RetryPolicy(), can, clock).on_error(NotNow(60.0), 1)
    assert (verdict.action, verdict.delay_s) == (Action.RELEASE, 5.0)


@pytest.mark.parametrize(
    ("limits", "url", "remedy"),
    [
        ({"ordering": "per_key"}, "memory://jobs", "dead-letter policy"),
        ({"ordering": "none", "copies": "fanout"}, "memory://jobs", "dead-letter policy"),
        ({"ordering": "none"}, "memory://jobs?foreign=true", "foreign=true"),
    ],
)
def test_where_attempts_cannot_be_counted_a_worker_refuses_and_names_the_setting(
    clock: VirtualClock, limits: dict[str, Any], url: str, remedy: str
) -> None:
    app = _app(clock, attempts="none", **limits)
    app.handler(url)(_nothing)
    with pytest.raises(qk.UnsupportedError, match=remedy):
        app.run(signals=False)
    app.close()


def test_a_queue_that_could_not_be_probed_is_refused_with_the_cause(clock: VirtualClock) -> None:
    app = _app(clock, attempts="none")
    script = Script().always("probe", raise_before(ErrorClass(ErrorCode.ACCESS_DENIED)))
    app._opener = _opener(clock, script, attempts="none")
    app.handler("jobs")(_nothing)
    with pytest.raises(qk.UnsupportedError) as caught:
        app.run(signals=False)
    assert isinstance(caught.value.__cause__, qk.AccessDeniedError)
    app.close()


def test_a_limit_of_the_service_that_deploys_could_reach_is_warned_of(
    clock: VirtualClock, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    app = _app(clock, native_max_attempts=6, release_counts=True)
    app.handler("jobs")(_nothing)
    running = work(app)
    running.let(lambda: "worker.native_limit" in caplog.text)
    running.stop()
    (warned,) = [each for each in caplog.records if getattr(each, "action", "") == "worker.native_limit"]
    assert "15" in warned.getMessage()
    app.close()


# Waits that are longer than the service's


def test_what_is_held_is_sent_at_a_stop_as_far_as_the_service_can_and_that_is_told(clock: VirtualClock) -> None:
    script = Script()
    opener = _opener(clock, script, max_retry_delay_s=10.0, copies="fanout")
    with qk.Producer("memory://q", _opener=opener) as producer:
        producer.send(b"x")
    consumer = qk.Consumer("memory://q", lease=_LEASE, _opener=opener)
    _received(consumer, clock).retry(delay=timedelta(hours=1))
    _closed(consumer, clock)
    (entry,) = [entry for call in script.calls("settle") for entry in call.batch if entry.action is Action.RETRY]
    assert entry.delay_s == 10.0
    assert consumer.counts()["retry.shortened"] == 1


def test_a_wait_asked_for_during_a_drain_is_not_kept_by_a_lease_that_ends_with_the_worker(
    clock: VirtualClock, work: Work
) -> None:
    script = Script()
    app = _app(clock)
    app._opener = _opener(clock, script, max_retry_delay_s=10.0, copies="fanout")
    begun = threading.Event()

    @app.handler("q", lease=_LEASE)
    def handle(_body: bytes) -> qk.Retry:
        begun.set()
        while not qk.current().draining:
            threading.Event().wait(0.001)
        assert app._worker is not None
        app._worker._queues[0].intake.receiver.stop_polling()  # the drain's first step
        return qk.Retry(delay=timedelta(hours=1))

    handle.send(b"x")
    running = work(app)
    running.let(begun.is_set)
    running.stop()
    entries = [entry for call in script.answered("settle") for entry in call.batch]
    assert [(entry.action, entry.delay_s) for entry in entries] == [(Action.RETRY, 10.0)]
    assert app.counts()["q"]["retry.shortened"] == 1
    app.close()


def test_messages_that_wait_by_their_lease_never_fill_more_than_half_of_what_may_be_in_flight(
    clock: VirtualClock,
) -> None:
    opener = _opener(clock, max_retry_delay_s=10.0, copies="fanout")
    with qk.Producer("memory://q", _opener=opener) as producer:
        producer.send_many([b"1", b"2", b"3", b"4"])
    consumer = qk.Consumer("memory://q", lease=_LEASE, _opener=opener, max_in_flight=4)
    for _ in range(4):
        _received(consumer, clock).retry(delay=timedelta(hours=1))
    assert consumer.counts()["retry.shortened"] == 2
    _closed(consumer, clock)


def test_a_keyed_message_that_waits_by_its_lease_gives_those_behind_it_back(clock: VirtualClock) -> None:
    script = Script().always("receive", edit_answer(lambda got: [each._replace(ordering_key="k") for each in got]))
    opener = _opener(clock, script, max_retry_delay_s=10.0, one_in_flight_per_key=False)
    with qk.Producer("memory://q", _opener=opener) as producer:
        producer.send_many([b"1", b"2", b"3"])
    consumer = qk.Consumer("memory://q", lease=_LEASE, _opener=opener, prefetch=10)
    _received(consumer, clock).retry(delay=timedelta(hours=1))

    def released() -> list[Action]:
        entries = [entry for call in script.answered("settle") for entry in call.batch]
        return [entry.action for entry in entries if entry.action is not Action.EXTEND]

    let(clock, lambda: Action.RELEASE in released())
    assert set(released()) == {Action.RELEASE}
    _closed(consumer, clock)


def test_a_copy_that_fails_leaves_the_message_itself_to_be_retried(clock: VirtualClock) -> None:
    script = Script()
    opener = _opener(clock, script, max_retry_delay_s=10.0)
    with qk.Producer("memory://q", _opener=opener) as producer:
        producer.send(b"x")
    script.on("send", raise_before(unavailable()))
    consumer = qk.Consumer("memory://q", lease=_LEASE, _opener=opener)
    _received(consumer, clock).retry(delay=timedelta(hours=1))
    again = _received(consumer, clock)
    assert again.attempt == 2
    assert consumer.counts()["copy.failed"] == 1
    again.ack()
    _closed(consumer, clock)


@pytest.mark.parametrize("key", [None, "k"], ids=["by a copy", "by its lease"])
def test_listeners_are_told_the_wait_that_was_arranged(clock: VirtualClock, work: Work, key: str | None) -> None:
    app, heard = _app(clock, max_retry_delay_s=10.0), list[qk.Event]()
    app.listen(heard.append)

    @app.handler("q", lease=_LEASE)
    def handle(_body: bytes) -> qk.Retry:
        return qk.Retry(delay=timedelta(hours=1))

    handle.send(b"x", ordering_key=key)
    running = work(app)
    running.let(lambda: bool(heard))
    running.stop()
    assert [(each.name, each.delay_s) for each in heard] == [("retried", 3600.0)]
    app.close()


def test_a_lease_that_ends_while_it_stands_for_a_wait_is_told(clock: VirtualClock, work: Work) -> None:
    script, heard = Script().always("settle", raise_before(unavailable())), list[qk.Event]()
    app = _app(clock)
    app._opener = _opener(clock, script, max_retry_delay_s=10.0)
    app.listen(heard.append, "lease_lost")

    @app.handler("q", lease=timedelta(seconds=60))
    def handle(_body: bytes) -> qk.Retry:
        return qk.Retry(delay=timedelta(hours=1))

    handle.send(b"x", ordering_key="k", message_id="m")
    running = work(app)
    running.let(lambda: app.counts()["q"]["lost"] == 1, step_s=0.5)
    app.pause("q")
    running.stop()
    assert [each.message_id for each in heard][:1] == ["m"]
    app.close()


def test_a_queue_for_dead_letters_that_cannot_take_all_of_them_is_refused(clock: VirtualClock) -> None:
    class Openers:
        """The queue for dead letters alone needs ordering keys."""

        def __init__(self) -> None:
            self.clock = clock
            self.open_store = Opener(clock).open_store
            self.close = Opener(clock).close

        def open(self, url: QueueURL, keywords: Any = None) -> Any:
            required = "failed" in str(url)
            return _opener(clock, ordering="per_key", ordering_key_required=required).open(url, keywords)

    with pytest.raises(qk.UsageError, match="ordering key"):
        qk.Consumer("memory://q", dead_letter="memory://failed", _opener=Openers())


def test_more_attempts_than_the_service_makes_are_refused(clock: VirtualClock) -> None:
    with qk.Producer("memory://q", _opener=_opener(clock, native_max_attempts=10)) as producer:
        producer.send(b"x", max_attempts=9)
        with pytest.raises(qk.UnsupportedError, match="10 deliveries"):
            producer.send(b"x", max_attempts=10)


# Delays that are longer than the service's


def test_a_delay_of_days_by_short_hops_is_warned_of_once(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    with qk.Producer("memory://q", _opener=_opener(clock, max_delay_s=900.0)) as producer:
        producer.send(b"x", delay=timedelta(hours=24))
        assert not caplog.records
        for _ in range(2):
            producer.send(b"x", delay=timedelta(days=7))
    (warned,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert getattr(warned, "action", "") == "delay.many_hops"
    assert "671 hops" in warned.getMessage()


def test_a_consumer_that_may_make_no_copies_gives_a_long_delay_back_until_it_is_due(clock: VirtualClock) -> None:
    with qk.Producer("memory://q", _opener=_opener(clock, max_delay_s=900.0)) as producer:
        producer.send(b"x", delay=timedelta(hours=2))
    script, began = Script(), clock.monotonic()
    consumer = qk.Consumer(
        "memory://q", lease=_LEASE, _opener=_opener(clock, script, max_delay_s=900.0, copies="fanout")
    )
    delivery = _received(consumer, clock, step_s=20.0)
    assert clock.monotonic() - began >= 7200.0
    assert delivery.attempt == 1
    assert not script.calls("send")
    delivery.ack()
    _closed(consumer, clock)


def test_a_required_delay_is_met_by_hops_unless_foreign_consumers_take_part(clock: VirtualClock) -> None:
    opener = _opener(clock, max_delay_s=900.0)
    require = {"delay": timedelta(days=30)}
    qk.Producer("memory://q", _opener=opener, require=require).close()
    with pytest.raises(qk.UnsupportedError, match="delay of"):
        qk.Producer("memory://q?foreign=true", _opener=opener, require=require)
    with qk.Producer("memory://q", _opener=opener, foreign=True) as producer:
        assert producer.check().capabilities.foreign


def test_a_dead_letter_and_what_is_redriven_from_it_have_no_delay_left(clock: VirtualClock) -> None:
    opener = _opener(clock, max_delay_s=60.0)
    with qk.Producer("memory://q", _opener=opener) as producer:
        producer.send(b"x", delay=timedelta(minutes=2))
    consumer = qk.Consumer("memory://q", lease=_LEASE, _opener=opener)
    _received(consumer, clock).dead_letter("broken")
    _closed(consumer, clock)
    with qk.DeadLetters("memory://q", clock=clock) as letters:
        backend: Any = Opener(clock).open(QueueURL.parse("memory://q.dead"))
        (stored,) = backend.peek(limit=2)
        assert not meta.OF_A_HOP & stored.metadata.keys()
        assert letters.redrive().moved
    consumer = qk.Consumer("memory://q", lease=_LEASE, _opener=opener)
    assert _received(consumer, clock).attempt == 1
    _closed(consumer, clock)


# Lanes


def test_an_app_works_lanes_as_one_queue(clock: VirtualClock, work: Work, dead: Any) -> None:
    app = qk.App("memory://", clock=clock, lanes="high,normal,low")
    done: list[str] = []

    @app.handler("jobs", concurrency=1, retry=qk.RetryPolicy(max_attempts=1))
    def handle(name: str) -> None:
        done.append(name)
        if name == "bad":
            raise ValueError(name)

    for name, priority in (("low", 0), ("normal", 5), ("bad", 5), ("high", 9)):
        handle.send(name, priority=priority)
    running = work(app)
    running.let(lambda: len(done) == 4)
    running.stop()
    assert done == ["high", "normal", "bad", "low"]
    assert [each.reason for each in dead("jobs-normal")] == ["attempts used up: 1 of 1"]
    with qk.DeadLetters("memory://jobs?lanes=high,normal,low", clock=clock) as letters:
        assert len(letters.redrive().moved) == 1
    with pytest.raises(qk.UnsupportedError, match="ordering key"):
        handle.send("x", ordering_key="k")
    app.close()
