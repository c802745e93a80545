# SPDX-License-Identifier: Apache-2.0
"""The arguments and options that several commands have, and how their texts are read."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

from queuekit._values.duration import parse_duration

_RATE = re.compile(r"([0-9]{1,9})(?:/([smh]))?")
_PER = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}


def duration(text: str) -> timedelta:
    """Read a length of time.

    Raises:
        BadParameter: It is none.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def rate_of(text: str) -> tuple[int, timedelta]:
    """Read how many in how long.

    Raises:
        BadParameter: It is none.
    """
    match = _RATE.fullmatch(text)
    if match is None or int(match[1]) < 1:
        msg = "expected a whole number a second, minute or hour, as in 500/s, 30/m or 10/h"
        raise typer.BadParameter(msg)
    return int(match[1]), _PER[match[2] or "s"]


def attribute(text: str) -> tuple[str, str]:
    """Read a name and a value.

    Raises:
        BadParameter: It is none.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        msg = "expected NAME=VALUE"
        raise typer.BadParameter(msg)
    return name, value


URL = Annotated[str, typer.Argument(metavar="URL", help="The queue, as in sqlite:///jobs.db?queue=orders.")]
JSON = Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="From dead ls.")]
OfType = Annotated[str | None, typer.Option("--type", help="Only those of this type.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with this in the reason.")]
Error = Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with this in the error.")]
OlderThan = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="DURATION", help="Only those that died so long ago, as in 7d."),
]
