# SPDX-License-Identifier: Apache-2.0
"""The tries of one client, however many callers it has."""

from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine.pacing import RetryPace


@given(moments=st.lists(st.floats(0, 5), min_size=1, max_size=300), burst=st.integers(1, 20), rate=st.integers(1, 50))
def test_no_span_of_time_holds_more_tries_than_the_burst_and_its_rate(
    moments: list[float], burst: int, rate: int
) -> None:
    pace, begun = RetryPace(burst=burst, per_second=rate), []
    for now in sorted(moments):
        begun.append(pace.next_at(now))
        assert begun[-1] >= now
        pace.take(now)
    for first in range(0, len(begun), 7):
        for last in range(first, len(begun), 5):
            span_s = begun[last] - begun[first]
            assert last - first + 1 <= burst + rate * span_s + 1e-6


def test_a_client_that_was_quiet_has_its_burst_again() -> None:
    pace = RetryPace(burst=3, per_second=1)
    for _ in range(5):
        pace.take(10.0)
    assert pace.next_at(10.0) == 13.0
    assert [pace.next_at(100.0) for _ in range(3) if not pace.take(100.0)] == [100.0, 100.0, 101.0]
