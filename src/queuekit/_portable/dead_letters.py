# SPDX-License-Identifier: Apache-2.0
"""The dead-letter queue of a queue: look, and send back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

from queuekit._engine import metadata as meta
from queuekit._engine.rate import Rate, TokenBucket
from queuekit._portable.link import BackendOpener, open_link
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.errors import ClosedError, UnsupportedError
from queuekit._values.outcome import LeaseLost, Settled, Unsupported
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import DEAD_SUFFIX, Opener, dead_letter_url, queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import Cancellable, OutgoingMessage, Peekable, Redrivable, StoredMessage

_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A dead letter as it can be studied.

    Attributes:
        message_id: The message's id; unchanged since it was sent.
        reason: Why it is dead.
        error: The type and text of the last exception, where there was one.
        traceback: The last part of its traceback.
        attempts: How many attempts it had.
        first: When the queue first had it.
        last: When it died.
        source: The queue that it died on, redacted.
        worker: The process that gave it up.
        type: The message's type.
        ordering_key: The message's ordering key.
        body: The user's bytes.
        attributes: The user's attributes.
        trimmed: What had to be left out for size.
    """

    message_id: str
    reason: str
    error: str | None
    traceback: str | None
    attempts: int
    first: datetime | None
    last: datetime | None
    source: str | None
    worker: str | None
    type: str | None
    ordering_key: str | None
    body: bytes
    attributes: Mapping[str, str]
    trimmed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RedriveReport:
    """What a redrive did.

    Attributes:
        moved: The ids that are back in their source queue.
        skipped: The ids that somebody else took, moved or removed meanwhile.
        failed: Id to the reason, for those that the store refused.
    """

    moved: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge of dead letters did.

    Attributes:
        removed: The ids that are gone for good.
        skipped: The ids that somebody else took or removed meanwhile, or had received before.
    """

    removed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


class DeadLetters:
    """The dead-letter queue of a queue: look, and send back.

    Args:
        url: The URL of the source queue, or of the dead-letter queue itself.
        queue: The queue's name, where the URL leaves it out.
        clock: Time and chance.
        **options: URL options of the backend, under the same names.

    Raises:
        SetupError: The URL is wrong, or this backend's dead letters cannot be looked at.

    Concurrency:
        Safe from any thread.
    """

    def __init__(
        self,
        url: str | QueueURL | None = None,
        *,
        queue: str | None = None,
        clock: Clock | None = None,
        _opener: BackendOpener | None = None,
        **options: Any,
    ) -> None:
        self._owns_opener = _opener is None
        self._opener: BackendOpener = _opener or Opener(clock or SystemClock())
        opened = open_link(url, queue, options, opener=self._opener)
        source = opened.url
        if not isinstance(opened.backend, Peekable):
            msg = f"dead letters of {opened.shown} cannot be looked at; receive them with a Consumer of their queue"
            raise UnsupportedError(msg, queue=opened.shown, operation="open")
        name = queue_name(source, find_spec(source.scheme))
        whole = source if name.endswith(DEAD_SUFFIX) else dead_letter_url(source)
        self._link = open_link(whole, None, options, opener=self._opener)
        if not isinstance(self._link.backend, Peekable):
            msg = f"dead letters of {self._link.shown} cannot be looked at; receive them with a Consumer"
            raise UnsupportedError(msg, queue=self._link.shown, operation="open")
        self._peekable: Peekable = self._link.backend
        self._closing = threading.Condition()
        self._closed = False

    @property
    def queue(self) -> str:
        """The dead-letter queue's URL, redacted."""
        return self._link.shown

    def letters(self, *, limit: int | None = None) -> Iterator[DeadMessage]:
        """Dead letters, the oldest first, read page by page.

        Args:
            limit: The most to return; None for all.

        Raises:
            QueueKitError: The service could not be asked.
        """
        for index, stored in enumerate(self._stored()):
            if limit is not None and index >= limit:
                return
            yield _dead_message(stored)

    def show(self, message_id: str) -> DeadMessage | None:
        """One dead letter, or None when there is none of that id. Raises as `letters` does."""
        return next((each for each in self.letters() if each.message_id == message_id), None)

    def redrive(
        self,
        *,
        message_ids: Sequence[str] | None = None,
        where: Callable[[DeadMessage], bool] | None = None,
        limit: int | None = None,
        rate: Rate | None = None,
        dry_run: bool = False,
    ) -> RedriveReport:
        """Send dead letters back to their source queue, with fresh attempts and a note of their lineage.

        Each moves in one step, so stopping midway loses nothing and a second run finishes the rest.

        Args:
            message_ids: Only these; None for all.
            where: Only those for which this is true.
            limit: Move at most so many.
            rate: Move no faster than this, so that the handlers are not flooded; None is as fast as it goes.
            dry_run: Only say what would be moved.

        Raises:
            UnsupportedError: This backend cannot move dead letters back.
            ClosedError: `close` was called while the rate held this call up. What was moved stays moved.
            QueueKitError: The service could not be asked.
        """
        if not isinstance(self._link.backend, Redrivable):
            msg = f"{self._link.shown} cannot move dead letters back; receive them and send them again"
            raise UnsupportedError(msg, queue=self._link.shown, operation="redrive")
        chosen = self._choose(None if message_ids is None else set(message_ids), where, limit)
        if dry_run:
            return RedriveReport(moved=tuple(each.message_id for each in chosen))
        report = RedriveReport()
        for page in self._pages(chosen, rate):
            report = self._redrive_page(self._link.backend, page, report)
        return report

    async def aletters(self, *, limit: int | None = None) -> AsyncIterator[DeadMessage]:
        """As `letters`, suspending."""
        letters = self.letters(limit=limit)
        loop = asyncio.get_running_loop()
        while (letter := await loop.run_in_executor(None, next, letters, None)) is not None:
            yield letter

    async def ashow(self, message_id: str) -> DeadMessage | None:
        """As `show`, suspending."""
        return await asyncio.get_running_loop().run_in_executor(None, self.show, message_id)

    async def aredrive(
        self,
        *,
        message_ids: Sequence[str] | None = None,
        where: Callable[[DeadMessage], bool] | None = None,
        limit: int | None = None,
        rate: Rate | None = None,
        dry_run: bool = False,
    ) -> RedriveReport:
        """As `redrive`, suspending."""
        return await asyncio.get_running_loop().run_in_executor(
            None,
            lambda: self.redrive(message_ids=message_ids, where=where, limit=limit, rate=rate, dry_run=dry_run),
        )

    def close(self) -> None:
        """Give everything back, and end a redrive that waits for its rate. Idempotent."""
        with self._closing:
            self._closed = True
            self._closing.notify_all()
        self._link.close()
        if self._owns_opener:
            self._opener.close()

    async def aclose(self) -> None:
        """As `close`, suspending."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def purge(
        self,
        *,
        message_ids: Sequence[str] | None = None,
        where: Callable[[DeadMessage], bool] | None = None,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> PurgeReport:
        """Remove dead letters for good, one by one.

        A dead letter that a consumer of the dead-letter queue has received is skipped: it is that consumer's.

        Args:
            message_ids: Only these; None for all.
            where: Only those for which this is true.
            limit: Remove at most so many.
            dry_run: Only say what would be removed.

        Raises:
            UnsupportedError: This backend cannot remove single messages.
            QueueKitError: The service could not be asked.
        """
        backend = self._link.backend
        if not isinstance(backend, Cancellable):
            msg = f"{self._link.shown} cannot remove single dead letters; receive them and ack them"
            raise UnsupportedError(msg, queue=self._link.shown, operation="purge")
        removable: Cancellable = backend
        chosen = self._choose(None if message_ids is None else set(message_ids), where, limit)
        if dry_run:
            return PurgeReport(removed=tuple(each.message_id for each in chosen))
        removed, skipped = list[str](), list[str]()
        for message_id in dict.fromkeys(each.message_id for each in chosen):
            done = self._link.guard.call("purge", partial(removable.cancel, message_id))
            (removed if done else skipped).append(message_id)
        return PurgeReport(tuple(removed), tuple(skipped))

    async def apurge(
        self,
        *,
        message_ids: Sequence[str] | None = None,
        where: Callable[[DeadMessage], bool] | None = None,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> PurgeReport:
        """As `purge`, suspending."""
        return await asyncio.get_running_loop().run_in_executor(
            None, lambda: self.purge(message_ids=message_ids, where=where, limit=limit, dry_run=dry_run)
        )

    def _stored(self) -> Iterator[StoredMessage]:
        cursor = ""
        while page := self._page(cursor):
            yield from page
            cursor = page[-1].cursor

    def _page(self, cursor: str) -> Sequence[StoredMessage]:
        return self._link.guard.call("peek", lambda: self._peekable.peek(limit=_PAGE, after=cursor))

    def _choose(
        self, ids: set[str] | None, where: Callable[[DeadMessage], bool] | None, limit: int | None
    ) -> list[StoredMessage]:
        chosen: list[StoredMessage] = []
        for stored in self._stored():
            if limit is not None and len(chosen) >= limit:
                break
            if (ids is None or stored.message_id in ids) and (where is None or where(_dead_message(stored))):
                chosen.append(stored)
        return chosen

    def _pages(self, chosen: Sequence[StoredMessage], rate: Rate | None) -> Iterator[Sequence[StoredMessage]]:
        """As many at a time as one call takes, and no more than the rate allows by now."""
        most = min(_PAGE, self._link.capabilities.max_settle_batch)
        bucket = None if rate is None else TokenBucket(rate, self._link.clock.monotonic())
        start = 0
        while start < len(chosen):
            count = min(most, len(chosen) - start)
            if bucket is not None:
                count = self._await_tokens(bucket, count)
            yield chosen[start : start + count]
            start += count

    def _await_tokens(self, bucket: TokenBucket, most: int) -> int:
        clock = self._link.clock
        with self._closing:
            while not self._closed:
                taken = bucket.take(most, clock.monotonic())
                bucket.settle(taken, clock.monotonic(), of=taken)
                if taken:
                    return taken
                clock.wait(self._closing, bucket.wait_s(clock.monotonic()))
        msg = "the dead letters were closed during a redrive; what was moved stays moved, and another run goes on"
        raise ClosedError(msg, queue=self._link.shown, operation="redrive")

    def _redrive_page(
        self, backend: Redrivable, page: Sequence[StoredMessage], so_far: RedriveReport
    ) -> RedriveReport:
        batch = [_revived(stored) for stored in page]
        outcomes = self._link.guard.call("redrive", lambda: backend.redrive(batch, timeout_s=30.0))
        moved, skipped, failed = [], [], []
        for message, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Settled):
                moved.append(message.message_id)
            elif isinstance(outcome, LeaseLost):
                skipped.append(message.message_id)
            else:
                why = outcome.detail if isinstance(outcome, Unsupported) else outcome.error.detail
                failed.append((message.message_id, why))
        return RedriveReport((*so_far.moved, *moved), (*so_far.skipped, *skipped), (*so_far.failed, *failed))


def _revived(stored: StoredMessage) -> OutgoingMessage:
    """The message as it goes back: without its death, with one more redrive, and with fresh attempts."""
    kept = {
        name: text
        for name, text in stored.metadata.items()
        if not name.startswith(meta.DEAD_PREFIX) and name not in {meta.BASE, meta.FIRST, *meta.OF_A_HOP}
    }
    kept[meta.REDRIVEN] = str(meta.read(stored.metadata).redriven + 1)
    return OutgoingMessage(
        stored.message_id, stored.body, stored.attributes, kept, 0.0, stored.ordering_key, None, stored.priority
    )


def _dead_message(stored: StoredMessage) -> DeadMessage:
    known = stored.metadata
    return DeadMessage(
        message_id=stored.message_id,
        reason=known.get(meta.DEAD_REASON, ""),
        error=known.get(meta.DEAD_ERROR),
        traceback=known.get(meta.DEAD_TRACEBACK),
        attempts=meta.read_count(known.get(meta.DEAD_ATTEMPTS, "")),
        first=_instant(known.get(meta.DEAD_FIRST)),
        last=_instant(known.get(meta.DEAD_LAST)),
        source=known.get(meta.DEAD_SOURCE),
        worker=known.get(meta.DEAD_WORKER),
        type=known.get(meta.TYPE),
        ordering_key=stored.ordering_key or known.get(meta.DEAD_KEY),
        body=stored.body,
        attributes=stored.attributes,
        trimmed=tuple(known.get(meta.TRIMMED, "").split()),
    )


def _instant(text: str | None) -> datetime | None:
    seconds = meta.read_instant(text)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        return None  # at an end of the calendar, in a time zone that reaches beyond it
