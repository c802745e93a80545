# SPDX-License-Identifier: Apache-2.0
"""Google's generated client over one channel, and a count of every call that goes through it."""

from __future__ import annotations

import importlib
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from queuekit.backends.cloudtasks._options import Place

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LEAST_RECONNECT_MS = 100
_MOST_RECONNECT_MS = 2_000


class Made(NamedTuple):
    """What talks to the service.

    Attributes:
        channel: The connection.
        client: The generated client.
        types: The module of the messages that it takes.
    """

    channel: Any
    client: Any
    types: Any

    def create(self, parent: str, task: Any, timeout_s: float) -> Any:
        """Begin to create a task; what is returned waits for the answer. Many can be on their way at once.

        Args:
            parent: The queue.
            task: The message, without the wrapper of Google's client.
            timeout_s: Longest time for the answer.
        """
        request = self.types.CreateTaskRequest.wrap(self.types.CreateTaskRequest.pb()(parent=parent, task=task))
        routing = ("x-goog-request-params", f"parent={quote(parent, safe='')}")
        return self.client.transport.create_task.future(request, timeout=timeout_s, metadata=(routing,))


class Clients:
    """The client of one place, made at the first call, and anew in a process that was forked.

    Its own retries are off: the engine retries, inside one budget. Google's library finds the credentials in its own
    way.

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
        """The client.

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


def types() -> Any:
    """The module of the service's messages; no I/O."""
    # Here, as the import takes half a second, and `queuekit` promises not to need it.
    return importlib.import_module("google.cloud.tasks_v2")


def as_call_error(error: Exception) -> Exception:
    """An exception of gRPC as Google's clients raise it."""
    exceptions: Any = importlib.import_module("google.api_core.exceptions")
    made: Exception = exceptions.from_grpc_error(error)
    return made


def call_errors() -> type[Exception]:
    """What a call that was begun raises."""
    error: type[Exception] = importlib.import_module("grpc").RpcError
    return error


def _make(place: Place) -> Made:
    messages = types()
    transports: Any = importlib.import_module("google.cloud.tasks_v2.services.cloud_tasks.transports.grpc")
    client_info: Any = importlib.import_module("google.api_core.gapic_v1.client_info")
    info = client_info.ClientInfo(user_agent="queuekit", client_library_version=messages.__version__)
    channel = _channel(place, transports.CloudTasksGrpcTransport)
    transport = transports.CloudTasksGrpcTransport(host=place.address, channel=channel, client_info=info)
    return Made(channel, messages.CloudTasksClient(transport=transport, client_info=info), messages)


def _channel(place: Place, transport: Any) -> Any:
    options = _channel_options(place)
    if not place.secure:
        return importlib.import_module("grpc").insecure_channel(place.address, options=options)
    auth: Any = importlib.import_module("google.auth")
    credentials, _ = auth.default(scopes=[_SCOPE])
    return transport.create_channel(place.address, credentials=credentials, options=options)


def _channel_options(place: Place) -> Sequence[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", 0),
        # Channels with equal options share connections, of which each app has its own.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", _LEAST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", max(_LEAST_RECONNECT_MS, int(place.connect_s * 1000))),
        ("grpc.max_reconnect_backoff_ms", _MOST_RECONNECT_MS),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", max(1, int(place.answer_s * 1000))),
    ]
