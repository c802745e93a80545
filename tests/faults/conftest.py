# SPDX-License-Identifier: Apache-2.0
"""The reliability table: collects what the rows found, and writes it where it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from .places import Place
from .rows import Result, row_of, write
from .servers import Servers
from .workers import Workers

ROW = pytest.StashKey[Result]()
_PROPERTY = "reliability"
_LOG_CHARACTERS = 40_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("queuekit").addoption(
        "--reliability",
        metavar="FILE",
        type=Path,
        help="write the results of the rows to FILE (JSON) and beside it as a table (.md); others there are kept",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin("reliability-table"):
        config.pluginmanager.register(Table(config.getoption("--reliability", default=None)), "reliability-table")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Everything in this folder belongs to the session of the faults."""
    item.add_marker("faults")


class Table:
    """The results of a run: of the rows in this folder, and of tests elsewhere that are marked as a row's."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._results: list[Result] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the report carry what was found, as it may be made in another process than the table."""
        report = yield
        if call.when == "call" or report.failed:
            own = item.stash.get(ROW, None)
            marked = [Result(row=mark.args[0], **mark.kwargs) for mark in item.iter_markers("row")]
            for each in [own] * (own is not None) + marked:
                each.passed = report.passed
                report.user_properties.append((_PROPERTY, asdict(each)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._results += [Result(**found) for name, found in report.user_properties if name == _PROPERTY]  # type: ignore[arg-type]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._path is not None and not hasattr(session.config, "workerinput"):
            write(self._path, self._results)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Result:
    """Where a row writes down what it found; its id is in the test's name."""
    row_id = row_of(request.node.name)
    assert row_id is not None, f"{request.node.name} names no row"
    parameters: Mapping[str, object] = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    result = Result(row=row_id, backend=str(parameters.get("backend", "-")))
    request.node.stash[ROW] = result
    return result


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Where tests get their servers from."""
    made = Servers(tmp_path_factory.mktemp("servers"))
    yield made
    made.end()


@pytest.fixture
def place(request: pytest.FixtureRequest, backend: str, tmp_path: Path) -> Iterator[Place]:
    """Where the queues of a test are: an empty store of the backend that it names."""
    if backend in {"sqs", "pubsub"}:
        servers: Servers = request.getfixturevalue("servers")
        declared = servers.empty_region() if backend == "sqs" else servers.empty_project()
        yield declared
        declared.close()
    elif backend == "redis":
        servers = request.getfixturevalue("servers")
        yield Place(backend, servers.empty_database())
    else:
        yield Place(backend, "memory://" if backend == "memory" else f"sqlite:///{tmp_path}/jobs.db")


@pytest.fixture
def app_url(place: Place) -> str:
    """The URL of an empty store of the backend that the test names, without a queue."""
    return place.app_url


@pytest.fixture
def workers(place: Place, tmp_path: Path) -> Iterator[Workers]:
    """Real workers of a folder of the test's own."""
    made = Workers(tmp_path, place)
    yield made
    made.end()
    sys.stdout.write(made.log()[-_LOG_CHARACTERS:])  # which is shown beside a failure
