# SPDX-License-Identifier: Apache-2.0
"""R6: a process ends at a chosen point, and another one goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .failpoints import POINTS
from .rows import Result, figure
from .workers import HERE, assert_sound

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What became of every run; all points share one process to fork from, and one file."""
    folder = tmp_path_factory.mktemp("failpoints")
    command = [sys.executable, "-W", "ignore", str(HERE / "failpoints.py"), str(folder), str(figure(50, 6))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    letters = sum(len(each["letters"]) for each in map(json.loads, ran.stdout.splitlines()))
    assert_sound(Path(folder, "jobs.db"), letters)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def may_come_twice(run: dict[str, Any]) -> bool:
    """Whether an effect may be there without its record. The store's own dead-lettering is one step."""
    return run["point"] in "cdef" or "copy" in run["where"]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("point", POINTS)
def test_R6_a_crash_at_a_point(runs: list[dict[str, Any]], row: Result, backend: str, point: str) -> None:
    row.case = f"({point}) {', '.join(POINTS[point])}"
    mine = [each for each in runs if each["point"] == point]
    done = [Counter(each["letters" if point == "g" else "effects"]) for each in mine]
    lost = sum(len(set(each["sent"]) - set(times)) for each, times in zip(mine, done, strict=True))
    again = sum(times.total() - len(times) for times in done)
    bound = sum(len(each["sent"]) for each in mine if may_come_twice(each))
    row.ran(runs=len(mine))
    row.found(lost=lost, duplicates=again, bound=bound)
    assert {each["where"] for each in mine} == set(POINTS[point])
    assert lost == 0
    assert again <= bound
    if point in "cd":
        assert again == bound, "the effect was there, and its record was not"
