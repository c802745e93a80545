# SPDX-License-Identifier: Apache-2.0
"""What a worker tells those who listen: how messages end, and when something is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from queuekit._engine import metadata as meta
from queuekit._engine.journal import Journal
from queuekit._values.clock import Clock
from queuekit._values.errors import UsageError
from queuekit.backend import IncomingMessage

EventName = Literal["completed", "retried", "dead", "lease_lost", "stalled"]
NAMES: frozenset[str] = frozenset(get_args(EventName))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a worker; given to what `App.listen` was called with.

    Attributes:
        name: ``completed``: a handler did its work, and the ack is on its way. ``retried``: an attempt failed,
            and another follows. ``dead``: no other follows, and the message goes to its dead letters.
            ``lease_lost``: a delivery was not ours any more before it was settled; the message may be
            delivered again. ``stalled``: the worker, or a part of it, makes no progress.
        queue: The queue's redacted URL.
        message_id: The message, where the event is about one.
        message_type: Its type, where the sender named one.
        attempt: Which attempt it was, from 1; None where the service does not count.
        reason: Why, in words; for a failed attempt it names the exception's type and not its text.
        delay_s: How long the next attempt waits at least, in seconds; of ``retried`` alone.
        at: When, in UTC.
    """

    name: EventName
    queue: str
    message_id: str | None = None
    message_type: str | None = None
    attempt: int | None = None
    reason: str | None = None
    delay_s: float | None = None
    at: datetime


Listener = Callable[[Event], object]
"""Takes each event that it listens to. What it raises is logged, and changes nothing."""


class Listeners:
    """Who listens to what.

    Args:
        clock: Stamps the events.

    Attributes:
        names: The events that somebody listens to; empty where nothing need be done.

    Concurrency:
        Safe from any thread. Listeners are called on the thread on which it happened, no lock held.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self.names: frozenset[str] = frozenset()

    def add(self, listener: Listener, *names: EventName) -> None:
        """Have a listener called with every event of these names; of all, where none is given.

        Raises:
            UsageError: It cannot be called, or there is no event of a name.
        """
        if not callable(listener):
            msg = f"a listener is called with each event, and {type(listener).__name__} cannot be called"
            raise UsageError(msg)
        unknown = set(names) - NAMES
        if unknown:
            msg = f"no event is called {min(unknown)!r}; known are {', '.join(sorted(NAMES))}"
            raise UsageError(msg)
        with self._lock:
            for name in names or NAMES:
                self._listeners[name] = (*self._listeners.get(name, ()), listener)
            self.names = frozenset(self._listeners)

    def tell(
        self,
        name: EventName,
        queue: str,
        journal: Journal,
        *,
        message: IncomingMessage | None = None,
        reason: str | None = None,
        delay_s: float | None = None,
    ) -> None:
        """Call everybody who listens to this.

        Args:
            name: What happened.
            queue: The queue's redacted URL.
            journal: Where a listener that fails is counted and logged.
            message: The message that it is about.
            reason: Why.
            delay_s: Of a retry.
        """
        if name not in self.names:
            return
        event = Event(
            name=name,
            queue=queue,
            message_id=None if message is None else message.message_id,
            message_type=None if message is None else message.metadata.get(meta.TYPE),
            attempt=None if message is None else _attempt(message),
            reason=reason,
            delay_s=delay_s,
            at=datetime.fromtimestamp(self._clock.time(), UTC),
        )
        for listener in self._listeners[name]:
            try:
                listener(event)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                    raise
                journal.note("listener.failed", f"at {name}", error=error)


def _attempt(message: IncomingMessage) -> int | None:
    return None if message.attempt is None else message.attempt + meta.read(message.metadata).base
