# SPDX-License-Identifier: Apache-2.0
"""What a user sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypedDict

from typing_extensions import TypeVar

from queuekit._values.errors import UsageError

T = TypeVar("T", default=bytes)


class SendOptions(TypedDict, total=False):
    """The keyword arguments that every sending call takes, named as the fields of `Message`."""

    delay: timedelta | None
    not_before: datetime | None
    ordering_key: str | None
    dedup_id: str | None
    priority: int | None
    expires_in: timedelta | None
    max_attempts: int | None
    retry_delay: timedelta | None
    attributes: Mapping[str, str]
    type: str | None
    message_id: str | None


@dataclass(frozen=True, slots=True)
class Message(Generic[T]):
    """A payload with options of its own, for `Producer.send_many`.

    Nothing is checked here; sending does that, before any I/O.

    Attributes:
        payload: The value to send, of the producer's declared type.
        delay: Deliver no earlier than this long from now. Excludes ``not_before``.
        not_before: Deliver no earlier than this instant; must be aware. One in the past is now.
        ordering_key: Messages of one key are delivered in the order in which they were sent, one at a time.
        dedup_id: A second send with this id inside the queue's window adds nothing.
        priority: 0 to 9, higher first; None is 0. Refused by queues that have no priorities.
        expires_in: Drop the message if no handler began it within this time from now.
        max_attempts: Most attempts, 1 to 1000, in place of the handler's policy; None leaves it to the policy.
        retry_delay: The wait after each failed attempt, in place of the policy's; a handler's own
            ``Retry(delay=)`` wins over it.
        attributes: Strings that travel beside the body, name to value.
        type: What kind of message this is; picks the handler.
        message_id: An id of your own; by default a random one.

    Examples:
        ```python
        with Producer("memory://orders", payload=dict) as producer:
            orders = [{"customer": "ada", "item": "tea"}, {"customer": "joe", "item": "jam"}]
            producer.send_many([Message(order, ordering_key=order["customer"]) for order in orders])
        ```
    """

    payload: T
    _: KW_ONLY
    delay: timedelta | None = None
    not_before: datetime | None = None
    ordering_key: str | None = None
    dedup_id: str | None = None
    priority: int | None = None
    expires_in: timedelta | None = None
    max_attempts: int | None = None
    retry_delay: timedelta | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    type: str | None = None
    message_id: str | None = None


_OPTION_NAMES = frozenset(SendOptions.__annotations__)


def message_of(payload: Any, options: SendOptions) -> Message[Any]:
    """A message from what a user gave to a send: a payload with options, or a whole message.

    Raises:
        UsageError: An option that there is none, or options beside a whole message.
    """
    if not isinstance(payload, Message):
        unknown = options.keys() - _OPTION_NAMES
        if unknown:
            msg = f"no send option {min(unknown)!r}; known are {', '.join(sorted(_OPTION_NAMES))}"
            raise UsageError(msg, operation="send")
        return Message(payload, **options)
    if options:
        msg = "options are given beside a Message; put them into the Message"
        raise UsageError(msg, operation="send")
    return payload
