# SPDX-License-Identifier: Apache-2.0
"""The virtual clock: exact, repeatable, and able to say who waits."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit.testing import VirtualClock


@given(st.lists(st.floats(0, 1e6), max_size=5), st.floats(0, 1e7))
def test_what_is_due_after_a_length_is_due_after_advancing_by_it(before: list[float], length: float) -> None:
    clock = VirtualClock()
    for each in before:
        clock.advance(each)
    due_wall, due_monotonic = clock.time() + length, clock.monotonic() + length
    clock.advance(length)
    assert clock.time() >= due_wall
    assert clock.monotonic() >= due_monotonic


def test_advance_is_never_more_than_a_step_too_far() -> None:
    clock = VirtualClock()
    clock.advance(0.1)
    assert 1000.1 <= clock.monotonic() < 1000.1 + 2**-20


def test_a_jump_moves_the_wall_clock_alone() -> None:
    clock = VirtualClock(start=1_000_000)
    clock.jump_wall(-3600)
    assert (clock.time(), clock.monotonic()) == (996_400, 1000)


@pytest.mark.parametrize("seconds", [-0.001, float("inf"), float("nan")])
def test_time_does_not_go_back(seconds: float) -> None:
    with pytest.raises(ValueError, match="time passes by"):
        VirtualClock().advance(seconds)


def test_chance_repeats_from_the_seed_and_differs_within_it() -> None:
    one, two, other = VirtualClock(1), VirtualClock(1), VirtualClock(2)
    assert one.random.random() == two.random.random() != other.random.random()
    tokens = [one.token_bytes(8), one.token_bytes(8)]
    assert tokens == [two.token_bytes(8), two.token_bytes(8)]
    assert tokens[0] != tokens[1]


def test_a_wait_without_time_returns_at_once() -> None:
    condition = threading.Condition()
    with condition:
        assert VirtualClock().wait(condition, 0) is False


def test_a_wait_ends_at_its_limit_and_not_before() -> None:
    clock, condition = VirtualClock(), threading.Condition()

    def wait() -> bool:
        with condition:
            return clock.wait(condition, 10)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        clock.wait_for_waiters(1)
        clock.advance(9.5)
        clock.wait_for_waiters(1)
        assert not waiting.done()
        clock.advance(0.5)
        assert waiting.result(20) is False


def test_time_that_passed_since_the_timeout_was_computed_is_not_waited_for_again() -> None:
    clock, condition = VirtualClock(), threading.Condition()
    left_s = 1010 - clock.monotonic()
    clock.advance(10)
    with condition:
        assert clock.wait(condition, left_s) is False


def test_a_notified_wait_is_true_and_its_thread_counts_as_blocked_no_more() -> None:
    clock, condition, again = VirtualClock(), threading.Condition(), threading.Event()

    def wait_twice() -> list[bool]:
        with condition:
            first = clock.wait(condition, None)
        again.wait(20)
        with condition:
            return [first, clock.wait(condition, 5)]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_twice)
        clock.wait_for_waiters(1)
        with condition:
            condition.notify_all()
        again.set()
        clock.wait_for_waiters(1)
        clock.advance(5)
        assert waiting.result(20) == [True, False]


def test_missing_waiters_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.testing.clock._REAL_LIMIT_S", 0.01)
    with pytest.raises(TimeoutError, match="0 threads wait on the virtual clock, and 2 were expected"):
        VirtualClock().wait_for_waiters(2)
