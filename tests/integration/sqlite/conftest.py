# SPDX-License-Identifier: Apache-2.0
"""Real files, real processes, the real clock. Processes talk over pipes; nobody sleeps."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import Opening, QueueURL
from queuekit.backends.sqlite import SPEC, SQLiteBackend, SQLiteOptions

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def actors() -> Any:
    """The module of what other processes do, importable in them by name."""
    sys.path.insert(0, str(HERE))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    spec = importlib.util.find_spec("actors")
    assert spec is not None
    module = importlib.import_module("actors")
    yield module
    sys.path.remove(str(HERE))


def open_file(path: Path, queue: str = "orders", **options: Any) -> SQLiteBackend:
    url = QueueURL(scheme="sqlite", path=f"/{path}", options={"queue": queue})
    backend = SPEC.open(Opening(url=url, queue=queue, options=SQLiteOptions(**options)))
    assert isinstance(backend, SQLiteBackend)
    return backend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def queue(path: Path) -> Iterator[SQLiteBackend]:
    backend = open_file(path)
    yield backend
    backend.close()


Start = Callable[..., tuple[BaseProcess, Connection]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a function in a fresh process, with one end of a pipe as its first argument."""
    running: list[tuple[BaseProcess, Connection]] = []
    context = multiprocessing.get_context("spawn")

    def start_one(function: Callable[..., None], *args: Any) -> tuple[BaseProcess, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=function, args=(theirs, *args), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
        return process, ours

    yield start_one
    for process, pipe in running:
        process.kill()
        process.join()
        pipe.close()
