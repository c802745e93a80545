# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""MET: what is counted, measured, passed on and logged, and what is never shown."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from tenacity import wait_none

from queuekit._engine.tally import _SEND_NAMES, RECEIVED, SENT
from queuekit._portable.context import Current, current
from queuekit._portable.delivery import Delivery
from queuekit._portable.middleware import Middleware
from queuekit._portable.retry import Retry, RetryPolicy
from queuekit._values.errors import LeaseLostError
from queuekit._values.message import Message
from queuekit._values.outcome import SendOutcome
from queuekit.backend import Accepted, NotAttempted, QueueURL, Rejected, Unknown
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.logged import logged, of_action
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.working import Work
from queuekit.testing.faults import (
    Answers,
    Call,
    FaultyOpener,
    Proceed,
    fail_entries,
    raise_before,
    refused,
    unavailable,
)

_HOUR = timedelta(hours=1)
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_span: ContextVar[str | None] = ContextVar("queuekit_contract_span", default=None)


class Metrics(Group):
    """Whoever looks from outside sees what happened: all of it, once, and no secret."""

    def test_MET_01_counters_balance(self, harness: Harness, face: Face) -> None:
        """What was sent is the sum of its outcomes, and what was received of what became of it, at any moment."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, max_send_batch=10)
        producer = face.producer(queue, opener=opener)
        outcomes: tuple[SendOutcome, ...] = (
            Rejected(refused()),
            Unknown(replace(unavailable(), retryable=False)),
            NotAttempted(refused()),
        )
        opener.script.on("send", fail_entries({0, 1, 2}, lambda each: outcomes[int(each.body)]))
        report = face.send_many(producer, [*(b"%d" % index for index in range(8)), "no bytes"])
        counts = _balanced(producer.counts(), SENT)
        names = Counter(_SEND_NAMES[type(each)] for each in report)
        assert {name: counts[name] for name in SENT if counts[name]} == {"sent": 9, **names}
        work = Work(face, queue, lambda _body: None, lease=_HOUR)
        work.await_begun(5)
        (mine,) = work.app.counts().values()
        _balanced(mine, RECEIVED)
        work.stop()
        (mine,) = work.app.counts().values()
        assert (_balanced(mine, RECEIVED)["received"], mine["settled"], mine["in_flight"]) == (5, 5, 0)

    @requires("lease")
    def test_MET_02_latency_and_age_present(self, harness: Harness, face: Face) -> None:
        """How long messages waited, and how long handlers took, is measured and sane."""
        queue, gate, pause_s = Queue(harness), threading.Event(), harness.min_delay_s
        queue.put(b"x")
        harness.pass_time(pause_s)
        work = Work(face, queue, lambda _body: None, gate=gate, lease=_HOUR)
        work.await_begun(1)
        harness.pass_time(2 * pause_s)
        gate.set()
        work.await_true(lambda: _handled(work) == 1, "the handler's time is measured")
        work.stop()
        (timings,) = work.app.timings().values()
        assert (timings["queue_age"].count, timings["handler_time"].count) == (int(harness.tells_age), 1)
        slack_s = 1.0 if harness.virtual else 10.0
        if harness.tells_age:
            assert -0.5 * harness.tolerance_s <= timings["queue_age"].longest.total_seconds() - pause_s <= slack_s
        assert 0 <= timings["handler_time"].longest.total_seconds() - 2 * pause_s <= slack_s

    @requires("lease")
    def test_MET_03_lease_lost_counted(self, harness: Harness, face: Face) -> None:
        """Each lease that is lost is counted once and logged once, whoever notices."""
        queue, lease_s = Queue(harness), harness.min_lease_s
        lease = timedelta(seconds=lease_s)
        for keep in (False, True):
            queue.put(b"x")
            # Not kept, the late settlement finds out; kept, the engine does when it may keep it no longer.
            consumer = face.consumer(queue, lease=lease, keep_leases=keep, max_lease=lease, prefetch=0)
            with logged() as records:
                delivery = face.next(consumer, within_s=0.0 if harness.virtual else 10.0)
                if keep:
                    harness.until(partial(_is_lost, delivery), within_s=4 * lease_s, what="it is lost", pause_s=0.01)
                harness.pass_time(lease_s + harness.tolerance_s)
                delivery.retry()
                with pytest.raises(LeaseLostError):
                    face.settled(delivery)
                assert _balanced(consumer.counts(), RECEIVED)["lost"] == consumer.counts()["lease.lost"] == 1
                face.close(consumer)
            assert [each.__dict__["count"] for each in of_action(records, "lease.lost")] == [1]
            queue.ack(*queue.take())

    def test_MET_04_trace_context_propagates(self, harness: Harness, face: Face) -> None:
        """What a middleware adds to a message reaches the middleware around its handler, beside ten of the user's."""
        queue, tracing = Queue(harness), Tracing()
        theirs = {f"name-{index}": f"value {index}" for index in range(10)}
        face.send(face.producer(queue, middleware=[tracing]), b"x", attributes=theirs)
        seen: list[Mapping[str, str]] = []
        work = Work(
            face,
            queue,
            lambda _body: seen.append(dict(current().attributes)),
            app={"middleware": [tracing]},
            lease=_HOUR,
        )
        work.await_true(lambda: len(tracing.ended) == 1, "the message is handled")
        assert tracing.begun == [(_TRACE, None)]
        assert seen == [theirs | {"traceparent": _TRACE}]

    @requires("attempts")
    def test_MET_05_redelivery_links_span(self, harness: Harness, face: Face) -> None:
        """A second attempt has the sender's trace again, and stands beside the first, not inside it."""
        queue, tracing = Queue(harness), Tracing()
        face.send(face.producer(queue, middleware=[tracing]), b"x")
        work = Work(
            face,
            queue,
            lambda _body: Retry(delay=timedelta(0)) if current().attempt == 1 else None,
            app={"middleware": [tracing]},
            lease=_HOUR,
        )
        work.await_true(lambda: len(tracing.ended) == 2, "the second attempt ends")
        assert tracing.begun == [(_TRACE, None)] * 2
        assert tracing.ended == [(1, "Retry"), (2, "")]

    def test_MET_06_metric_hook_errors_are_contained(self, harness: Harness, face: Face) -> None:
        """A hook that raises changes nothing for a delivery: it is counted and logged. One before a send forbids."""
        queue, hooks, told = Queue(harness), Raising(), list[str]()
        producer = face.producer(queue, middleware=[hooks])
        assert isinstance(face.send(producer, b"x"), Accepted)
        assert producer.counts()["middleware.failed"] == 1
        hooks.forbids = True
        with pytest.raises(_HookError):
            face.send(producer, b"forbidden")
        with pytest.raises(_HookError):
            face.send_many(producer, [b"forbidden"])

        def listen(event: Any) -> None:
            told.append(event.name)
            raise _HookError

        with logged() as records:
            work = Work(face, queue, lambda _body: None, listener=listen, lease=_HOUR)
            work.await_true(lambda: told == ["completed"], "the listener is told")
            work.stop()
        (counts,) = work.app.counts().values()
        assert (counts["settled"], counts["listener.failed"]) == (1, 1)
        assert len(of_action(records, "listener.failed")) == 1
        queue.expect_nothing("it was acked, and what was forbidden was not sent")

    def test_MET_07_no_body_in_logs(self, harness: Harness, face: Face) -> None:
        """No log line, at any level, holds a body, an attribute's value, a handle or a credential."""
        queue, opener, handles = Queue(harness), FaultyOpener(harness.opener), list[Any]()
        url = QueueURL.parse(harness.url(queue.name))

        def note(call: Call, proceed: Proceed) -> Answers:
            got = proceed(call.batch)
            handles.extend(each.handle for each in got)
            return got

        opener.script.always("receive", note).on("receive", raise_before(unavailable()))
        opener.script.on("settle", raise_before(unavailable()))
        opener.script.on("send", raise_before(unavailable()))
        with logged() as records:
            producer = face.producer(queue, opener=opener, payload=int | str)
            for body in (7, "body-canary", 8):
                face.send(producer, body, attributes={"name": "attribute-canary"})
            work = Work(
                face,
                queue,
                lambda number: 1 / (number - 7),
                opener=opener,
                payload=int,
                retry=RetryPolicy(max_attempts=2, wait=wait_none()),
                lease=_HOUR,
            )
            harness.until(lambda: len(work.begun) == 3, within_s=60.0, what="three attempts", pause_s=0.01)
            work.stop()
            face.close(producer)
        assert {"receive.failed", "delivery.retried", "worker.stopped"} <= {
            str(getattr(each, "action", "")) for each in records
        }
        secrets = ["body-canary", "attribute-canary", *url.secrets(), *(repr(each) for each in handles)]
        shown = "\n".join(_everything(each) for each in records)
        assert [secret for secret in secrets if len(secret) > 7 and secret in shown] == []

    def test_MET_08_close_emits_final(self, harness: Harness, face: Face) -> None:
        """The end of a worker, a consumer or a producer tells the totals; those of an empty run are zeros."""
        started, ended = ("push.started", "push.closed") if harness.pushed else ("worker.started", "worker.stopped")
        for bodies in ([], [b"1", b"2"]):
            queue, done = Queue(harness), list[bytes]()
            with logged() as records:
                producer, consumer = face.producer(queue), face.consumer(queue)
                assert face.send_many(producer, bodies).ok
                face.close(producer)
                face.close(consumer)
                work = Work(face, queue, done.append, lease=_HOUR)
                work.await_true(partial(of_action, records, started), "the worker has begun")
                work.await_true(partial(_as_many, done, bodies), "all are handled")
                work.stop()
            sent, received = dict.fromkeys(SENT, 0), dict.fromkeys(RECEIVED, 0)
            assert _totals(records, "consumer.closed", RECEIVED) == received
            sent.update(dict.fromkeys(("sent", "accepted"), len(bodies)))
            received.update(dict.fromkeys(("received", "settled"), len(bodies)))
            assert _totals(records, "producer.closed", SENT) == sent
            assert _totals(records, ended, RECEIVED) == received


