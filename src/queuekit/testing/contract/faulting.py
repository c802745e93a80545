# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""FLT: a service that fails, is slow, refuses or has no room. What can be healed is, and the rest is said."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import partial

import pytest

from queuekit._portable.consumer import Consumer
from queuekit._portable.worker import ExitCode
from queuekit._values.clock import Clock, Random
from queuekit._values.errors import AccessDeniedError, LeaseLostError, UnavailableError
from queuekit.backend import (
    Accepted,
    Duplicate,
    ErrorClass,
    ErrorCode,
    IncomingMessage,
    NotAttempted,
    QueueURL,
    Rejected,
    Settled,
    Unknown,
)
from queuekit.testing.clock import VirtualClock
from queuekit.testing.contract.faces import Face, extended
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.logged import logged
from queuekit.testing.contract.spi import CALL_S, Queue, message
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import (
    Answers,
    Call,
    FaultyOpener,
    Proceed,
    Step,
    Verb,
    access_denied,
    hold_before,
    raise_after,
    raise_before,
    throttled,
    unavailable,
)


class Faults(Group):
    """Whatever the service does, nothing that it accepted is lost, and nothing is claimed that is not known."""

    def test_FLT_01_connect_refused(self, harness: Harness, face: Face) -> None:
        """A service that cannot be reached is UnavailableError within the budget: retryable, and it names the queue
        and no secret."""
        opener, name = FaultyOpener(harness.opener), harness.unique_name()
        budget_s = 5.0 if harness.virtual else 1.0
        verbs: tuple[Verb, ...] = ("probe", "send", "receive")
        for verb in verbs:
            opener.script.always(verb, raise_before(unavailable(sent="no")))
        url = QueueURL.parse(harness.url(name))
        producer = face.producer(name, opener=opener, timeout=timedelta(seconds=budget_s))
        sending = face.send_soon(producer, b"x") if face.awaits else harness.start(lambda: producer.send(b"x"))
        ended = sending.done if isinstance(sending, Future) else lambda: sending.done
        harness.until(ended, within_s=4 * budget_s, what="the send gives up at the end of its budget", pause_s=0.01)
        with pytest.raises(UnavailableError) as refused:
            sending.result()
        report = face.check(producer)
        assert not report.ok
        assert isinstance(report.error, UnavailableError)
        for error in (refused.value, report.error, _outage(face, face.consumer(name, opener=opener))):
            assert error.retryable
            assert error.queue == str(url)
            assert str(url) in str(error)
            assert not [secret for secret in url.secrets() if secret in f"{error} {error!r}"]

    def test_FLT_04_response_lost_after_commit(self, harness: Harness, face: Face) -> None:
        """The service acted, and its answer was lost: a send may be doubled and is never lost, and a settlement
        whose truth cannot be known says so."""
        queue, opener, lease_s = Queue(harness), FaultyOpener(harness.opener), _long_lease_s(harness)
        opener.script.on("send", raise_after(unavailable()))
        outcome = face.send(face.producer(queue, opener=opener), b"sent")
        assert isinstance(outcome, Accepted | Duplicate)
        assert set(_acked(queue, queue.take_up_to(2))) == {b"sent"}
        queue.put(b"settled")
        consumer = face.consumer(queue, opener=opener, lease=timedelta(seconds=lease_s))
        delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
        opener.script.on("settle", raise_after(unavailable()))
        delivery.ack()
        try:
            face.settled(delivery)
        except UnavailableError:
            assert consumer.counts()["settle.unknown"] == 1
        face.close(consumer)
        harness.pass_time(lease_s + harness.tolerance_s)
        queue.expect_nothing("its ACK was carried out")

    def test_FLT_05_request_lost_before_commit(self, harness: Harness, face: Face) -> None:
        """The service never saw the request: another try does it once; without one, the outcome says what is
        known."""
        queue, opener, lease_s = Queue(harness), FaultyOpener(harness.opener), _long_lease_s(harness)
        opener.script.on("send", raise_before(unavailable()))
        producer = face.producer(queue, opener=opener, timeout=timedelta(seconds=5 if harness.virtual else 1))
        assert isinstance(face.send(producer, b"once"), Accepted)
        for what, expected in ((unavailable(sent="no"), NotAttempted), (unavailable(), Unknown)):
            opener.script.always("send", raise_before(what))
            report = face.send_many(producer, [b"1", b"2"])
            assert [type(each) for each in report] == [expected] * 2
        opener.script.always("send", None)
        verbs: tuple[Verb, ...] = ("receive", "settle")
        for verb in verbs:
            opener.script.on(verb, raise_before(unavailable()))
        consumer = face.consumer(queue, opener=opener, lease=timedelta(seconds=lease_s))
        delivery = face.next(consumer)
        assert delivery.body == b"once"
        delivery.ack()
        face.settled(delivery)
        face.close(consumer)
        harness.pass_time(lease_s + harness.tolerance_s)
        queue.expect_nothing("it was sent once and acked, and nothing else arrived")

    @requires("lease", "strict_fencing")
    def test_FLT_08_slow_ack(self, harness: Harness, face: Face) -> None:
        """A settlement that reaches the service after the lease went to another is LeaseLost and counted, not
        Settled."""
        queue, opener, lease_s = Queue(harness), FaultyOpener(harness.opener), harness.min_lease_s
        queue.put(b"x")
        consumer = face.consumer(
            queue, opener=opener, lease=timedelta(seconds=lease_s), keep_leases=False, prefetch=0
        )
        delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
        reached, released = threading.Event(), threading.Event()
        opener.script.on("settle", hold_before(released, reached))
        delivery.ack()
        waiting = face.settling(delivery)
        assert reached.wait(REAL_LIMIT_S)
        harness.pass_time(lease_s)
        (again,) = queue.take()
        assert again.message_id == delivery.message_id
        released.set()
        with pytest.raises(LeaseLostError):
            waiting.result("the settlement")
        assert consumer.counts()["lease.lost"] == 1
        assert isinstance(queue.ack(again)[0], Settled), "the late ACK took it from its new holder"

    def test_FLT_09_throttled(self, harness: Harness, face: Face) -> None:
        """Throttled, every kind of call comes back no sooner than the service asked for, and everything arrives."""
        queue, opener, asked_s = Queue(harness), FaultyOpener(harness.opener), 1.0 if harness.virtual else 0.3
        producer = face.producer(queue, opener=opener)
        waits = []
        for body in (b"1", b"2"):
            called_at = _throttle(opener, "send", harness.clock, asked_s, times=3)
            assert isinstance(face.send(producer, body), Accepted)
            waits += [later - before for before, later in itertools.pairwise(called_at)]
        assert len(waits) == 6
        assert min(waits) >= asked_s
        called_at = _throttle(opener, "receive", harness.clock, asked_s, times=2)
        consumer = face.consumer(queue, opener=opener)
        deliveries = [face.next(consumer) for _ in range(2)]
        assert {each.body for each in deliveries} == {b"1", b"2"}
        assert min(later - before for before, later in itertools.pairwise(called_at[:3])) >= asked_s
        assert (consumer.counts()["receive.failed"], consumer.counts()["receive.resumed"]) == (1, 1)
        called_at = _throttle(opener, "settle", harness.clock, asked_s, times=2)
        deliveries[0].ack()
        face.settled(deliveries[0])
        assert min(later - before for before, later in itertools.pairwise(called_at)) >= asked_s

    def test_FLT_10_credentials_expire_and_rotate(self, harness: Harness, face: Face) -> None:
        """Credentials that are renewed heal without a restart; a denial for good is AccessDeniedError, at once."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        expired = ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, sent="no", detail="the token has expired")
        verbs: tuple[Verb, ...] = ("send", "receive", "settle")
        for verb in verbs:
            opener.script.on(verb, raise_before(expired))
        producer, consumer = face.producer(queue, opener=opener), face.consumer(queue, opener=opener)
        assert isinstance(face.send(producer, b"renewed"), Accepted)
        delivery = face.next(consumer)
        delivery.ack()
        face.settled(delivery)
        opener.script.forget_calls()
        opener.script.on("send", raise_before(access_denied()))
        with pytest.raises(AccessDeniedError) as denied:
            face.send(producer, b"denied")
        assert (denied.value.retryable, len(opener.script.calls("send"))) == (False, 1)
        assert isinstance(face.send(producer, b"rotated"), Accepted), "the same producer goes on"
        opener.script.always("receive", raise_before(access_denied()))
        with logged() as records:
            work = Work(face, queue, lambda _body: None, opener=opener)
            work.await_true(work.ended, "a worker that is denied ends")
        assert work.stop() is ExitCode.FAILED
        assert any(queue.name in each.getMessage() for each in records if each.levelname == "ERROR")

    def test_FLT_14_retry_budget_bounded(self, harness: Harness, face: Face) -> None:
        """A dead service is not called without limit: each call ends by its deadline, and all together are paced."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener)
        budget_s = 10.0 if harness.virtual else 1.0
        opener.script.always("send", raise_before(unavailable(sent="no")))
        producer = face.producer(queue, opener=opener, timeout=timedelta(seconds=budget_s))
        sends = [face.send_soon(producer, b"%d" % index) for index in range(8)]
        calls = [harness.start(lambda: producer.send(b"x")) for _ in range(8)]
        harness.until(
            lambda: all(each.done() for each in sends) and all(each.done for each in calls),
            within_s=6 * budget_s,
            what="every send ends by its deadline",
            pause_s=0.01,
        )
        for each in calls:
            with pytest.raises(UnavailableError):
                each.result("a send")
        assert 2 <= len(opener.script.calls("send")) <= 9 * 20
        opener.script.forget_calls()
        opener.script.always("receive", raise_before(unavailable(sent="no")))
        consumer = face.consumer(queue, opener=opener)
        _outage(face, consumer)
        harness.pass_time(budget_s)
        assert len(opener.script.calls("receive")) <= 20
        assert consumer.counts()["receive.failed"] == 1, "one line for one outage"

    @requires("extend", "lease")
    def test_FLT_16_clock_jump(self, harness: Harness, face: Face) -> None:
        """The wall clock of this host may jump by an hour: leases are kept, and settlements count, all the same."""
        queue, lease_s = Queue(harness), harness.min_lease_s
        opener, clock = FaultyOpener(harness.opener), _Jumping(harness.clock)
        opener.clock = clock
        queue.put(b"x")
        consumer = face.consumer(queue, opener=opener, lease=timedelta(seconds=lease_s))
        delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
        other = queue.again()
        for kept, jump_s in ((1, 3600.0), (2, -7200.0), (3, 3600.0)):
            clock.jump(jump_s)
            harness.pass_time(0.6 * lease_s)
            harness.until_kept(partial(extended, opener, kept))
            other.expect_nothing("the lease is kept")
        assert not delivery.lease_lost
        delivery.ack()
        face.settled(delivery)

    @requires("disk")
    def test_FLT_17_disk_full_or_locked(self, harness: Harness) -> None:
        """A store that is locked is Unavailable, one without room is QueueFull, and nothing is half written."""
        queue = Queue(harness)
        batch = queue.keyed(*(message(b"%d" % index) for index in range(5)))
        with harness.hook("locked")(queue.name):
            with pytest.raises(Exception) as locked:  # noqa: PT011 - the SDK's own; what it means is asked next
                queue.backend.send(batch, timeout_s=0.1)
            what = queue.backend.classify(locked.value)
            assert (what.code, what.retryable, what.sent) == (ErrorCode.UNAVAILABLE, True, "no")
        queue.expect_nothing("a send that failed stored nothing")
        url = QueueURL.parse(harness.hook("full")(harness.unique_name()))
        full = Queue(harness, backend=harness.opener.open(url))
        large = queue.keyed(*batch, message(b"x" * (4 << 20)))
        try:
            outcomes = list(full.backend.send(large, timeout_s=CALL_S))
            assert {type(each) for each in outcomes} == {Rejected}
            errors = [each.error for each in outcomes if isinstance(each, Rejected)]
        except Exception as error:  # noqa: BLE001 - as above
            errors = [full.backend.classify(error)]
        assert {(each.code, each.retryable) for each in errors} == {(ErrorCode.QUEUE_FULL, True)}
        full.expect_nothing("the batch that did not fit left nothing behind")
        full.put(b"small")
        assert _acked(full, full.take()) == [b"small"]
        full.backend.close()


