# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes as URLs and command lines write them: ``30s``, ``5m``, ``256KiB``."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction

_MICROSECONDS = {"ms": 1000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_SIZE_UNITS = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}
_NUMBER_AND_UNIT = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)([A-Za-z]+)", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read one number with one unit, such as ``250ms``, ``30s``, ``5m``, ``12h`` or ``7d``.

    A bare number is refused, because its unit would be a guess.

    Raises:
        ValueError: The text is something else; the message names the form.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in _MICROSECONDS:
        msg = "expected a number with a unit: ms, s, m, h or d, as in 30s"
        raise ValueError(msg)
    microseconds = Fraction(match[1]) * _MICROSECONDS[match[2]]
    if microseconds.denominator != 1:
        msg = "expected a duration of whole microseconds"
        raise ValueError(msg)
    try:
        return timedelta(microseconds=int(microseconds))
    except OverflowError:
        msg = "expected a shorter duration"
        raise ValueError(msg) from None


def format_duration(value: timedelta) -> str:
    """Write a duration so that `parse_duration` reads it back, in the largest unit that is exact."""
    microseconds = value // timedelta(microseconds=1)
    for unit, size in reversed(_MICROSECONDS.items()):
        if microseconds and microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    whole, rest = divmod(microseconds, 1000)
    return f"{whole}.{rest:03d}".rstrip("0") + "ms" if rest else f"{whole}ms"


def parse_size(text: str) -> int:
    """Read a size in bytes: ``65536B``, ``256KiB``, ``1MiB``; ``kB`` and ``MB`` are powers of ten.

    Raises:
        ValueError: The text is something else; the message names the form.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in _SIZE_UNITS:
        msg = "expected a number with a unit: B, KiB, MiB, GiB, kB, MB or GB, as in 256KiB"
        raise ValueError(msg)
    size = Fraction(match[1]) * _SIZE_UNITS[match[2]]
    if size.denominator != 1:
        msg = "expected a whole number of bytes"
        raise ValueError(msg)
    return int(size)


def format_size(value: int) -> str:
    """Write a size so that `parse_size` reads it back, in the largest binary unit that is exact."""
    for unit in ("GiB", "MiB", "KiB"):
        if value and value % _SIZE_UNITS[unit] == 0:
            return f"{value // _SIZE_UNITS[unit]}{unit}"
    return f"{value}B"
