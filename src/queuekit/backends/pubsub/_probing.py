# SPDX-License-Identifier: Apache-2.0
"""What a subscription says about itself, and what follows for what the queue can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from queuekit.backend import Capabilities
from queuekit.backends.pubsub._errors import OtherTopicError
from queuekit.backends.pubsub._options import Names

DELETED_TOPIC = "_deleted-topic_"
DEFAULT_DELIVERIES = 5
"""What a dead-letter policy without a number means."""

ASSUMED = frozenset({"ordering", "copies", "attempts", "native_max_attempts", "fencing", "ack_confirmed"})
"""What only the subscription's settings tell."""
ASSUMED_ALONE = frozenset({"copies"})
"""What only the topic's other subscriptions tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A subscription's settings, as far as queuekit minds them.

    Attributes:
        topic: The topic's whole name.
        ack_deadline_s: How long a message is leased.
        ordering: Whether the order of each key is kept.
        exactly_once: Whether leases are fenced, and acknowledgements confirmed.
        dead_topic: The whole name of the topic of the dead letters; empty where there is none.
        max_deliveries: After how many deliveries the service uses it.
        push_endpoint: Where messages are pushed to; empty where they are pulled.
        push_metadata: Whether what is pushed tells more than the body.
        retention_s: How long messages are kept.
        expires_s: After how long without use the subscription is removed; None for never.
        backoff_s: The least wait before a message is delivered again; None without a retry policy.
        filter: Which messages are delivered at all; empty for all.
        detached: Whether it no longer gets messages.
        transforms: Whether something changes messages, or drops them.
    """

    topic: str
    ack_deadline_s: int
    ordering: bool
    exactly_once: bool
    dead_topic: str
    max_deliveries: int
    push_endpoint: str
    push_metadata: bool
    retention_s: float
    expires_s: float | None
    backoff_s: tuple[float, float] | None
    filter: str
    detached: bool
    transforms: bool


def settings_of(raw: Any) -> Settings:
    """The settings of a subscription as the service answers them, without the wrapper of Google's client."""
    policy = raw.dead_letter_policy
    return Settings(
        topic=raw.topic,
        ack_deadline_s=raw.ack_deadline_seconds or 10,
        ordering=raw.enable_message_ordering,
        exactly_once=raw.enable_exactly_once_delivery,
        dead_topic=policy.dead_letter_topic,
        max_deliveries=policy.max_delivery_attempts or DEFAULT_DELIVERIES,
        push_endpoint=raw.push_config.push_endpoint,
        push_metadata=not raw.push_config.HasField("no_wrapper") or raw.push_config.no_wrapper.write_metadata,
        retention_s=_seconds(raw.message_retention_duration),
        expires_s=_seconds(raw.expiration_policy.ttl) or None,
        backoff_s=_backoff(raw.retry_policy) if raw.HasField("retry_policy") else None,
        filter=raw.filter,
        detached=raw.detached,
        # Older versions of Google's client do not know them.
        transforms=bool(getattr(raw, "message_transforms", ())),
    )


def _backoff(policy: Any) -> tuple[float, float]:
    least = _seconds(policy.minimum_backoff) if policy.HasField("minimum_backoff") else 10.0
    most = _seconds(policy.maximum_backoff) if policy.HasField("maximum_backoff") else 600.0
    return least, most


def _seconds(duration: Any) -> float:
    seconds: float = duration.seconds + duration.nanos / 1e9
    return seconds


def refined(can: Capabilities, settings: Settings, url_of: Callable[[str], str]) -> Capabilities:
    """The capabilities as a subscription's settings bear them out.

    Args:
        can: What the URL tells.
        settings: The subscription's.
        url_of: The URL of a topic, from its whole name.
    """
    counted = bool(settings.dead_topic)
    return replace(
        can,
        ordering="per_key" if settings.ordering else "none",
        fencing="strict" if settings.exactly_once else "lenient",
        ack_confirmed=settings.exactly_once,
        redelivers_unasked=not settings.exactly_once,
        attempts="approximate" if counted else "none",
        release_counts=counted,
        native_max_attempts=settings.max_deliveries if counted else None,
        dead_letter_queue=can.dead_letter_queue or (url_of(settings.dead_topic) if counted else ""),
        receives=not settings.push_endpoint,
        push_deadline_s=float(settings.ack_deadline_s) if settings.push_endpoint else None,
        push_metadata=settings.push_metadata or not settings.push_endpoint,
        server="Google Cloud Pub/Sub",
    )


def with_readers(can: Capabilities, subscriptions: Sequence[str], names: Names) -> Capabilities:
    """The capabilities as the subscriptions of the topic bear them out."""
    return replace(can, copies="private" if list(subscriptions) == [names.subscription] else "fanout")


def check_topic(settings: Settings, names: Names) -> None:
    """A queue sends to the topic that its subscription reads.

    Raises:
        OtherTopicError: It would not.
    """
    if settings.topic == names.topic:
        return
    name = names.subscription.rpartition("/")[2]
    if settings.topic == DELETED_TOPIC:
        msg = f"the topic of the subscription {name!r} was deleted; delete the subscription, and create both"
    else:
        other = settings.topic.rpartition("/")[2]
        msg = f"the subscription {name!r} is one of the topic {other!r}; name another by ?subscription="
    raise OtherTopicError(msg)
