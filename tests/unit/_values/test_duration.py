# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes: exact both ways, and nothing guessed."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._values.duration import format_duration, format_size, parse_duration, parse_size


@given(st.timedeltas(min_value=timedelta(0)))
def test_a_duration_is_read_back(value: timedelta) -> None:
    assert parse_duration(format_duration(value)) == value


@given(st.integers(0, 1 << 62))
def test_a_size_is_read_back(value: int) -> None:
    assert parse_size(format_size(value)) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("5m", 300),
        ("12h", 43200),
        ("7d", 604800),
        ("1.5h", 5400),
        ("0s", 0),
        ("0.1ms", 0.0001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "count"), [("65536B", 65536), ("256KiB", 262144), ("1.5MiB", 1572864), ("1kB", 1000), ("2GB", 2 * 10**9)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "-1s",
        "+1s",
        "1 s",
        "1e3s",
        "1S",
        "1w",
        "1h30m",
        "1.s",
        ".5s",
        "\u0661s",
        "inf",
        "0.0001ms",
        "9" * 20 + "d",
        "9" * 5000 + "s",
    ],
)
def test_other_durations_are_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "1", "KiB", "-1B", "1 B", "1K", "1kb", "1KB", "1.5B", "0.3KiB", "1e3B", "9" * 5000 + "B"]
)
def test_other_sizes_are_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a"):
        parse_size(text)
