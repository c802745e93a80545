# SPDX-License-Identifier: Apache-2.0
"""Where dead letters are: kept by the store beside their queue, or in another queue of the service."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Protocol

from queuekit._engine import metadata as meta
from queuekit._engine.copies import CopySender, detail_of, is_confirmed, step_id
from queuekit._engine.guard import error_from
from queuekit._engine.rate import Rate
from queuekit._portable.dead_messages import Buried, Choice, PurgeReport, RedriveReport, revived
from queuekit._portable.link import Link
from queuekit._portable.redrive_pace import Pace
from queuekit._portable.service_moves import ServiceMoves
from queuekit._portable.sweeping import Sweep
from queuekit._values.errors import InvalidURLError, UnsupportedError
from queuekit._values.moving import Move
from queuekit._values.outcome import Accepted, Duplicate, LeaseLost, SendOutcome, Settled, Unsupported
from queuekit._values.url import QueueURL
from queuekit.backend import (
    Cancellable,
    IncomingMessage,
    OutgoingMessage,
    Peekable,
    Redrivable,
    StoredMessage,
)

_PAGE = 100
_BEHIND = "it is behind another dead letter of its ordering key, which stays"
_STILL_HERE = "it is back in its queue, but could not be removed here, so that another run sends it once more"


class Grave(Protocol):
    """Where the dead letters of a queue are."""

    @property
    def shown(self) -> str:
        """Its URL, redacted."""
        ...

    def letters(self) -> Generator[Buried, None, None]:
        """Every dead letter."""
        ...

    def redrive(self, choice: Choice, rate: Rate | None, *, dry_run: bool) -> RedriveReport:
        """Send back those that are meant."""
        ...

    def purge(self, choice: Choice, *, dry_run: bool) -> PurgeReport:
        """Remove those that are meant, for good."""
        ...

    def start_move(self, rate: Rate | None) -> None:
        """Have the service itself move back what it moved here."""
        ...

    def moves(self) -> Sequence[Move]:
        """The service's latest tasks."""
        ...

    def cancel_move(self) -> int | None:
        """Stop the service's task that runs."""
        ...

    def close(self) -> None:
        """Close what is open. Idempotent."""
        ...


class OwnGrave(ServiceMoves):
    """The dead letters of one queue where its store keeps them: looked at without a lease, and moved in one step.

    Args:
        link: The open dead-letter queue.
        pace: Makes redrives wait.

    Raises:
        UnsupportedError: They cannot be looked at.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, link: Link, pace: Pace) -> None:
        if not isinstance(link.backend, Peekable):
            msg = (
                f"dead letters of {link.shown} cannot be looked at; receive them with a Consumer of their queue, or "
                "name that with dead_letter="
            )
            raise UnsupportedError(msg, queue=link.shown, operation="open")
        self._peekable: Peekable = link.backend
        self._own, self._pace = link, pace

    @property
    def link(self) -> Link:
        """The open dead-letter queue."""
        return self._own

    @property
    def shown(self) -> str:
        """The dead-letter queue's URL, redacted."""
        return self._own.shown

    def letters(self) -> Generator[StoredMessage, None, None]:
        """Every dead letter, the oldest first."""
        cursor = ""
        while page := self._page(cursor):
            yield from page
            cursor = page[-1].cursor

    def redrive(self, choice: Choice, rate: Rate | None, *, dry_run: bool) -> RedriveReport:
        """Send back those that are meant, each in one step.

        Raises:
            UnsupportedError: The store cannot.
        """
        backend = self._own.backend
        if not isinstance(backend, Redrivable):
            msg = f"{self._own.shown} cannot move dead letters back; receive them and send them again"
            raise UnsupportedError(msg, queue=self._own.shown, operation="redrive")
        chosen = self._choose(choice)
        if dry_run:
            return RedriveReport(moved=tuple(each.message_id for each in chosen))
        report = RedriveReport()
        for page in self._pages(chosen, rate):
            report = self._redrive_page(backend, page, report)
        return report

    def purge(self, choice: Choice, *, dry_run: bool) -> PurgeReport:
        """Remove those that are meant, one by one.

        Raises:
            UnsupportedError: The store cannot.
        """
        backend = self._own.backend
        if not isinstance(backend, Cancellable):
            msg = f"{self._own.shown} cannot remove single dead letters; receive them and ack them"
            raise UnsupportedError(msg, queue=self._own.shown, operation="purge")
        removable: Cancellable = backend
        chosen = self._choose(choice)
        if dry_run:
            return PurgeReport(removed=tuple(each.message_id for each in chosen))
        removed, skipped = list[str](), list[str]()
        for message_id in dict.fromkeys(each.message_id for each in chosen):
            done = self._own.guard.call("purge", partial(removable.cancel, message_id))
            (removed if done else skipped).append(message_id)
        return PurgeReport(tuple(removed), tuple(skipped))

    def close(self) -> None:
        """Close the queue. Idempotent."""
        self._own.close()

    def _page(self, cursor: str) -> Sequence[StoredMessage]:
        return self._own.guard.call("peek", lambda: self._peekable.peek(limit=_PAGE, after=cursor))

    def _choose(self, choice: Choice) -> list[StoredMessage]:
        chosen: list[StoredMessage] = []
        for stored in self.letters():
            if choice.limit is not None and len(chosen) >= choice.limit:
                break
            if choice.wants(stored):
                chosen.append(stored)
        return chosen

    def _pages(self, chosen: Sequence[StoredMessage], rate: Rate | None) -> Iterator[Sequence[StoredMessage]]:
        """As many at a time as one call takes, and no more than the rate allows by now."""
        most = min(_PAGE, self._own.capabilities.max_settle_batch)
        bucket = self._pace.bucket(rate)
        start = 0
        while start < len(chosen):
            count = self._pace.take(bucket, min(most, len(chosen) - start))
            self._pace.used(bucket, count, of=count)
            yield chosen[start : start + count]
            start += count

    def _redrive_page(
        self, backend: Redrivable, page: Sequence[StoredMessage], so_far: RedriveReport
    ) -> RedriveReport:
        batch = [revived(stored) for stored in page]
        outcomes = self._own.guard.call("redrive", lambda: backend.redrive(batch, timeout_s=30.0))
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


