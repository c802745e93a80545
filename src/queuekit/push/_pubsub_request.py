# SPDX-License-Identifier: Apache-2.0
"""The requests that Google Pub/Sub pushes messages with, wrapped and unwrapped. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from queuekit._portable.doorway import Named
from queuekit._values.url import Host, QueueURL
from queuekit.push._requests import Request

SCHEME: Final = "pubsub"
_HEADER: Final = "x-goog-pubsub-"
_SUBSCRIPTION: Final = re.compile(r"projects/(?P<project>[^/\s]+)/subscriptions/(?P<name>[^/\s]+)")
_OURS: Final = re.compile(r"qk(-[0-9]+)?", re.ASCII)


class Subscription(NamedTuple):
    """The subscription that a message was pushed from.

    Attributes:
        project: Its project; empty where it was not told.
        name: Its name.
    """

    project: str
    name: str

    @property
    def url(self) -> QueueURL:
        """The queue's URL, where no handler's has more to say."""
        return QueueURL(scheme=SCHEME, hosts=(Host(self.project),), path=f"/{self.name}")

    def is_behind(self, named: Named) -> bool:
        """Whether handlers mean this subscription."""
        if named.url is None:
            return named.name == self.name and bool(self.project)
        if named.url.scheme != SCHEME or subscription_name(named) != self.name:
            return False
        return not self.project or [each.name for each in named.url.hosts] == [self.project]


class Pushed(NamedTuple):
    """What a request holds.

    Attributes:
        source: Where its message comes from; None where that is not to be made out.
        message: For `PushCodec.read_pushed`; empty where there is none.
        problem: Why it is none.
    """

    source: Subscription | None
    message: Mapping[str, Any] = {}
    problem: Exception | None = None


def subscription_name(named: Named) -> str:
    """The name of the subscription that handlers mean."""
    if named.url is None:
        return named.name
    told = named.url.options.get("subscription") or named.options.get("subscription")
    return str(told or named.url.path.rpartition("/")[2])


def is_unwrapped(request: Request) -> bool:
    """Whether the message's body is that of the request."""
    return f"{_HEADER}subscription-name" in request.headers


def read_wrapped(body: bytes) -> Pushed:
    """Read a request whose body is JSON that holds the message."""
    try:
        found = from_json(body)
    except ValueError as error:
        return Pushed(None, problem=error)
    told = found.get("subscription") if isinstance(found, dict) else None
    match = _SUBSCRIPTION.fullmatch(told) if isinstance(told, str) else None
    if match is None:
        return Pushed(None, problem=ValueError("the body names no subscription"))
    return Pushed(Subscription(match["project"], match["name"]), found)


def read_unwrapped(request: Request, body: bytes) -> Pushed:
    """Read a request whose body is the message's, and whose headers are its metadata."""
    headers = request.headers
    told = headers[f"{_HEADER}subscription-name"]
    match = _SUBSCRIPTION.fullmatch(told)
    source = Subscription(match["project"], match["name"]) if match else Subscription("", told)
    message = {
        "data": base64.b64encode(body).decode(),
        # Any header may have been added on the way: of attributes, only what queuekit itself packs is believed.
        "attributes": {name: text for name, text in headers.items() if _OURS.fullmatch(name)},
        "messageId": headers.get(f"{_HEADER}message-id"),
        "publishTime": headers.get(f"{_HEADER}publish-time"),
        "orderingKey": headers.get(f"{_HEADER}ordering-key"),
    }
    return Pushed(source, {"message": {name: value for name, value in message.items() if value is not None}})
