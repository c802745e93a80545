# SPDX-License-Identifier: Apache-2.0
"""What queuekit says of a message, as JSON among the texts that a service carries beside a body."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode

_LEFT_OUT = ("dead-traceback", "dead-error", "dead-worker", "dead-first", "dead-reason")
"""In this order, where not everything has room: a letter that says less is better than none."""
_TRIMMED = "dead-trimmed"


def load(text: str) -> Mapping[str, Any]:
    """The JSON object that a text is; empty for another, as anybody may have written it."""
    try:
        known = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def texts_of(value: Any) -> dict[str, str]:
    """Those members of an object that are texts; none where it is no object."""
    if not isinstance(value, Mapping):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}


def split(name: str, text: str, longest: int) -> dict[str, str]:
    """A text in parts that are no longer than that: the first under ``name``, others under ``name-1`` and so on."""
    return {
        (f"{name}-{number}" if number else name): text[start : start + longest]
        for number, start in enumerate(range(0, len(text), longest))
    }


def join(name: str, part_of: Callable[[str], str | None]) -> str:
    """The text that was `split`.

    Args:
        name: Of the first part; empty where there is none.
        part_of: The part of a name, or None.
    """
    text, number = part_of(name) or "", 1
    while (more := part_of(f"{name}-{number}")) is not None:
        text, number = text + more, number + 1
    return text


def shorter(metadata: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """The metadata, and then what is left of it where it has no room."""
    yield metadata
    left, out = dict(metadata), metadata.get(_TRIMMED, "").split()
    for name in _LEFT_OUT:
        if left.pop(name, None) is not None:
            out.append(name)
            left[_TRIMMED] = " ".join(out)
            yield dict(left)
