# SPDX-License-Identifier: Apache-2.0
"""Google's generated clients of Pub/Sub over one channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from queuekit.backends._google.channels import client_info, open_channel, routing
from queuekit.backends._google.urls import Place
from queuekit.backends._per_process import PerProcess

SCOPE = "https://www.googleapis.com/auth/pubsub"


class Made(NamedTuple):
    """What talks to the service.

    Attributes:
        channel: The connection.
        publisher: The generated client of topics.
        subscriber: The generated client of subscriptions.
        types: The module of the messages that both take.
    """

    channel: Any
    publisher: Any
    subscriber: Any
    types: Any

    def pull(self, subscription: str, most: int, timeout_s: float) -> Callable[[], Any]:
        """What begins a pull and does not wait for it, which the client's own method does."""
        request = self.types.PullRequest(subscription=subscription, max_messages=most)
        stub, route = self.subscriber.transport.pull, routing("subscription", subscription)
        return lambda: stub.future(request, timeout=timeout_s, metadata=route)

    def give_back(self, subscription: str, ack_ids: Sequence[str], timeout_s: float) -> Any:
        """The call that ends leases now, which nobody has waited for yet."""
        request = self.types.ModifyAckDeadlineRequest(
            subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=0
        )
        stub = self.subscriber.transport.modify_ack_deadline
        return stub.future(request, timeout=timeout_s, metadata=routing("subscription", subscription))

    def messages(self, answer: Any) -> Sequence[Any]:
        """What a pull brought, without the wrappers of Google's client."""
        found: Sequence[Any] = () if answer is None else self.types.PullResponse.pb(answer).received_messages
        return found


def clients_of(place: Place) -> PerProcess[Made]:
    """The clients of one place. To have them raises google.auth's own exceptions where there are no credentials.

    Args:
        place: Where the service is.
    """
    return PerProcess(lambda: _make(place), lambda made: made.channel.close())


def _make(place: Place) -> Made:
    # Here, as the import takes most of a second, and `queuekit` promises not to need it.
    from google import pubsub_v1
    from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
    from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

    info = client_info(pubsub_v1.__version__)
    channel = open_channel(place, PublisherGrpcTransport, SCOPE)
    publisher: Any = PublisherGrpcTransport(host=place.address, channel=channel, client_info=info)
    subscriber: Any = SubscriberGrpcTransport(host=place.address, channel=channel, client_info=info)
    return Made(
        channel,
        pubsub_v1.PublisherClient(transport=publisher, client_info=info),
        pubsub_v1.SubscriberClient(transport=subscriber, client_info=info),
        pubsub_v1,
    )