class OtherGrave(ServiceMoves):
    """The dead letters of one queue, in another that several queues may share.

    Args:
        source: The open queue that they died on.
        url: Where they are; None where only the service knows.
        open_link: Opens a queue by its URL.
        pace: Makes redrives wait.

    Concurrency:
        Safe from any thread; two passes at once share the letters out between them.
    """

    def __init__(
        self, source: Link, url: str | QueueURL | None, open_link: Callable[[str | QueueURL], Link], pace: Pace
    ) -> None:
        self._source, self._url, self._open, self._pace = source, url, open_link, pace
        self._lock = threading.Lock()
        self._link: Link | None = None

    @property
    def shown(self) -> str:
        """The dead-letter queue's URL, redacted. Raises as `link` does."""
        return self.link.shown

    @property
    def link(self) -> Link:
        """The open dead-letter queue.

        Raises:
            UnsupportedError: The service names none.
            QueueKitError: The service could not be asked.
        """
        with self._lock:
            if self._link is None:
                self._link = self._open(self._url or self._learn())
                if self._link.url == self._source.url:
                    msg = f"dead_letter= names the queue itself, {self._link.shown}; name another queue"
                    raise UnsupportedError(msg, queue=self._link.shown, operation="open")
            return self._link

    def letters(self) -> Generator[IncomingMessage, None, None]:
        """Every dead letter of the queue; all are kept from others until the iteration ends."""
        link = self.link
        with Sweep(link) as sweep:
            while page := sweep.take(link.capabilities.max_receive):
                yield from (each for each in page if self._is_ours(each))

    def redrive(self, choice: Choice, rate: Rate | None, *, dry_run: bool) -> RedriveReport:
        """Send back those that are meant: a copy, and once that is confirmed the dead letter is removed.

        Raises:
            QueueKitError: The service could not be asked, or takes nothing now. What was sent back stays so.
        """
        link, bucket = self.link, self._pace.bucket(None if dry_run else rate)
        moved, left = list[str](), math.inf if choice.limit is None else choice.limit
        with Sweep(link) as sweep:
            way = _WayBack(self._source, sweep, ordered=link.capabilities.ordering != "none")
            while left > 0:
                most = int(min(link.capabilities.max_receive, left))
                taken = self._pace.take(bucket, most, within_s=sweep.patience_s)
                if not taken:
                    sweep.keep()
                    continue
                page = sweep.take(taken)
                meant = [each for each in page if way.is_open(each, meant=self._is_ours(each) and choice.wants(each))]
                back = meant if dry_run else way.send(meant)
                self._pace.used(bucket, len(back), of=taken)
                left -= len(meant)
                moved += [each.message_id for each in back]
                if not page:
                    break
        return RedriveReport(tuple(moved), (), tuple(way.failed))

    def purge(self, choice: Choice, *, dry_run: bool) -> PurgeReport:
        """Remove those that are meant, for good."""
        link, removed, skipped = self.link, list[str](), list[str]()
        left = math.inf if choice.limit is None else choice.limit
        with Sweep(link) as sweep:
            while left > 0 and (page := sweep.take(int(min(link.capabilities.max_receive, left)))):
                meant = [each for each in page if self._is_ours(each) and choice.wants(each)]
                left -= len(meant)
                outcomes = [Settled()] * len(meant) if dry_run else sweep.remove(meant)
                for each, outcome in zip(meant, outcomes, strict=True):
                    (removed if isinstance(outcome, Settled) else skipped).append(each.message_id)
        return PurgeReport(tuple(removed), tuple(skipped))

    def close(self) -> None:
        """Close both queues. Idempotent."""
        self._source.close()
        with self._lock:
            if self._link is not None:
                self._link.close()

    def _learn(self) -> QueueURL:
        source = self._source
        source.probed = source.guard.probe()
        if not source.capabilities.dead_letter_queue:
            msg = (
                f"{source.shown} names no queue for dead letters, or does not let it be seen; name the queue that "
                "they died on, and dead_letter= where they are, or receive them with a Consumer"
            )
            raise UnsupportedError(msg, queue=source.shown, operation="redrive")
        return QueueURL.parse(source.capabilities.dead_letter_queue)

    def _is_ours(self, letter: IncomingMessage) -> bool:
        """Whether it died on this queue, as far as it says: several queues may share one for dead letters."""
        died_on = letter.metadata.get(meta.DEAD_SOURCE) or letter.died_on
        if died_on is None:
            return True
        try:
            return _place(QueueURL.parse(died_on)) == _place(self._source.url)
        except InvalidURLError:
            return True


