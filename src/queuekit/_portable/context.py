# SPDX-License-Identifier: Apache-2.0
"""The delivery that a handler is running for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Protocol

from queuekit._engine import metadata as meta
from queuekit._portable.link import seconds
from queuekit._values.errors import UsageError
from queuekit.backend import IncomingMessage

_current: ContextVar[Current] = ContextVar("queuekit_current")


class Running(Protocol):
    """A delivery that a handler runs for."""

    @property
    def message(self) -> IncomingMessage:
        """The delivery as the service made it."""
        ...

    @property
    def lease_lost(self) -> bool:
        """Whether it is not ours any more."""
        ...

    def extend(self, by_s: float) -> None:
        """Extend its lease; raises as `Delivery.extend` does."""
        ...


class Current:
    """What a handler can know about, and ask for, the delivery that it is running for.

    Concurrency:
        Safe from any thread that the handler's context was carried to.
    """

    __slots__ = ("_draining", "_ends_at", "_job", "attempt", "completing", "queue")

    def __init__(self, job: Running, queue: str, attempt: int | None, draining: Callable[[], bool]) -> None:
        # One is made for every message, and little of it is asked for: what it can it looks up when asked.
        self._job = job
        self.queue: str = queue
        self.attempt: int | None = attempt
        self._draining = draining
        self.completing: Callable[[object], None] | None = None
        self._ends_at: float | None = None

    @property
    def message_id(self) -> str:
        """The message's id; the same at every attempt."""
        return self._job.message.message_id

    @property
    def attributes(self) -> Mapping[str, str]:
        """The strings that travel beside the body."""
        return self._job.message.attributes

    @property
    def body(self) -> bytes:
        """The bytes as they were sent."""
        return self._job.message.body

    @property
    def ordering_key(self) -> str | None:
        """The message's ordering key."""
        return self._job.message.ordering_key

    @property
    def dedup_id(self) -> str | None:
        """The dedup id that the message was sent with."""
        return self._job.message.metadata.get(meta.DEDUP)

    @property
    def type(self) -> str | None:
        """The message's type, where the sender named one."""
        return self._job.message.metadata.get(meta.TYPE)

    @property
    def enqueued_at(self) -> datetime | None:
        """When the service took the message, in UTC; None where it does not say."""
        at = self._job.message.enqueued_at
        return None if at is None else datetime.fromtimestamp(at, UTC)

    @property
    def redriven(self) -> int:
        """How often the message came back from a dead-letter queue."""
        return meta.read(self._job.message.metadata).redriven

    @property
    def lease_lost(self) -> bool:
        """Whether the delivery is not ours any more: stop, somebody else may be running it."""
        return self._job.lease_lost

    @property
    def draining(self) -> bool:
        """Whether the worker is stopping: a long handler does well to save its place and return `Retry`."""
        return self._draining()

    @property
    def deadline(self) -> datetime | None:
        """By when the handler must be over, in UTC, where its message was pushed; None where nobody set a time.

        What whoever pushed it does not wait for comes again. A handler's own ``timeout=`` may end it before.
        """
        return None if self._ends_at is None else datetime.fromtimestamp(self._ends_at, UTC)

    def ends_at(self, instant: float) -> None:
        """Say by when the handler must be over, in seconds since the epoch. For whoever runs it."""
        self._ends_at = instant

    def extend(self, *, by: timedelta) -> None:
        """Ask the service to leave this delivery with us for longer, counted from now.

        Leases are extended without asking; this is for a handler about to block everything around it.

        Raises:
            UsageError: The length is outside what the service takes.
            LeaseLostError: The delivery is not ours any more. Stop working on it.
            UnavailableError: The service did not answer. The old lease still runs.
        """
        self._job.extend(seconds("by", by))

    async def aextend(self, *, by: timedelta) -> None:
        """As `extend`, suspending."""
        await asyncio.get_running_loop().run_in_executor(None, self._job.extend, seconds("by", by))

    def complete_in(self, connection: object) -> None:
        """Mark the work of an idempotent handler done, in the transaction of its effects.

        Both are then there or neither is, whenever the worker dies. Call it last, and commit; the handler
        must return after that, and not fail.

        Args:
            connection: To the database that holds the handler's idempotency store, such as a
                `sqlite3.Connection`; nothing is committed on it.

        Raises:
            UsageError: The handler is not idempotent, or its store has no transactions.
            LeaseLostError: Somebody else has the work. Roll back.
            TypeError: It is no connection to the store's kind of database.
        """
        if self.completing is None:
            msg = "complete_in() needs a handler with idempotent=, whose store was asked"
            raise UsageError(msg)
        self.completing(connection)


def current() -> Current:
    """The delivery that the calling handler is running for.

    Raises:
        UsageError: No handler is running here.
    """
    running = _current.get(None)
    if running is None:
        msg = "no handler is running here; call current() from inside a handler"
        raise UsageError(msg)
    return running
