# SPDX-License-Identifier: Apache-2.0
"""``queuekit contract``: the contract suite against one URL, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from queuekit._values.errors import SetupError, UsageError
from queuekit.cli.showing import put, put_json, put_table, say

_PLUGIN = "queuekit.testing.plugin"
_NO_TESTS = 5
_WHOLE = frozenset({0, 1})  # it ran to its end, whatever it found
_ID = re.compile(r"\b([A-Z]{3})-(\d\d)\b")


def judge(url: str, *, only: str, report: Path | None, as_json: bool) -> int:
    """Run the suite, show what it found, and return the exit code: 1 where a case failed.

    Raises:
        SetupError: The URL is wrong, or the packages of the ``testing`` extra are missing.
        UsageError: There is no such case, or the report cannot be written.
    """
    _need_testing()
    from queuekit.testing.contract.url_harness import harness_for

    if report is not None and not report.resolve().parent.is_dir():
        msg = f"the folder of {str(report)!r} does not exist; make it first"
        raise UsageError(msg)
    with TemporaryDirectory(prefix="queuekit-contract-") as folder:
        harness_for(url, Path(folder))  # what is wrong with the URL is said here, in one line
        found = _run(url, only, Path(folder))
    if report is not None:
        report.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        put_json(found)
    else:
        show(found)
    return int(any(backend["totals"]["failed"] for backend in found["backends"]))


def _need_testing() -> None:
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        msg = f"the contract suite needs {' and '.join(missing)}; install it with: pip install 'queuekit[testing]'"
        raise SetupError(msg)


def _run(url: str, only: str, folder: Path) -> dict[str, Any]:
    """The report of a run of pytest, whose own talk goes to stderr.

    Raises:
        UsageError: No case was chosen, or pytest could not run at all.
    """
    # An ini file of its own: the one of the folder that the user is in has nothing to do with this.
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    path = folder / "report.json"
    command = [sys.executable, "-m", "pytest", *_plugin(), "-q", "-p", "no:cacheprovider"]
    command += ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), f"--basetemp={folder / 'scratch'}"]
    command += [f"--queuekit-report={path}", "-k", _ID.sub(r"\1_\2", only)]
    command += ["--pyargs", "queuekit.testing.contract"]
    ended = subprocess.run(command, env=_environment(url), stdout=sys.stderr, check=False)
    if ended.returncode == _NO_TESTS:
        msg = f"no case of the suite matches {only!r}; its cases are named like LEA-04"
        raise UsageError(msg)
    if not path.exists():
        msg = f"pytest ended with {ended.returncode} before it ran a case; it says why above"
        raise UsageError(msg)
    if ended.returncode not in _WHOLE:
        msg = f"pytest ended with {ended.returncode} before it had run all cases; it says why above"
        raise UsageError(msg)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _environment(url: str) -> Mapping[str, str]:
    from queuekit.testing.plugin import URL_VARIABLE

    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return {**kept, URL_VARIABLE: url}


def _plugin() -> Sequence[str]:
    """Name the plug-in, where the installation does not: pytest refuses to load it twice."""
    installed = any(each.value == _PLUGIN for each in entry_points(group="pytest11"))
    return () if installed else ("-p", _PLUGIN)


def show(found: Mapping[str, Any]) -> None:
    """A report as tables."""
    for backend in found["backends"]:
        put_table(
            ("case", "outcome", "seconds", "what must hold, or why not"),
            [
                (each["case"], each["outcome"], f"{each['seconds']:.2f}", each["reason"] or each["title"])
                for each in backend["cases"]
            ],
        )
        totals = ", ".join(f"{count} {outcome}" for outcome, count in backend["totals"].items() if count)
        put(f"{backend['url'] or backend['name']}: {totals}")
        if backend["totals"]["skipped"]:
            say("queuekit: what is skipped needs a harness of your own; see the reference page of the contract")
