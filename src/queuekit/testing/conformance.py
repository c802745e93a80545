# SPDX-License-Identifier: Apache-2.0
"""The conformance report: what a run of the contract suite found, as JSON; docs/reference/contract.md has its form.

What a test tells travels with pytest's own report of it, so that a run on many processes is one report too.
"""

from __future__ import annotations

import inspect
import json
import platform
import re
from collections import Counter
from collections.abc import Generator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from queuekit._values.capability import Capabilities
from queuekit._values.clock import SystemClock
from queuekit._values.url import QueueURL
from queuekit.testing.contract.gates import GATES, closed_gate
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.ids import case_id
from queuekit.testing.contract.waiting import WAITING

SCHEMA = 1
"""Raised when a field changes its meaning or goes; new fields may come at any time."""

OUTCOMES = ("passed", "twin", "deviation", "skipped", "failed")
"""From best to worst: of a case that ran several times, the worst counts."""

_KEY = "queuekit-conformance"
_HOOK = re.compile(r"has no hook '(\w+)'")


class ConformanceReport:
    """The plug-in behind ``--queuekit-report``.

    Args:
        path: Where the report goes at the end of the run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._backends: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell what pytest does not know: the case, its level, and whether its twin ran."""
        report = yield
        case = case_id(item.name)
        if case is not None and (report.when == "call" or not report.passed):
            told = {"case": case, "class": getattr(getattr(item, "cls", None), "__name__", ""), **_told(item)}
            report.user_properties.append((_KEY, json.dumps(told)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add what one test found."""
        for name, told in report.user_properties:
            if name == _KEY and isinstance(told, str):
                self._add(report, json.loads(told))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report; on many processes, only the one that hears of all tests does."""
        if not hasattr(session.config, "workerinput"):
            self._path.write_text(json.dumps(self.whole(), indent=2) + "\n", encoding="utf-8")

    def whole(self) -> dict[str, Any]:
        """The report as far as it goes."""
        backends = [_with_totals(each) for _, each in sorted(self._backends.items())]
        return {
            "schema": SCHEMA,
            "made_at": datetime.fromtimestamp(SystemClock().time(), UTC).isoformat(timespec="seconds"),
            "versions": {"queuekit": version("queuekit"), "python": platform.python_version()},
            "waiting": dict(WAITING),
            "backends": backends,
        }

    def _add(self, report: pytest.TestReport, told: dict[str, Any]) -> None:
        backend = self._backends.setdefault(
            told["class"], {"name": told["class"], "url": "", "server": "", "capabilities": None, "cases": {}}
        )
        for field in ("url", "server", "capabilities"):
            backend[field] = backend[field] or told[field]
        outcome, reason, hook = _outcome(report, told)
        fresh = {"case": told["case"], "title": told["title"], "outcome": outcome, "reason": reason, "hook": hook}
        found = backend["cases"].setdefault(told["case"], fresh | {"level": {}, "seconds": 0.0})
        if OUTCOMES.index(outcome) > OUTCOMES.index(found["outcome"]):
            found.update(fresh)
        found["level"] = found["level"] or told["level"]
        found["seconds"] = round(found["seconds"] + report.duration, 6)


def _told(item: pytest.Item) -> dict[str, Any]:
    function = getattr(item, "function", None)
    harness = getattr(item, "funcargs", {}).get("harness")
    gates: tuple[str, ...] = getattr(function, "gates", ())
    # What the case itself has asked for: a report must not be what connects.
    can: Capabilities | None = vars(harness).get("capabilities") if isinstance(harness, Harness) else None
    return {
        "title": " ".join((inspect.getdoc(function) or "").split()),
        "url": _shown(harness) if isinstance(harness, Harness) else "",
        "server": can.server if can is not None else "",
        "capabilities": None if can is None else {**asdict(can), "assumed": sorted(can.assumed)},
        "level": {} if can is None else {name: GATES[name](can) for name in gates},
        "closed": closed_gate(gates, can) if can is not None else None,
    }


def _shown(harness: Harness) -> str:
    """The backend's URL without a credential, and without the scratch folder of one case."""
    url = QueueURL.parse(harness.base_url().replace("{name}", "queue"))
    return str(url).replace(str(harness.directory), "{directory}")


def _outcome(report: pytest.TestReport, told: dict[str, Any]) -> tuple[str, str, str]:
    """The outcome of one test, why, and the hook that was missing."""
    if hasattr(report, "wasxfail"):
        return "deviation", report.wasxfail, ""
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        missing = _HOOK.search(reason)
        return "skipped", reason.removeprefix("Skipped: "), missing[1] if missing else ""
    if report.failed:
        return "failed", "", ""
    return ("passed", "", "") if told["closed"] is None else ("twin", f"lacks {told['closed']}", "")


def _with_totals(backend: dict[str, Any]) -> dict[str, Any]:
    cases = [backend["cases"][each] for each in sorted(backend["cases"])]
    found = Counter(each["outcome"] for each in cases)
    return {**backend, "totals": {each: found[each] for each in OUTCOMES}, "cases": cases}
