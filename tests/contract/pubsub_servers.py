# SPDX-License-Identifier: Apache-2.0
"""Google's emulator of Pub/Sub, and queues on it, made before they are used."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import grpc
import pytest
from google import pubsub_v1
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

from queuekit import App
from queuekit._wiring.opening import queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import Backend, QueueURL
from queuekit.testing.contract.pushing import EndpointPushing
from queuekit.testing.emulators import LocalPubSub, pubsub_program
from queuekit.testing.proxy import TcpProxy

from .declared_queues import DeclaredHarness


class PubSubHarness(DeclaredHarness):
    """One emulator for all cases; each has topics and subscriptions of its own, made before they are used."""

    server: ClassVar[LocalPubSub]
    publisher: ClassVar[Any]
    subscriber: ClassVar[Any]
    settings: ClassVar[str] = ""
    stored_settings: ClassVar = {
        "retention": timedelta(days=1),
        "ack_deadline": timedelta(seconds=20),
        "exactly_once": True,
        "max_deliveries": 7,
    }
    url_table: ClassVar = {
        "pubsub://my-project/orders": ("orders", {}),
        "pubsub://my-project/orders?subscription=billing": ("orders", {"subscription": "billing"}),
        "pubsub://my-project/orders?endpoint=localhost:8085&ordering=true": (
            "orders",
            {"endpoint": "localhost:8085", "ordering": True},
        ),
        "pubsub://my-project/orders?endpoint=https://europe-west1-pubsub.googleapis.com": (
            "orders",
            {"endpoint": "https://europe-west1-pubsub.googleapis.com"},
        ),
    }

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        # Subscriptions have their names in the whole project, and cases give the same to several.
        self.project: str = f"contract-{uuid.uuid4().hex[:12]}"
        # Who may push, in place of whoever has a token; and what stands around the endpoint, to break it.
        self.auth: Any = None
        self.flaw: Callable[[Any], Any] = lambda application: application

    @classmethod
    def serve(cls, server: LocalPubSub, route: TcpProxy, channel: grpc.Channel) -> None:
        cls.server, cls.route = server, route
        cls.publisher = pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        cls.subscriber = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    def base_url(self) -> str:
        # The shortest, as a message that an answer was to bring, and was lost, is leased for so long.
        return f"pubsub://{self.project}?endpoint=127.0.0.1:{self.route.port}&ack_deadline=10s&poll=1s{self.settings}"

    def dead_name(self, queue: str) -> str:
        return f"{queue}-dead"

    def open(self, queue: str, *, opener: Any = None, **options: Any) -> Backend:
        backend: Any = super().open(queue, opener=opener, **options)
        if "subscription" in options and not backend.exists():
            backend.create()
        made: Backend = backend
        return made

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("127.0.0.1", self.server.port)
        url = QueueURL.parse(self.url_of(queue)).with_option("endpoint", f"127.0.0.1:{proxy.port}")
        return url.with_option("answer_timeout", "500ms").reveal(), proxy

    def raw_put(self, queue: str, body: bytes) -> None:
        message = {"data": body, "ordering_key": "foreign" if "ordering" in self.settings else ""}
        self.publisher.publish(request={"topic": self._topic(queue), "messages": [message]}, timeout=10)

    def raw_get(self, queue: str) -> tuple[bytes, dict[str, str]]:
        request = {"subscription": self._subscription(queue), "max_messages": 1}
        (got,) = self.subscriber.pull(request=request, timeout=10).received_messages
        return got.message.data, dict(got.message.attributes)

    def cleanup(self) -> None:
        super().cleanup()
        for each in self.subscriber.list_subscriptions(request={"project": f"projects/{self.project}"}, timeout=10):
            self.subscriber.delete_subscription(request={"subscription": each.name}, timeout=10)
        for topic in self.publisher.list_topics(request={"project": f"projects/{self.project}"}, timeout=10):
            self.publisher.delete_topic(request={"topic": topic.name}, timeout=10)

    @contextmanager
    def push(self, app: App, *, deadline_s: float | None) -> Iterator[EndpointPushing]:
        pushing = EndpointPushing(app, deadline_s=deadline_s, flaw=self.flaw, auth=self.auth)
        queues = [queue_name(QueueURL.parse(each), find_spec("pubsub")) for each in app._handlers]
        self._push_to(queues, pushing.url)
        try:
            with pushing:
                yield pushing
        finally:
            self._push_to(queues, "")

    def _push_to(self, queues: list[str], url: str) -> None:
        for queue in queues:
            request = {"subscription": self._subscription(queue), "push_config": {"push_endpoint": url}}
            self.subscriber.modify_push_config(request=request, timeout=10)

    def _topic(self, queue: str) -> str:
        return f"projects/{self.project}/topics/{queue}"

    def _subscription(self, queue: str) -> str:
        return f"projects/{self.project}/subscriptions/{queue}"


class OrderedHarness(PubSubHarness):
    """Ordered subscriptions: the service counts attempts, as copies are out of place there."""

    settings = "&ordering=true"


def an_emulator() -> LocalPubSub:
    program = pubsub_program()
    if program is None:
        pytest.skip("Google's Pub/Sub emulator is not installed, or no Java; QUEUEKIT_PUBSUB_EMULATOR can name it")
    return LocalPubSub(program)


@contextmanager
def served(*harnesses: type[PubSubHarness]) -> Iterator[LocalPubSub]:
    """Inside, the harnesses have an emulator."""
    with an_emulator() as server, TcpProxy("127.0.0.1", server.port) as route:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(server.address, options=options) as channel:
            for each in harnesses:
                each.serve(server, route, channel)
            yield server


LATER_FIRST = "the emulator hands out later messages of a key before one that was given back; Pub/Sub does not"
NO_COUNT = "the emulator pushes no deliveryAttempt, though there is a dead-letter policy; Pub/Sub does"
NO_SEEK = "the emulator does not purge ordered subscriptions; Pub/Sub does"
ACKED_AGAIN = (
    "the emulator hands out acked messages without a key again, on an ordered subscription; Pub/Sub does not"
)
