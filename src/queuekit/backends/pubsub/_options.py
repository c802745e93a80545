# SPDX-License-Identifier: Apache-2.0
"""What stands in a Pub/Sub URL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from queuekit._values.hosts import is_loopback
from queuekit.backend import InvalidURLError, Opening, Range
from queuekit.backends._google.urls import ADDRESS, Place, project_of

FORMS = ("pubsub://PROJECT/QUEUE",)
EMULATOR = "PUBSUB_EMULATOR_HOST"
"""The environment variable that every one of Google's clients knows."""

SERVICE = "pubsub.googleapis.com"

_NAME = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}", re.ASCII)
_NAMED = "3 to 255 letters, digits and '-._~+%', begins with a letter, and not with 'goog'"
_LEAST_DELIVERIES = 5
_DEAD = "-dead"
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PubSubOptions:
    """The options of a Pub/Sub URL.

    Attributes:
        subscription: The subscription to receive from; its name is the topic's where this is empty. Several of one
            topic each get every message.
        endpoint: Where the service is: ``https://europe-west1-pubsub.googleapis.com`` for one region, as messages
            with an ordering key need it, or ``localhost:8085`` for an emulator; empty for Google's global address,
            or what ``PUBSUB_EMULATOR_HOST`` says.
        poll: The longest wait of one pull. A stop does not wait for it; a dead connection is noticed after it.
        answer_timeout: The longest that the service may take to answer, beside what it was asked to wait.
        ordering: For ``create``: hand out the messages of an ordering key in their order. It cannot be changed
            later. Where a producer may not look at the subscription, this says that it takes ordering keys.
        exactly_once: For ``create``: a lease is really ours alone, and an acknowledgement is confirmed or refused.
        ack_deadline: For ``create``: how long a message is leased where the one who receives it does not say.
        retention: For ``create``: how long the service keeps a message before it drops it.
        max_deliveries: For ``create``: after how many deliveries, 5 to 100, the service itself moves a message to
            the topic of the dead letters. With 0 it never does, and does not count them either.
        dead_letter: The topic for dead letters: workers whose handlers name none send them there. Where it is empty,
            the topic of the dead-letter policy is that, and ``create`` makes one with the subscription's name and
            ``-dead`` behind it.
        min_backoff: For ``create``: the service's own wait before a message is delivered again, on top of what
            queuekit asks for.
        max_backoff: For ``create``: up to how long it grows; at least ``min_backoff``.
    """

    subscription: str = ""
    endpoint: str = ""
    poll: timedelta = field(
        default=timedelta(seconds=20), metadata={"range": Range(timedelta(seconds=1), timedelta(seconds=60))}
    )
    answer_timeout: timedelta = field(
        default=timedelta(seconds=10), metadata={"range": Range(timedelta(seconds=0.1), timedelta(minutes=5))}
    )
    ordering: bool = False
    exactly_once: bool = False
    ack_deadline: timedelta = field(
        default=timedelta(seconds=60), metadata={"range": Range(timedelta(seconds=10), timedelta(seconds=600))}
    )
    retention: timedelta = field(
        default=timedelta(days=7), metadata={"range": Range(timedelta(minutes=10), timedelta(days=31))}
    )
    max_deliveries: int = field(default=0, metadata={"range": Range(0, 100)})
    dead_letter: str = ""
    min_backoff: timedelta = field(
        default=timedelta(0), metadata={"range": Range(timedelta(0), timedelta(seconds=600))}
    )
    max_backoff: timedelta = field(
        default=timedelta(0), metadata={"range": Range(timedelta(0), timedelta(seconds=600))}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a queue is made of, as the service names it.

    Attributes:
        project: The project's id.
        topic: Where messages are sent.
        subscription: Where they are received.
        dead_topic: Where `create` has dead letters sent.
        dead_subscription: Where they can be received.
    """

    project: str
    topic: str
    subscription: str
    dead_topic: str
    dead_subscription: str


def topic_path(project: str, name: str) -> str:
    """A topic's whole name."""
    return f"projects/{project}/topics/{name}"


def subscription_path(project: str, name: str) -> str:
    """A subscription's whole name."""
    return f"projects/{project}/subscriptions/{name}"


def names_of(opening: Opening) -> Names:
    """What the URL names.

    Raises:
        InvalidURLError: It names no project, or something that the service would not take.
    """
    url, options = opening.url, opening.options
    project = project_of(url, FORMS[0])
    if url.path.strip("/") != opening.queue:
        msg = f"the path of a pubsub URL is the name of the topic and nothing else; the form is {FORMS[0]}"
        raise InvalidURLError(msg)
    subscription = options.subscription or opening.queue
    dead = options.dead_letter or subscription[: _LONGEST_NAME - len(_DEAD)] + _DEAD
    for what, name in (("topic", opening.queue), ("subscription", subscription), ("topic for dead letters", dead)):
        if not _NAME.fullmatch(name):
            msg = f"the name of a {what} on Pub/Sub has {_NAMED}; {name!r} has not"
            raise InvalidURLError(msg)
    _check_numbers(options)
    return Names(
        project=project,
        topic=topic_path(project, opening.queue),
        subscription=subscription_path(project, subscription),
        dead_topic=topic_path(project, dead),
        dead_subscription=subscription_path(project, dead),
    )


def _check_numbers(options: PubSubOptions) -> None:
    if 0 < options.max_deliveries < _LEAST_DELIVERIES:
        msg = f"the option 'max_deliveries' of a pubsub URL is 0, or {_LEAST_DELIVERIES} to 100"
        raise InvalidURLError(msg)
    if options.max_backoff < options.min_backoff:
        msg = "the option 'max_backoff' of a pubsub URL must not be shorter than 'min_backoff'"
        raise InvalidURLError(msg)


def place_of(opening: Opening, environment: Mapping[str, str] | None = None) -> Place:
    """The service that a URL means.

    Args:
        opening: With the URL's options.
        environment: Where `EMULATOR` is looked for; the process's where it is not given.

    Raises:
        InvalidURLError: The endpoint is none, or would be reached without TLS over a network.
    """
    options: PubSubOptions = opening.options
    known = os.environ if environment is None else environment
    given, secure = options.endpoint, True
    if not given and known.get(EMULATOR):
        given, secure = known[EMULATOR].removeprefix("http://").rstrip("/"), False
    elif given and not given.startswith("https://"):
        secure = False
    found = ADDRESS.fullmatch(given.removeprefix("https://").rstrip("/")) if given else None
    if given and found is None:
        msg = (
            f"the endpoint of a pubsub URL (or {EMULATOR}) is https:// with a host, or a host and a port; it has no "
            "path and no login"
        )
        raise InvalidURLError(msg)
    if options.endpoint and not secure and found is not None and not is_loopback(found["host"]):
        msg = (
            "the endpoint of a pubsub URL without https:// is for an emulator on this host; for one elsewhere set "
            f"{EMULATOR}"
        )
        raise InvalidURLError(msg)
    host, port = (SERVICE, None) if found is None else (found["host"], found["port"])
    return Place(
        address=f"{host}:{port or (443 if secure else 8085)}",
        secure=secure,
        connect_s=opening.connect_timeout_s,
        answer_s=options.answer_timeout.total_seconds(),
    )
