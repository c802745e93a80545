# SPDX-License-Identifier: Apache-2.0
"""Options of a URL, read into one dataclass per backend."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Hashable, Mapping
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from queuekit._values.duration import format_duration, parse_duration, parse_size
from queuekit._values.errors import InvalidURLError

T = TypeVar("T")
Size = Annotated[int, "size"]
"""Marks an option that counts bytes, written as ``256KiB`` in a URL."""

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_BOOLEANS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The least and the greatest value that an option takes, both included.

    Goes into a field's metadata under ``range``: ``field(metadata={"range": Range(1, 10)})``.
    """

    least: Any
    greatest: Any


def read_options(
    options: type[T],
    texts: Mapping[str, str],
    keywords: Mapping[str, Any],
    *,
    scheme: str,
    beside: Collection[str] = (),
) -> T:
    """Fill an options dataclass from the URL's texts and from keyword arguments of the same names.

    Args:
        options: A frozen dataclass whose fields all have defaults. Types: str, int, float, bool,
            `timedelta`, `Size`, a ``Literal`` of strings, each also ``| None``.
        texts: The URL's options, decoded.
        keywords: Keyword arguments; a None means that it was not given.
        scheme: For the messages.
        beside: Names of options that are read elsewhere; offered for an unknown name too.

    Raises:
        InvalidURLError: An unknown name (the nearest known one is offered), a value of the wrong form or
            out of range, or a keyword of the wrong type or that contradicts the URL. Values are never
            quoted.
    """
    types = _field_types(cast("Hashable", options))
    given = {name: value for name, value in keywords.items() if value is not None}
    for name in (*texts, *given):
        if name not in types:
            raise InvalidURLError(_unknown(name, (*types, *beside), scheme))
    values = {name: _read(name, text, types[name], scheme) for name, text in texts.items()}
    for name, value in given.items():
        if not _fits(value, types[name]):
            msg = f"the keyword {name!r} for {scheme} URLs is of the wrong type: {type(value).__name__}"
            raise InvalidURLError(msg)
        if name in values and values[name] != value:
            msg = f"the option {name!r} is in the {scheme} URL and given as a keyword, and they differ; keep one"
            raise InvalidURLError(msg)
        values[name] = value
    _check_ranges(options, values, scheme)
    return options(**values)


def _unknown(name: str, known: Collection[str], scheme: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
    return f"no option {name!r} for {scheme} URLs; {hint}"


@cache
def _field_types(options: Hashable) -> dict[str, Any]:
    declared = cast("type[Any]", options)
    hints = get_type_hints(declared, include_extras=True)
    return {each.name: hints[each.name] for each in dataclasses.fields(declared)}


def _read(name: str, text: str, kind: Any, scheme: str) -> Any:
    try:
        return _reader(kind)(text)
    except ValueError as error:
        msg = f"the option {name!r} of a {scheme} URL: {error}"
        raise InvalidURLError(msg) from None


def _reader(kind: Any) -> Callable[[str], Any]:
    if kind == Size:
        return parse_size
    if get_origin(kind) is Literal:
        return lambda text: _read_choice(text, get_args(kind))
    inner = [each for each in get_args(kind) if each is not type(None)]
    if inner and type(None) in get_args(kind):
        return _reader(inner[0])
    return _PLAIN_READERS[kind]


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    inner = [each for each in get_args(kind) if each not in {type(None), "size"}]
    if inner:
        return _fits(value, inner[0])
    if kind is float:
        return type(value) in {int, float} and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _read_choice(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        msg = f"expected one of {', '.join(choices)}"
        raise ValueError(msg)
    return text


def _read_bool(text: str) -> bool:
    if text not in _BOOLEANS:
        msg = "expected true or false"
        raise ValueError(msg)
    return _BOOLEANS[text]


def _read_int(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        msg = "expected a whole number"
        raise ValueError(msg)
    return int(text)


def _read_float(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        msg = "expected a number"
        raise ValueError(msg)
    return float(text)


_PLAIN_READERS: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
    timedelta: parse_duration,
}


def _check_ranges(options: type[Any], values: Mapping[str, Any], scheme: str) -> None:
    for each in dataclasses.fields(options):
        bounds = each.metadata.get("range")
        value = values.get(each.name)
        if bounds is None or value is None or bounds.least <= value <= bounds.greatest:
            continue
        msg = (
            f"the option {each.name!r} of a {scheme} URL must lie between {_show(bounds.least)} "
            f"and {_show(bounds.greatest)}"
        )
        raise InvalidURLError(msg)


def _show(value: Any) -> str:
    return format_duration(value) if isinstance(value, timedelta) else str(value)
