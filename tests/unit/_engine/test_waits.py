# SPDX-License-Identifier: Apache-2.0
import logging
import math
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.waits import FullJitter, planned_wait_s

ATTEMPTS = st.integers(1, 10**9)


def _planned(wait: Any, attempt: int = 1, error: BaseException | None = None) -> float:
    return planned_wait_s(wait, attempt, error or ValueError(), fallback=tenacity.wait_fixed(7))


@given(attempt=ATTEMPTS, seed=st.integers(), least=st.floats(0.01, 10), factor=st.floats(1, 1000))
def test_full_jitter_stays_inside_its_bounds(attempt: int, seed: int, least: float, factor: float) -> None:
    jitter = FullJitter(Random(seed), least_s=least, most_s=least * factor)
    assert least <= _planned(jitter, attempt) <= max(jitter.bound_s(attempt), least) <= least * factor + 1e-9


@given(attempt=ATTEMPTS)
def test_the_bound_never_falls(attempt: int) -> None:
    jitter = FullJitter(Random(0))
    assert jitter.bound_s(attempt) <= jitter.bound_s(attempt + 1) <= 600


def test_full_jitter_repeats_from_its_source() -> None:
    first, second = (FullJitter(Random(5)) for _ in range(2))
    assert [_planned(first, n) for n in range(1, 20)] == [_planned(second, n) for n in range(1, 20)]


@pytest.mark.parametrize(
    "wait",
    [
        lambda _: 1 / 0,
        lambda _: -1,
        lambda _: -0.001,
        lambda _: math.nan,
        lambda _: math.inf,
        lambda _: timedelta(seconds=-1),
        lambda _: "soon",
        lambda _: None,
    ],
)
def test_a_wait_that_makes_no_sense_is_replaced_and_told_once(
    wait: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "queuekit")
    assert _planned(wait) == 7
    assert [record.action for record in caplog.records] == ["retry.wait_failed"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("wait", [lambda _: 3, lambda _: 3.0, lambda _: timedelta(seconds=3), tenacity.wait_fixed(3)])
def test_every_form_of_a_length_is_taken(wait: Any) -> None:
    assert _planned(wait) == 3


def test_a_strategy_sees_the_attempt_and_the_exception() -> None:
    seen: list[Any] = []

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        seen.extend((state.attempt_number, state.outcome.exception(), state.outcome.failed))
        return 0

    error = KeyError("x")
    _planned(wait, 4, error)
    assert seen == [4, error, True]


@pytest.mark.parametrize(
    ("wait", "attempt", "expected"),
    [
        (tenacity.wait_exponential(multiplier=2, max=60), 3, 8),
        (tenacity.wait_incrementing(start=1, increment=5), 4, 16),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)), 2, 9),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), 1, 3),
        (lambda state: 5 if isinstance(state.outcome.exception(), ValueError) else 1, 1, 5),
        (tenacity.wait_none(), 1, 0),
    ],
)
def test_tenacitys_own_strategies_work(wait: Any, attempt: int, expected: float) -> None:
    assert _planned(wait, attempt) == expected
