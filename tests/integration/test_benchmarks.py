# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs to its end with a few messages. What it measures is judged by people, not here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[a-z]*.py"))
MORE = {
    # Its other peers would be installed first.
    "peers_redis.py": ("--peers", "queuekit,bare loop", "--scenarios", "simple,cpu", "--idle", "0"),
}


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_benchmarks_are_found() -> None:
    assert "memory_throughput.py" in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_ends_well_and_prints_a_ratio(script: str) -> None:
    count = "1" if script == "import_time.py" else "20"
    results = json.loads(run(script, "--messages", count, "--rounds", "1", "--json", *MORE.get(script, ())))
    assert results
    assert all(each["ratio"] > 0 for each in results)


def test_without_json_each_comparison_is_one_line_with_its_ratio() -> None:
    printed = run("memory_throughput.py", "--messages", "20", "--rounds", "1")
    assert [line.count("ratio") for line in printed.splitlines()] == [1, 1]
