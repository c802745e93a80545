# SPDX-License-Identifier: Apache-2.0
"""Rules for every test: no secret is ever shown, memory starts empty, and in CI nothing is skipped."""

import logging
import os
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from queuekit.testing import reset_memory

CANARY = "s3cr3t-canary"
"""Begins every secret that a test puts into a URL or an option."""

LEAKS = pytest.StashKey[list[str]]()
TOLD = pytest.StashKey[set[str]]()
_TESTS = Path(__file__).parent
_STEADY_ON_SQS = ("PRO", "DLQ", "BPF", "ENC", "URL", "ADM")

os.environ.pop("PYTEST_ADDOPTS", None)  # what runs pytest inside a test begins afresh


@pytest.fixture
def canary() -> str:
    """A secret that must not be found in anything that a test shows."""
    return CANARY + "-5f1d"


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    yield
    reset_memory()


class _Listener(logging.Handler):
    def __init__(self, leaks: list[str]) -> None:
        super().__init__()
        self._leaks = leaks

    def emit(self, record: logging.LogRecord) -> None:
        # The dictionary holds the arguments and whatever `extra` brought, which few formatters show.
        if CANARY in self.format(record) or CANARY in repr(record.__dict__):
            self._leaks.append(f"a log record of {record.name!r}")


@pytest.fixture(autouse=True)
def _no_secret_in_logs_and_warnings(request: pytest.FixtureRequest) -> Iterator[None]:
    leaks = request.node.stash.setdefault(LEAKS, [])
    show = warnings.showwarning

    def listen(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if CANARY in str(message):
            leaks.append(f"a {category.__name__}")
        show(message, category, filename, lineno, file, line)

    handler = _Listener(leaks)
    root, ours = logging.getLogger(), logging.getLogger("queuekit")
    root.addHandler(handler)
    level = ours.level
    ours.setLevel(logging.DEBUG)  # a secret in a record that is usually off is a leak too
    warnings.showwarning = listen
    yield
    warnings.showwarning = show
    ours.setLevel(level)
    root.removeHandler(handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not steady yet, and say what may share a process."""
    _leave_out(config, items, [each for each in items if not _is_steady(each)])
    _share(items)


def _leave_out(config: pytest.Config, items: list[pytest.Item], out: list[pytest.Item]) -> None:
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [each for each in items if each not in set(out)]


def _is_steady(item: pytest.Item) -> bool:
    """Whether a test's verdict depends on the code alone; the contract on SQS is not there yet.

    Its servers keep time by whole seconds, and a busy host makes leases of a second or two end. The whole of it is
    run by ``QUEUEKIT_SQS=whole``.
    """
    on_sqs = item.path.parent.name == "contract" and item.path.stem.startswith("test_sqs")
    steady = item.name.startswith(tuple(f"test_{group}_" for group in _STEADY_ON_SQS))
    return not on_sqs or steady or os.environ.get("QUEUEKIT_SQS") == "whole"


def _share(items: list[pytest.Item]) -> None:
    """For ``--dist loadgroup``, as in CI: whatever mostly waits for a server has a process of its own.

    All else is three shares, so that not many more tests calculate at once than there are cores.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_share_of(item.path.relative_to(_TESTS))))


def _share_of(path: Path) -> str:
    folder = path.parts[0]
    if folder == "contract" and path.stem.startswith(("test_redis", "test_sqs")):
        return path.stem
    if folder == "integration" and path.parts[1] in {"aws_lambda", "redis", "sqs"}:
        return "servers"
    return {"faults": "faults", "integration": "code", "unit": "code"}.get(folder, "rules")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    found = item.stash.get(LEAKS, []) + [title for title, text in report.sections if CANARY in text]
    if CANARY in report.longreprtext:
        found.append("the report of its failure")
    told = item.stash.setdefault(TOLD, set())
    leaks = set(found) - told
    told |= leaks  # the sections of a test's call stand in the report of its teardown again
    if leaks:
        report.outcome = "failed"
        report.longrepr = f"{report.longreprtext}\nThe canary secret was found in: {', '.join(sorted(leaks))}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: Any) -> None:
    if os.environ.get("QUEUEKIT_CI") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"In CI nothing is skipped, and this was: {reason}"
