# SPDX-License-Identifier: Apache-2.0
"""The conformance report says of every case what became of it, and shows nothing secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from queuekit._values.capability import FEATURES
from queuekit.testing.conformance import OUTCOMES, _shown
from queuekit.testing.contract import Harness
from queuekit.testing.contract.ids import all_ids
from queuekit.testing.contract.waiting import WAITING

from .test_suite import _pytest

MINE = """
import pytest
from queuekit.testing.contract import BackendContract, Harness
from queuekit.testing.faults import FaultyOpener, Script, edit_answer

class MineHarness(Harness):
    virtual = True
    one_process = True
    tolerance_s = 0.0

    def base_url(self):
        return "memory://{name}"

    def open(self, queue, *, opener=None, **options):
        flawed = Script().always("receive", edit_answer(lambda got: [each._replace(attempt=1) for each in got]))
        return super().open(queue, opener=FaultyOpener(opener or self.opener, flawed), **options)

class TestMine(BackendContract):
    harness_class = MineHarness
    known_deviations = {"LEA-02": "attempts are not counted"}

class TestOther(BackendContract):
    harness_class = MineHarness
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of two classes, run in a process beside pytest's own."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "test_mine.py").write_text(MINE, encoding="utf-8")
    chosen = "PRO or LEA_02 or LEA_18 or ENC_08 or DEL_01"
    _pytest(folder, "-n1", "--queuekit-report=report.json", "-k", chosen, "test_mine.py")
    found: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return found


def cases(report: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    (backend,) = [each for each in report["backends"] if each["name"] == name]
    return {each["case"]: each for each in backend["cases"]}


def test_a_case_is_reported_by_its_id_or_it_waits(report: dict[str, Any]) -> None:
    assert report["waiting"] == dict(WAITING)
    for name in ("TestMine", "TestOther"):
        found = cases(report, name)
        assert set(found) <= set(all_ids())
        of_the_group = {each for each in all_ids() if each.startswith("PRO")}
        assert {each for each in found if each.startswith("PRO")} == of_the_group - set(WAITING)


def test_each_outcome_is_told_apart_with_its_reason(report: dict[str, Any]) -> None:
    mine, other = cases(report, "TestMine"), cases(report, "TestOther")
    assert (mine["PRO-01"]["outcome"], mine["PRO-01"]["reason"]) == ("passed", "")
    assert (mine["PRO-07"]["outcome"], mine["PRO-07"]["reason"]) == ("twin", "lacks durable")
    assert (mine["LEA-02"]["outcome"], mine["LEA-02"]["reason"]) == ("deviation", "attempts are not counted")
    assert other["LEA-02"]["outcome"] == mine["LEA-18"]["outcome"] == "failed"
    assert (mine["ENC-08"]["outcome"], mine["ENC-08"]["hook"]) == ("skipped", "raw_get")
    for backend in report["backends"]:
        assert list(backend["totals"]) == list(OUTCOMES)
        assert sum(backend["totals"].values()) == len(backend["cases"])


def test_a_case_comes_with_what_it_stands_on(report: dict[str, Any]) -> None:
    found = cases(report, "TestMine")
    assert found["DEL-01"]["level"] == {"delay": 3_153_600_000.0}
    assert found["LEA-02"]["level"]["lease"] == 43_200.0
    assert found["PRO-01"]["level"] == {}
    assert found["PRO-01"]["title"].startswith("One message yields Accepted")
    assert found["PRO-10"]["seconds"] > found["PRO-01"]["seconds"] > 0
    mine = report["backends"][0]
    assert (mine["name"], mine["url"]) == ("TestMine", "memory://queue")
    assert mine["capabilities"]["durability"] == "process"
    assert "durable" in FEATURES
    assert set(report["versions"]) == {"queuekit", "python"}


def test_the_url_is_shown_without_its_secret_and_its_scratch_folder(tmp_path: Path, canary: str) -> None:
    class Secret(Harness):
        def base_url(self) -> str:
            return f"acme://user:{canary}@host{self.directory}/{{name}}"

    shown = _shown(Secret(tmp_path))
    assert canary not in shown
    assert shown.endswith("host{directory}/queue")


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    ran = _pytest(tmp_path, "--queuekit-report=nowhere/report.json")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the folder does not exist" in ran.stderr
