# SPDX-License-Identifier: Apache-2.0
"""Messages that wait elsewhere: what they carry there, what arrives, and requests that are made at their time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit._engine import metadata as meta
from queuekit._engine.detour import DetouringGuard, QueueDetour, arrived
from queuekit._engine.guard import Guard
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    Accepted,
    Backend,
    Capabilities,
    ErrorClass,
    ErrorCode,
    HttpAuth,
    HttpPublishable,
    HttpRequest,
    HttpSchedulable,
    IncomingMessage,
    NotAttempted,
    OutgoingMessage,
    QueueURL,
    Rejected,
    ScheduledRequest,
    SendOutcome,
    Unknown,
)
from queuekit.testing import VirtualClock
from queuekit.testing.faults import FaultyOpener, Script, raise_before, unavailable

_HOUR_S = 3600.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


class Recorder:
    """Stands where a guard does, and keeps what it is given."""

    queue = "memory://waiting"

    def __init__(self) -> None:
        self.calls: list[list[OutgoingMessage]] = []
        self.timeouts: list[float] = []

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        self.calls.append(list(batch))
        self.timeouts.append(timeout_s)
        return [Accepted(each.message_id) for each in batch]


def _detour(clock: VirtualClock, recorder: Any, **can: Any) -> QueueDetour:
    backend = FaultyOpener(Opener(clock), **can).open(QueueURL.parse("memory://waiting"))
    return QueueDetour(recorder, backend, lambda: backend.capabilities, clock, target="memory://jobs")


def _message(number: int = 0, **parts: Any) -> OutgoingMessage:
    return OutgoingMessage(f"m{number}", b"x", {"a": "b"}, {meta.V: "1"}, _HOUR_S)._replace(**parts)


def test_key_dedup_id_and_priority_wait_in_metadata(clock: VirtualClock) -> None:
    recorder = Recorder()
    message = _message(ordering_key="ada", dedup_id="one", priority=7)
    assert _detour(clock, recorder).send([message], timeout_s=5.0) == [Accepted("m0")]
    (waiting,) = recorder.calls[0]
    assert (waiting.message_id, waiting.body, waiting.attributes, waiting.delay_s) == (
        "m0",
        b"x",
        {"a": "b"},
        _HOUR_S,
    )
    assert (waiting.ordering_key, waiting.dedup_id, waiting.priority) == (None, None, 0)
    assert waiting.metadata == {
        "v": "1",
        "via-to": "memory://jobs",
        "via-key": "ada",
        "via-dedup": "one",
        "via-priority": "7",
    }


def test_what_waits_longer_than_that_queue_keeps_goes_in_hops_there(clock: VirtualClock) -> None:
    recorder = Recorder()
    _detour(clock, recorder, max_delay_s=900.0).send([_message()], timeout_s=5.0)
    (waiting,) = recorder.calls[0]
    assert waiting.delay_s == 900.0
    assert waiting.metadata[meta.HOP_LEFT] == "2700.000"


def test_calls_are_within_the_limits_of_that_queue_and_share_the_time(clock: VirtualClock) -> None:
    recorder = Recorder()
    batch = [_message(number) for number in range(5)]
    outcomes = _detour(clock, recorder, max_send_batch=2).send(batch, timeout_s=6.0)
    assert [each.message_id for each in outcomes] == ["m0", "m1", "m2", "m3", "m4"]
    assert [len(call) for call in recorder.calls] == [2, 2, 1]
    assert recorder.timeouts == [2.0, 2.0, 2.0]


def test_a_guard_parts_a_batch_by_delay_and_answers_by_position(clock: VirtualClock) -> None:
    recorder, script = Recorder(), Script()
    backend = FaultyOpener(Opener(clock), script).open(QueueURL.parse("memory://jobs"))
    guard = DetouringGuard(backend, "memory://jobs", _detour(clock, recorder), lambda: 10.0)
    delays = (0.0, _HOUR_S, 10.0, 11.0)
    outcomes = guard.send([_message(n, delay_s=each) for n, each in enumerate(delays)], timeout_s=8.0)
    assert [each.message_id for each in outcomes] == ["m0", "m1", "m2", "m3"]
    assert [each.message_id for each in script.calls("send")[0].batch] == ["m0", "m2"]
    assert [each.message_id for each in recorder.calls[0]] == ["m1", "m3"]
    assert recorder.timeouts == [4.0]


@pytest.mark.parametrize(("sent", "kind"), [("no", NotAttempted), ("maybe", Unknown)])
def test_where_that_queue_fails_the_outcome_says_so(clock: VirtualClock, sent: Any, kind: type[SendOutcome]) -> None:
    script = Script().on("send", raise_before(unavailable(sent=sent)))
    backend = FaultyOpener(Opener(clock), script).open(QueueURL.parse("memory://waiting"))
    via = Guard(backend, "memory://waiting")
    (outcome,) = _detour(clock, via).send([_message()], timeout_s=5.0)
    assert isinstance(outcome, NotAttempted | Unknown)
    assert isinstance(outcome, kind)
    assert "memory://waiting" in outcome.error.detail


def _incoming(**metadata: str) -> IncomingMessage:
    return IncomingMessage(1, "m", b"x", {"a": "b"}, {"v": "1", "base": "2"} | metadata, 3, 10.0, 1e9)


def test_what_arrives_is_what_was_sent_with_a_note_of_the_way() -> None:
    waited = _incoming(**{
        "via-to": "memory://jobs", "via-key": "ada", "via-dedup": "one", "via-priority": "7",
        "hop": "2", "hop-left": "0", "hop-wait": "1", "due": "2026-01-01T00:00:00Z", "via": "1",
    })  # fmt: skip
    message = arrived(waited)
    assert (message.message_id, message.body, message.attributes, message.delay_s) == ("m", b"x", {"a": "b"}, 0.0)
    assert (message.ordering_key, message.dedup_id, message.priority) == ("ada", "one", 7)
    assert message.metadata == {"v": "1", "base": "2", "via": "2", "first": meta.write_instant(10.0)}


def test_without_a_dedup_id_of_its_own_it_has_the_same_one_at_every_delivery() -> None:
    first, again = arrived(_incoming()), arrived(_incoming()._replace(attempt=4, handle=2))
    other = arrived(_incoming()._replace(enqueued_at=11.0))
    assert first.dedup_id == again.dedup_id != other.dedup_id


# Requests that are made at their time


class WebQueue:
    """A memory queue that can also be sent to by a request."""

    http_auth = HttpAuth("oauth", "https://auth.example/publish")

    def __init__(self, inner: Backend) -> None:
        self._inner: Any = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def as_http(self, message: OutgoingMessage) -> HttpRequest:
        assert message.delay_s == 0.0, "it is over when the request is made"
        data = {"id": message.message_id, "body": message.body.decode(), "metadata": dict(message.metadata)}
        return HttpRequest(
            "https://queue.example/jobs", json.dumps(data).encode(), {"Content-Type": "application/json"}
        )

    def answer(self, request: HttpRequest) -> int:
        """What the service does with such a request."""
        data = json.loads(request.body)
        message = OutgoingMessage(data["id"], data["body"].encode(), {}, data["metadata"])
        return 200 if isinstance(self._inner.send([message], timeout_s=5.0)[0], Accepted) else 503


class Scheduler:
    """A service that makes requests at their time, and again until they are answered with 2xx."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.open: list[tuple[float, HttpRequest, HttpAuth]] = []
        self.failing: ErrorClass | None = None
        self.account = True
        self.timeouts: list[float] = []
        self.capabilities = Capabilities(
            queues="declared",
            durability="replicated",
            max_message_bytes=1000,
            max_send_batch=2,
            max_delay_s=30 * 86_400.0,
            receives=False,
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def size(self, message: OutgoingMessage) -> int:
        return len(message.body)

    def probe(self) -> Capabilities:
        return self.capabilities

    def classify(self, error: BaseException) -> ErrorClass:
        return ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, sent="maybe", detail=str(error))

    def refusal_of(self, auth: HttpAuth) -> str:
        return "" if self.account or auth.kind == "none" else "has no account"

    def size_http(self, request: HttpRequest, auth: HttpAuth) -> int:
        return len(request.url) + len(request.body) + len(auth.scope) + 50

    def schedule_http(self, batch: Sequence[ScheduledRequest], *, timeout_s: float) -> Sequence[SendOutcome]:
        assert len(batch) <= self.capabilities.max_send_batch
        self.timeouts.append(timeout_s)
        if self.failing is not None:
            return [Rejected(self.failing, each.message_id) for each in batch]
        self.open += [(each.due, each.request, each.auth) for each in batch]
        return [Accepted(each.message_id, f"tasks/{each.message_id}") for each in batch]

    def make_requests(self, queue: WebQueue) -> None:
        """Make those that are due."""
        now = self._clock.time()
        due = [each for each in self.open if each[0] <= now]
        self.open = [each for each in self.open if each[0] > now]
        self.open += [each for each in due if queue.answer(each[1]) != 200]

    def close(self) -> None:
        """There is nothing to close."""


