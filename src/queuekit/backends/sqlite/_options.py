# SPDX-License-Identifier: Apache-2.0
"""The options of a SQLite URL, and the file that it points to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from queuekit.backend import InvalidURLError, QueueURL, Range, Size

FORMS = ("sqlite:///FILE?queue=QUEUE", "sqlite:////ABSOLUTE/FILE?queue=QUEUE")


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteOptions:
    """What can be chosen in a SQLite URL.

    Attributes:
        subscription: Receive as this subscription: it gets a copy of every message that is sent to the queue
            after its first use. Without one, messages are shared by everybody who receives.
        durability: ``full``: what was accepted or settled survives the loss of power. ``normal``: it survives
            the end of every process, but the last commits before a loss of power may be gone, accepted
            messages among them; single sends are several times faster.
        dedup_window: How long a dedup id is remembered; 0 switches deduplication off.
        max_messages: Most messages that the queue holds; a send that does not fit is refused as a whole.
        max_size: Largest size of the file. Sends that would exceed it are refused; receiving and settling
            go on, and may exceed it by a few pages.
        priorities: ``strict``: a message of higher priority always comes first. ``weighted``: each one comes from
            a priority drawn by its weight, the priority plus one, so that none is ever starved.
        keep_done: How long acknowledged messages are kept to be looked at; without it they are removed at once.
        keep_done_max: The most of them that are kept, the latest ones.
        dead_letter_retention: How long a dead letter is kept, counted from when it became one.
    """

    subscription: str = ""
    durability: Literal["full", "normal"] = "full"
    dedup_window: timedelta = field(
        default=timedelta(hours=1), metadata={"range": Range(timedelta(0), timedelta(days=7))}
    )
    max_messages: int | None = field(default=None, metadata={"range": Range(1, 2**44)})
    max_size: Size | None = field(default=None, metadata={"range": Range(128 * 1024, 2**44)})
    priorities: Literal["strict", "weighted"] = "strict"
    keep_done: timedelta | None = field(
        default=None, metadata={"range": Range(timedelta(seconds=1), timedelta(days=3650))}
    )
    keep_done_max: int = field(default=10_000, metadata={"range": Range(1, 1_000_000)})
    dead_letter_retention: timedelta = field(
        default=timedelta(days=14), metadata={"range": Range(timedelta(minutes=1), timedelta(days=3650))}
    )


def file_of(url: QueueURL) -> Path:
    """The absolute file of a URL, exactly where it points: ``..`` and symbolic links are left to the OS.

    Raises:
        InvalidURLError: The URL has a host or a login, or names no file on disk.
    """
    if url.hosts or url.user is not None or url.password is not None:
        msg = f"a sqlite URL has no host or login; write three slashes before the file, as in {FORMS[0]}"
        raise InvalidURLError(msg)
    name = url.path.removeprefix("/")
    if name in {"", ":memory:"}:
        msg = "queues in SQLite's memory are not shared and not durable; use memory://QUEUE, or name a file"
        raise InvalidURLError(msg)
    if name.endswith("/"):
        msg = f"a sqlite URL names a file, not a directory; the form is {FORMS[0]}"
        raise InvalidURLError(msg)
    return Path.cwd() / name
