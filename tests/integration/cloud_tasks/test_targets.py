# SPDX-License-Identifier: Apache-2.0
"""Server-side request forgery: whoever may create tasks reaches nothing but what is allowed."""

import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.api_core import exceptions

from queuekit.testing import VirtualClock
from queuekit.testing.emulators import LocalCloudTasks

LOCATION = "projects/shop/locations/europe-west1"
METADATA = "169.254.169.254"

TARGETS = [
    f"http://{METADATA}/computeMetadata/v1/",
    f"https://{METADATA}/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://metadata/computeMetadata/v1/",
    "http://METADATA.google.internal./",
    "http://metadata.goog/",
    "http://instance-data/latest/",
    "http://100.100.100.200/latest/",
    "http://192.0.0.192/opc/v2/",
    "http://[fd00:ec2::254]/latest/",
    "http://2852039166/",  # 169.254.169.254 in other forms
    "http://0xa9fea9fe/",
    "http://0xa9.0xfe.0xa9.0xfe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://169.254.169.254.nip.io/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://2130706433/",  # loopback, but in a form that only some read so
    "http://0x7f000001/",
    "http://017700000001/",
    "http://127.1/",
    "http://[::ffff:127.0.0.1]/",
    "http://0.0.0.0/",
    "http://0/",
    "http://[::]/",
    "http://10.0.0.1/",
    "http://192.168.0.1/",
    "http://172.16.0.1:8080/",
    f"http://127.0.0.1@{METADATA}/",
    "http://user:password@127.0.0.1/",
    f"http://127.0.0.1\\@{METADATA}/",
    f"http://{METADATA}#@127.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "http://public.test/",  # allowed by name, and resolves to what is not
    "http://mixed.test/",
]
"""Each of them must be refused before anything is connected to."""

ANSWERS = {"public.test": [[METADATA]], "mixed.test": [["127.0.0.1", METADATA]]}


class Network:
    """What was connected to and resolved, and a resolver whose answers change."""

    def __init__(self) -> None:
        self.connected: list[Any] = []
        self.resolved: Counter[str] = Counter()
        self.answers = {name: list(answers) for name, answers in ANSWERS.items()}
        self.listening = True

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.listening and event == "socket.connect":
            self.connected.append(arguments[1])

    def resolve(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.resolved[host] += 1
        answers = self.answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    network = Network()
    sys.addaudithook(network.hear)  # cannot be taken away again
    monkeypatch.setattr(socket, "getaddrinfo", network.resolve)
    yield network
    network.listening = False


@pytest.fixture
def emulator(clock: VirtualClock, told: list[str]) -> Iterator[LocalCloudTasks]:
    allow = ["public.test", "mixed.test", "rebind.test"]
    with LocalCloudTasks(clock=clock, tell=told.append, allow=allow) as emulator:
        yield emulator


def perform(client: Any, emulator: LocalCloudTasks, parent: str, url: str) -> None:
    task = {"http_request": {"url": url, "http_method": "GET"}}
    client.create_task(parent=parent, task=task)
    emulator.wait_until_quiet()


@pytest.mark.row("S22", backend="cloudtasks", case="targets of the emulator")
def test_no_forbidden_target_is_connected_to(
    emulator: LocalCloudTasks, client: Any, queue: Callable[..., str], network: Network, told: list[str]
) -> None:
    parent = queue(retry_config={"max_attempts": 1})
    refused_at_once = []
    for url in TARGETS:
        before = len(told)
        try:
            perform(client, emulator, parent, url)
        except exceptions.InvalidArgument:
            refused_at_once.append(url)
        else:
            assert [": not called: " in line for line in told[before:]] == [True], url
    assert len(TARGETS) >= 40
    assert refused_at_once[-2:] == TARGETS[-4:-2]
    assert network.connected == []
    assert set(network.resolved) == set(ANSWERS)


@pytest.mark.row("S22", backend="cloudtasks", case="a name that changes")
def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    emulator: LocalCloudTasks, client: Any, queue: Callable[..., str], network: Network, worker: Any
) -> None:
    network.answers["rebind.test"] = [["127.0.0.1"], [METADATA]]
    port = int(worker.url.split(":")[2].split("/")[0])
    perform(client, emulator, queue(), f"http://rebind.test:{port}/tasks")
    assert network.connected == [("127.0.0.1", port)]
    assert network.resolved["rebind.test"] == 1
    assert worker.seen[0].headers["Host"] == f"rebind.test:{port}"


@pytest.mark.row("S22", backend="cloudtasks", case="redirects")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    emulator: LocalCloudTasks, client: Any, queue: Callable[..., str], network: Network, worker: Any,
    told: list[str], status: int,
) -> None:  # fmt: skip
    worker.answers.append((status, {"Location": f"http://{METADATA}/"}))
    perform(client, emulator, queue(retry_config={"max_attempts": 1}), worker.url)
    port = int(worker.url.split(":")[2].split("/")[0])
    assert network.connected == [("127.0.0.1", port)]
    assert told[-1].endswith(f"HTTP status code {status}")
