# SPDX-License-Identifier: Apache-2.0
"""Google's generated client of Cloud Tasks over one channel."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from queuekit.backends._google.channels import client_info, open_channel, routing
from queuekit.backends._google.urls import Place
from queuekit.backends._per_process import PerProcess

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


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
        stub = self.client.transport.create_task
        return stub.future(request, timeout=timeout_s, metadata=routing("parent", parent))


def clients_of(place: Place) -> PerProcess[Made]:
    """The client of one place. To have it raises google.auth's own exceptions where there are no credentials.

    Args:
        place: Where the service is.
    """
    return PerProcess(lambda: _make(place), lambda made: made.channel.close())


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
    info = client_info(messages.__version__)
    channel = open_channel(place, transports.CloudTasksGrpcTransport, _SCOPE)
    transport = transports.CloudTasksGrpcTransport(host=place.address, channel=channel, client_info=info)
    return Made(channel, messages.CloudTasksClient(transport=transport, client_info=info), messages)
