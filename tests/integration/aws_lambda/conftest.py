# SPDX-License-Identifier: Apache-2.0
"""A local server for SQS, and event source mappings of its queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import boto3
import pytest

import queuekit as qk
from queuekit.testing.emulators import LocalFauxqs, LocalMoto, fauxqs_folder
from queuekit.testing.local_lambda import REGION, Mapped

MakeQueue = Callable[..., str]
Map = Callable[..., Mapped]


def local(name: str) -> LocalMoto | LocalFauxqs | None:
    if name == "moto":
        return LocalMoto() if LocalMoto.is_installed() else None
    folder = fauxqs_folder()
    return None if folder is None else LocalFauxqs(folder)


@pytest.fixture(scope="package", params=["moto", "fauxqs"])
def server(request: pytest.FixtureRequest) -> Iterator[LocalMoto | LocalFauxqs]:
    made = local(request.param)
    if made is None:
        pytest.skip(f"{request.param} is not installed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", "test")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with made as running:
            yield running


@pytest.fixture(scope="package")
def client(server: LocalMoto | LocalFauxqs) -> Any:
    return boto3.client("sqs", region_name=REGION, endpoint_url=server.endpoint)


@pytest.fixture
def app(server: LocalMoto | LocalFauxqs) -> Iterator[qk.App]:
    with qk.App(f"sqs://{REGION}", endpoint=server.endpoint) as made:
        yield made


@pytest.fixture
def make_queue(client: Any) -> MakeQueue:
    def make(suffix: str = "", **attributes: str) -> str:
        name = f"q{uuid4().hex}{suffix}"
        if suffix:
            attributes |= {"FifoQueue": "true"}
        client.create_queue(QueueName=name, Attributes=attributes)
        return name

    return make


@pytest.fixture
def mapped(client: Any) -> Map:
    return lambda queue, function, **options: Mapped(client, queue, function, **options)


def until_empty(source: Mapped) -> None:
    for _ in range(40):
        if not source.turn(wait_s=1) and source.left() == (0, 0, 0):
            return
    pytest.fail(f"still {source.left()} in the queue")
