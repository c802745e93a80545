# SPDX-License-Identifier: Apache-2.0
"""Topics and subscriptions of one test on Google's emulator, and what can be told of them without taking part."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
from google import pubsub_v1
from google.api_core.exceptions import NotFound
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.schema_service.transports.grpc import SchemaServiceGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

import queuekit as qk
from queuekit._portable.dead_messages import dead_message
from queuekit._wiring.opening import Opener
from queuekit.backend import IncomingMessage, QueueURL, SystemClock
from queuekit.backends.pubsub import _messages

from .places import DeclaredPlace

COUNTED = "&max_deliveries=100"
"""The service counts attempts, and never gives a message up by itself."""
_CALL_S = 10.0


class PubSubPlace(DeclaredPlace):
    """A project of the emulator, where no other test has queues; each is made before it is used.

    Pub/Sub tells of no message how it stands. But a snapshot of a subscription is what is not acknowledged in it,
    and another subscription of the topic, which nobody works, can be set to that and read. A queue without
    a dead-letter policy must be its topic's only reader, and is not watched.

    Args:
        address: Where the emulator is.
        settings: Of the subscriptions, as in a URL.
    """

    peeks = False
    least_lease_s = 2.0
    lease_s = 4.0  # which lapse unnoticed where a busy host extends them too late
    most_attempts = 50

    def __init__(self, address: str, settings: str = COUNTED) -> None:
        self._project = f"row-{uuid.uuid4().hex[:12]}"
        self._watched = "max_deliveries" in settings
        # The shortest, as what a lost answer was to bring is leased for so long.
        super().__init__("pubsub", f"pubsub://{self._project}?endpoint={address}&ack_deadline=10s{settings}")
        self._direct = self.app_url
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self._publisher: Any = pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=self._channel))
        self._subscriber: Any = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._made = set[str]()
        self._letters = dict[str, list[IncomingMessage]]()
        self._numbers = itertools.count(1)
        self.make("jobs")  # which most rows use

    def make(self, queue: str) -> None:
        if queue not in self._made:
            self._made.add(queue)
            self.create(queue)

    def create(self, queue: str) -> None:
        """Make a queue that is not there, or was deleted."""
        opener = Opener(SystemClock())
        backend: Any = opener.open(QueueURL.parse(self._url(self._direct, queue)))
        backend.create()
        opener.close()
        if self._watched:
            watch = {"name": self._name(_watch(queue)), "topic": self._topic(queue), "ack_deadline_seconds": 600}
            self._subscriber.create_subscription(request=watch | {"retain_acked_messages": True}, timeout=_CALL_S)

    def delete(self, queue: str) -> None:
        """Remove a queue until `create` makes it again."""
        for name in (queue, _watch(queue)):
            self._subscriber.delete_subscription(request={"subscription": self._name(name)}, timeout=_CALL_S)
        self._publisher.delete_topic(request={"topic": self._topic(queue)}, timeout=_CALL_S)

    def refuse(self, queue: str) -> Callable[[], None]:
        """Have a topic refuse what is sent to it; returns what ends that."""
        name, schema = self._topic(queue), f"projects/{self._project}/schemas/numbers"
        fields = '{"type": "record", "name": "Number", "fields": [{"name": "number", "type": "int"}]}'
        asked = {"parent": f"projects/{self._project}", "schema_id": "numbers"}
        transport = SchemaServiceGrpcTransport(channel=self._channel)
        schemas: Any = pubsub_v1.SchemaServiceClient(transport=transport)
        schemas.create_schema(request=asked | {"schema": {"type_": "AVRO", "definition": fields}}, timeout=_CALL_S)

        def demand(topic: dict[str, Any]) -> None:
            request = {"topic": {"name": name} | topic, "update_mask": {"paths": ["schema_settings"]}}
            self._publisher.update_topic(request=request, timeout=_CALL_S)

        demand({"schema_settings": {"schema": schema, "encoding": "JSON"}})
        return lambda: demand({})

    def push_to(self, queue: str, url: str) -> None:
        """Have a queue's messages pushed there."""
        self.make(queue)
        request = {"subscription": self._name(queue), "push_config": {"push_endpoint": url}}
        self._subscriber.modify_push_config(request=request, timeout=_CALL_S)

    def counts(self, queue: str, **options: Any) -> tuple[int, int]:
        dead = len(self._dead(queue))
        return (len(self.unacked(queue)) if self._watched else self._ready(queue)), dead

    def left(self, queue: str, **options: Any) -> int:
        return len(self.unacked(queue)) if self._watched else self._ready(queue)

    def letters(self, queue: str, **options: Any) -> list[qk.DeadMessage]:
        return [dead_message(each) for each in self._dead(queue)]

    def unacked(self, queue: str) -> set[str]:
        self.make(queue)
        watch, snapshot = _watch(queue), f"projects/{self._project}/snapshots/look-{next(self._numbers)}"
        request = {"name": snapshot, "subscription": self._name(queue)}
        self._subscriber.create_snapshot(request=request, timeout=_CALL_S)
        try:
            self._subscriber.seek(request={"subscription": self._name(watch), "snapshot": snapshot}, timeout=_CALL_S)
            return {each.message_id for each in self._taken(watch)}
        finally:
            self._subscriber.delete_snapshot(request={"snapshot": snapshot}, timeout=_CALL_S)

    def close(self) -> None:
        """Remove the queues."""
        project = f"projects/{self._project}"
        for each in list(self._subscriber.list_subscriptions(request={"project": project}, timeout=_CALL_S)):
            with suppress(NotFound):
                self._subscriber.delete_subscription(request={"subscription": each.name}, timeout=_CALL_S)
        for topic in list(self._publisher.list_topics(request={"project": project}, timeout=_CALL_S)):
            self._publisher.delete_topic(request={"topic": topic.name}, timeout=_CALL_S)
        self._channel.close()

    def _dead(self, queue: str) -> list[IncomingMessage]:
        """The dead letters of a queue; nobody else takes them."""
        self.make(queue)
        found = self._letters.setdefault(queue, [])
        found += self._taken(f"{queue}-dead")
        return found

    def _ready(self, queue: str) -> int:
        """How many messages are not leased; each is given back."""
        self.make(queue)
        pulled = self._pulled(queue)
        self._end(queue, pulled)
        return len(pulled)

    def _taken(self, subscription: str) -> Iterator[IncomingMessage]:
        """Everything that a subscription has; it is acknowledged."""
        while pulled := self._pulled(subscription):
            ack_ids = [each.ack_id for each in pulled]
            request = {"subscription": self._name(subscription), "ack_ids": ack_ids}
            self._subscriber.acknowledge(request=request, timeout=_CALL_S)
            yield from _messages.read([type(each).pb(each) for each in pulled], lambda _: None, None)

    def _pulled(self, subscription: str) -> Sequence[Any]:
        request = pubsub_v1.PullRequest(
            subscription=self._name(subscription), max_messages=1000, return_immediately=True
        )
        # The client's own method warns, as a worker must not do that.
        answer: Any = self._subscriber.transport.pull(request, timeout=_CALL_S)
        found: Sequence[Any] = answer.received_messages
        return found

    def _end(self, subscription: str, pulled: Sequence[Any]) -> None:
        if pulled:
            ack_ids = [each.ack_id for each in pulled]
            request = {"subscription": self._name(subscription), "ack_ids": ack_ids, "ack_deadline_seconds": 0}
            self._subscriber.modify_ack_deadline(request=request, timeout=_CALL_S)

    def _topic(self, queue: str) -> str:
        return f"projects/{self._project}/topics/{queue}"

    def _name(self, subscription: str) -> str:
        return f"projects/{self._project}/subscriptions/{subscription}"


def _watch(queue: str) -> str:
    return f"{queue}-watch"
