# SPDX-License-Identifier: Apache-2.0
"""Google's emulator of Pub/Sub, and topics on it."""

import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google import pubsub_v1
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Backend, QueueURL
from queuekit.testing.emulators import LocalPubSub, pubsub_program


@pytest.fixture(scope="session")
def emulator() -> Iterator[LocalPubSub]:
    program = pubsub_program()
    if program is None:
        pytest.skip("Google's Pub/Sub emulator is not installed, or no Java; QUEUEKIT_PUBSUB_EMULATOR can name it")
    with LocalPubSub(program) as server:
        yield server


class Service:
    """A project of its own on the emulator, Google's own clients, and queues."""

    def __init__(self, server: LocalPubSub) -> None:
        self.server = server
        self.project = f"test-{uuid.uuid4().hex[:12]}"
        self._channel = grpc.insecure_channel(server.address)
        self.publisher: Any = pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=self._channel))
        self.subscriber: Any = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._opened: list[Backend] = []
        self._opener = Opener(SystemClock())

    def url(self, name: str = "orders", **options: str) -> str:
        """The URL of a queue, which may not exist."""
        written = "".join(f"&{key}={text}" for key, text in options.items())
        return f"pubsub://{self.project}/{name}?endpoint={self.server.address}{written}"

    def made(self, name: str = "orders", **options: str) -> str:
        """The URL of a queue, which is made."""
        self.open(name, **options).create()
        return self.url(name, **options)

    def open(self, name: str = "orders", **options: str) -> Any:
        backend = self._opener.open(QueueURL.parse(self.url(name, **options)))
        self._opened.append(backend)
        return backend

    def topic(self, name: str = "orders") -> str:
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str = "orders") -> str:
        return f"projects/{self.project}/subscriptions/{name}"

    def subscribe(self, name: str = "orders", **settings: Any) -> None:
        """A topic and a subscription, with Google's own client."""
        self.publisher.create_topic(request={"name": self.topic(name)})
        request = {"name": self.subscription(name), "topic": self.topic(name), **settings}
        self.subscriber.create_subscription(request=request)

    def pull(self, name: str = "orders", most: int = 10) -> list[Any]:
        request = {"subscription": self.subscription(name), "max_messages": most}
        return list(self.subscriber.pull(request=request, timeout=5).received_messages)

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self._opener.close()
        self._channel.close()


@pytest.fixture
def service(emulator: LocalPubSub) -> Iterator[Service]:
    made = Service(emulator)
    yield made
    made.close()
