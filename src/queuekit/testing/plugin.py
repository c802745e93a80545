# SPDX-License-Identifier: Apache-2.0
"""The pytest plug-in: options for the contract suite, and the list of known deviations at the end.

It is loaded in every pytest run of everyone who has queuekit installed: it imports nothing heavy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from queuekit import App
    from queuekit.testing.rig import Rig

pytest.register_assert_rewrite("queuekit.testing.contract")

URL_VARIABLE = "QUEUEKIT_CONTRACT_URL"
"""Where ``queuekit contract`` puts its URL: an argument's credentials would stand in every list of processes."""

_CASE = re.compile(r"test_([A-Z]{3})_(\d\d)_")
_DEVIATIONS = pytest.StashKey[dict[tuple[str, str], str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--queuekit-url`` and ``--queuekit-report``."""
    group = parser.getgroup("queuekit")
    group.addoption(
        "--queuekit-url",
        metavar="URL",
        default=os.environ.get(URL_VARIABLE, ""),
        help="the backend that `pytest --pyargs queuekit.testing.contract` judges, without a queue: memory://; "
        f"by default ${URL_VARIABLE}, which no list of processes shows",
    )
    group.addoption(
        "--queuekit-report",
        metavar="FILE",
        default="",
        help="write what the contract suite found, of every class in the run, as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin the conformance report where one is asked for."""
    path = config.getoption("--queuekit-report")
    if not path:
        return
    target = Path(config.invocation_params.dir, path)
    if not target.parent.is_dir():
        msg = f"--queuekit-report={path}: the folder does not exist"
        raise pytest.UsageError(msg)
    from queuekit.testing.conformance import ConformanceReport

    config.pluginmanager.register(ConformanceReport(target), "queuekit-report")


@pytest.fixture
def queuekit_rig() -> Iterator[Callable[[App], Rig]]:
    """Puts an app under test for the length of a test: ``rig = queuekit_rig(app)``; see `queuekit.testing.Rig`."""
    from queuekit.testing.rig import Rig

    with ExitStack() as stack:
        yield lambda app: stack.enter_context(Rig(app))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Expect the failure of a case that its class names as a known deviation."""
    owner = getattr(item, "cls", None)
    known: Mapping[str, str] = getattr(owner, "known_deviations", {}) if owner is not None else {}
    match = _CASE.match(item.name) if known else None
    reason = known.get(f"{match[1]}-{match[2]}") if match else None
    if match is None or owner is None or reason is None:
        return
    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    listed = item.config.stash.setdefault(_DEVIATIONS, {})
    listed[owner.__name__, f"{match[1]}-{match[2]}"] = reason


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the deviations that this run knew of."""
    listed = config.stash.get(_DEVIATIONS, {})
    if not listed:
        return
    terminalreporter.section("known deviations from the queuekit contract")
    for (owner, case), reason in sorted(listed.items()):
        terminalreporter.write_line(f"{owner}  {case}  {reason}")
