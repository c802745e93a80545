# SPDX-License-Identifier: Apache-2.0
"""``queuekit worker``: import an app and run it."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from queuekit import App, ExitCode, QueueNotFoundError, UsageError
from queuekit.cli.choices import LogLevel
from queuekit.cli.logs import set_up_logging
from queuekit.cli.pushed import Serving, pushed_queues, serve_pushed
from queuekit.cli.showing import say

_FORM = "name the app as MODULE:ATTRIBUTE, as in shop.tasks:app"
_NOT_THEIRS = (str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent), "<frozen")


def work(
    target: str,
    *,
    processes: int = 0,
    queues: Sequence[str] = (),
    drain: timedelta | None = None,
    log_level: LogLevel = LogLevel.INFO,
    serving: Mapping[str, Any] = MappingProxyType({}),
) -> ExitCode:
    """Run an app's worker until it is told to stop; where messages are pushed, serve them.

    Args:
        target: ``MODULE:ATTRIBUTE``; the current folder is searched first.
        processes: As in `App.run`.
        queues: Only these; empty for all.
        drain: Instead of the app's own.
        log_level: How much to tell.
        serving: What was said of how to serve, by the names of `Serving`.

    Raises:
        UsageError: There is no such app, or what was asked for does not fit its queues.
        QueueKitError: The worker could not be started.
    """
    app = load_app(target)
    set_up_logging(log_level)
    if drain is not None:
        app._drain_s = drain.total_seconds()  # noqa: SLF001 - the app's owner decides it; its operator may overrule
    if app.handlers and pushed_queues(app, queues):
        if processes:
            msg = "--processes is for messages that are fetched; these are pushed: start several servers"
            raise UsageError(msg)
        return serve_pushed(app, queues, Serving(**serving))
    if serving:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in serving)
        msg = f"{named}: nothing pushes the messages of these queues, and a worker needs no address"
        raise UsageError(msg)
    try:
        return app.run(processes=processes, queues=list(queues) or None)
    except QueueNotFoundError as error:
        say(f"queuekit: {error}")
        return ExitCode.QUEUE_GONE


def load_app(target: str) -> App:
    """Import the app that ``MODULE:ATTRIBUTE`` names.

    Raises:
        UsageError: The target has another form, or there is no such module, attribute or app.
    """
    module_name, _, path = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        msg = f"{target!r} names no app; {_FORM}"
        raise UsageError(msg)
    found: Any = _import(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            msg = f"module {module_name!r} has no attribute {path!r}; {_FORM}"
            raise UsageError(msg)
        found = getattr(found, name)
    if not isinstance(found, App):
        msg = f"{target!r} is no queuekit.App; it is of type {type(found).__qualname__}"
        raise UsageError(msg)
    return found


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UsageError(_failure(name, error)) from None
        msg = f"there is no module {error.name!r} in this folder or among the installed packages; {_FORM}"
        raise UsageError(msg) from None
    except Exception as error:  # noqa: BLE001 - the user's module may raise anything while it is imported
        raise UsageError(_failure(name, error)) from None


def _failure(name: str, error: Exception) -> str:
    """What stopped an import, and where; without source lines, in which a URL may stand with its password."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(_NOT_THEIRS)]
    where = "".join(f" ({each.filename}, line {each.lineno})" for each in frames[-1:])
    return f"importing {name!r} failed{where}: {type(error).__name__}: {error}"
