# SPDX-License-Identifier: Apache-2.0
"""What of a subscription's settings can lose messages, or will surprise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from queuekit.backend import ErrorClass, ErrorCode, Finding, Wanted
from queuekit.backends.pubsub import _errors
from queuekit.backends.pubsub._options import Names
from queuekit.backends.pubsub._probing import Settings, settings_of

T = TypeVar("T")
Call: TypeAlias = Callable[..., Any]

_DEFAULT_ATTEMPTS = 5
_SLACK = 10
"""Deliveries that the service counts and no handler saw, such as those that a stop gave back."""
_DAY_S = 86_400
_AGENT = "@gcp-sa-pubsub.iam.gserviceaccount.com"
_GRANTS = {
    "publisher": frozenset({"roles/pubsub.publisher", "roles/pubsub.editor", "roles/pubsub.admin"}),
    "subscriber": frozenset({"roles/pubsub.subscriber", "roles/pubsub.editor", "roles/pubsub.admin"}),
}
_HIDDEN = (ErrorCode.ACCESS_DENIED, ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED)

_NOT_ASKED = Finding(
    severity="note",
    code="settings_denied",
    text="the subscription's settings could not be asked for, so that the least is assumed of it",
    remedy="allow pubsub.subscriptions.get, which the role Pub/Sub Viewer has",
)
_DETACHED = Finding(
    severity="loss",
    code="detached",
    text="the subscription is detached from its topic",
    remedy="delete it, and create it anew",
    loses="every message, for this subscription",
)
_BODY_ALONE = Finding(
    severity="warning",
    code="pushed_without_metadata",
    text="the subscription pushes the bodies of its messages, and nothing beside them",
    remedy="set write_metadata in the push configuration, or have the messages wrapped",
    loses="ids, attributes, and what queuekit notes of a message: its type, its attempts, its dead letter's reason",
)
_NO_POLICY = Finding(
    severity="note",
    code="no_dead_letter_policy",
    text="the service itself moves no message aside and counts no deliveries; queuekit counts by copies",
    remedy="give the subscription a dead-letter policy, as a net below dead_letter=",
)
_UNCOUNTED = Finding(
    severity="warning",
    code="uncounted",
    text="nobody counts attempts: an ordered subscription takes no copies, and it has no dead-letter policy",
    remedy="give the subscription a dead-letter policy; until then a worker does not start",
)
_NOWHERE = Finding(
    severity="loss",
    code="dead_letters_unread",
    text="the topic of the dead letters has no subscription",
    remedy="create one that never expires",
    loses="what the service itself moves aside",
)


def diagnose(call: Call, names: Names, wanted: Wanted) -> list[Finding]:
    """Hold a subscription's settings against how it is going to be worked.

    Args:
        call: Makes a call to the service.
        names: Of the topic and the subscription.
        wanted: How it is going to be worked.
    """
    settings = _asked(lambda: settings_of(call("GetSubscription", {"subscription": names.subscription})))
    if isinstance(settings, ErrorClass):
        return [_NOT_ASKED]
    if settings.detached:
        return [_DETACHED]
    found = [*_kept(settings), *_delivered(settings, wanted), *_readers(call, names)]
    if settings.dead_topic:
        return [*found, *_limit(settings, wanted), *_dead_letters(call, names, settings)]
    return [*found, _UNCOUNTED if settings.ordering else _NO_POLICY]


def _asked(ask: Callable[[], T]) -> T | ErrorClass:
    """What is asked for, or why it may not be."""
    try:
        return ask()
    except Exception as error:  # the status tells, not the class
        what = _errors.classify(error)
        if what.code not in _HIDDEN:
            raise
        return what


def _kept(settings: Settings) -> Iterator[Finding]:
    kept_s = settings.retention_s
    yield Finding(
        severity="warning" if kept_s < _DAY_S else "note",
        code="retention",
        text=f"the service drops a message {_length(kept_s)} after it was sent, handled or not",
        remedy="set the subscription's retention to 31 days, the longest" if kept_s < 31 * _DAY_S else "",
        loses=f"a message that nobody has handled {_length(kept_s)} after it was sent",
    )
    if settings.expires_s is not None:
        yield Finding(
            severity="warning",
            code="expires",
            text=f"the subscription is removed when nobody has used it for {_length(settings.expires_s)}",
            remedy="set its expiration to never",
            loses=f"every message, when nobody has used the subscription for {_length(settings.expires_s)}",
        )
    if settings.filter:
        yield Finding(
            severity="warning",
            code="filter",
            text="the subscription has a filter, and the service drops what does not match it",
            remedy="make a subscription without a filter, unless that is meant",
            loses="a message that the subscription's filter leaves out",
        )
    if settings.transforms:
        yield Finding(
            severity="warning",
            code="transforms",
            text="the subscription has transforms, which can change and drop messages",
            remedy="remove them, unless that is meant",
            loses="a message that a transform of the subscription drops",
        )


def _delivered(settings: Settings, wanted: Wanted) -> Iterator[Finding]:
    if settings.push_endpoint:
        yield Finding(
            severity="note",
            code="pushed",
            text="the subscription pushes its messages, and none can be pulled",
            remedy="serve them by App.asgi, or remove the push endpoint",
        )
        if not settings.push_metadata:
            yield _BODY_ALONE
    if wanted.lease_s is not None and settings.ack_deadline_s < wanted.lease_s:
        yield Finding(
            severity="note",
            code="short_ack_deadline",
            text=f"the subscription's ack deadline is {settings.ack_deadline_s} s and the lease "
            f"{wanted.lease_s:g} s, so that a call follows each pull; other programs do not make it",
            remedy="set the ack deadline to the lease",
        )
    if settings.backoff_s is not None and settings.backoff_s[0]:
        yield Finding(
            severity="note",
            code="retry_policy",
            text=f"the subscription's retry policy waits for {settings.backoff_s[0]:g} s at least, on top of each "
            "retry, and before what a stop gave back comes again",
            remedy="remove it: queuekit's own policy decides how long a retry waits",
        )


def _readers(call: Call, names: Names) -> Iterator[Finding]:
    readers = _asked(lambda: call("ListTopicSubscriptions", {"topic": names.topic}))
    if isinstance(readers, ErrorClass):
        yield Finding(
            severity="note",
            code="subscriptions_denied",
            text="the topic's other subscriptions could not be asked for, so that no copies are sent to it",
            remedy="allow pubsub.topics.get, which the role Pub/Sub Viewer has",
        )
    elif len(readers) > 1:
        yield Finding(
            severity="note",
            code="several_subscriptions",
            text=f"the topic has {len(readers)} subscriptions, each of which gets every message and every copy; "
            "retries are not made by copy",
        )


def _limit(settings: Settings, wanted: Wanted) -> Iterator[Finding]:
    attempts, limit = wanted.max_attempts or _DEFAULT_ATTEMPTS, settings.max_deliveries
    if limit <= attempts + _SLACK:
        yield Finding(
            severity="warning" if limit <= attempts else "note",
            code="few_deliveries",
            text=f"the service moves a message aside after {limit} deliveries, without a reason, and counts those "
            f"that a stop gave back; {attempts} attempts are wanted",
            remedy=f"set the policy's maximum above {attempts + _SLACK}",
        )


def _dead_letters(call: Call, names: Names, settings: Settings) -> Iterator[Finding]:
    topic = settings.dead_topic
    readers = _asked(lambda: call("ListTopicSubscriptions", {"topic": topic}))
    if isinstance(readers, ErrorClass):
        missing = readers.code is ErrorCode.NOT_FOUND
        yield Finding(
            severity="warning" if missing else "note",
            code="dead_letters_missing" if missing else "dead_letters_denied",
            text=f"the topic of the dead letters {'does not exist' if missing else 'could not be asked for'}",
            remedy="create it" if missing else "allow pubsub.topics.get on it",
        )
        if missing:
            return
    elif not readers:
        yield _NOWHERE
    yield from _grant(call, topic, "publisher", "the topic of the dead letters")
    yield from _grant(call, names.subscription, "subscriber", "the subscription")


def _grant(call: Call, resource: str, role: str, shown: str) -> Iterator[Finding]:
    """Without its own permissions the service moves nothing aside, and counts nothing."""
    policy = _asked(lambda: call("GetIamPolicy", {"resource": resource}))
    if isinstance(policy, ErrorClass):
        yield Finding(
            severity="note",
            code="permissions_denied",
            text=f"who may use {shown} could not be asked for; Google's Pub/Sub service account needs the role "
            f"roles/pubsub.{role} on it",
            remedy="allow pubsub.topics.getIamPolicy and pubsub.subscriptions.getIamPolicy to have it looked at",
        )
    elif not _granted(policy.bindings, role):
        yield Finding(
            severity="warning",
            code="dead_letter_permission",
            text=f"Google's Pub/Sub service account is not seen to have the role roles/pubsub.{role} on {shown}, and "
            "without it the dead-letter policy neither counts nor moves anything; a role on the project is not seen",
            remedy=f"grant service-PROJECT_NUMBER{_AGENT} the role roles/pubsub.{role} on {shown}",
        )


def _granted(bindings: Sequence[Any], role: str) -> bool:
    return any(
        each.role in _GRANTS[role] and any(member.endswith(_AGENT) for member in each.members) for each in bindings
    )


def _length(seconds: float) -> str:
    return f"{seconds / _DAY_S:g} d" if seconds >= _DAY_S else f"{seconds / 60:g} min"
