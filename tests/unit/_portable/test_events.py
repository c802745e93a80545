# SPDX-License-Identifier: Apache-2.0
"""What listeners are told of messages, and that they can do no harm."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit import App
from queuekit.testing.clock import VirtualClock

LIMIT_S = 20.0
Left = Callable[[str], int]


@pytest.fixture
def heard() -> list[qk.Event]:
    return []


def test_each_end_of_an_attempt_is_told_once(
    app: App, clock: VirtualClock, work: Any, heard: list[qk.Event], left: Left
) -> None:
    app.listen(heard.append)

    @app.handler("q", retry=qk.RetryPolicy(max_attempts=2, wait=lambda _state: 3), concurrency=1)
    def handle(text: str) -> None:
        if text == "bad":
            raise ValueError("a secret of the payload")

    handle.send("good", message_id="g")
    handle.send("bad", message_id="b")
    worker = work()
    worker.let(lambda: len(heard) == 3)
    worker.stop()
    known = {"queue": "memory://q", "message_type": "handle"}
    assert [(each.name, each.message_id, each.attempt) for each in heard] == [
        ("completed", "g", 1),
        ("retried", "b", 1),
        ("dead", "b", 2),
    ]
    assert all({"queue": each.queue, "message_type": each.message_type} == known for each in heard)
    assert [(each.reason, each.delay_s) for each in heard] == [
        (None, None),
        ("ValueError", 3.0),
        ("attempts used up: 2 of 2", None),
    ]
    assert all(each.at.timestamp() <= clock.time() and each.at.utcoffset() == timedelta(0) for each in heard)


def test_a_listener_hears_only_what_it_listens_to(app: App, work: Any, heard: list[qk.Event]) -> None:
    completed: list[qk.Event] = []
    app.listen(completed.append, "completed")
    app.listen(heard.append, "dead", "retried")

    @app.handler("q", concurrency=1)
    def handle(text: str) -> qk.DeadLetter | None:
        return qk.DeadLetter("so it is") if text == "dead" else None

    handle.send("dead")
    handle.send("fine")
    worker = work()
    worker.let(lambda: bool(completed))
    worker.stop()
    assert [(each.name, each.reason) for each in heard] == [("dead", "so it is")]
    assert [each.name for each in completed] == ["completed"]


def test_a_listener_that_raises_changes_nothing(
    app: App, work: Any, heard: list[qk.Event], left: Left, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: qk.Event) -> None:
        raise SystemExit

    app.listen(broken)
    app.listen(heard.append)

    @app.handler("q")
    def handle(text: str) -> None:
        """Does nothing."""

    handle.send_many(["a", "b"])
    worker = work()
    worker.let(lambda: len(heard) == 2)
    worker.stop()
    assert left("q") == 0
    failed = [each for each in caplog.records if getattr(each, "action", "") == "listener.failed"]
    assert [each.getMessage() for each in failed] == ["listener.failed on memory://q: at completed"] * 2


def test_a_lost_lease_is_told(app: App, clock: VirtualClock, work: Any, heard: list[qk.Event]) -> None:
    app.listen(heard.append, "lease_lost")
    began, done = threading.Event(), threading.Event()

    @app.handler("q", timeout=timedelta(seconds=1), lease=timedelta(seconds=10), concurrency=3)
    def handle(text: str) -> None:
        began.set()
        done.wait(LIMIT_S)

    handle.send("x", message_id="x")
    worker = work()
    assert began.wait(LIMIT_S)
    worker.let(lambda: bool(heard), step_s=0.5)
    done.set()
    worker.stop()
    assert (heard[0].name, heard[0].message_id) == ("lease_lost", "x")


def test_a_message_without_a_place_to_be_dead_is_told_as_retried(
    app: App, work: Any, heard: list[qk.Event], clock: VirtualClock
) -> None:
    app.listen(heard.append)

    @app.handler("q", dead_letter="discard")
    def handle(text: str) -> qk.DeadLetter:
        return qk.DeadLetter("no")

    handle.send("x")
    worker = work()
    worker.let(lambda: bool(heard))
    worker.stop()
    assert [each.name for each in heard] == ["dead"]


@pytest.mark.parametrize(("listener", "names"), [(5, ()), (print, ("complete",))], ids=["listener", "name"])
def test_what_cannot_be_listened_to_is_refused(app: App, listener: Any, names: Any) -> None:
    with pytest.raises(qk.UsageError):
        app.listen(listener, *names)
