# SPDX-License-Identifier: Apache-2.0
"""Google's emulator of Pub/Sub, and queues on it, made before they are used."""

from __future__ import annotations

import threading
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
from queuekit.testing.contract import Harness
from queuekit.testing.contract.pushing import EndpointPushing
from queuekit.testing.emulators import LocalPubSub, pubsub_program
from queuekit.testing.proxy import TcpProxy


class PubSubHarness(Harness):
    """One emulator for all cases; each has topics and subscriptions of its own, made before they are used."""

    server: ClassVar[LocalPubSub]
    route: ClassVar[TcpProxy]
    publisher: ClassVar[Any]
    subscriber: ClassVar[Any]
    min_lease_s = 2.0
    min_delay_s = 2.0
    tolerance_s = 3.0
    silence_s = 4.0
    flood = 150
    examples = 2
    operations = 400
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
        self._made: set[str] = set()
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
        url = url.replace(
            options={name: text for name, text in url.options.items() if name not in {"poll", *options}}
        )
        backend: Any = (opener or self.opener).open(url, options)
        self._opened.append(backend)
        if "subscription" in options and not backend.exists():
            backend.create()
        made: Backend = backend
        return made

    def restart(self) -> None:
        """As it looks from outside: connections are lost, none can be made for a moment, and nothing is gone."""
        self.route.refuse()
        self.route.reset()
        threading.Event().wait(0.3)
        self.route.heal()

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
