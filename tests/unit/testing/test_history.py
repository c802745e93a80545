# SPDX-License-Identifier: Apache-2.0
"""Histories: what is written is read again, whoever wrote it and however it ended."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Accepted, Action, Duplicate, OutgoingMessage, Settlement
from queuekit.testing import VirtualClock
from queuekit.testing.faults import FaultyOpener, InjectedFault, raise_after, unavailable
from queuekit.testing.oracle import History, Record, Recorder, check, read_history

_KILLED = """
import os, signal, sys
from queuekit.testing.oracle import History
open_as = History.in_lines if sys.argv[1].endswith("jsonl") else History.in_table
history = open_as(sys.argv[1], worker="child")
for number in range(100):
    history.deliver(f"m{number}")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["run.jsonl", "run.db"])
def test_what_a_killed_process_wrote_is_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    history = (History.in_lines if name.endswith("jsonl") else History.in_table)(path, worker="parent")
    history.send("before").ok()
    killed = subprocess.run([sys.executable, "-c", _KILLED, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    history.send("after").failed()
    found = history.records()
    history.close()
    assert [each.message for each in found if each.worker == "child"] == [f"m{number}" for number in range(100)]
    assert [each.message for each in found if each.worker == "parent"] == ["before", "before", "after", "after"]
    assert read_history(path) == found


def test_a_record_is_the_same_after_a_file() -> None:
    records = [
        Record(1.25, "send", "invoke", "m", "w", "c", key="k", delay_s=2.5),
        Record(2.0, "deliver", "ok", "m", "w", "", "d", "k", 0.0, 12.0, 3),
        Record(3.0, "settle", "lease_lost", "m", "w", "c2", "d", action="ack"),
        Record(4.0, "kill", worker="w", held=("a", "b")),
    ]
    assert [Record.from_json(each.to_json()) for each in records] == records


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(Record(1.0, "send", "invoke", "m").to_json() + "\n" + '{"at": 2.0, "oper')
    assert [each.at for each in read_history(path)] == [1.0]


@pytest.mark.parametrize("line", ["no JSON", '{"at": 1.0}', '{"at": 1.0, "operation": "send", "odd": 1}'])
def test_a_line_that_is_no_record_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own is one of them
        read_history(path)


def test_an_operation_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no operation 'dance'"):
        check([Record(1.0, "dance")])  # type: ignore[arg-type]


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_history(tmp_path / "run.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_started_again_does_not_answer_calls_of_its_predecessor() -> None:
    first = History.in_memory(worker="same")
    second = History(first._sink, worker="same")
    first.send("a")
    second.send("b").ok()
    assert len({each.call for each in first.records()}) == 2


def test_the_recorder_writes_down_what_the_engine_was_told() -> None:
    clock = VirtualClock()
    history = History.in_memory(clock=clock)
    recorder = Recorder(history, "memory://jobs")
    opener = FaultyOpener(Opener(clock), recorder)
    jobs, other = (opener.open(QueueURL.parse(f"memory://{name}")) for name in ("jobs", "other"))
    recorder.on("send", raise_after(unavailable()))
    with pytest.raises(InjectedFault):
        jobs.send([OutgoingMessage("a", b"")], timeout_s=1)
    assert isinstance(jobs.send([OutgoingMessage("b", b"", delay_s=1, ordering_key="k")], timeout_s=1)[0], Accepted)
    other.send([OutgoingMessage("unseen", b"")], timeout_s=1)
    clock.advance(1)
    for got in jobs.receive(max_messages=9, wait_s=0, lease_s=5):
        jobs.settle([Settlement(got.handle, Action.EXTEND, lease_s=50)], timeout_s=1)
        jobs.settle([Settlement(got.handle, Action.ACK)], timeout_s=1)
    jobs.settle([Settlement("never ours", Action.ACK)], timeout_s=1)

    found = [(each.operation, each.phase, each.message, each.action) for each in history.records()]
    assert found == [
        ("send", "invoke", "a", ""),
        ("send", "unknown", "a", ""),
        ("send", "invoke", "b", ""),
        ("send", "ok", "b", ""),
        ("deliver", "ok", "a", ""),
        ("deliver", "ok", "b", ""),
        *[
            ("settle", phase, name, action)
            for name in "ab"
            for action in ("extend", "ack")
            for phase in ("invoke", "ok")
        ],
        ("settle", "invoke", "?", "ack"),
        ("settle", "lease_lost", "?", "ack"),
    ]
    report = check(history.records())
    report.assert_ok()
    assert (report.ok, report.recovered, report.unexpected) == (1, 1, 0)


@pytest.mark.parametrize(("first", "phase"), [("m", "ok"), ("another", "failed"), (None, "failed")])
def test_a_duplicate_is_in_the_queue_only_where_it_is_its_own(first: str | None, phase: str) -> None:
    history = History.in_memory()
    history.send("m").answered(Duplicate("m", first))
    assert history.records()[-1].phase == phase
