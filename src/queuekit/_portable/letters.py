# SPDX-License-Identifier: Apache-2.0
"""How a dead letter is made, and how one reaches a queue that the user named."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from queuekit._engine import metadata as meta
from queuekit._engine.copies import CopySender
from queuekit._portable.link import Link
from queuekit._values.clock import Clock
from queuekit._values.outcome import SendOutcome
from queuekit.backend import IncomingMessage, OutgoingMessage

_LONGEST_TRACEBACK = 8_000
_LONGEST_TEXT = 1_000
_NOT_OF_THE_DEAD = meta.OF_A_HOP | {meta.EXPIRES, meta.BASE}
_TRIM_ORDER = (meta.DEAD_TRACEBACK, meta.DEAD_ERROR, meta.DEAD_WORKER, meta.DEAD_FIRST, meta.DEAD_REASON)


class ChildError(Exception):
    """An exception that a handler raised in another process: its description, not the object.

    Args:
        described: Type and text, as a dead letter shows them.
        rendered: The traceback.
    """

    def __init__(self, described: str, rendered: str) -> None:
        super().__init__(described)
        self.described = described
        self.rendered = rendered


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a message is dead.

    Attributes:
        reason: One sentence, or a short name such as ``no_handler``.
        error: The exception that the last attempt ended with, if any.
    """

    reason: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class LetterWriter:
    """Makes complete dead letters for one source queue.

    Attributes:
        source: The source queue's redacted URL.
        worker: Names this process and host.
        clock: For the time of death.
        limit: Most bytes of a letter.
        size: Bytes that a letter has.
        secrets: Texts that must not reach a letter, such as the password of the queue's own URL.
    """

    source: str
    worker: str
    clock: Clock
    limit: int
    size: Callable[[OutgoingMessage], int]
    secrets: tuple[str, ...] = ()

    def write(self, message: IncomingMessage, cause: Cause) -> OutgoingMessage:
        """The dead letter of a message: the same body, attributes, id and key, and why it died.

        What makes it too large for its queue is left out in a fixed order, and ``dead-trimmed`` says what.
        """
        now = meta.write_instant(self.clock.time())
        # Of an earlier death nothing is kept, or its error would stand beside the reason of this one. Attempts
        # that were carried over are told as dead-attempts; whoever works on the letter has attempts of its own.
        kept = {
            name: text
            for name, text in message.metadata.items()
            if name not in _NOT_OF_THE_DEAD and not name.startswith(meta.DEAD_PREFIX)
        }
        attempts = meta.read(message.metadata).base + (message.attempt or 0)
        kept |= {
            meta.V: meta.VERSION,
            meta.DEAD_REASON: _shorten(cause.reason, _LONGEST_TEXT),
            meta.DEAD_ATTEMPTS: str(attempts),
            meta.DEAD_FIRST: _first(message) or now,
            meta.DEAD_LAST: now,
            meta.DEAD_SOURCE: self.source,
            meta.DEAD_WORKER: self.worker,
        }
        if cause.error is not None:
            kept[meta.DEAD_ERROR] = self._without_secrets(describe(cause.error))
            kept[meta.DEAD_TRACEBACK] = self._without_secrets(render(cause.error))
        return self._fit(
            OutgoingMessage(
                message.message_id,
                message.body,
                message.attributes,
                kept,
                0.0,
                message.ordering_key,
                None,
                message.priority,
            )
        )

    def _without_secrets(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def _fit(self, letter: OutgoingMessage) -> OutgoingMessage:
        trimmed: list[str] = []
        for name in _TRIM_ORDER:
            if self.size(letter) <= self.limit:
                break
            if name in letter.metadata:
                trimmed.append(name)
                left = {each: text for each, text in letter.metadata.items() if each != name}
                letter = letter._replace(metadata=left | {meta.TRIMMED: " ".join(trimmed)})
        return letter


def _first(message: IncomingMessage) -> str | None:
    """When the queue first had the message; a copy of it says so itself."""
    carried = message.metadata.get(meta.FIRST)
    if meta.read_instant(carried) is not None:
        return carried
    return None if message.enqueued_at is None else meta.write_instant(message.enqueued_at)


class CopyRoute:
    """Sends dead letters to a queue that the user named.

    Args:
        link: The open destination.

    Concurrency:
        Called from one control thread; never waits for another try.

    Attributes:
        link: The same.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._sender = CopySender(link.guard, link.backend.capabilities, link.backend.size)

    def copy(self, copies: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send complete letters; one outcome each."""
        return self._sender.copy(copies)

    def close(self) -> None:
        """Close the destination."""
        self.link.backend.close()


def describe(error: BaseException) -> str:
    """The type and text of an exception, short enough for a dead letter."""
    if isinstance(error, ChildError):
        return error.described
    return _shorten(f"{type(error).__qualname__}: {_text(error)}", _LONGEST_TEXT)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the handler boundary: its exception's own code must not stop the worker
        return "<its text cannot be shown>"


def render(error: BaseException) -> str:
    """The last part of an exception's traceback, short enough for a dead letter."""
    if isinstance(error, ChildError):
        return error.rendered
    return _shorten_left("".join(traceback.format_exception(error)), _LONGEST_TRACEBACK)


def _shorten(text: str, most: int) -> str:
    clean = _clean(text)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def _shorten_left(text: str, most: int) -> str:
    # The end of a traceback tells most.
    clean = _clean(text)
    return clean if len(clean) <= most else "…" + clean[1 - most :]


def _clean(text: str) -> str:
    """Text that every store can carry: a lone surrogate, as in odd file names, is replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")
