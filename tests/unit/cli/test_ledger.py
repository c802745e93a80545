# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit.cli.ledger import (
    Kill,
    Line,
    Summary,
    held_by,
    percentile,
    read_lines,
    summarize,
    unfinished_by,
    write_line,
)

VICTIM, HEIR = 1, 2


def line(message_id: str, attempt: int = 1, *, pid: int = HEIR, at: float = 1.0, done: bool = True) -> Line:
    digest = "d1" if done else ""
    return Line(message_id=message_id, file="f", attempt=attempt, redriven=0, pid=pid, at=at, digest=digest)


def kill(at: float = 5.0, **leased: int) -> Kill:
    return Kill(pid=VICTIM, at=at, leased=leased)


def summary(lines: list[Line], sent: str, *, kills: tuple[Kill, ...] = (), left: str = "", dead: str = "") -> Summary:
    return summarize(lines, sent=dict.fromkeys(sent, 0.0), kills=kills, dead=set(dead), left_over=set(left))


lines = st.builds(
    Line,
    message_id=st.text(),
    file=st.text(st.characters(codec="utf-8")),
    attempt=st.integers(0),
    redriven=st.integers(0),
    pid=st.integers(1),
    at=st.floats(allow_nan=False, allow_infinity=False),
    digest=st.text(),
)


@given(st.lists(lines), st.integers(0))
def test_a_ledger_is_read_back_whatever_piece_was_there_first(written: list[Line], cut: int) -> None:
    data = b"".join(map(write_line, written))
    cut = min(cut, len(data))
    first, rest = read_lines(data[:cut])
    second, end = read_lines(rest + data[cut:])
    assert first + second == written
    assert end == b""


def test_a_line_is_one_line_whatever_the_file_is_called() -> None:
    written = write_line(replace(line("a"), file="odd\nname\u2028\x85"))
    assert written.count(b"\n") == 1
    assert written.isascii()


def test_what_others_handled_in_that_attempt_was_theirs() -> None:
    assert held_by(kill(a=1, b=1), [line("a", 1), line("b", 2)]) == {"b"}


def test_what_the_victim_handled_and_still_had_leased_was_its_own() -> None:
    written = [line("a", 1, pid=VICTIM), line("a", 2)]
    assert held_by(kill(a=1), written) == {"a"}
    assert unfinished_by(kill(a=1), written) == set()


def test_an_attempt_after_a_redrive_is_another_life() -> None:
    assert held_by(kill(a=1), [replace(line("a", 1), redriven=1)]) == {"a"}


def test_recovered_is_what_the_victim_had_not_finished_and_was_done_elsewhere() -> None:
    written = [line("a", 1, pid=VICTIM), line("a", 2), line("b", 2)]
    told = summary(written, "abc", kills=(kill(a=1, b=1, c=1),), left="c")
    assert (told.in_flight, told.recovered, told.duplicates, told.left_over, told.lost) == (3, 1, 1, 1, 0)


def test_lost_is_neither_done_nor_anywhere() -> None:
    told = summary([line("a")], "abc", left="b")
    assert (told.sent, told.done, told.left_over, told.lost, told.ok) == (3, 1, 1, 1, False)


def test_a_failed_line_does_not_make_a_message_done() -> None:
    assert summary([line("a", done=False)], "a").lost == 1


def test_all_done_and_nothing_left_is_ok() -> None:
    assert summary([line("a"), line("b")], "ab").ok


def test_duplicates_are_counted_by_the_time() -> None:
    assert summary([line("a", 1), line("a", 2), line("a", 3)], "a").duplicates == 2


def test_a_retry_is_an_attempt_after_a_failed_one_of_the_same_life() -> None:
    poison = [line("a", 1, done=False), line("a", 2, done=False), replace(line("a", 1), redriven=1)]
    assert summary(poison, "a").retried == 1
    assert summary([line("a", 2)], "a").retried == 0  # the first attempt went with a killed worker


def test_redriven_is_what_was_done_after_it_came_back() -> None:
    back = replace(line("a", 1), redriven=1)
    told = summary([back, replace(line("b", done=False), redriven=1)], "ab", dead="ab")
    assert (told.dead, told.redriven) == (2, 1)


def test_latency_counts_to_the_first_time_done() -> None:
    told = summary([line("a", 2, at=9.0), line("a", 1, at=2.0), line("b", at=4.0)], "ab")
    assert (told.p50_s, told.p99_s) == (2.0, 4.0)


def test_the_rate_leaves_out_the_last_tenth() -> None:
    written = [line(str(number), at=1.0) for number in range(9)] + [line("9", at=100.0)]
    assert summary(written, "0123456789").per_second == 9.0


def test_nothing_at_all_is_all_zero() -> None:
    told = summary([], "")
    assert (told.per_second, told.p50_s, told.p99_s, told.ok) == (0.0, 0.0, 0.0, True)


@pytest.mark.parametrize(("share", "value"), [(0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7.0
