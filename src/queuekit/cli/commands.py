# SPDX-License-Identifier: Apache-2.0
"""The commands and their options. What they do stands in a module each."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.main import get_command

from queuekit._values.duration import format_duration
from queuekit._values.errors import QueueKitError, SetupError, UsageError
from queuekit.cli.arguments import (
    JSON,
    URL,
    DryRun,
    Error,
    Ids,
    Limit,
    OfType,
    OlderThan,
    Reason,
    Yes,
    attribute,
    duration,
    rate_of,
)
from queuekit.cli.choices import BodyKind, LogLevel
from queuekit.cli.emulator import emulator
from queuekit.cli.moving import moving
from queuekit.cli.showing import redact, say

if TYPE_CHECKING:
    from queuekit.cli.choosing import Chosen

# typer has its own copy of click's errors in some releases, and no name for their root.
_CommandError: type[Exception] = typer.BadParameter.__mro__[2]

app: typer.Typer = typer.Typer(
    name="queuekit",
    help="Send to queues, work them, and look after them; the backend is picked by a URL.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
dead: typer.Typer = typer.Typer(help="Look at dead letters, and send them back.", rich_markup_mode=None)
app.add_typer(dead, name="dead")
dead.add_typer(moving, name="move")
app.add_typer(emulator, name="emulator")


def run(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit code; what went wrong was said in one line on stderr."""
    try:
        code = get_command(app).main(args=list(arguments) or ["--help"], prog_name="queuekit", standalone_mode=False)
        sys.stdout.flush()  # here, where it can still be said that nobody reads
        return int(code or 0)
    except _CommandError as error:
        # Arguments are quoted in it, and one of them may be a URL.
        say(f"queuekit: {redact(cast('Any', error).format_message())} See queuekit --help.")
        return 2
    except QueueKitError as error:
        say(f"queuekit: {redact(str(error))}")
        return 2 if isinstance(error, (SetupError, UsageError)) else 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _choice(message_type: str | None, reason: str | None, error: str | None, older_than: timedelta | None) -> Chosen:
    from queuekit.cli.choosing import Chosen

    return Chosen(message_type=message_type, reason=reason, error=error, older_than=older_than)


@app.command()
def worker(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the App is, as in shop.tasks:app.")],
    processes: Annotated[int, typer.Option(min=0, help="Run handlers in so many child processes.")] = 0,
    queue: Annotated[list[str] | None, typer.Option(help="Only this queue; may be repeated.")] = None,
    drain: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="How long handlers may go on, as in 30s."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="How much to tell.")] = LogLevel.INFO,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a Python file in this folder changes; to develop with.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Where messages are pushed: the address to listen on, 127.0.0.1 by default.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="As --host: the port, 8080 by default.")] = None,
    audience: Annotated[
        list[str] | None, typer.Option(help="Who may push: what tokens must be made for; may be repeated.")
    ] = None,
    service_account: Annotated[
        list[str] | None, typer.Option(metavar="EMAIL", help="Who may push: on whose behalf; may be repeated.")
    ] = None,
    issuer: Annotated[str | None, typer.Option(metavar="URL", help="Who makes the tokens, if not Google.")] = None,
    certs_url: Annotated[str | None, typer.Option(metavar="URL", help="Where the issuer's keys are.")] = None,
    deadline: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="How long an answer is awaited, as in 60s."),
    ] = None,
) -> int:
    """Run the handlers of an app until SIGTERM or Ctrl-C, then drain; messages that are pushed are served by HTTP."""
    given = {
        "host": host,
        "port": port,
        "audience": audience,
        "service_account": service_account,
        "issuer": issuer,
        "certs_url": certs_url,
        "deadline": deadline,
    }
    serving = {name: value for name, value in given.items() if value not in (None, [])}
    if reload:
        from queuekit.cli.reload import run_with_reload

        return run_with_reload(
            [
                *(target, "--processes", str(processes), "--log-level", log_level.value),
                *(part for name in queue or () for part in ("--queue", name)),
                *(("--drain", format_duration(drain)) if drain is not None else ()),
                *_flags(serving),
            ],
            folder=Path.cwd(),
        )
    from queuekit.cli.worker import work

    return work(target, processes=processes, queues=queue or (), drain=drain, log_level=log_level, serving=serving)


