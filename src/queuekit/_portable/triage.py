# SPDX-License-Identifier: Apache-2.0
"""What happens to a delivery before its handler runs: it is matched, judged and decoded."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol

from queuekit._engine import metadata as meta
from queuekit._engine.codec import codec_for
from queuekit._portable.context import Current
from queuekit._portable.handler import AnyHandler, BatchHandler, BatchOptions
from queuekit._portable.letters import Cause
from queuekit._portable.link import Link
from queuekit._portable.middleware import Handling
from queuekit._portable.retry import Judge, RetryPolicy, Verdict
from queuekit._portable.wrapping import Call, compose
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import CodecError
from queuekit.backend import Action, IncomingMessage


class Job(Protocol):
    """One delivery to run a handler for."""

    @property
    def message(self) -> IncomingMessage:
        """The delivery as the service made it."""
        ...

    @property
    def lease_lost(self) -> bool:
        """Whether it is not ours any more."""
        ...

    def settle(self, verdict: Verdict) -> None:
        """Record the verdict. Called once, unless the job was abandoned."""
        ...

    def abandon(self) -> None:
        """Keep its lease no longer: its handler hangs. It comes back when the lease ends."""
        ...

    def extend(self, by_s: float) -> None:
        """Extend its lease; raises as `Delivery.extend` does."""
        ...


class Bound:
    """A handler with what running it needs: ``call`` is its function inside everything that wraps it."""

    __slots__ = ("batch", "call", "decode", "handlings", "judge", "timeout_s")

    def __init__(
        self, handler: AnyHandler, can: Capabilities, clock: Clock, wait_for: Callable[[Awaitable[Any]], Any]
    ) -> None:
        # Around a batch there is nothing: what stands around its messages is entered for each of them.
        wrappers = () if isinstance(handler, BatchHandler) else handler.wrappers
        self.call: Call = compose(handler.function, wrappers, is_async=handler.is_async, wait_for=wait_for)
        self.batch = handler.batch if isinstance(handler, BatchHandler) else BatchOptions()
        self.handlings = [each for each in handler.wrappers if isinstance(each, Handling)]
        # The method itself: it runs for every message.
        self.decode: Callable[[bytes, str | None], Any] = codec_for(handler.payload).decode
        self.judge = Judge(handler.retry, can, clock, holds=handler.on_dead == "hold")
        self.timeout_s = handler.timeout_s

    def within(self, longest_s: float) -> Bound:
        """The same handler with no more time than that."""
        if longest_s == math.inf or (self.timeout_s is not None and self.timeout_s <= longest_s):
            return self
        bounded = copy(self)
        bounded.timeout_s = longest_s
        return bounded


class Known(NamedTuple):
    """What the metadata of a message says about running it.

    Attributes:
        metadata: The metadata.
        bound: The handler; None where there is none.
        judge: Its judge; None where that depends on the message.
        envelope: The metadata as read.
    """

    metadata: Mapping[str, str]
    bound: Bound | None
    judge: Judge | None
    envelope: meta.Envelope


class Triage:
    """Picks the handler of a message, and judges everything that happens before it runs.

    Args:
        handlers: The handlers of one queue.
        link: The open queue.
        clock: For chance.
        draining: Whether the worker is stopping.
        wait_for: Waits on a thread for an awaitable that a sync handler returned.

    Attributes:
        wait_for: The same.
        journal: Where to count and log.
        orders: Whether the messages of an ordering key follow each other.
    """

    def __init__(
        self,
        handlers: Sequence[AnyHandler],
        link: Link,
        clock: Clock,
        draining: Callable[[], bool],
        wait_for: Callable[[Awaitable[Any]], Any],
    ) -> None:
        self.wait_for, self.journal = wait_for, link.journal
        can = link.capabilities
        self.orders: bool = can.ordering != "none"
        self._by_type: Mapping[str, Bound] = {
            each.message_type: Bound(each, can, clock, wait_for) for each in handlers
        }
        untyped = handlers if len(handlers) == 1 else [each for each in handlers if each.default]
        self._untyped = self._by_type[untyped[0].message_type] if untyped else None
        self._unknown = Judge(RetryPolicy(), can, clock)
        self._queue = link.shown
        self._draining = draining
        self._last = self._know(meta.EMPTY)

    def open(self, job: Job) -> tuple[Bound, Judge, Any, Current] | Verdict:
        """What to run for a job; or the verdict, where nothing is to be run."""
        message = job.message
        # Messages that were sent alike mostly share one mapping, which nobody changes.
        known = self._last
        if message.metadata is not known.metadata:
            known = self._last = self._know(message.metadata)
        _, bound, judge, envelope = known
        attempt = message.attempt
        if attempt is not None:
            attempt += envelope.base
        if bound is None:
            return self._no_handler(envelope.type, message, attempt)
        if judge is None:
            judge = bound.judge.of(meta.read_overrides(message.metadata), message.ordering_key)
        if attempt is not None and attempt > judge.most and (too_often := judge.on_receipt(attempt)) is not None:
            return too_often
        try:
            payload = bound.decode(message.body, envelope.content_type)
        except CodecError as error:
            return Verdict(Action.DEAD, cause=Cause("undecodable", error))
        except Exception as error:  # noqa: BLE001 - the handler boundary: validators are the user's code
            return judge.on_error(error, attempt)
        return bound, judge, payload, Current(job, self._queue, attempt, self._draining)

    def _know(self, metadata: Mapping[str, str]) -> Known:
        envelope = meta.read(metadata)
        bound = self._untyped if envelope.type is None else self._by_type.get(envelope.type)
        judge = None
        if bound is not None and not (
            bound.judge.varies or meta.MAX_ATTEMPTS in metadata or meta.RETRY_DELAY in metadata
        ):
            judge = bound.judge
        return Known(metadata, bound, judge, envelope)

    def _no_handler(self, message_type: str | None, message: IncomingMessage, attempt: int | None) -> Verdict:
        """Retried by policy first: during a rolling deploy another worker may know the type."""
        error = LookupError(f"no handler for messages of type {message_type!r}")
        judge = self._unknown.of(meta.read_overrides(message.metadata), message.ordering_key)
        verdict = judge.on_error(error, attempt)
        if verdict.action is Action.DEAD:
            return Verdict(Action.DEAD, cause=Cause("no_handler", error))
        return verdict
