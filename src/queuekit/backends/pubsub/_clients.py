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
        """What begins a pull, and returns a call that can be cancelled; the client's own method cannot be."""
        request = self.types.PullRequest(subscription=subscription, max_messages=most)
        routing = ("x-goog-request-params", f"subscription={quote(subscription, safe='')}")
        return lambda: self.subscriber.transport.pull.future(request, timeout=timeout_s, metadata=(routing,))


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
                    made = self._made = _make(self._place)
                    self._pid = os.getpid()
        return made

    def close(self) -> None:
        """Close the channel. Idempotent."""
        with self._lock:
            made, self._made = self._made, None
            ours = self._pid == os.getpid()
        if made is not None and ours:
            made.channel.close()


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


def _as_call_error(error: Exception) -> Exception:
    """An exception of gRPC as Google's clients raise it."""
    exceptions: Any = importlib.import_module("google.api_core.exceptions")
    made: Exception = exceptions.from_grpc_error(error)
    return made


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
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", max(1, int(place.answer_s * 1000))),
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


class Pulls:
    """Pulls that wait, and can be cancelled from another thread.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[Any] = set()
        self._closed = False

    def run(self, start: Callable[[], Any]) -> Any:
        """The answer to a call that ``start`` begins; None where its time was over, or somebody cancelled it.

        Raises:
            _as_call_error: The call's own, as Google's clients raise it.
        """
        grpc = _grpc()
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._fresh()
        with self._lock:
            if self._closed:
                return None
            call = start()
            self._waiting.add(call)
        try:
            return call.result()
        except grpc.FutureCancelledError:
            return None
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return None
            raise _as_call_error(error) from error
        finally:
            with self._lock:
                self._waiting.discard(call)

    def interrupt(self) -> None:
        """Cancel every call that waits now; what one has been answered by then is returned by it."""
        with self._lock:
            waiting = list(self._waiting)
        if self._pid == os.getpid():
            for call in waiting:
                call.cancel()

    def close(self) -> None:
        """Cancel every call, and begin no more."""
        with self._lock:
            self._closed = True
        self.interrupt()
