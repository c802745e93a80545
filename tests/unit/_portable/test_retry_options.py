# SPDX-License-Identifier: Apache-2.0
"""A message's own retry options, and what becomes of a key whose message has used up its attempts."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, DeadMessage
from queuekit._engine import metadata as meta
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener

Left = Callable[[str], int]
Dead = Callable[[str], list[DeadMessage]]


def delays(app: App) -> list[qk.Event]:
    heard: list[qk.Event] = []
    app.listen(heard.append, "retried", "dead", "completed")
    return heard


def test_a_message_s_own_number_of_attempts_wins_over_the_policy(app: App, work: Any, dead: Dead) -> None:
    @app.handler("q", retry=qk.RetryPolicy(max_attempts=5, wait=lambda _state: 0))
    def handle(text: str) -> None:
        raise ValueError

    for attempts in (1, 3, None, 7):
        handle.send(str(attempts), max_attempts=attempts)
    worker = work()
    worker.let(lambda: len(dead("q")) == 4)
    worker.stop()
    assert {each.body: each.attempts for each in dead("q")} == {b"1": 1, b"3": 3, b"None": 5, b"7": 7}


def test_a_message_s_own_wait_wins_over_the_policy_and_a_demand_over_both(app: App, work: Any) -> None:
    heard = delays(app)

    @app.handler("q", retry=qk.RetryPolicy(wait=lambda _state: 100))
    def handle(text: str) -> qk.Retry | None:
        if qk.current().attempt == 1:
            return qk.Retry()
        return qk.Retry(delay=timedelta(seconds=2)) if qk.current().attempt == 2 else None

    handle.send("x", retry_delay=timedelta(seconds=1.5))
    worker = work()
    worker.let(lambda: len(heard) == 3)
    worker.stop()
    assert [each.delay_s for each in heard] == [1.5, 2.0, None]


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 1001},
        {"max_attempts": True},
        {"max_attempts": "3"},
        {"retry_delay": timedelta(seconds=-1)},
    ],
    ids=str,
)
def test_retry_options_out_of_range_are_refused(options: Any) -> None:
    with qk.Producer("memory://q") as producer, pytest.raises(qk.InvalidMessageError):
        producer.send(b"x", **options)


def test_a_wait_longer_than_the_queue_s_longest_is_refused(app: App) -> None:
    opener = FaultyOpener(app._opener, None, max_retry_delay_s=60.0)
    with (
        qk.Producer("memory://q", _opener=opener) as producer,
        pytest.raises(qk.UnsupportedError, match="retry_delay of 61 s"),
    ):
        producer.send(b"x", retry_delay=timedelta(seconds=61))


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-1", "1e9", "٣", "1" * 40])
def test_malformed_retry_options_count_as_absent(text: str) -> None:
    assert meta.read_overrides({meta.MAX_ATTEMPTS: text, meta.RETRY_DELAY: text}) is None


@pytest.mark.parametrize("value", [timedelta(0), timedelta(microseconds=1), timedelta(days=3, milliseconds=5)])
def test_a_wait_comes_back_as_it_was_written(value: timedelta) -> None:
    with qk.Producer("memory://q") as producer:
        composed = producer._composer.compose(qk.Message(b"x", retry_delay=value, max_attempts=9))
    assert meta.read_overrides(composed.metadata) == (9, value.total_seconds())


def test_a_held_key_waits_and_others_go_on(
    app: App, clock: VirtualClock, work: Any, dead: Dead, left: Left, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    mended: list[bool] = []

    @app.handler("q", on_dead="hold", retry=qk.RetryPolicy(max_attempts=2, wait=lambda _state: 5))
    def handle(text: str) -> None:
        seen.append(text)
        if text.startswith("bad") and not mended:
            raise ValueError

    handle.send("bad", ordering_key="a")
    handle.send("after bad", ordering_key="a")
    handle.send("b", ordering_key="b")
    handle.send("bad unkeyed")
    worker = work()
    worker.let(lambda: seen.count("bad") >= 5, step_s=1)
    assert "after bad" not in seen
    assert "b" in seen
    mended.append(True)
    worker.let(lambda: left("q") == 0, step_s=1)
    worker.stop()
    assert seen[-2:] == ["bad", "after bad"]
    assert [each.body for each in dead("q")] == [b"bad unkeyed"]
    assert any(getattr(each, "action", "") == "key.held" for each in caplog.records)


def test_a_held_key_waits_for_the_longest_wait_of_the_default_policy(app: App, work: Any) -> None:
    heard = delays(app)

    @app.handler("q", on_dead="hold", retry=qk.RetryPolicy(max_attempts=1))
    def handle(text: str) -> None:
        raise ValueError

    handle.send("x", ordering_key="a")
    worker = work()
    worker.let(lambda: bool(heard))
    worker.stop()
    assert [(each.name, each.delay_s) for each in heard] == [("retried", 600.0)]


@pytest.mark.parametrize("reason", ["said", "policy"])
def test_hold_is_for_used_up_attempts_alone(app: App, work: Any, dead: Dead, reason: str) -> None:
    @app.handler("q", on_dead="hold", retry=qk.RetryPolicy(dead_letter_on=KeyError))
    def handle(text: str) -> qk.DeadLetter:
        if reason == "policy":
            raise KeyError
        return qk.DeadLetter("so it is")

    handle.send("x", ordering_key="a")
    worker = work()
    worker.let(lambda: bool(dead("q")))
    worker.stop()


def test_hold_is_refused_where_nothing_orders(app: App) -> None:
    app._opener = FaultyOpener(app._opener, None, ordering="none")

    @app.handler("q", on_dead="hold")
    def handle(text: str) -> None:
        """Never runs."""

    with pytest.raises(qk.UnsupportedError, match="on_dead"):
        app.run(signals=False)


def test_an_unknown_fate_is_refused(app: App) -> None:
    with pytest.raises(qk.UsageError, match="on_dead"):
        app.handler("q", on_dead="drop")(lambda_named())  # type: ignore[arg-type]


def lambda_named() -> Callable[[str], None]:
    def handle(text: str) -> None:
        """Never runs."""

    return handle
