# SPDX-License-Identifier: Apache-2.0
"""What a queue says about itself, and what follows for what it can do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from queuekit.backend import Capabilities

ASSUMED = frozenset({"max_message_bytes", "native_max_attempts"})
"""What only the queue's settings tell."""

_ARN = re.compile(r"arn:[a-z0-9-]+:sqs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[\w.-]{1,80})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Redrive:
    """Where the service itself moves a message, and when.

    Attributes:
        region: The region of that queue.
        account: Its account.
        name: Its name.
        max_receives: After how many receives.
    """

    region: str
    account: str
    name: str
    max_receives: int


def redrive_of(settings: Mapping[str, str]) -> Redrive | None:
    """A queue's redrive policy; None where it has none, or one that cannot be read."""
    try:
        policy = json.loads(settings.get("RedrivePolicy") or "null")
        target = _ARN.fullmatch(str(policy["deadLetterTargetArn"]))
        most = int(policy.get("maxReceiveCount", 10))
    except (ValueError, TypeError, KeyError):
        return None
    return None if target is None else Redrive(target["region"], target["account"], target["name"], most)


def sources_of(settings: Mapping[str, str]) -> Sequence[str] | None:
    """The ARNs of the queues that may have this one for their dead letters; None where any queue may."""
    try:
        policy = json.loads(settings.get("RedriveAllowPolicy") or "null")
        permission, sources = policy["redrivePermission"], policy.get("sourceQueueArns") or []
    except (ValueError, TypeError, KeyError):
        return None
    return None if permission == "allowAll" else [str(each) for each in sources]


def queue_of(arn: str) -> str | None:
    """The name of the queue that an ARN names; None where it names none."""
    found = _ARN.fullmatch(arn)
    return None if found is None else found["name"]


def refined(can: Capabilities, settings: Mapping[str, str], url_of: Callable[[str], str]) -> Capabilities:
    """The capabilities as the queue's settings bear them out.

    Args:
        can: What the URL tells.
        settings: The queue's.
        url_of: The URL of a queue beside it, from its name.
    """
    redrive = redrive_of(settings)
    return replace(
        can,
        max_message_bytes=number(settings, "MaximumMessageSize", can.max_message_bytes),
        native_max_attempts=None if redrive is None else redrive.max_receives,
        dead_letter_queue="" if redrive is None else url_of(redrive.name),
        server="Amazon SQS",
    )


def number(settings: Mapping[str, str], name: str, otherwise: int) -> int:
    """A whole number among a queue's settings, which are texts."""
    text = settings.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else otherwise
