# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import hashlib
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from .conftest import QUEUEKIT, Start, eventually

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_first_queue(start: Start) -> None:
    running = start(sys.executable, str(EXAMPLES / "first_queue.py"))
    assert running.wait() == 0, running.err
    assert running.out.splitlines() == [f"to {who}@example.com: {what}" for who, what in EMAILS]


EMAILS = [("ada", "welcome"), ("alan", "one"), ("alan", "two")]


def test_worker(start: Start) -> None:
    running = start(sys.executable, str(EXAMPLES / "worker.py"))
    running.wait_for("thank you", count=2)
    running.wait_for("an order that costs nothing")
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert "order 2: the bank is busy" in running.err
    assert "order 2: charged 1.00" in running.err


@pytest.mark.parametrize("helpers", [0, 1])
def test_hash_files(start: Start, tmp_path: Path, helpers: int) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    files = {folder / f"{number}.txt": f"{number}" * number for number in range(50)}
    for path, text in files.items():
        path.write_text(text)
    running = [start(sys.executable, str(EXAMPLES / "hash_files.py"), str(folder))]
    running[0].wait_for("50 files sent")
    environment = {"PYTHONPATH": str(EXAMPLES.parent)}
    running += [start(*QUEUEKIT, "worker", "examples.hash_files:app", env=environment) for _ in range(helpers)]
    for helper in running[1:]:
        helper.wait_for("worker.started")
    digests = tmp_path / "digests.txt"
    eventually(lambda: digests.exists() and len(digests.read_text().splitlines()) == len(files))
    for each in running:
        each.signal(signal.SIGTERM)
        assert each.wait() == 0, each.err
    expected = {f"{hashlib.sha256(text.encode()).hexdigest()}  {path}" for path, text in files.items()}
    assert set(digests.read_text().splitlines()) == expected


def test_batch_events(start: Start, tmp_path: Path) -> None:
    table = tmp_path / "clicks.db"
    running = start(sys.executable, str(EXAMPLES / "batch_events.py"), str(table))
    running.wait_for("251 clicks sent")
    running.wait_for("a click on no page")
    eventually(lambda: stored(table) == 250)
    running.signal(signal.SIGTERM)
    assert running.wait() == 0, running.err


def stored(table: Path) -> int:
    if not table.exists():
        return 0
    with contextlib.closing(sqlite3.connect(table)) as opened:
        try:
            return int(opened.execute("SELECT count(*) FROM clicks").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0


def test_cloud_tasks(start: Start) -> None:
    running = start(sys.executable, str(EXAMPLES / "cloud_tasks.py"))
    assert running.wait() == 0, running.err
    lines = {f"order {number}: charged, attempt {2 if number == 2 else 1}" for number in (1, 2, 3)}
    assert set(running.out.splitlines()) == {*lines, "order 2: the bank is busy"}
