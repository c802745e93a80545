# SPDX-License-Identifier: Apache-2.0
"""Pages of a list, and the filter of ListQueues."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from queuekit.testing.emulators.cloud_tasks._messages import Queue
from queuekit.testing.emulators.cloud_tasks._refusing import Code, Refused, invalid

_TOKEN_LIVES_S = 2 * 3600
_STATE = re.compile(r"\s*state\s*(:|=|!=)\s*\"?([A-Z_]+)\"?\s*")
_STATES = Queue.DESCRIPTOR.enum_types_by_name["State"].values_by_name


def page(
    items: Sequence[Any],
    request: Any,
    *,
    most: int,
    now: float,
    key: Callable[[Any], str | int],
) -> tuple[Sequence[Any], str]:
    """The page that a request asks for, and the token of the next one.

    Args:
        items: All there are, in the order of their keys.
        request: With ``page_size`` and ``page_token``.
        most: The longest page, which is also the usual one.
        now: The time.
        key: Where an item stands.

    Raises:
        Refused: The token is none of ours, too old, or of a list with another filter.
    """
    if request.page_size < 0:
        raise invalid("The page_size must not be negative.")
    asked = f"{request.parent} {getattr(request, 'filter', '')}"
    if request.page_token:
        after = _read(request.page_token, asked, now)
        items = [each for each in items if key(each) > after]
    size = min(request.page_size or most, most)
    shown = items[:size]
    return shown, _write([asked, now, key(shown[-1])]) if len(items) > size else ""


def filter_queues(queues: Sequence[Any], text: str) -> Sequence[Any]:
    """Those that a filter means.

    Raises:
        Refused: The filter is more than a comparison of the state.
    """
    if not text.strip():
        return queues
    match = _STATE.fullmatch(text)
    if match is None:
        raise Refused(Code.UNIMPLEMENTED, "This emulator can filter queues only by state, as in: state: PAUSED")
    if match[2] not in _STATES:
        raise invalid(f"The filter names a state that there is not: {match[2]}.")
    wanted = _STATES[match[2]].number
    return [each for each in queues if (each.state == wanted) != (match[1] == "!=")]


def _write(place: Sequence[str | float | int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _read(token: str, asked: str, now: float) -> Any:
    try:
        was_asked, made, after = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, TypeError):
        raise invalid("The page_token is not one of a former page.") from None
    if was_asked != asked:
        raise invalid("The page_token belongs to another list or another filter.")
    if now - made > _TOKEN_LIVES_S:
        raise invalid("The page_token is older than 2 hours.")
    return after