class _Jumping:
    """A clock whose wall time can be set, as an administrator does; all else is the harness's own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = 0.0

    def jump(self, seconds: float) -> None:
        self._offset += seconds
        if isinstance(self._clock, VirtualClock):
            self._clock.jump_wall(seconds)

    def time(self) -> float:
        offset = 0.0 if isinstance(self._clock, VirtualClock) else self._offset
        return self._clock.time() + offset

    @property
    def random(self) -> Random:
        return self._clock.random

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def token_bytes(self, count: int) -> bytes:
        return self._clock.token_bytes(count)

    def boot_id(self) -> str:
        return self._clock.boot_id()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        return self._clock.wait(condition, timeout_s)


def _long_lease_s(harness: Harness) -> float:
    """A lease that does not end while a call is waited for; long only where its end need not be waited for."""
    return min(3600.0, harness.capabilities.max_lease_s) if harness.virtual else harness.min_lease_s


def _outage(face: Face, consumer: Consumer[bytes]) -> UnavailableError:
    """What a consumer raises while the service cannot be reached."""
    for _ in range(1000):
        try:
            face.receive_now(consumer)
        except UnavailableError as error:
            return error
    pytest.fail("the consumer does not say that the service cannot be reached")


def _throttle(opener: FaultyOpener, verb: Verb, clock: Clock, asked_s: float, *, times: int) -> list[float]:
    """Throttle the next calls of a verb; the list fills with the times of these calls and of the one after."""
    called_at: list[float] = []

    def note(step: Step | None) -> Step:
        def noted(call: Call, proceed: Proceed) -> Answers:
            called_at.append(clock.monotonic())
            return proceed(call.batch) if step is None else step(call, proceed)

        return noted

    throttling = raise_before(throttled(asked_s))
    opener.script.on(verb, *[note(throttling)] * times, note(None))
    return called_at


def _acked(queue: Queue, got: Sequence[IncomingMessage]) -> list[bytes]:
    queue.ack(*got)
    return [each.body for each in got]
