# SPDX-License-Identifier: Apache-2.0
"""How a dead letter is made, and how one reaches a queue that the user named."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from queuekit._engine import metadata as meta
from queuekit._engine.copies import NOWHERE, CopySender
from queuekit._portable.link import Link
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import QueueKitError
from queuekit._values.outcome import ErrorClass, ErrorCode, NotAttempted, SendOutcome
from queuekit.backend import IncomingMessage, OutgoingMessage

DeadLetterMode = Literal["native", "copy", "discard", "missing"]

_LONGEST_TRACEBACK = 8_000
_LONGEST_TEXT = 1_000
_NOT_OF_THE_DEAD = meta.OF_A_HOP | {meta.EXPIRES, meta.BASE}
_NOT_KNOWN = ErrorClass(
    ErrorCode.UNAVAILABLE,
    retryable=True,
    sent="no",
    detail="the service does not say where its dead letters go",
)
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
        letter = OutgoingMessage(
            message.message_id,
            message.body,
            message.attributes,
            kept,
            0.0,
            message.ordering_key,
            None,
            message.priority,
        )
        return fit(letter, self.limit, self.size)

    def _without_secrets(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def fit(letter: OutgoingMessage, limit: int, size: Callable[[OutgoingMessage], int]) -> OutgoingMessage:
    """A dead letter without what makes it too large, in a fixed order; ``dead-trimmed`` says what was left out."""
    trimmed = letter.metadata.get(meta.TRIMMED, "").split()
    for name in _TRIM_ORDER:
        if size(letter) <= limit:
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
    """Sends dead letters to a queue that is known.

    Args:
        link: The open destination. Where it has a limit of its own, it is asked for with the first letter.

    Concurrency:
        Called from one thread at a time; never waits for another try.

    Attributes:
        link: The same.
        nowhere: Whether there is no such queue; never.
    """

    nowhere: Final = False

    def __init__(self, link: Link) -> None:
        self.link = link
        self._use(link.backend.capabilities)

    def copy(self, copies: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send complete letters, without what the queue has no room for; one outcome each."""
        self.link.learn(self._use)
        return self._sender.copy([fit(each, self._limit, self.link.backend.size) for each in copies])

    def close(self) -> None:
        """Close the destination."""
        self.link.close()

    def _use(self, can: Capabilities) -> None:
        self._sender = CopySender(self.link.guard, can, self.link.backend.size)
        self._limit = can.max_message_bytes


class LearnedRoute:
    """Sends dead letters to the queue that the service itself has for them, which only the service can tell.

    It is asked with the first letter, and until it has answered.

    Args:
        link: The open source queue.
        open_route: Opens the way to a queue by its URL.

    Concurrency:
        Called from one thread at a time; never waits for another try.

    Attributes:
        link: The same.
        nowhere: Whether it is known that the service has no such queue.
    """

    def __init__(self, link: Link, open_route: Callable[[str], CopyRoute]) -> None:
        self.link = link
        self.nowhere: bool = False
        self._open = open_route
        self._route: CopyRoute | None = None

    def copy(self, copies: Sequence[OutgoingMessage]) -> Sequence[SendOutcome]:
        """Send complete letters; one outcome each."""
        try:
            route = self._find()
        except QueueKitError as error:
            what = ErrorClass(ErrorCode.REFUSED, sent="no", detail=str(error))
            return [NotAttempted(what, each.message_id) for each in copies]
        if route is not None:
            return route.copy(copies)
        what = NOWHERE if self.nowhere else _NOT_KNOWN
        return [NotAttempted(what, each.message_id) for each in copies]

    def close(self) -> None:
        """Close the destination, if it was opened."""
        if self._route is not None:
            self._route.close()

    def _find(self) -> CopyRoute | None:
        """The way to the queue, once it is known.

        Raises:
            QueueKitError: It cannot be used.
        """
        if self._route is None:
            self.link.learn(_ignore)
            url = self.link.capabilities.dead_letter_queue
            if url:
                self._route = self._open(url)
            self.nowhere = not url and self.link.probed is not None
        return self._route


DeadRoute: TypeAlias = CopyRoute | LearnedRoute


def is_nowhere(mode: DeadLetterMode, route: DeadRoute | None) -> bool:
    """Whether it is known by now that a dead letter has nowhere to go."""
    return mode == "missing" or (route is not None and route.nowhere)


def _ignore(_: Capabilities) -> None:
    """What was learned is asked of the link."""


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
