# SPDX-License-Identifier: Apache-2.0
"""Apps under test: what a rig redirects, how it works what is due, and which faults it makes."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import tenacity

import queuekit as qk
from queuekit.testing import Rig

RigOf = Callable[[qk.App], Rig]
MINUTE = timedelta(minutes=1)


def names(events: list[qk.Event]) -> list[str]:
    return [event.name for event in events]


@pytest.fixture
def app(tmp_path: Path) -> qk.App:
    return qk.App(f"sqlite:///{tmp_path}/must-not-exist/jobs.db")


def test_the_app_works_in_memory_and_afterwards_is_as_it_was(
    app: qk.App, queuekit_rig: RigOf, tmp_path: Path
) -> None:
    seen: list[str] = []
    before = (app._opener, app._clock, app._url)

    @app.handler("emails")
    def send_email(address: str) -> None:
        seen.append(address)

    with Rig(app) as rig:
        send_email.send_many(["ada", "joe"]).raise_for_failures()
        assert seen == []
        assert [each.body for each in rig.waiting("emails")] == [b"ada", b"joe"]
        assert names(rig.run()) == ["completed", "completed"]
        assert sorted(seen) == ["ada", "joe"]
        assert rig.waiting("emails") == []
    assert (app._opener, app._clock, app._url) == before
    assert not list(tmp_path.iterdir())
    with Rig(app) as again:
        assert again.run() == []
    with pytest.raises(qk.QueueKitError):
        send_email.send("the real file, in a folder that is not there")
    app.close()


@pytest.mark.parametrize("awaits", [False, True])
def test_retries_and_dead_letters_come_in_their_own_time(app: qk.App, queuekit_rig: RigOf, awaits: bool) -> None:
    def fail(number: int) -> None:
        raise ZeroDivisionError(number)

    async def afail(number: int) -> None:
        raise ZeroDivisionError(number)

    policy = qk.RetryPolicy(max_attempts=3, wait=tenacity.wait_fixed(50))
    handler = app.handler("numbers", retry=policy)(afail if awaits else fail)
    rig = queuekit_rig(app)
    handler.send(7)
    assert names(rig.run()) == ["retried"]
    assert names(rig.run(timedelta(seconds=40))) == []
    assert names(rig.run(timedelta(minutes=2))) == ["retried", "dead"]
    (letter,) = rig.dead_letters("numbers")
    assert letter.error == "ZeroDivisionError: 7"
    assert [event.attempt for event in rig.events] == [1, 2, 3]


def test_delays_and_expiries_follow_the_rigs_time(app: qk.App, queuekit_rig: RigOf) -> None:
    at: list[float] = []
    rig = queuekit_rig(app)

    @app.handler("reminders")
    def remind(what: str) -> None:
        at.append(rig.clock.time() - began)

    began = rig.clock.time()
    remind.send("now")
    remind.send("later", delay=timedelta(hours=2))
    remind.send("never", delay=timedelta(hours=3), expires_in=timedelta(hours=4))
    rig.run(timedelta(hours=2.5))
    assert at == pytest.approx([0, 7200], abs=1)
    rig.advance(timedelta(hours=2))
    assert names(rig.run()) == []
    assert len(at) == 2


def test_a_worker_that_dies_before_its_ack_does_the_work_twice(app: qk.App, queuekit_rig: RigOf) -> None:
    sold: list[str] = []

    @app.handler("sales")
    def sell(item: str) -> None:
        sold.append(item)

    rig = queuekit_rig(app)
    sell.send("tea")
    rig.crash_before_ack()
    assert sorted(names(rig.run())) == ["completed", "completed", "lease_lost"]
    assert sold == ["tea", "tea"]


def test_an_idempotent_handler_survives_the_same(app: qk.App, queuekit_rig: RigOf) -> None:
    sold: list[str] = []

    @app.handler("sales", idempotent="sqlite:///must-not-exist/done.db")
    def sell(item: str) -> None:
        sold.append(item)

    rig = queuekit_rig(app)
    sell.send("tea")
    rig.crash_before_ack()
    rig.run()
    sell.send("jam")
    rig.duplicate_delivery()
    sell.send("salt")
    rig.run()
    assert sold == ["tea", "jam", "salt"]


def test_a_duplicate_is_delivered_twice(app: qk.App, queuekit_rig: RigOf) -> None:
    seen: list[str] = []

    @app.handler("sales")
    def sell(item: str) -> None:
        seen.append(f"{item} {qk.current().message_id}")

    rig = queuekit_rig(app)
    rig.duplicate_delivery()
    sell.send("tea", message_id="m")
    rig.run()
    assert seen == ["tea m", "tea m"]


def test_a_lease_that_runs_out_while_the_handler_runs_is_seen_by_it(app: qk.App, queuekit_rig: RigOf) -> None:
    seen: list[bool] = []
    first = threading.Semaphore(1)

    @app.handler("reports")
    def report(what: str) -> None:
        if first.acquire(blocking=False):
            rig.expire_lease()
            lost = threading.Event()
            while not qk.current().lease_lost:
                lost.wait(0.001)
        seen.append(qk.current().lease_lost)

    rig = queuekit_rig(app)
    report.send("q3")
    events = rig.run()
    assert sorted(seen) == [False, True]
    assert sorted(names(events)) == ["completed", "lease_lost"]


def test_while_the_service_is_down_sends_fail_and_nothing_is_worked(app: qk.App, queuekit_rig: RigOf) -> None:
    seen: list[str] = []

    @app.handler("sales")
    def sell(item: str) -> None:
        seen.append(item)

    rig = queuekit_rig(app)
    sell.send("before")
    with rig.service_down():
        with pytest.raises(qk.UnavailableError, match="the rig's service is down"):
            sell.send("meanwhile")
        assert rig.run(MINUTE) == []
    assert seen == []
    rig.run()
    assert seen == ["before"]


def test_what_the_apps_own_backend_refuses_is_refused_here_too(queuekit_rig: RigOf, tmp_path: Path) -> None:
    app = qk.App(f"sqlite:///{tmp_path}/jobs.db")

    @app.handler("blobs")
    def keep(blob: bytes) -> None:
        raise AssertionError

    queuekit_rig(app)
    with pytest.raises(qk.MessageTooLargeError, match="takes 16777216"):
        keep.send(b"x" * (17 << 20))


def test_queues_of_one_name_at_two_places_are_two(queuekit_rig: RigOf) -> None:
    app = qk.App("memory://?space=a")
    seen: list[str] = []
    app.handler("q")(_appends(seen, "a"))
    other = app.handler("memory://q?space=b")(_appends(seen, "b"))
    rig = queuekit_rig(app)
    other.send("x")
    rig.run()
    assert seen == ["b x"]


def _appends(seen: list[str], place: str) -> Callable[[str], None]:
    def handle(text: str) -> None:
        seen.append(f"{place} {text}")

    return handle


def test_a_worker_that_cannot_start_says_why(queuekit_rig: RigOf) -> None:
    rig = queuekit_rig(qk.App("memory://"))
    with pytest.raises(qk.UsageError, match="this app has no handlers"):
        rig.run()
    with pytest.raises(qk.UsageError, match="no handler works the queue 'q'"):
        rig.waiting("q")


def test_listeners_and_middleware_of_the_app_are_at_work(queuekit_rig: RigOf) -> None:
    told: list[str] = []

    class Counting(qk.Middleware):
        def before_send(self, message: qk.Message[Any], *, queue: str) -> qk.Message[Any]:
            told.append("sending")
            return message

    app = qk.App("memory://", middleware=[Counting()])
    app.listen(lambda event: told.append(event.name))

    @app.handler("q")
    def handle(text: str) -> None:
        told.append(text)

    rig = queuekit_rig(app)
    handle.send("x")
    rig.run()
    assert told == ["sending", "x", "completed"]