@app.command()
def send(
    url: URL,
    message: Annotated[str | None, typer.Argument(help="The body; without it, stdin is sent.")] = None,
    jsonl: Annotated[str | None, typer.Option(metavar="FILE", help="One JSON value a line; - for stdin.")] = None,
    kind: Annotated[BodyKind, typer.Option("--as", help="What the body is.")] = BodyKind.TEXT,
    message_type: Annotated[str | None, typer.Option("--type", help="Picks the handler.")] = None,
    attribute: Annotated[
        list[Any] | None, typer.Option(parser=attribute, metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    delay: Annotated[timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="As in 30s.")] = None,
    ordering_key: Annotated[str | None, typer.Option(help="Messages of one key stay in order.")] = None,
    dedup_id: Annotated[str | None, typer.Option(help="A second send with this id adds nothing.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 9, higher first.")] = None,
    timeout: Annotated[
        Any, typer.Option(parser=duration, metavar="DURATION", help="How long to try, each batch anew.")
    ] = "30s",
    as_json: JSON = False,
) -> int:
    """Send one message, from the argument or stdin, or one for each line of a JSONL file."""
    from queuekit import SendOptions
    from queuekit.cli.send import send_lines, send_one

    options: SendOptions = {
        "type": message_type,
        "attributes": _attributes(attribute or []),
        "delay": delay,
        "ordering_key": ordering_key,
        "dedup_id": dedup_id,
        "priority": priority,
    }
    if jsonl is None:
        return send_one(url, message, kind=kind, options=options, timeout=timeout, as_json=as_json)
    _refuse_beside_jsonl(
        {"MESSAGE": message, "--as": None if kind is BodyKind.TEXT else kind, "--dedup-id": dedup_id}
    )
    return send_lines(url, jsonl, options=options, timeout=timeout, as_json=as_json)


@app.command()
def peek(
    url: URL,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many.")] = 100,
    message_type: OfType = None,
    done: Annotated[bool, typer.Option("--done", help="Show what was done and is kept, see keep_done.")] = False,
    show_body: Annotated[bool, typer.Option("--body", help="Show how each body begins.")] = False,
    as_json: JSON = False,
) -> int:
    """Show messages in order of sending, without leasing them; --json has their bodies."""
    from queuekit.cli.queues import peek as look

    return look(url, limit=limit, message_type=message_type, done=done, show_body=show_body, as_json=as_json)


@app.command()
def purge(url: URL, yes: Yes = False, dry_run: DryRun = False, as_json: JSON = False) -> int:
    """Remove every message of a queue that is not with a consumer."""
    from queuekit.cli.queues import purge as empty

    return empty(url, yes=yes, dry_run=dry_run, as_json=as_json)


@app.command()
def create(url: URL, as_json: JSON = False) -> int:
    """Make a queue, with the settings that its URL gives and a queue for its dead letters."""
    from queuekit.cli.queues import create as make

    return make(url, as_json=as_json)


@app.command()
def delete(url: URL, yes: Yes = False, as_json: JSON = False) -> int:
    """Remove a queue with its messages and dead letters; with ?subscription=, that subscription alone."""
    from queuekit.cli.queues import delete as remove

    return remove(url, yes=yes, as_json=as_json)


@app.command()
def pause(url: URL, as_json: JSON = False) -> int:
    """Hand out no message of a queue to anybody, until resume; sends and settlements go on."""
    from queuekit.cli.queues import set_paused

    return set_paused(url, paused=True, as_json=as_json)


@app.command()
def resume(url: URL, as_json: JSON = False) -> int:
    """Hand out the messages of a queue again."""
    from queuekit.cli.queues import set_paused

    return set_paused(url, paused=False, as_json=as_json)


@dead.command("ls")
def dead_ls(
    url: URL,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many.")] = 100,
    message_type: OfType = None,
    reason: Reason = None,
    error: Error = None,
    older_than: OlderThan = None,
    as_json: JSON = False,
) -> int:
    """List dead letters, the oldest first."""
    from queuekit.cli.dead import list_dead

    chosen = _choice(message_type, reason, error, older_than)
    return list_dead(url, chosen=chosen, limit=limit, as_json=as_json)


@dead.command("show")
def dead_show(
    url: URL, message_id: Annotated[str, typer.Argument(metavar="ID", help="From dead ls.")], as_json: JSON = False
) -> int:
    """Show all of one dead letter."""
    from queuekit.cli.dead import show_dead

    return show_dead(url, message_id, as_json=as_json)


@dead.command("redrive")
def dead_redrive(
    url: URL,
    message_ids: Ids = None,
    limit: Limit = None,
    message_type: OfType = None,
    reason: Reason = None,
    error: Error = None,
    older_than: OlderThan = None,
    rate: Annotated[
        Any, typer.Option(parser=rate_of, metavar="RATE", help="At most so many, as in 500/s or 30/m.")
    ] = None,
    dry_run: DryRun = False,
    as_json: JSON = False,
) -> int:
    """Send dead letters back to their queue: those named, else all that are meant."""
    from queuekit.cli.dead import redrive

    chosen = _choice(message_type, reason, error, older_than)
    return redrive(url, message_ids or (), chosen=chosen, limit=limit, rate=rate, dry_run=dry_run, as_json=as_json)


@dead.command("purge")
def dead_purge(
    url: URL,
    message_ids: Ids = None,
    limit: Limit = None,
    message_type: OfType = None,
    reason: Reason = None,
    error: Error = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: JSON = False,
) -> int:
    """Remove dead letters for good: those named, else all that are meant."""
    from queuekit.cli.dead import purge

    chosen = _choice(message_type, reason, error, older_than)
    return purge(url, message_ids or (), chosen=chosen, limit=limit, yes=yes, dry_run=dry_run, as_json=as_json)


@app.command()
def info(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="A queue.")] = None, as_json: JSON = False
) -> int:
    """Tell the version and the known schemes; with a URL, what the queue can do and holds."""
    from queuekit.cli.info import info as tell

    return tell(url, as_json=as_json)


