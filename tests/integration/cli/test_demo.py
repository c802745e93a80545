# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from .conftest import QUEUEKIT, Start, eventually


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo keeps its queue."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def few(tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(str(number))
    return folder


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_the_main_job_loses_nothing(start: Start, temporary: Path) -> None:
    running = start(*QUEUEKIT, "demo", "--json", env={"TMPDIR": str(temporary)})
    assert running.wait() == 0, running.err
    told = json.loads(running.out)
    assert told["ok"] is True
    assert (told["sent"], told["done"]) == (2000, 2000)
    assert (told["lost"], told["left_over"], told["dead"], told["redriven"]) == (0, 0, 1, 1)
    assert told["killed"] >= 1
    assert told["in_flight"] >= 1  # the kill hit a worker that held something
    assert told["in_flight"] == told["recovered"] + told["duplicates"]
    assert 3 <= told["retried"] <= 6  # two for the file that fails twice, and up to four for the poison
    assert told["per_second"] > 0
    assert 0 < told["p50_s"] <= told["p99_s"]
    assert "killed worker" in running.err
    assert "2000 of 2000 files done" in running.err
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_small_folder_works_too_and_ends_in_a_table(start: Start, few: Path, temporary: Path) -> None:
    running = start(*QUEUEKIT, "demo", str(few), env={"TMPDIR": str(temporary)})
    assert running.wait() == 0, running.err
    rows = dict(line.rsplit(maxsplit=1) for line in running.out.splitlines()[1:11])
    assert rows["sent"] == rows["done"] == "40"
    assert (rows["lost"], rows["left over"], rows["dead"], rows["redriven"]) == ("0", "0", "1", "1")
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_midway_it_leaves_no_process_and_no_file(
    start: Start, few: Path, temporary: Path, number: signal.Signals
) -> None:
    running = start(*QUEUEKIT, "demo", str(few), env={"TMPDIR": str(temporary)})
    running.wait_for("files done")
    workers = children(running.process.pid)
    assert len(workers) >= 2
    running.signal(number)
    assert running.wait() == 130
    assert "Traceback" not in running.err
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_its_workers_end_with_it_even_if_it_is_killed(start: Start, few: Path, temporary: Path) -> None:
    running = start(*QUEUEKIT, "demo", str(few), env={"TMPDIR": str(temporary)})
    running.wait_for("files done")
    workers = children(running.process.pid)
    running.signal(signal.SIGKILL)
    eventually(lambda: not any(_alive(pid) for pid in workers))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_folder_with_too_few_files_is_refused(start: Start, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        running = start(*QUEUEKIT, "demo", str(folder))
        assert running.wait() == 2
        assert "at least 20 files" in running.err
        assert len(running.err.splitlines()) == 1


def test_its_workers_are_not_to_be_started_alone(start: Start) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "QUEUEKIT_DEMO_FOLDER"}
    running = start(*QUEUEKIT, "worker", "queuekit.cli.demo_app:app", env=environment)
    assert running.wait() == 2
    assert "are started by queuekit demo" in running.err
