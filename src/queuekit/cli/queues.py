# SPDX-License-Identifier: Apache-2.0
"""``queuekit create``, ``peek``, ``purge``, ``delete``, ``pause`` and ``resume``: for a queue as such."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from queuekit import UnsupportedError, create_queue
from queuekit._engine import metadata as meta
from queuekit._portable.link import Link, open_link
from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Admin, Pausable, Peekable, StoredMessage
from queuekit.cli.info import read_stats
from queuekit.cli.showing import confirmed, put_json, put_table, say

_PAGE = 100
_PREVIEW = 60


def peek(url: str, *, limit: int, message_type: str | None, done: bool, show_body: bool, as_json: bool) -> int:
    """Show messages in order of sending, without leasing them. Returns the exit code.

    Raises:
        QueueKitError: The URL is wrong, the backend cannot look, or the service could not be asked.
    """
    with _opened(url) as link:
        shown: list[StoredMessage] = []
        more = False
        for stored in _stored(link, done=done):
            if message_type is not None and stored.metadata.get(meta.TYPE) != message_type:
                continue
            more = len(shown) == limit
            if more:
                break
            shown.append(stored)
        if as_json:
            for stored in shown:
                put_json(describe(stored) | body_of(stored.body))
        else:
            _show(shown, show_body=show_body)
        if more:
            say(f"there are more; see them with --limit {2 * limit}")
        elif not shown:
            say(f"{link.shown} has no such message" if message_type or done else f"{link.shown} is empty")
    return 0


def purge(url: str, *, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Remove every message that is not leased. Returns the exit code.

    Raises:
        UnsupportedError: The backend cannot be emptied.
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    with _opened(url) as link:
        backend = link.backend
        if not link.capabilities.purge or not isinstance(backend, Admin):
            msg = f"{link.shown} cannot be emptied; receive its messages and ack them"
            raise UnsupportedError(msg, queue=link.shown, operation="purge")
        stats = read_stats(link)
        counted = None if stats is None or stats.ready is None else stats.ready + (stats.delayed or 0)
        if not dry_run and not yes and not confirmed(f"remove {_many(counted)} from {link.shown}?"):
            return 1
        removed = counted if dry_run else link.guard.call("purge", backend.purge)
        if as_json:
            put_json({"dry_run": dry_run, "removed": removed})
        else:
            say(f"{_many(removed)} {'would be' if dry_run else 'were'} removed from {link.shown}")
    return 0


def create(url: str, *, as_json: bool) -> int:
    """Make a queue. Returns the exit code.

    Raises:
        UnsupportedError: The backend cannot make queues.
        QueueKitError: The URL is wrong, or the service refused or could not be asked.
    """
    shown = create_queue(url)
    if as_json:
        put_json({"created": shown})
    else:
        say(f"{shown} is there")
    return 0


def delete(url: str, *, yes: bool, as_json: bool) -> int:
    """Remove a queue, or a subscription of it, with all that it holds. Returns the exit code.

    Raises:
        UnsupportedError: The backend cannot remove queues.
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    with _opened(url) as link:
        backend = link.backend
        if not isinstance(backend, Admin):
            msg = f"{link.shown} cannot be removed by queuekit; remove it where it was made"
            raise UnsupportedError(msg, queue=link.shown, operation="delete")
        if not link.guard.call("exists", backend.exists):
            say(f"queuekit: there is no {link.shown}")
            return 1
        if not yes and not confirmed(f"remove {link.shown} with its messages and dead letters?"):
            return 1
        link.guard.call("delete", backend.delete)
        if as_json:
            put_json({"deleted": link.shown})
        else:
            say(f"{link.shown} is gone")
    return 0


def set_paused(url: str, *, paused: bool, as_json: bool) -> int:
    """Pause or resume a queue for everybody. Returns the exit code.

    Raises:
        UnsupportedError: The backend cannot pause queues.
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    with _opened(url) as link:
        backend = link.backend
        if not link.capabilities.pause or not isinstance(backend, Pausable):
            msg = f"{link.shown} cannot be paused for everybody; use App.pause in each worker, or stop the workers"
            raise UnsupportedError(msg, queue=link.shown, operation="pause")
        before: bool = link.guard.call("is_paused", backend.is_paused)
        link.guard.call("pause" if paused else "resume", backend.pause if paused else backend.resume)
        if as_json:
            put_json({"queue": link.shown, "paused": paused, "changed": before != paused})
        elif paused:
            say(f"{link.shown} {'was paused already' if before else 'is paused; go on with: queuekit resume'}")
        else:
            say(f"{link.shown} {'goes on' if before else 'was not paused'}")
    return 0


def describe(stored: StoredMessage) -> dict[str, Any]:
    """A message as JSON has it, without its body."""
    return {
        "message_id": stored.message_id,
        "state": stored.state,
        "attempt": stored.attempt,
        "enqueued_at": _instant(stored.enqueued_at),
        "due_at": _instant(stored.due_at),
        "type": stored.metadata.get(meta.TYPE),
        "ordering_key": stored.ordering_key,
        "priority": stored.priority,
        "attributes": dict(stored.attributes),
        "size": len(stored.body),
    }


def body_of(body: bytes) -> dict[str, str]:
    """A body as JSON has it: as text where it is some."""
    try:
        return {"body": body.decode("utf-8"), "body_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode("ascii"), "body_encoding": "base64"}


@contextmanager
def _opened(url: str) -> Iterator[Link]:
    opener = Opener(SystemClock())
    link = open_link(url, None, {}, opener=opener)
    try:
        yield link
    finally:
        link.close()
        opener.close()


def _stored(link: Link, *, done: bool) -> Iterator[StoredMessage]:
    backend, cursor = link.backend, ""
    if not isinstance(backend, Peekable):
        msg = f"messages of {link.shown} cannot be looked at; receive them with a Consumer"
        raise UnsupportedError(msg, queue=link.shown, operation="peek")
    peekable: Peekable = backend
    while page := link.guard.call("peek", partial(peekable.peek, limit=_PAGE, after=cursor, done=done)):
        yield from page
        cursor = page[-1].cursor


def _show(shown: list[StoredMessage], *, show_body: bool) -> None:
    rows = []
    for stored in shown:
        text = stored.body[: 4 * _PREVIEW].decode("utf-8", "backslashreplace")
        preview = text if len(text) <= _PREVIEW and len(stored.body) <= 4 * _PREVIEW else text[:_PREVIEW] + "…"
        cells = (stored.message_id, stored.state, str(stored.attempt), _instant(stored.due_at) or "")
        more = (stored.metadata.get(meta.TYPE, ""), stored.ordering_key or "", str(len(stored.body)))
        rows.append((*cells, *more, *((preview,) if show_body else ())))
    columns = ("id", "state", "attempt", "due", "type", "key", "bytes", *(("body",) if show_body else ()))
    if rows:
        put_table(columns, rows)


def _instant(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        return None


def _many(count: int | None) -> str:
    return "all messages" if count is None else "1 message" if count == 1 else f"{count} messages"
