# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._engine import metadata as meta

NAMES = st.sampled_from([meta.V, meta.TYPE, meta.CONTENT_TYPE, meta.EXPIRES, meta.BASE, meta.REDRIVEN, "other"])


@given(seconds=st.floats(0, 4_000_000_000))
def test_an_instant_comes_back_to_the_microsecond(seconds: float) -> None:
    back = meta.read_instant(meta.write_instant(seconds))
    assert back is not None
    assert abs(back - seconds) < 2e-6


def test_an_instant_is_rfc_3339_in_utc() -> None:
    assert meta.write_instant(1_700_000_000.5) == "2023-11-14T22:13:20.500000Z"


@given(known=st.dictionaries(NAMES, st.text()))
def test_reading_never_fails(known: dict[str, str]) -> None:
    envelope = meta.read(known)
    assert envelope.base >= 0
    assert envelope.redriven >= 0


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", " 1", "²", "\u0661", "9" * 5000, "1_0", "+1"])
def test_a_malformed_count_counts_as_absent(text: str) -> None:
    assert meta.read({meta.BASE: text, meta.REDRIVEN: text}) == meta.Envelope()


@pytest.mark.parametrize("text", ["", "now", "2023-11-14", "2023-11-14T22:13:20", "2023-13-01T00:00:00Z", "1" * 99])
def test_a_malformed_instant_counts_as_absent(text: str) -> None:
    assert meta.read({meta.EXPIRES: text}).expires_at is None


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_an_instant_at_the_ends_of_the_calendar_can_be_read(text: str) -> None:
    assert isinstance(meta.read_instant(text), float)


def test_a_foreign_message_has_an_empty_envelope() -> None:
    assert meta.read({}) == meta.Envelope()


def test_what_was_written_is_read() -> None:
    known = {meta.TYPE: "t", meta.CONTENT_TYPE: "c", meta.EXPIRES: meta.write_instant(5.0), meta.BASE: "3"}
    assert meta.read(known | {meta.REDRIVEN: "2", "unknown": "kept by others"}) == meta.Envelope("t", "c", 5.0, 3, 2)
