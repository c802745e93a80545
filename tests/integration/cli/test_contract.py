# SPDX-License-Identifier: Apache-2.0
"""queuekit contract: a table or JSON, an exit code, and one sentence where something is missing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from queuekit import UsageError
from queuekit.cli import main
from queuekit.cli.contract import judge, show

from .conftest import Start


def test_a_backend_is_judged_and_told_as_json_as_a_file_and_as_a_table(
    queuekit: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A queue of two messages declares that it takes batches, and refuses them.
    url, chosen = "sqlite:///jobs.db?max_messages=2", "PRO-01 or PRO-02 or PRO-11"
    options = ("--json", "--report", "found.json", "-k", chosen)
    running = queuekit("contract", url, *options, env={"PYTEST_ADDOPTS": "--collect-only"})
    assert running.wait() == 1, "a case failed"
    assert "test_PRO_02" in running.err, "pytest tells on stderr"
    found = json.loads(running.out)
    assert found == json.loads((tmp_path / "found.json").read_text("utf-8"))
    (backend,) = found["backends"]
    assert {each["case"]: each["outcome"] for each in backend["cases"]} == {
        "PRO-01": "passed",
        "PRO-02": "failed",
        "PRO-11": "twin",
    }
    show(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["case", "outcome", "seconds"]
    rows = [line.split()[:2] for line in lines[1:4]]
    assert rows == [["PRO-01", "passed"], ["PRO-02", "failed"], ["PRO-11", "twin"]]
    assert lines[-1].endswith("/jobs.db?max_messages=2: 1 passed, 1 twin, 1 failed")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["memry://"], "did you mean 'memory'?"),
        (["memory://", "--report", "nowhere/found.json"], "make it first"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["contract", *arguments])
    assert says in capsys.readouterr().err


def test_without_its_extra_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(SystemExit, match="2"):
        main(["contract", "memory://"])
    assert "needs hypothesis; install it with: pip install 'queuekit[testing]'" in capsys.readouterr().err


def test_a_run_that_was_cut_short_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.py").write_text("import pytest\ndef pytest_runtest_teardown():\n    pytest.exit('cut', 3)\n")
    monkeypatch.setenv("PYTEST_PLUGINS", "cut")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(UsageError, match="before it had run all"):
        judge("memory://", only="PRO-01 or PRO-02", report=None, as_json=True)