class _WayBack:
    """Sends dead letters back, of an ordering key none ahead of one that stays.

    Args:
        source: The open queue that they died on.
        sweep: The pass that found them.
        ordered: Whether keys are kept in order.

    Attributes:
        failed: Ids and reasons of those that stay, though they were meant.
    """

    def __init__(self, source: Link, sweep: Sweep, *, ordered: bool) -> None:
        self._source, self._sweep, self._ordered = source, sweep, ordered
        self._sender = CopySender(source.guard, source.capabilities, source.backend.size)
        self._stays: set[str] = set()
        self.failed: list[tuple[str, str]] = []

    def is_open(self, letter: IncomingMessage, *, meant: bool) -> bool:
        """Whether a letter goes back, if it is meant to; to be asked in their order."""
        key = letter.ordering_key if self._ordered else None
        if not meant:
            self._stay(key)
        elif key in self._stays:
            self.failed.append((letter.message_id, _BEHIND))
        return meant and key not in self._stays

    def send(self, letters: Sequence[IncomingMessage]) -> list[IncomingMessage]:
        """Copy, then remove; which are back.

        Raises:
            QueueKitError: The queue takes no message at all now.
        """
        back: list[IncomingMessage] = []
        left = list(letters)
        while left:
            wave, later = self._one_of_each_key(left)
            outcomes = self._sender.copy([_copy_of(each) for each in wave])
            confirmed = [each for each, outcome in zip(wave, outcomes, strict=True) if is_confirmed(outcome)]
            for each, removed in zip(confirmed, self._sweep.remove(confirmed), strict=True):
                back.append(each)
                if not isinstance(removed, Settled):
                    self.failed.append((each.message_id, _STILL_HERE))
            for each, outcome in zip(wave, outcomes, strict=True):
                self._look_at(each, outcome)
            left = [each for each in later if self.is_open(each, meant=True)]
        return back

    def _look_at(self, letter: IncomingMessage, outcome: SendOutcome) -> None:
        if isinstance(outcome, (Accepted, Duplicate)):
            return
        if outcome.error.scope in {"queue", "connection"}:
            raise error_from(outcome.error, queue=self._source.shown, operation="redrive")
        self.failed.append((letter.message_id, detail_of(outcome)))
        self._stay(letter.ordering_key)

    def _stay(self, key: str | None) -> None:
        if key is not None:
            self._stays.add(key)

    def _one_of_each_key(
        self, letters: Sequence[IncomingMessage]
    ) -> tuple[list[IncomingMessage], list[IncomingMessage]]:
        """Those that may go in one call: each may fail by itself, and one that does must not be overtaken."""
        now, later, keys = list[IncomingMessage](), list[IncomingMessage](), set[str | None]()
        for each in letters:
            waits = self._ordered and each.ordering_key is not None and each.ordering_key in keys
            keys.add(each.ordering_key)
            (later if waits else now).append(each)
        return now, later


def _copy_of(letter: IncomingMessage) -> OutgoingMessage:
    # How often it was looked at here is no part of the step.
    return revived(letter)._replace(dedup_id=step_id(letter._replace(attempt=0), "redrive"))


def _place(url: QueueURL) -> tuple[object, ...]:
    """What tells queues of one service apart, without a login and options that differ from program to program."""
    return url.scheme, url.hosts, url.path, url.options.get("queue")
