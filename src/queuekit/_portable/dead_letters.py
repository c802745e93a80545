# SPDX-License-Identifier: Apache-2.0
"""The dead-letter queue of a queue: look, and send back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Self

from queuekit._engine.rate import Rate
from queuekit._portable.dead_messages import (
    Choice,
    DeadMessage,
    PurgeReport,
    RedriveReport,
    dead_message,
)
from queuekit._portable.graves import Grave, OtherGrave, OwnGrave
from queuekit._portable.link import BackendOpener, Link, open_link
from queuekit._portable.redrive_pace import Pace
from queuekit._values.capability import Support
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.moving import Move
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import DEAD_SUFFIX, Opener, dead_letter_url, queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import Peekable

_PAGE = 100


class DeadLetters:
    """The dead-letter queue of a queue: look, and send back.

    Args:
        url: The URL of the source queue; where its store keeps dead letters, that of the dead-letter queue will do.
        queue: The queue's name, where the URL leaves it out.
        dead_letter: The queue in which the dead letters are, where handlers name one with ``dead_letter=``; by
            default the store's own, or the one that the service has for the queue.
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
        dead_letter: str | QueueURL | None = None,
        clock: Clock | None = None,
        _opener: BackendOpener | None = None,
        **options: Any,
    ) -> None:
        self._owns_opener = _opener is None
        self._opener: BackendOpener = _opener or Opener(clock or SystemClock())
        source = open_link(url, queue, options, opener=self._opener)
        self._pace = Pace(self._opener.clock)
        self._grave: Grave
        if dead_letter is not None or source.capabilities.redrive is Support.BRIDGED:
            self._grave = OtherGrave(source, dead_letter, self._open, self._pace)
            return
        if isinstance(source.backend, Peekable) and not _holds_dead(source.url):
            source = open_link(dead_letter_url(source.url), None, options, opener=self._opener)
        self._grave = OwnGrave(source, self._pace)

    def _open(self, url: str | QueueURL) -> Link:
        return open_link(url, None, {}, opener=self._opener)

    @property
    def queue(self) -> str:
        """The dead-letter queue's URL, redacted; where only the service knows it, it is asked.

        Raises:
            UnsupportedError: The service names none.
            QueueKitError: The service could not be asked.
        """
        return self._grave.shown

    def letters(self, *, limit: int | None = None) -> Iterator[DeadMessage]:
        """Dead letters, the oldest first, read page by page.

        Where a service shows messages only to those who receive them, as SQS does, each is received, and kept from
        others until the iteration ends.

        Args:
            limit: The most to return; None for all.

        Raises:
            QueueKitError: The service could not be asked.
        """
        return self._letters(limit)

    def _letters(self, limit: int | None) -> Generator[DeadMessage, None, None]:
        if limit == 0:
            return
        with closing(self._grave.letters()) as letters:
            for number, stored in enumerate(letters, 1):
                yield dead_message(stored)
                if number == limit:
                    return

    def show(self, message_id: str) -> DeadMessage | None:
        """One dead letter, or None when there is none of that id. Raises as `letters` does."""
        with closing(self._letters(None)) as letters:
            return next((each for each in letters if each.message_id == message_id), None)

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

        Where the store keeps them, each moves in one step. In another queue, such as on SQS, each is copied, and
        removed once the copy is confirmed; all are received, and kept from others until the end. Either way stopping
        midway loses nothing, and a second run finishes the rest; between copy and removal it leaves a duplicate.

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
        return self._grave.redrive(_choice(message_ids, where, limit), rate, dry_run=dry_run)

    async def aletters(self, *, limit: int | None = None) -> AsyncIterator[DeadMessage]:
        """As `letters`, suspending."""
        letters = self._letters(limit)
        loop = asyncio.get_running_loop()
        try:
            while (letter := await loop.run_in_executor(None, next, letters, None)) is not None:
                yield letter
        finally:
            await loop.run_in_executor(None, letters.close)

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
        self._pace.close()
        self._grave.close()
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
        return self._grave.purge(_choice(message_ids, where, limit), dry_run=dry_run)

    def start_move(self, *, rate: Rate | None = None) -> None:
        """Have the service itself move back what it moved here, by a task that runs there and needs no program.

        For many messages that no handler gave up, such as those of a function that was down: the service drops its
        own count of receives, and nothing else changes. It knows no filter and no `DeadMessage`, and takes each
        message back to where it took it from; a dead letter that queuekit wrote came from nowhere, as far as it
        knows, and ends the task as failed with the rest unmoved. `redrive` sends back those.

        Args:
            rate: A whole number in a second, up to what the service allows; None leaves it to the service.

        Raises:
            UnsupportedError: The service has no such tasks, or cannot keep to the rate.
            QueueKitError: The service could not be asked, or another task runs.
        """
        self._grave.start_move(rate)

    def moves(self) -> Sequence[Move]:
        """The service's latest tasks that move messages back, the newest first. Raises as `start_move` does."""
        return self._grave.moves()

    def cancel_move(self) -> int | None:
        """Stop the service's task that runs; about how many messages it has moved, which stay so.

        Returns:
            None where none runs. Raises as `start_move` does.
        """
        return self._grave.cancel_move()

    async def astart_move(self, *, rate: Rate | None = None) -> None:
        """As `start_move`, suspending."""
        await asyncio.get_running_loop().run_in_executor(None, partial(self.start_move, rate=rate))

    async def amoves(self) -> Sequence[Move]:
        """As `moves`, suspending."""
        return await asyncio.get_running_loop().run_in_executor(None, self.moves)

    async def acancel_move(self) -> int | None:
        """As `cancel_move`, suspending."""
        return await asyncio.get_running_loop().run_in_executor(None, self.cancel_move)

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


def _choice(ids: Sequence[str] | None, where: Callable[[DeadMessage], bool] | None, limit: int | None) -> Choice:
    return Choice(None if ids is None else frozenset(ids), where, limit)


def _holds_dead(url: QueueURL) -> bool:
    return queue_name(url, find_spec(url.scheme)).endswith(DEAD_SUFFIX)
