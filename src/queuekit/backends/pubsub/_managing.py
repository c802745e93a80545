# SPDX-License-Identifier: Apache-2.0
"""Making and removing topics and subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from queuekit.backends._google.errors import UnlessStatus
from queuekit.backends.pubsub._errors import DifferentSettingsError
from queuekit.backends.pubsub._options import Names, PubSubOptions
from queuekit.backends.pubsub._probing import Settings, settings_of

Call: TypeAlias = Callable[..., Any]
"""Makes a call: the operation, and its request as a mapping."""

METHODS: Mapping[str, tuple[str, str]] = {
    "CreateSubscription": ("subscriber", "create_subscription"),
    "CreateTopic": ("publisher", "create_topic"),
    "DeleteSubscription": ("subscriber", "delete_subscription"),
    "DeleteTopic": ("publisher", "delete_topic"),
    "GetIamPolicy": ("publisher", "get_iam_policy"),
    "GetSubscription": ("subscriber", "get_subscription"),
    "GetTopic": ("publisher", "get_topic"),
    "ListTopicSubscriptions": ("publisher", "list_topic_subscriptions"),
    "Seek": ("subscriber", "seek"),
}
"""The operations on the queue itself, as the service calls them: whose they are, and how Google's client does."""

_ORDERED_DELIVERIES = 100


def deliveries_of(options: PubSubOptions) -> int:
    """After how many deliveries the service moves a message aside; 0 for never.

    An ordered subscription has a limit in any case: nothing else counts attempts there.
    """
    return options.max_deliveries or (_ORDERED_DELIVERIES if options.ordering else 0)


def create(call: Call, names: Names, options: PubSubOptions) -> None:
    """Make the topic and its subscription, and both for the dead letters.

    Raises:
        DifferentSettingsError: The subscription exists, with other settings.
    """
    _unless_there(call, "CreateTopic", {"name": names.dead_topic})
    dead = _plain(names.dead_subscription, names.dead_topic, options)
    _unless_there(call, "CreateSubscription", dead | {"enable_message_ordering": options.ordering})
    _unless_there(call, "CreateTopic", {"name": names.topic})
    if not _unless_there(call, "CreateSubscription", _wanted(names, options)):
        have = settings_of(call("GetSubscription", {"subscription": names.subscription}))
        different = ", ".join(_differences(have, names, options))
        if different:
            msg = f"the subscription exists, and differs in {different}; change it there, or open it as it is"
            raise DifferentSettingsError(msg)


def _unless_there(call: Call, operation: str, request: Mapping[str, Any]) -> bool:
    """Whether it was made; it may have been there."""
    with UnlessStatus("ALREADY_EXISTS"):
        call(operation, request)
        return True
    return False


def _plain(subscription: str, topic: str, options: PubSubOptions) -> dict[str, Any]:
    """A subscription that stays, used or not."""
    return {
        "name": subscription,
        "topic": topic,
        "ack_deadline_seconds": 60,
        "message_retention_duration": {"seconds": int(options.retention.total_seconds())},
        "expiration_policy": {},
    }


def _wanted(names: Names, options: PubSubOptions) -> dict[str, Any]:
    wanted = _plain(names.subscription, names.topic, options) | {
        "ack_deadline_seconds": int(options.ack_deadline.total_seconds()),
        "enable_message_ordering": options.ordering,
        "enable_exactly_once_delivery": options.exactly_once,
    }
    if deliveries_of(options):
        wanted["dead_letter_policy"] = {
            "dead_letter_topic": names.dead_topic,
            "max_delivery_attempts": deliveries_of(options),
        }
    if options.max_backoff:
        wanted["retry_policy"] = {
            "minimum_backoff": {"seconds": int(options.min_backoff.total_seconds())},
            "maximum_backoff": {"seconds": int(options.max_backoff.total_seconds())},
        }
    return wanted


def _differences(have: Settings, names: Names, options: PubSubOptions) -> Iterator[str]:
    limit = have.max_deliveries if have.dead_topic else 0
    backoff = None
    if options.max_backoff:
        backoff = (options.min_backoff.total_seconds(), options.max_backoff.total_seconds())
    wanted = deliveries_of(options)
    pairs = {
        "topic": (have.topic, names.topic),
        "ack_deadline": (have.ack_deadline_s, int(options.ack_deadline.total_seconds())),
        "retention": (int(have.retention_s), int(options.retention.total_seconds())),
        "ordering": (have.ordering, options.ordering),
        "exactly_once": (have.exactly_once, options.exactly_once),
        "max_deliveries": (limit, wanted),
        "dead_letter": (have.dead_topic, names.dead_topic if wanted else ""),
        "min_backoff, max_backoff": (have.backoff_s, backoff),
    }
    yield from (name for name, (there, asked) in pairs.items() if there != asked)


def delete(call: Call, names: Names, options: PubSubOptions) -> None:
    """Remove the subscription, its topic when nobody else reads it, and both for dead letters that are its own.

    Those that ``dead_letter=`` names stay: other queues may name them, too.
    What is gone already is passed over: who was killed in the middle of this does the rest by doing it again.
    """
    settings = _if_there(call, "GetSubscription", {"subscription": names.subscription})
    dead_topic = "" if settings is None else settings_of(settings).dead_topic
    _if_there(call, "DeleteSubscription", {"subscription": names.subscription})
    _delete_unread(call, names.topic)
    if not options.dead_letter and dead_topic in {"", names.dead_topic}:
        _if_there(call, "DeleteSubscription", {"subscription": names.dead_subscription})
        _delete_unread(call, names.dead_topic)


def _delete_unread(call: Call, topic: str) -> None:
    """Delete a topic; another subscription of it would be left without one."""
    left = _if_there(call, "ListTopicSubscriptions", {"topic": topic})
    if left is not None and not left:
        _if_there(call, "DeleteTopic", {"topic": topic})


def _if_there(call: Call, operation: str, request: Mapping[str, Any]) -> Any:
    """What the call answers; None where there is nothing to do it to."""
    with UnlessStatus("NOT_FOUND"):
        return call(operation, request)
    return None
