# SPDX-License-Identifier: Apache-2.0
"""An emulator that is killed and started again, and two on one file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.tasks_v2 import CloudTasksClient, Queue, Task
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from queuekit.cli.commands import run
from queuekit.testing import VirtualClock
from queuekit.testing.emulators import LocalCloudTasks

from .conftest import client_of

LOCATION = "projects/shop/locations/europe-west1"
QUEUE = f"{LOCATION}/queues/orders"
Started = Callable[..., "Program"]


class Program:
    """The command ``queuekit emulator cloudtasks``."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "queuekit.cli", "emulator", "cloudtasks", "--json"]
        command += ["--port", "0", "--control-port", "0", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self.about = json.loads(lines.readline())

    @contextmanager
    def client(self) -> Iterator[Any]:
        transport = CloudTasksGrpcTransport(channel=grpc.insecure_channel(self.about["address"]))
        with CloudTasksClient(transport=transport) as client:
            yield client

    def end(self, number: int) -> int:
        self._process.send_signal(number)
        return self._process.wait(20)


@pytest.fixture
def start() -> Iterator[Started]:
    started = []

    def begin(*arguments: str) -> Program:
        started.append(Program(*arguments))
        return started[-1]

    yield begin
    for each in started:
        each.end(signal.SIGKILL)


def test_what_was_answered_outlives_a_kill(start: Started, tmp_path: Path, worker: Any) -> None:
    arguments = ("--state", str(tmp_path / "tasks.db"), "--queue", QUEUE)
    first = start(*arguments)
    worker.go_on.clear()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with first.client() as client:
        client.update_queue(queue=Queue(name=QUEUE, retry_config={"max_attempts": 7}))
        later = {"http_request": {"url": worker.url, "body": b"later"}, "schedule_time": tomorrow}
        named = client.create_task(parent=QUEUE, task={**later, "name": f"{QUEUE}/tasks/named"})
        gone = client.create_task(parent=QUEUE, task={**later, "name": f"{QUEUE}/tasks/gone"})
        client.delete_task(name=gone.name)
        client.create_task(parent=QUEUE, task={"http_request": {"url": worker.url, "body": b"now"}})
        worker.busy.acquire(timeout=20)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    worker.go_on.set()
    second = start(*arguments)
    with second.client() as client:
        worker.busy.acquire(timeout=20)
        assert client.get_queue(name=QUEUE).retry_config.max_attempts == 7
        kept = client.get_task(request={"name": named.name, "response_view": Task.View.FULL})
        assert (kept.http_request.body, kept.schedule_time) == (b"later", named.schedule_time)
        with pytest.raises(exceptions.AlreadyExists, match="existed too recently"):
            client.create_task(parent=QUEUE, task={**later, "name": gone.name})
    # What was on its way comes again, and counts.
    assert [(each.body, each.headers["X-CloudTasks-TaskRetryCount"]) for each in worker.seen] == [
        (b"now", "0"),
        (b"now", "1"),
    ]
    assert second.end(signal.SIGTERM) == 0


def test_without_a_file_nothing_outlives_it(start: Started) -> None:
    first = start("--queue", QUEUE)
    assert first.end(signal.SIGINT) == 0
    with start().client() as client, pytest.raises(exceptions.NotFound):
        client.get_queue(name=QUEUE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--queue", "orders"], "the queue 'orders' cannot be made"),
        (["--allow", "http://worker"], "no host name, address or network"),
        (["--ca-file", "missing.pem"], "the emulator cannot start"),
        (["--state", "."], "the emulator cannot start"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the command would take the signals of this process
    assert run(["emulator", "cloudtasks", "--port", "0", "--control-port", "0", *arguments]) == 2
    assert said in capfd.readouterr().err.splitlines()[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


def test_retries_tombstones_and_ids_go_on_where_they_were(file: Path, worker: Any) -> None:
    clock = VirtualClock()
    name = f"{QUEUE}/tasks/one"
    worker.answers.extend([404, 500])
    with LocalCloudTasks(clock=clock, state=file) as emulator, client_of(emulator) as client:
        client.create_queue(parent=LOCATION, queue={"name": QUEUE})
        client.create_task(parent=QUEUE, task={"http_request": {"url": worker.url}, "name": name})
        emulator.wait_until_quiet()
        before = client.get_task(name=name)
    for _ in range(2):
        with LocalCloudTasks(clock=clock, state=file) as emulator, client_of(emulator) as client:
            if before is not None:
                assert client.get_task(name=name) == before
                before = None
            emulator.advance(timedelta(seconds=1))
            emulator.wait_until_quiet()
    headers = worker.seen[2].headers
    assert (headers["X-CloudTasks-TaskExecutionCount"], headers["X-CloudTasks-TaskPreviousResponse"]) == ("1", "500")
    with LocalCloudTasks(clock=clock, state=file) as emulator, client_of(emulator) as client:
        assert list(client.list_tasks(parent=QUEUE)) == []
        with pytest.raises(exceptions.AlreadyExists):
            client.create_task(parent=QUEUE, task={"http_request": {"url": worker.url}, "name": name})
        emulator.advance(timedelta(days=1))
        assert client.create_task(parent=QUEUE, task={"http_request": {"url": worker.url}, "name": name}).name == name
        client.delete_queue(name=QUEUE)
    with (
        LocalCloudTasks(clock=clock, state=file) as emulator,
        client_of(emulator) as client,
        pytest.raises(exceptions.FailedPrecondition, match="existed too recently"),
    ):
        client.create_queue(parent=LOCATION, queue={"name": QUEUE})


def test_tasks_of_a_former_start_and_new_ones_are_kept_beside_each_other(file: Path) -> None:
    task = {"http_request": {"url": "http://127.0.0.1:9/"}}
    created = []
    for _ in range(3):
        with LocalCloudTasks(clock=VirtualClock(), state=file) as emulator, client_of(emulator) as client:
            if not created:
                client.create_queue(parent=LOCATION, queue={"name": QUEUE})
                client.pause_queue(name=QUEUE)
            created += [client.create_task(parent=QUEUE, task=task).name for _ in range(2)]
            assert [each.name for each in client.list_tasks(parent=QUEUE)] == created
    assert len(set(created)) == 6


def test_a_file_belongs_to_one_emulator(file: Path) -> None:
    with LocalCloudTasks(state=file), pytest.raises(RuntimeError, match="another emulator's"):
        LocalCloudTasks(state=file)
    LocalCloudTasks(state=file).close()


def test_a_port_belongs_to_one_emulator() -> None:
    with LocalCloudTasks() as emulator, pytest.raises((RuntimeError, OSError)):
        LocalCloudTasks(control_port=int(emulator.control_url.rpartition(":")[2]))


def test_another_version_of_the_file_is_not_touched(file: Path) -> None:
    import sqlite3

    with LocalCloudTasks(state=file):
        pass
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RuntimeError, match="another version"):
        LocalCloudTasks(state=file)


def test_the_file_is_its_owners_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        with LocalCloudTasks(state=file) as emulator, client_of(emulator) as client:
            client.create_queue(parent=LOCATION, queue={"name": QUEUE})
            assert {each.stat().st_mode & 0o777 for each in file.parent.iterdir()} == {0o600}
    finally:
        os.umask(before)
