# SPDX-License-Identifier: Apache-2.0
"""The table itself: every row has a test or a reason, and the page lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .rows import ROWS, WAITING, Result, merge, read, row_of, table, write

ROOT = Path(__file__).parents[2]
TESTS = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
PAGE = (ROOT / "docs" / "reference" / "reliability.md").read_text("utf-8")


@pytest.mark.parametrize("row_id", ROWS)
def test_a_row_has_a_test_or_waits_for_something(row_id: str) -> None:
    tested = re.search(rf"def test_{row_id}_|mark\.row\(\"{row_id}\"", TESTS)
    assert tested or row_id in WAITING


def test_the_page_says_what_each_row_is_and_what_waits() -> None:
    for row_id, scenario in ROWS.items():
        assert f"| {row_id} | {scenario.fault} | {scenario.passes} |" in PAGE, row_id
    for row_id, reason in WAITING.items():
        assert f"| {row_id} | {reason} |" in PAGE, row_id
    assert ("## Waiting" in PAGE) == bool(WAITING)


def test_a_run_of_some_rows_leaves_the_others_as_they_stood(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write(path, [Result(row="R3", backend="sqlite", passed=True), Result(row="R1", backend="sqlite", lost=1)])
    write(path, [Result(row="R1", backend="sqlite", lost=0, duplicates=2, bound=3, passed=True)])
    assert [(each.row, each.lost, each.passed) for each in read(path)] == [("R1", 0, True), ("R3", None, True)]
    assert "| 2 (3) |" in path.with_suffix(".md").read_text("utf-8")


def test_tests_of_one_row_without_figures_are_counted_together() -> None:
    (merged,) = merge([Result(row="S24", passed=True), Result(row="S24", passed=False)])
    assert (merged.tests, merged.passed) == (2, False)
    assert "tests 2" in table([merged])
    assert "**fail**" in table([merged])


def test_the_id_of_a_row_is_read_from_the_name_of_its_test() -> None:
    assert row_of("test_R14_stopped_workers[sqlite]") == "R14"
    assert row_of("test_the_table") is None
