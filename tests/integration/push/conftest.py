# SPDX-License-Identifier: Apache-2.0
"""Google's emulator of Pub/Sub, with subscriptions that push."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google import pubsub_v1
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.testing.emulators import LocalPubSub, pubsub_program

LIMIT_S = 30.0


class Cloud:
    """One project of the emulator."""

    def __init__(self, address: str, channel: grpc.Channel) -> None:
        self.address = address
        self.project = f"project-{uuid.uuid4().hex[:8]}"
        self.publisher = pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self.subscriber = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    @property
    def base(self) -> str:
        return f"pubsub://{self.project}?endpoint={self.address}"

    def url(self, queue: str) -> str:
        return f"pubsub://{self.project}/{queue}?endpoint={self.address}"

    def make(self, queue: str, **options: Any) -> str:
        opener = Opener(SystemClock())
        made: Any = opener.open(qk.QueueURL.parse(self.url(queue)), options)
        made.create()
        made.close()
        opener.close()
        return self.url(queue)

    def push_to(self, queue: str, url: str, **config: Any) -> None:
        name = f"projects/{self.project}/subscriptions/{queue}"
        request = {"subscription": name, "push_config": {"push_endpoint": url} | config}
        self.subscriber.modify_push_config(request=request, timeout=10)

    @contextmanager
    def pushing(self, queue: str, url: str, **config: Any) -> Iterator[None]:
        self.push_to(queue, url, **config)
        try:
            yield
        finally:
            self.push_to(queue, "")

    def publish(self, queue: str, bodies: list[bytes], keys: Callable[[int], str] = lambda _at: "") -> None:
        topic = f"projects/{self.project}/topics/{queue}"
        for at, body in enumerate(bodies):
            message = {"data": body, "ordering_key": keys(at)}
            self.publisher.publish(request={"topic": topic, "messages": [message]}, timeout=10)


@pytest.fixture(scope="package")
def emulator() -> Iterator[tuple[str, grpc.Channel]]:
    program = pubsub_program()
    if program is None:
        pytest.skip("Google's Pub/Sub emulator is not installed, or no Java; QUEUEKIT_PUBSUB_EMULATOR can name it")
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with LocalPubSub(program) as running, grpc.insecure_channel(running.address, options=sizes) as channel:
        yield running.address, channel


@pytest.fixture
def cloud(emulator: tuple[str, grpc.Channel]) -> Cloud:
    return Cloud(*emulator)
