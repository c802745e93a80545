# SPDX-License-Identifier: Apache-2.0
"""What an answer to a batch says of each entry. A 200 says nothing: each entry succeeds or fails by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from queuekit.backend import ErrorClass, ErrorCode
from queuekit.backends.sqs._errors import of_entry

_UNMENTIONED = ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, detail="the service's answer leaves this entry out")
_CONTRADICTED = ErrorClass(
    ErrorCode.BACKEND_BUG, detail="the service's answer says both that this entry succeeded and that it failed"
)


class Told(NamedTuple):
    """What the service said of one entry.

    Attributes:
        success: Its record, where it succeeded.
        error: Why it failed.
        known: Whether the answer is clear; otherwise the service may or may not have acted.
    """

    success: Mapping[str, Any] | None = None
    error: ErrorClass = _UNMENTIONED
    known: bool = False


def read(answer: Mapping[str, Any], count: int) -> list[Told]:
    """One `Told` per entry, whose ids are their positions. An id that was never sent concerns none of them."""
    told = [Told()] * count
    failed: set[int] = set()
    for entry in answer.get("Failed") or ():
        position = _position(entry, count)
        if position is not None and position not in failed:
            failed.add(position)
            told[position] = Told(None, of_entry(entry), known=True)
    for entry in answer.get("Successful") or ():
        position = _position(entry, count)
        if position is not None:
            told[position] = Told(None, _CONTRADICTED) if position in failed else Told(entry, known=True)
    return told


def _position(entry: Mapping[str, Any], count: int) -> int | None:
    text = str(entry.get("Id", ""))
    position = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else count
    return position if position < count else None