@app.command()
def doctor(
    url: URL,
    max_attempts: Annotated[int | None, typer.Option(min=1, help="Of the handlers that are to work it.")] = None,
    lease: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Of the handlers that are to work it, as in 60s."),
    ] = None,
    as_json: JSON = False,
) -> int:
    """Look at a queue's own settings, and say what can be lost by them; fails where accepted messages can."""
    from queuekit.cli.doctor import doctor as look

    return look(url, max_attempts=max_attempts, lease=lease, as_json=as_json)


@app.command()
def contract(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="A backend, without a queue or with {name} for it: memory://.")
    ],
    only: Annotated[
        str, typer.Option("--only", "-k", metavar="TEXT", help="Only these cases, as in 'LEA or ACK-05'.")
    ] = "",
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report there, too, as JSON.")] = None,
    as_json: JSON = False,
) -> int:
    """Judge a backend by the contract suite. Cases make queues with names of their own."""
    from queuekit.cli.contract import judge

    return judge(url, only=only, report=report, as_json=as_json)


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Whose files; by default Python's own library.")] = None,
    as_json: JSON = False,
) -> int:
    """Hash files through a queue, with failures, poison and a killed worker, and count what came of it."""
    from queuekit.cli.demo import demo as run_demo

    return run_demo(folder, as_json=as_json)


def _flags(serving: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in serving.items():
        for each in value if isinstance(value, list) else [value]:
            flags += [f"--{name.replace('_', '-')}", format_duration(each) if name == "deadline" else str(each)]
    return flags


def _attributes(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    attributes = dict(pairs)
    if len(attributes) < len(pairs):
        msg = "an attribute is given twice; give each once"
        raise UsageError(msg)
    return attributes


def _refuse_beside_jsonl(given: dict[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            msg = f"{name} and --jsonl exclude each other: a file has one message a line"
            raise UsageError(msg)
