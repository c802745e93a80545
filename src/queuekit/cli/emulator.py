# SPDX-License-Identifier: Apache-2.0
"""``queuekit emulator``: services to develop against, on this host."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from queuekit import SetupError
from queuekit.cli.showing import put, put_json, say

if TYPE_CHECKING:
    from queuekit.testing.emulators import LocalCloudTasks

_NEEDS = ("grpc", "google.cloud.tasks_v2", "jwt", "cryptography")


emulator: typer.Typer = typer.Typer(help="Services to develop against, on this host.", rich_markup_mode=None)


@emulator.callback()
def group() -> None:
    """Services to develop against, on this host."""


@emulator.command()
def cloudtasks(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of gRPC; 0 for any free one.")] = 8123,
    control_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the certificates and the clock, over HTTP; 0 for any free one.")
    ] = 8124,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep queues and tasks in this SQLite file.")
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Make this queue, as in projects/P/locations/L/queues/Q; may be repeated."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Send tasks there, too: a name, address or network; may be repeated."),
    ] = None,
    issuer: Annotated[
        str, typer.Option(metavar="URL", help="Of OIDC tokens; own for the emulator's control address.")
    ] = "https://accounts.google.com",
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trust this authority's certificates, too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say in JSON where it listens.")] = False,
) -> int:
    """Serve Google Cloud Tasks on this host's loopback interface, until SIGTERM or Ctrl-C."""
    _need_emulator()
    from queuekit.testing.emulators import LocalCloudTasks

    ended = threading.Event()
    # Before it listens: whoever waits for the port may end it at once.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: ended.set())
    serve = partial(LocalCloudTasks, state=state, allow=allow or (), issuer=issuer, ca_file=ca_file, tell=say)
    with _started(partial(serve, port=port, control_port=control_port)) as local:
        _make(local, queue or ())
        _show(local, as_json=as_json)
        ended.wait()
    return 0


def _started(serve: Callable[[], LocalCloudTasks]) -> LocalCloudTasks:
    try:
        return serve()
    except (RuntimeError, OSError, ValueError) as error:
        msg = f"the emulator cannot start: {error}"
        raise SetupError(msg) from error


def _need_emulator() -> None:
    if any(_is_missing(name) for name in _NEEDS):
        msg = "the emulator needs some packages; install them with: pip install 'queuekit[emulator]'"
        raise SetupError(msg)


def _is_missing(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:
        return True


def _make(local: LocalCloudTasks, queues: Sequence[str]) -> None:
    from google.api_core.exceptions import AlreadyExists, GoogleAPICallError
    from google.cloud.tasks_v2 import Queue

    with local.client() as client:
        for name in queues:
            try:
                client.create_queue(parent=name.partition("/queues/")[0], queue=Queue(name=name))
            except AlreadyExists:
                pass  # it is in the state file
            except GoogleAPICallError as error:
                msg = f"the queue {name!r} cannot be made: {error.message}"
                raise SetupError(msg) from None


def _show(local: LocalCloudTasks, *, as_json: bool) -> None:
    if as_json:
        put_json({"address": local.address, "control": local.control_url, "certs": local.certs_url})
    else:
        put(f"Cloud Tasks: {local.address} (gRPC, without TLS)")
        put(f"certificates of the tokens: {local.certs_url}")
        put(f'clock: POST {{"seconds": 60}} to {local.control_url}/advance')
    sys.stdout.flush()
