# SPDX-License-Identifier: Apache-2.0
"""Rules for every test: no secret is ever shown, memory starts empty, and in CI nothing is skipped."""

import logging
import os
import warnings
from collections.abc import Generator, Iterator
from pathlib import PurePosixPath
from typing import Any, TextIO

import pytest
from hypothesis import HealthCheck, settings

from queuekit.testing import reset_memory

CANARY = "s3cr3t-canary"
"""Begins every secret that a test puts into a URL or an option."""

LEAKS = pytest.StashKey[list[str]]()
TOLD = pytest.StashKey[set[str]]()
_IN_HALVES = frozenset({"test_sqs", "test_sqs_fifo", "test_pubsub", "test_pubsub_ordered"})
_LONG = frozenset({"LEA", "MOD", "BPF", "FLT"})  # half of the time that the contract takes there

os.environ.pop("PYTEST_ADDOPTS", None)  # what runs pytest inside a test begins afresh

# How long an example takes says how busy the host is, and nothing else.
settings.register_profile("queuekit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("queuekit")


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``--dist loadscope``, as in CI: what mostly waits for a server runs beside what calculates."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Shares(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, test = nodeid.partition("::")
            return _share_of(PurePosixPath(path), test)

    return Shares(config, log)


def _share_of(path: PurePosixPath, test: str) -> str:
    """What runs in one process: one file that waits or half of it, or one of three shares of all else."""
    _, folder, *rest = path.parts
    if folder == "contract" and path.stem in _IN_HALVES:
        long = test.partition("test_")[2][:3] in _LONG
        return f"{path.stem}, {'long' if long else 'short'}"
    if folder == "contract" and path.stem == "test_suite_catches_broken_doors":
        return "pushes"
    if path.stem == "test_thirdparty_backend":
        return path.stem  # the whole contract on real time
    if folder == "contract" and path.stem.startswith(("test_cloud", "test_redis", "test_sqs")):
        return path.stem
    if folder == "integration" and rest[0] in {"aws_lambda", "cloud_tasks", "pubsub", "push", "redis", "sqs"}:
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
