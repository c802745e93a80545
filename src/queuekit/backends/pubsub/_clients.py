# SPDX-License-Identifier: Apache-2.0
"""Google's generated clients over one channel, and a count of every call that goes through them."""

from __future__ import annotations

import importlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from queuekit.backends.pubsub._options import Place

SCOPE = "https://www.googleapis.com/auth/pubsub"
_LEAST_RECONNECT_MS = 100
_MOST_RECONNECT_MS = 2_000
_METADATA_BYTES = 4 << 20
"""Of the answer that names each lease which an acknowledgement came too late for."""


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
        stub, routing = self.subscriber.transport.pull, _routing(subscription)
        return lambda: stub.future(request, timeout=timeout_s, metadata=routing)

    def give_back(self, subscription: str, ack_ids: Sequence[str], timeout_s: float) -> Any:
        """The call that ends leases now, which nobody has waited for yet."""
        request = self.types.ModifyAckDeadlineRequest(
            subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=0
        )
        stub = self.subscriber.transport.modify_ack_deadline
        return stub.future(request, timeout=timeout_s, metadata=_routing(subscription))

    def messages(self, answer: Any) -> Sequence[Any]:
        """What a pull brought, without the wrappers of Google's client."""
        found: Sequence[Any] = () if answer is None else self.types.PullResponse.pb(answer).received_messages
        return found


def _routing(subscription: str) -> Sequence[tuple[str, str]]:
    return (("x-goog-request-params", f"subscription={quote(subscription, safe='')}"),)


class Clients:
    """The clients of one place, made at the first call, and anew in a process that was forked.

    Their own retries are off: the engine retries, inside one budget. Google's library finds the credentials in its
    own way.

    Args:
        place: Where the service is.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._made: Made | None = None
        self._left: list[Made] = []
        self._pid = 0

    def get(self) -> Made:
        """The clients.

        Raises:
            Exception: google.auth's own, where there are no credentials.
        """
        made = self._made
        if made is None or self._pid != os.getpid():
            with self._lock:
                made = self._made
                if made is None or self._pid != os.getpid():
                    if self._pid != os.getpid():
                        self._left, self._pid = [], os.getpid()
                    made = self._made = _make(self._place)
        return made

    def renew(self, silent: Made) -> None:
        """Nothing comes back by these any more: the next call makes others. What is under way by them goes on."""
        with self._lock:
            if self._made is silent:
                self._left.append(silent)
                self._made = None

    def close(self) -> None:
        """Close the channel. Idempotent."""
        with self._lock:
            made = [*self._left, *([] if self._made is None else [self._made])]
            self._made, self._left = None, []
            ours = self._pid == os.getpid()
        for each in made if ours else ():
            each.channel.close()


def _make(place: Place) -> Made:
    # Here, as the import takes most of a second, and `queuekit` promises not to need it.
    from google import pubsub_v1
    from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
    from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

    client_info: Any = importlib.import_module("google.api_core.gapic_v1.client_info")
    info = client_info.ClientInfo(user_agent="queuekit", client_library_version=pubsub_v1.__version__)
    channel = _channel(place, PublisherGrpcTransport)
    publisher: Any = PublisherGrpcTransport(host=place.address, channel=channel, client_info=info)
    subscriber: Any = SubscriberGrpcTransport(host=place.address, channel=channel, client_info=info)
    return Made(
        channel,
        pubsub_v1.PublisherClient(transport=publisher, client_info=info),
        pubsub_v1.SubscriberClient(transport=subscriber, client_info=info),
        pubsub_v1,
    )


def _channel(place: Place, transport: Any) -> Any:
    options = _channel_options(place)
    if not place.secure:
        return _grpc().insecure_channel(place.address, options=options)
    import google.auth

    credentials, _ = google.auth.default(scopes=[SCOPE])
    return transport.create_channel(place.address, credentials=credentials, options=options)


def _grpc() -> Any:
    return importlib.import_module("grpc")  # it has no types, nor has what it is given


def _channel_options(place: Place) -> Sequence[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        ("grpc.enable_retries", 0),
        # Channels with equal options share connections, of which each app has its own.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", _LEAST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", max(_LEAST_RECONNECT_MS, int(place.connect_s * 1000))),
        ("grpc.max_reconnect_backoff_ms", _MOST_RECONNECT_MS),
        # As Google's own clients; a service takes more of it for an attack.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", max(1000, int(place.answer_s * 1000))),
    ]


class Calls:
    """How often each operation was asked for, answered or not.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def count(self, operation: str) -> None:
        """One call is made."""
        with self._lock:
            self._counts[operation] += 1

    def read(self) -> Mapping[str, int]:
        """Operation to count, for those that were called."""
        with self._lock:
            return dict(self._counts)
