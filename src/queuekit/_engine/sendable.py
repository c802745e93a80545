# SPDX-License-Identifier: Apache-2.0
"""What no queue may be given, because some service could not carry it unchanged. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from queuekit._values.errors import InvalidMessageError
from queuekit._values.message import Message

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ATTRIBUTE_NAME = re.compile(r"[^\x00-\x20\x7f-\xa0\ud800-\udfff\s]{1,255}")
_RESERVED = re.compile(r"qk([-.].*)?", re.IGNORECASE | re.DOTALL)
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_LONGEST_NAME = 255
_HIGHEST_PRIORITY = 9


def is_message_id(given: Any) -> TypeGuard[str]:
    """Whether it can be a message's id."""
    return isinstance(given, str) and _MESSAGE_ID.fullmatch(given) is not None


def check_texts(message: Message[Any]) -> None:
    """Refuse a message whose id, key, dedup id, type or priority some service could not carry unchanged.

    Raises:
        InvalidMessageError: One of them is of the wrong form.
    """
    for name in ("ordering_key", "dedup_id", "type"):
        _check_text(name, getattr(message, name))
    message_id = message.message_id
    if message_id is not None and not is_message_id(message_id):
        msg = "message_id must be 1 to 128 printable ASCII characters without spaces"
        raise InvalidMessageError(msg)
    priority = message.priority
    if priority is not None and (type(priority) is not int or not 0 <= priority <= _HIGHEST_PRIORITY):
        msg = f"priority must be a whole number from 0 to 9, higher first, and is {priority!r}"
        raise InvalidMessageError(msg)


def _check_text(name: str, text: Any) -> None:
    if text is None:
        return
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_NAME or _CONTROL.search(text):
        msg = f"{name} must be a str of 1 to {_LONGEST_NAME} characters without control characters or surrogates"
        raise InvalidMessageError(msg)


def checked_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """A copy of the user's attributes, so that a later change of theirs cannot reach the wire.

    Raises:
        InvalidMessageError: A name or a value that some service could not carry unchanged.
    """
    if not isinstance(attributes, Mapping):
        msg = f"attributes must be a mapping of str to str and is {type(attributes).__name__}"
        raise InvalidMessageError(msg)
    seen: set[str] = set()
    for name, value in attributes.items():
        _check_attribute(name, value)
        if name.lower() in seen:
            msg = f"the attribute {name!r} is given twice in different case; names are unique whatever their case"
            raise InvalidMessageError(msg)
        seen.add(name.lower())
    return dict(attributes)


def _check_attribute(name: Any, value: Any) -> None:
    if not isinstance(name, str) or not _ATTRIBUTE_NAME.fullmatch(name):
        msg = "an attribute's name must be a str of 1 to 255 characters without spaces or control characters"
        raise InvalidMessageError(msg)
    if _RESERVED.fullmatch(name):
        msg = f"the attribute name {name!r} is queuekit's own; choose one that does not begin with qk- or qk."
        raise InvalidMessageError(msg)
    if not isinstance(value, str) or _CONTROL.search(value):
        msg = f"the value of the attribute {name!r} must be a str without control characters or lone surrogates"
        raise InvalidMessageError(msg)
