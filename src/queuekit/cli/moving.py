# SPDX-License-Identifier: Apache-2.0
"""``queuekit dead move`` and its options: the service itself moves back what it moved aside."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from queuekit.cli.arguments import JSON, URL, rate_of

moving: typer.Typer = typer.Typer(
    help="Have the service itself move back what it moved aside, as SQS can.", rich_markup_mode=None
)


@moving.command("start")
def start(
    url: URL,
    rate: Annotated[
        Any,
        typer.Option(parser=rate_of, metavar="RATE", help="At most so many, as in 50/s; else as the service likes."),
    ] = None,
    as_json: JSON = False,
) -> int:
    """Begin a task that moves back what the service itself moved aside; dead redrive sends back other letters."""
    from queuekit.cli.dead import start_move

    return start_move(url, rate=rate, as_json=as_json)


@moving.command("ls")
def ls(url: URL, as_json: JSON = False) -> int:
    """Show the service's latest tasks, the newest first."""
    from queuekit.cli.dead import list_moves

    return list_moves(url, as_json=as_json)


@moving.command("cancel")
def cancel(url: URL, as_json: JSON = False) -> int:
    """Stop the service's task that runs, and fail where none does; what it has moved back stays so."""
    from queuekit.cli.dead import cancel_move

    return cancel_move(url, as_json=as_json)
