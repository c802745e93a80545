# SPDX-License-Identifier: Apache-2.0
"""Channels: what Google's generated clients make their calls over."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from queuekit.backends._google.urls import Place

_LEAST_RECONNECT_MS = 100
_MOST_RECONNECT_MS = 2_000
_LEAST_SILENCE_MS = 1_000
"""A connection is not given up, and every call on it with it, because one packet was late."""
_METADATA_BYTES = 4 << 20
"""Of an answer. One that says more, such as which of a thousand leases were over, would be taken for a call that the
service did not carry out."""


def open_channel(place: Place, transport: Any, scope: str) -> Any:
    """A channel, which connects at its first call. Google's library finds the credentials in its own way.

    Args:
        place: Where the service is; to one that is not secure, no credentials are sent.
        transport: The class of the generated client's transport.
        scope: What the credentials are to be good for.

    Raises:
        Exception: google.auth's own, where there are no credentials.
    """
    options = channel_options(place)
    if not place.secure:
        return importlib.import_module("grpc").insecure_channel(place.address, options=options)
    auth: Any = importlib.import_module("google.auth")
    credentials, _ = auth.default(scopes=[scope])
    return transport.create_channel(place.address, credentials=credentials, options=options)


def channel_options(place: Place) -> Sequence[tuple[str, int]]:
    """How gRPC is to do it. Its own retries are off: the engine retries, inside one budget."""
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
        ("grpc.keepalive_timeout_ms", max(_LEAST_SILENCE_MS, int(place.answer_s * 1000))),
    ]


def client_info(version: str) -> Any:
    """What the service is told of who calls.

    Args:
        version: Of the generated client.
    """
    module: Any = importlib.import_module("google.api_core.gapic_v1.client_info")
    return module.ClientInfo(user_agent="queuekit", client_library_version=version)


def routing(field: str, name: str) -> Sequence[tuple[str, str]]:
    """The header by which a call finds its way, which the methods of a generated client add by themselves.

    Args:
        field: Of the request, which names what the call is about.
        name: What it holds.
    """
    return (("x-goog-request-params", f"{field}={quote(name, safe='')}"),)
