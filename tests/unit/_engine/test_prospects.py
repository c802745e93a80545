# SPDX-License-Identifier: Apache-2.0
"""What was taken lately tells what will be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.prospects import Prospects


def test_nothing_taken_for_a_moment_is_no_standstill() -> None:
    prospects = Prospects(1000.0, 12.0)
    assert prospects.look(1002.0, 50) == pytest.approx(25.0)
    assert prospects.look(1004.0, 50) == pytest.approx(12.5)
    assert prospects.look(1012.0, 50) == pytest.approx(50 / 12)
    assert prospects.look(1014.0, 50) == 0.0, "and now it is one"


def test_what_was_taken_after_a_long_rest_counts_for_the_time_that_is_looked_at() -> None:
    prospects = Prospects(1000.0, 12.0)
    assert prospects.look(5000.0, 6) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(0.01, 20.0), st.integers(0, 30)), min_size=1, max_size=30))
def test_nothing_is_a_rate_of_nothing_only_where_none_was_taken_for_as_long_as_is_looked_at(
    steps: list[tuple[float, int]],
) -> None:
    prospects, now, taken, last_taken_at = Prospects(0.0, 12.0), 0.0, 0, 0.0
    for after_s, more in steps:
        now, taken = now + after_s, taken + more
        last_taken_at = now if more else last_taken_at
        rate = prospects.look(now, taken)
        assert rate > 0 or not taken or now - last_taken_at >= 12.0 - 1e-6
