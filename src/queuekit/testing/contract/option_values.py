# SPDX-License-Identifier: Apache-2.0
"""Good and bad values for the options of any backend, made from the declaration of its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, get_args, get_origin, get_type_hints

from queuekit._values.duration import format_duration, format_size
from queuekit._values.options import Range, Size


@dataclasses.dataclass(frozen=True, slots=True)
class Examples:
    """Values of one option.

    Attributes:
        good: Two that differ, each as the URL's text and as the value.
        bad: Texts that must be refused.
        beside: Other options, and a value of each, without which this one is refused.
    """

    good: tuple[tuple[str, Any], tuple[str, Any]]
    bad: tuple[str, ...]
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict)


def examples(options: type[Any]) -> dict[str, Examples]:
    """Values for every option but those that are free text, which have no bad ones."""
    hints = get_type_hints(options, include_extras=True)
    found: dict[str, Examples] = {}
    for each in dataclasses.fields(options):
        values = _of(hints[each.name], each.metadata.get("range"))
        if values is not None:
            found[each.name] = dataclasses.replace(values, beside=each.metadata.get("beside", {}))
    return found


def _of(kind: Any, bounds: Range | None) -> Examples | None:
    inner = [each for each in get_args(kind) if each is not type(None)]
    if kind != Size and get_origin(kind) is not Literal and inner:
        kind = inner[0]
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return Examples(((choices[0], choices[0]), (choices[-1], choices[-1])), ("no-such-choice", "NONE"))
    if kind is timedelta:
        return _lengths(bounds or Range(timedelta(seconds=1), timedelta(seconds=2)), free=bounds is None)
    if kind in {int, Size}:
        return _counts(kind, bounds or Range(1, 2), free=bounds is None)
    if kind is bool:
        return Examples((("true", True), ("false", False)), ("yes", "1", "True", "tru"))
    return None


def _lengths(bounds: Range, *, free: bool) -> Examples:
    low, high = bounds.least, bounds.greatest
    over = () if free else (format_duration(high + timedelta(seconds=1)),)
    return Examples(
        ((format_duration(low), low), (format_duration(high), high)),
        ("30", "soon", "-1s", "5 min", "1h30m", "nan", "infs", "1e3s", *over),
    )


def _counts(kind: Any, bounds: Range, *, free: bool) -> Examples:
    def write(value: int) -> str:
        return format_size(value) if kind == Size else str(value)

    low, high = bounds.least, bounds.greatest
    over = () if free else (write(high + 1), *((write(low - 1),) if low > 0 else ()))
    bad = ("many", "1.5x", "0x10", "1_0", "--12345", *over)
    return Examples(((write(low), low), (write(high), high)), bad)
