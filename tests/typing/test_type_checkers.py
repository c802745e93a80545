# SPDX-License-Identifier: Apache-2.0
"""The public types, as users' type checkers see them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def _mypy(path: Path) -> dict[int, str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    found = re.findall(rf"^(.*{re.escape(path.name)}):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert done.stdout.count(": error: ") == len(found), done.stdout
    return {int(line): text for _, line, text in found}


def _pyright(path: Path) -> dict[int, str]:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {
        each["range"]["start"]["line"] + 1: each["message"]
        for each in found
        if each["severity"] == "error" or each.get("rule") == "reportOptionalMemberAccess"
    }


CHECKERS = {"mypy": _mypy, "pyright": _pyright}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_what_users_write_is_taken(checker: str) -> None:
    assert CHECKERS[checker](HERE / "accepted.py") == {}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_what_cannot_work_is_reported_where_it_stands(checker: str) -> None:
    path = HERE / "refused.py"
    marked = {number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# E")}
    reported = CHECKERS[checker](path)
    assert reported.keys() == marked, {line: reported.get(line, "not reported") for line in reported.keys() ^ marked}


@pytest.mark.slow
def test_every_public_name_has_a_declared_type() -> None:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--verifytypes", "queuekit"]
    done = subprocess.run([*command, "--ignoreexternal"], cwd=ROOT, capture_output=True, text=True, check=False)
    problems = [line.strip() for line in done.stdout.splitlines() if " - error: " in line]
    assert not problems, "\n".join(problems)
    assert "Type completeness score: 100%" in done.stdout, done.stdout
