# SPDX-License-Identifier: Apache-2.0
"""A request that one service is asked to make to another, and what it has to prove there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class HttpRequest(NamedTuple):
    """One HTTP request, complete but for the token that whoever makes it adds.

    Attributes:
        url: Where it goes; ``https``, or ``http`` to a loopback address.
        body: Its bytes.
        headers: Its headers; no ``Authorization``, and nothing secret.
        method: Its method.
    """

    url: str
    body: bytes = b""
    headers: Mapping[str, str] = {}
    method: Literal["POST", "PUT"] = "POST"


class HttpAuth(NamedTuple):
    """The token that a request needs, made anew by whoever makes the request, at the time that it is made.

    The two kinds are those of Google's services, which take an access token for their own APIs and recommend an
    identity token for all else: https://cloud.google.com/tasks/docs/creating-http-target-tasks.

    Attributes:
        kind: ``oauth``: an access token for Google's own APIs. ``oidc``: an identity token. ``none``: no token, as
            local servers take it.
        scope: For ``oauth``, the scope; for ``oidc``, the audience.
    """

    kind: Literal["oauth", "oidc", "none"]
    scope: str = ""


class ScheduledRequest(NamedTuple):
    """One HTTP request that sends a message at its time.

    Attributes:
        message_id: Of the message, for the outcome; no name of the request, as a retry has the same id.
        request: What is to be requested.
        due: No earlier than this, in seconds since the epoch, UTC, by this host.
        auth: The token that the service is to add.
    """

    message_id: str
    request: HttpRequest
    due: float
    auth: HttpAuth