class WebOpener(Opener):
    """Opens queues of memory without delays, and in the place of one of them a scheduler."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.scheduler = Scheduler(clock)

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Any:
        if url.hosts[0].name == "scheduler":
            return self.scheduler  # all of a backend that is asked of it
        inner = FaultyOpener(Opener(self.clock), max_delay_s=0.0, max_retry_delay_s=0.0).open(url, keywords)
        if url.hosts[0].name == "plain":
            return inner
        return WebQueue(inner)


class Choosy:
    """A queue that knows what it will never take."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def refusal(self, message: OutgoingMessage) -> ErrorClass | None:
        assert message.delay_s == 0.0, "its time has come when it is sent there"
        return (
            ErrorClass(ErrorCode.INVALID_MESSAGE, sent="no", detail="never goog")
            if "goog" in message.attributes
            else None
        )


class ChoosyOpener(Opener):
    """Opens queues of memory, of which one keeps no delays and is choosy."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.script = Script()

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        limits = {"max_delay_s": 0.0} if url.hosts[0].name == "jobs" else {}
        inner = FaultyOpener(Opener(self.clock), self.script, **limits).open(url, keywords)
        return Choosy(inner) if limits else inner  # type: ignore[return-value]  # all of a backend


def test_the_two_abilities_are_told_apart(clock: VirtualClock) -> None:
    opener = WebOpener(clock)
    queue = opener.open(QueueURL.parse("memory://jobs"))
    assert isinstance(queue, HttpPublishable)
    assert not isinstance(queue, HttpSchedulable)
    assert isinstance(opener.scheduler, HttpSchedulable)
    assert not isinstance(opener.scheduler, HttpPublishable)


def test_a_delayed_message_is_a_request_that_sends_it_at_its_time(clock: VirtualClock) -> None:
    opener = WebOpener(clock)
    queue: Any = opener.open(QueueURL.parse("memory://jobs"))
    with qk.Producer("memory://jobs", delay_via="memory://scheduler", _opener=opener) as jobs:
        can = jobs.check().capabilities
        assert (can.long_delay, can.longest_delay_s) == ("bridged", 30 * 86_400.0)
        accepted = jobs.send(b"x", delay=timedelta(hours=1), message_id="one")
        with pytest.raises(qk.UnsupportedError, match="delay"):
            jobs.send(b"x", delay=timedelta(days=31))
        with pytest.raises(qk.MessageTooLargeError):
            jobs.send(bytes(2000), delay=timedelta(hours=1))
    assert (accepted.message_id, accepted.provider_id) == ("one", "tasks/one")
    ((due, _request, auth),) = opener.scheduler.open
    assert (due, auth) == (clock.time() + _HOUR_S, HttpAuth("oauth", "https://auth.example/publish"))
    clock.advance(_HOUR_S - 1)
    opener.scheduler.make_requests(queue)
    assert queue.receive(max_messages=1, wait_s=0.0, lease_s=10.0) == []
    clock.advance(1.0)
    opener.scheduler.make_requests(queue)
    ((got,),) = [queue.receive(max_messages=1, wait_s=0.0, lease_s=10.0)]
    assert (got.message_id, got.body, opener.scheduler.open) == ("one", b"x", [])


def test_many_requests_go_in_calls_that_are_within_the_limit_and_share_the_time(clock: VirtualClock) -> None:
    opener = WebOpener(clock)
    with qk.Producer("memory://jobs", delay_via="memory://scheduler", _opener=opener) as jobs:
        batch = [qk.Message(b"x", delay=timedelta(hours=1), message_id=f"m{number}") for number in range(5)]
        outcomes = jobs.send_many(batch).outcomes
    assert list(outcomes) == [Accepted(f"m{number}", f"tasks/m{number}") for number in range(5)]
    assert opener.scheduler.timeouts == [10.0] * 3


def test_a_request_makes_no_hops_so_that_its_longest_wait_is_the_services_own(clock: VirtualClock) -> None:
    # A queue whose consumers are queuekit's keeps longer delays by hops, and a request knows nothing of those.
    opener = WebOpener(clock)
    hopping = replace(opener.scheduler.capabilities, receives=True)
    assert hopping.longest_delay_s > hopping.max_delay_s
    opener.scheduler.capabilities = hopping
    with qk.Producer("memory://jobs", delay_via="memory://scheduler", _opener=opener) as jobs:
        assert jobs.check().capabilities.longest_delay_s == 30 * 86_400.0
        with pytest.raises(qk.UnsupportedError, match="delay"):
            jobs.send(b"x", delay=timedelta(days=31))


def test_what_its_queue_will_never_take_is_refused_before_it_waits(clock: VirtualClock) -> None:
    opener = ChoosyOpener(clock)
    script = opener.script
    with qk.Producer("memory://jobs", delay_via="memory://waiting", _opener=opener) as jobs:
        later = timedelta(hours=1)
        batch = [
            qk.Message(b"1"),
            qk.Message(b"2", delay=later, attributes={"goog": ""}),
            qk.Message(b"3", delay=later),
        ]
        report = jobs.send_many(batch)
        with pytest.raises(qk.InvalidMessageError, match="never goog"):
            jobs.send(b"4", delay=later, attributes={"goog": ""})
    assert [type(each) for each in report.outcomes] == [Accepted, Rejected, Accepted]
    assert sorted(each.body for call in script.calls("send") for each in call.batch) == [b"1", b"3"]


def test_a_scheduler_that_cannot_make_the_token_is_refused_when_opening(clock: VirtualClock) -> None:
    opener = WebOpener(clock)
    opener.scheduler.account = False
    with pytest.raises(qk.UnsupportedError, match="memory://scheduler, which has no account"):
        qk.Producer("memory://jobs", delay_via="memory://scheduler", _opener=opener)


def test_what_the_scheduler_refuses_is_told(clock: VirtualClock) -> None:
    opener = WebOpener(clock)
    opener.scheduler.failing = ErrorClass(ErrorCode.REFUSED, sent="no", detail="no such account")
    with qk.Producer("memory://jobs", delay_via="memory://scheduler", _opener=opener) as jobs:
        report = jobs.send_many([b"1", qk.Message(b"2", delay=timedelta(hours=1))])
    accepted, rejected = report.outcomes
    assert isinstance(accepted, Accepted)
    assert isinstance(rejected, Rejected)
    assert "memory://scheduler: no such account" in rejected.error.detail


def test_a_queue_that_takes_no_requests_cannot_be_scheduled_for(clock: VirtualClock) -> None:
    with pytest.raises(qk.UnsupportedError, match="makes HTTP requests"):
        qk.Producer("memory://plain", delay_via="memory://scheduler", _opener=WebOpener(clock))


def test_only_what_waits_elsewhere_is_held_against_the_limit_there(clock: VirtualClock) -> None:
    backend = FaultyOpener(Opener(clock)).open(QueueURL.parse("memory://jobs"))
    detour = _detour(clock, Recorder(), max_message_bytes=100)
    guard = DetouringGuard(backend, "memory://jobs", detour, lambda: 10.0)
    assert guard.excess(_message(body=bytes(500), delay_s=10.0)) is None
    assert guard.fits(_message(body=bytes(500), delay_s=10.0))
    excess = guard.excess(_message(body=bytes(500), delay_s=11.0))
    assert excess is not None
    assert excess[0] > excess[1] == 100


@pytest.mark.parametrize(("told", "priority"), [("9", 9), ("10", 9), ("99999999999", 0), ("-1", 0), ("high", 0)])
def test_a_priority_that_nobody_has_is_brought_into_bounds(told: str, priority: int) -> None:
    assert arrived(_incoming(**{"via-to": "memory://jobs", "via-priority": told})).priority == priority
