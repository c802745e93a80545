# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, files that cannot be used, and many processes on one file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .files import may_mount
from .rows import Result, figure
from .workers import HERE, assert_sound

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", ["sqlite"])]

SCRIPT = (sys.executable, str(HERE / "files.py"))
PROCESSES = 8


def run(*command: str) -> list[dict[str, Any]]:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="queuekit-test-"))
    made.chmod(0o755)
    yield made
    for each in (made, *made.rglob("*")):
        if each.is_dir():
            each.chmod(0o700)
    shutil.rmtree(made)


def test_R27_the_disk_is_full(row: Result, backend: str, folder: Path) -> None:
    """A file system of 4 MiB of its own; where none can be mounted, the file has a largest size."""
    if may_mount():
        row.case = "a file system of 4 MiB"
        (found,) = run("unshare", "-m", *SCRIPT, "mounted", str(folder))
    else:
        row.case = "max_size of 2 MiB"
        (found,) = run(*SCRIPT, "full", str(folder), "2MiB")
    row.ran(accepted=found["accepted"])
    row.found(lost=found["lost"], duplicates=found["again"], refused=found["refused"])
    assert found["refused"] == "QueueFullError"
    assert (found["lost"], found["left"], found["sound"]) == (0, 0, "ok")
    assert found["accepted"] > 10


def test_R28_eight_processes_hammer_one_file(row: Result, backend: str, folder: Path) -> None:
    seconds = figure(60, 2)
    row.ran(processes=PROCESSES, seconds=seconds)
    path = folder / "jobs.db"
    started = [
        subprocess.Popen([*SCRIPT, "hammer", str(path), str(seconds), str(number)], stdout=subprocess.PIPE)
        for number in range(PROCESSES)
    ]
    found = [json.loads(process.communicate(timeout=seconds + 120)[0]) for process in started]
    took = sorted(seconds for each in found for seconds in each["took"])
    sent = [message_id for each in found for message_id in each["sent"]]
    handled = [message_id for each in found for message_id in each["handled"]]
    errors = [error for each in found for error in each["errors"]]
    row.found(
        lost=len(set(sent) - set(handled)), duplicates=len(handled) - len(set(handled)), bound=0, errors=len(errors)
    )
    row.ran(sent=len(sent))
    row.took(p99_of_a_send=took[len(took) * 99 // 100], slowest_send=took[-1])
    assert errors == []
    assert min(len(each["sent"]) for each in found) > 0, "nobody was starved"
    assert len(handled) == len(set(handled))
    assert_sound(path, len(set(sent) - set(handled)))
    row.lost = 0  # what nobody had taken yet stands in the file, as was just seen


DENIED = {
    "file": "AccessDeniedError",
    "closed": "AccessDeniedError",
    "empty": "AccessDeniedError",
    "folder": "QueueNotFoundError",
    "missing": "QueueNotFoundError",
    "newer": "RefusedError",
    "foreign": "RefusedError",
    "noise": "RefusedError",
}


def test_R30_files_that_cannot_be_used(row: Result, backend: str, folder: Path) -> None:
    """As root, under a user without rights, because root may write everything."""
    row.case = "read-only, missing, newer, foreign"
    found = run(*SCRIPT, "denied", str(folder))
    row.found(typed=sum(each["raised"] == DENIED[each["case"]] for each in found))
    row.took(slowest=max(each["took"] for each in found))
    assert {each["case"]: each["raised"] for each in found} == DENIED
    assert max(each["took"] for each in found) <= 5 * 1.0


def test_R30_making_the_database_is_interrupted(row: Result, backend: str, folder: Path) -> None:
    """Ended at each statement by turns; whoever comes next finds nothing, or a whole database."""
    row.case = "migrations ended midway"
    times = 30
    found = run(*SCRIPT, "migrate", str(folder), str(times))
    row.ran(times=times)
    row.found(half=sum(each["bodies"] not in (["x"], ["child", "x"]) for each in found))
    assert {each["code"] for each in found} == {9}, "each child was ended"
    assert all(each["bodies"] in (["x"], ["child", "x"]) for each in found)
    assert {each["sound"] for each in found} == {"ok"}
    assert {mode for each in found for mode in each["modes"]} == {"0o600"}