class Tracing(Middleware):
    """Passes a trace on as OpenTelemetry's propagators do, and keeps what it saw.

    Attributes:
        begun: The sender's trace, and the span that was open already, of each handling.
        ended: The attempt, and the name of what was raised, of each handling.
    """

    def __init__(self) -> None:
        self.begun: list[tuple[str | None, str | None]] = []
        self.ended: list[tuple[int | None, str]] = []

    def before_send(self, message: Message[Any], *, queue: str) -> Message[Any]:  # noqa: ARG002 - a hook's signature
        return replace(message, attributes={**message.attributes, "traceparent": _TRACE})

    @contextmanager
    def handling(self, delivery: Current) -> Iterator[None]:
        self.begun.append((delivery.attributes.get("traceparent"), _span.get()))
        _span.set(f"{delivery.attempt}")
        raised = ""
        try:
            yield
        except BaseException as error:
            raised = type(error).__name__
            raise
        finally:
            self.ended.append((delivery.attempt, raised))


class _HookError(Exception):
    """What the hooks of a case raise."""


class Raising(Middleware):
    """Fails after each send, and before each where it forbids them."""

    forbids: bool = False

    def before_send(self, message: Message[Any], *, queue: str) -> Message[Any]:  # noqa: ARG002 - a hook's signature
        if self.forbids:
            raise _HookError
        return message

    def after_send(self, message: Message[Any], outcome: SendOutcome, *, queue: str) -> None:  # noqa: ARG002 - as above
        raise _HookError


def _balanced(counts: Mapping[str, int], names: Sequence[str]) -> Mapping[str, int]:
    whole, *parts = names
    assert counts[whole] == sum(counts[each] for each in parts), counts
    return counts


def _totals(records: list[logging.LogRecord], action: str, names: Sequence[str]) -> dict[str, int]:
    """These totals in the one record of an action."""
    (record,) = of_action(records, action)
    return {name: record.__dict__["totals"][name] for name in names}


def _handled(work: Work) -> int:
    (timings,) = work.app.timings().values()
    return timings["handler_time"].count


def _is_lost(delivery: Delivery[Any]) -> bool:
    return delivery.lease_lost


def _as_many(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others)


def _everything(record: logging.LogRecord) -> str:
    return f"{logging.Formatter().format(record)} {record.__dict__!r}"
