# SPDX-License-Identifier: Apache-2.0
"""Endpoints with one flaw each: the case that is named must fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuekit._portable.callers import Admission
from queuekit._portable.rulings import Rulings

from .pubsub_servers import PubSubHarness, served
from .test_suite_catches_broken_backends import _run

Flaw = Callable[[Any], Any]


class DoorHarness(PubSubHarness):
    """Pub/Sub, pushed to an endpoint that is broken."""


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with served(DoorHarness):
        yield


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[DoorHarness]:
    made = DoorHarness(tmp_path)
    yield made
    made.cleanup()


def expect_caught(harness: DoorHarness, case: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        _run(case, harness)


def answering(change: Callable[[int], int]) -> Flaw:
    def around(application: Any) -> Any:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            async def answer(event: Any) -> None:
                await send(event | {"status": change(event["status"])} if "status" in event else event)

            await application(scope, receive, answer)

        return broken

    return around


def test_one_that_takes_everything_for_done_is_caught(harness: DoorHarness) -> None:
    harness.flaw = answering(lambda status: 204)
    expect_caught(harness, "PSH-03")


def test_one_that_takes_nothing_for_done_is_caught(harness: DoorHarness) -> None:
    harness.flaw = answering(lambda status: 500 if status == 204 else status)
    expect_caught(harness, "PSH-01")


def test_one_that_refuses_what_is_no_message_is_caught(harness: DoorHarness) -> None:
    def around(application: Any) -> Any:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            async def read() -> Any:
                event = await receive()
                # What is no JSON never reaches it, as behind a framework that parses bodies itself.
                return {"type": "http.disconnect"} if event.get("body", b"{}")[:1] not in b"{" else event

            async def answer(event: Any) -> None:
                await send(event)

            await application(scope, read, answer)

        return broken

    harness.flaw = around
    expect_caught(harness, "PSH-08")


class Everybody:
    """Lets everybody in."""

    def judge(self, caller: Any) -> Admission:
        return Admission(200)

    def learn(self) -> None:
        """Nothing."""


def test_one_that_lets_everybody_in_is_caught(harness: DoorHarness) -> None:
    harness.auth = Everybody()
    expect_caught(harness, "PSH-07")


def test_dead_letters_that_are_not_confirmed_are_caught(
    harness: DoorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queuekit._portable.carrying.is_confirmed", lambda outcome: True)
    expect_caught(harness, "PSH-03")


def test_retries_that_do_not_wait_are_caught(harness: DoorHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Rulings.rule
    monkeypatch.setattr(Rulings, "rule", lambda self, *of, **held: honest(self, *of, **held)._replace(hold_s=0.0))
    expect_caught(harness, "PSH-02")


def test_attempts_that_are_not_counted_are_caught(harness: DoorHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit._engine.bridging.copy_of", _without_count)
    expect_caught(harness, "PSH-06")


def _without_count(message: Any, why: str, *, base: int) -> Any:
    from queuekit._engine.copies import copy_of

    return copy_of(message, why, base=0)
