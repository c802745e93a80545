# SPDX-License-Identifier: Apache-2.0
"""Handlers whose work is done once by key, however often the message is delivered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from queuekit._engine.journal import Journal
from queuekit._portable.claims import ClaimKeeper, Run
from queuekit._portable.context import Current, current
from queuekit._portable.link import seconds
from queuekit._portable.retry import DeadLetter, NotNow
from queuekit._portable.wrapping import AsyncCall, Call
from queuekit._values.clock import Clock
from queuekit._values.errors import LeaseLostError, UsageError
from queuekit._values.url import QueueURL
from queuekit._wiring.registry import find_store
from queuekit.stores import ClaimState, IdempotencyStore, Transactional

T = TypeVar("T")

_LONGEST_KEY = 1000
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """How a handler's work is done once by key.

    Before the handler runs, its key is claimed in a store. Work that is done is not done again: the message
    is acked. Work that somebody else is doing is waited for. When the handler fails, the key is free again;
    when its worker dies, the claim runs out after a lease. Between the handler's last effect and the mark in
    the store there is a moment in which a crash makes the work be done again, unless both are written in
    one transaction, see `Current.complete_in`.

    Attributes:
        store: A store's URL, such as ``redis://HOST``, ``sqlite:///done.db`` or ``memory://``, or a store of
            your own.
        key: The key of a payload, 1 to 1,000 characters; by default the dedup id that the message was sent
            with, else its id. Keys of different queues, subscriptions and message types are different.
        ttl: How long done work is remembered, at least; 24 h outlasts redeliveries and most resends.
        check_payload: Whether a key that comes with another body is a mistake of the sender, so that the
            message is dead-lettered and not taken for done.
        fail_open: Whether the handler runs when the store cannot be asked, at the risk of doing work twice.
            By default the message goes back to the queue and waits.

    Raises:
        UsageError: A value is of the wrong type or out of range.
    """

    store: str | IdempotencyStore
    key: Callable[[Any], str] | None = None
    ttl: timedelta = timedelta(hours=24)
    check_payload: bool = True
    fail_open: bool = False

    def __post_init__(self) -> None:
        seconds("ttl", self.ttl, least=1.0)
        if not isinstance(self.store, (str, IdempotencyStore)):
            msg = f"store must be a URL or an IdempotencyStore and is {type(self.store).__name__}"
            raise UsageError(msg)
        if self.key is not None and not callable(self.key):
            msg = f"key must be a function of the payload and is {type(self.key).__name__}"
            raise UsageError(msg)


class Once:
    """The wrapper that does a handler's work once by key.

    Args:
        choice: What the user wants.
        store: Where keys are claimed; closed by `close` where it was opened for this handler.
        scope: Goes before every key: the queue and the message type.
        subscription: The queue's subscription, where its URL does not name it.
        lease_s: How long a claim holds when the worker dies.
        clock: Time and chance.
    """

    def __init__(
        self,
        choice: Idempotency,
        store: IdempotencyStore,
        *,
        scope: str,
        subscription: str | None = None,
        lease_s: float,
        clock: Clock,
    ) -> None:
        self._choice, self._store, self._scope = choice, store, scope
        self._subscription, self._scopes = subscription, dict[str, str]()
        self._lease_s, self._clock = lease_s, clock
        self._keep_s = choice.ttl.total_seconds()
        self._journal: Journal | None = None
        self._keeper = ClaimKeeper(self.renew, lease_s, clock)

    def around(self, call: Call) -> Call:
        """See `Wrapper.around`."""

        def once(payload: Any) -> Any:
            run = self._begin(payload, current())
            if run is None:
                return None
            try:
                with self._keeper.keeping(run):
                    value = call(payload)
            except BaseException:
                self._forget(run)
                raise
            self._complete(run)
            return value

        return once

    def aaround(self, call: AsyncCall) -> AsyncCall:
        """See `Wrapper.aaround`; the store is asked on a thread of the loop's executor."""

        async def once(payload: Any) -> Any:
            run = await self._abegin(payload, current())
            if run is None:
                return None
            try:
                with self._keeper.keeping(run):
                    value = await call(payload)
            except BaseException:
                await _on_thread(partial(self._forget, run))
                raise
            await _on_thread(partial(self._complete, run))
            return value

        return once

    def complete_in(self, connection: object, run: Run) -> None:
        """Mark a run done in the caller's transaction; see `Current.complete_in`.

        Raises:
            UsageError: The store cannot do that.
            LeaseLostError: Somebody else has the work.
        """
        store = self._store
        if not isinstance(store, Transactional):
            msg = f"{type(store).__name__} has no transactions; use a store in the database of the handler's effects"
            raise UsageError(msg)
        if not store.complete_in(connection, run.key, owner=run.owner, keep_s=self._keep_s):
            msg = "the claim ran out and somebody else has the work; roll back"
            raise LeaseLostError(msg, queue=run.delivery.queue, operation="complete_in")

    def renew(self, run: Run) -> bool:
        """Hold a run's claim for longer; False when it is to be held no more."""
        # A delivery that is lost, because its handler hangs or its lease ended, must free its key too.
        if run.delivery.lease_lost:
            return False
        try:
            held = self._store.renew(run.key, owner=run.owner, lease_s=self._lease_s)
        except Exception as error:  # noqa: BLE001 - a store is anybody's code, and the next renewal may do
            self._note(run.delivery, "idempotency.unavailable", f"renewing failed with {type(error).__name__}")
            return True
        if not held:
            self._note(run.delivery, "idempotency.lost", "the claim ran out; the work may be done twice")
        return held

    def use(self, store: IdempotencyStore, clock: Clock) -> IdempotencyStore:
        """Have another store and clock from now on, with no handler running; returns the store before."""
        self._keeper.close()
        before, self._store, self._clock = self._store, store, clock
        self._keeper = ClaimKeeper(self.renew, self._lease_s, clock)
        return before

    def check_processes(self) -> None:
        """Refuse child processes, where each would have a store of its own.

        Raises:
            UsageError: They would.
        """
        store = self._choice.store
        if isinstance(store, str) and find_store(QueueURL.parse(store).scheme).one_process:
            shown = QueueURL.parse(store)
            remedy = "use sqlite:///FILE or redis://HOST"
            msg = f"each child process would have its own {shown}, and do again what another did; {remedy}"
            raise UsageError(msg, operation="open")

    def rest(self) -> None:
        """End the keeper until the next run; what runs still is renewed no more."""
        self._keeper.close()

    def close(self) -> None:
        """End the keeper, and close a store that a URL named. Idempotent; a later run opens both again."""
        self._keeper.close()
        if isinstance(self._choice.store, str):
            self._store.close()

    def _begin(self, payload: Any, delivery: Current) -> Run | None:
        """Claim the key of a message; None when its work is done.

        Raises:
            NotNow: Somebody else is doing the work, or the store cannot be asked.
            DeadLetter: The key stands for another payload.
        """
        run = Run(self._key_of(payload, delivery), self._clock.token_bytes(16).hex(), delivery)
        fingerprint = hashlib.sha256(delivery.body).hexdigest() if self._choice.check_payload else ""
        try:
            claim = self._store.claim(run.key, owner=run.owner, lease_s=self._lease_s, fingerprint=fingerprint)
        except Exception as error:
            self._note(delivery, "idempotency.unavailable", f"claiming failed with {type(error).__name__}")
            if self._choice.fail_open:
                return run
            raise NotNow(self._patience_s(self._lease_s)) from error
        if claim.state is ClaimState.BUSY:
            self._note(delivery, "idempotency.busy")
            raise NotNow(self._patience_s(claim.left_s))
        if claim.state is ClaimState.MISMATCH:
            self._note(delivery, "idempotency.mismatch")
            msg = "the idempotency key was used with another payload"
            raise DeadLetter(msg)
        if claim.state is ClaimState.DONE:
            self._note(delivery, "idempotency.skipped")
            return None
        delivery.completing = partial(self.complete_in, run=run)
        return run

    async def _abegin(self, payload: Any, delivery: Current) -> Run | None:
        loop = asyncio.get_running_loop()
        beginning = loop.run_in_executor(None, self._begin, payload, delivery)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # What is claimed after all must not be held by nobody until it runs out.
            beginning.add_done_callback(lambda begun: self._forget_late(begun, loop))
            raise

    def _forget_late(self, begun: asyncio.Future[Run | None], loop: asyncio.AbstractEventLoop) -> None:
        if not begun.cancelled() and begun.exception() is None and (run := begun.result()) is not None:
            loop.run_in_executor(None, self._forget, run)

    def _patience_s(self, left_s: float) -> float:
        """How long to wait for a claim that may be freed sooner than it runs out: a tenth of a lease, drawn."""
        return min(left_s, self._lease_s / 10 * (1 + self._clock.random.random()))

    def _key_of(self, payload: Any, delivery: Current) -> str:
        if self._choice.key is None:
            key = delivery.dedup_id or delivery.message_id
        else:
            key = self._choice.key(payload)
            if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_KEY or _has_surrogate(key):
                msg = (
                    f"an idempotency key must be a str of 1 to {_LONGEST_KEY} characters, none a lone surrogate; "
                    "see the key= of Idempotency"
                )
                raise UsageError(msg)
        return f"{self._scope_of(delivery.queue)}:{key}"

    def _scope_of(self, queue: str) -> str:
        """What goes before a key: each subscription has the same messages, and work of its own to do for them."""
        known = self._scopes.get(queue)
        if known is None:
            name = self._subscription or QueueURL.parse(queue).options.get("subscription")
            known = self._scopes[queue] = self._scope if name is None else f"{self._scope}?subscription={name}"
        return known

    def _complete(self, run: Run) -> None:
        """Mark the work done. It is done, so whatever fails here must not make it be done again."""
        for tries_left in reversed(range(_TRIES)):
            try:
                if not self._store.complete(run.key, owner=run.owner, keep_s=self._keep_s):
                    self._note(run.delivery, "idempotency.lost", "the claim ran out before the work was done")
            except Exception as error:  # noqa: BLE001 - a store is anybody's code
                if not tries_left:
                    self._note(run.delivery, "idempotency.unrecorded", type(error).__name__)
            else:
                return

    def _forget(self, run: Run) -> None:
        """Free the key after a failure; where that fails too, it is free when the claim runs out."""
        try:
            self._store.forget(run.key, owner=run.owner)
        except Exception as error:  # noqa: BLE001 - a store is anybody's code
            self._note(run.delivery, "idempotency.unavailable", f"forgetting failed with {type(error).__name__}")

    def _note(self, delivery: Current, action: str, detail: str = "") -> None:
        if self._journal is None:
            self._journal = Journal(delivery.queue)
        self._journal.note(action, detail)


def once(
    choice: Idempotency | str,
    *,
    queue: str,
    subscription: str | None,
    message_type: str,
    lease_s: float,
    clock: Clock,
    open_store: Callable[[QueueURL], IdempotencyStore],
) -> Once:
    """The wrapper for one handler; a store named by URL is opened, without I/O.

    Raises:
        UsageError: The choice is none.
        SetupError: The store's URL is wrong, or its packages are missing.
    """
    if not isinstance(choice, Idempotency):
        choice = Idempotency(store=choice)
    store = open_store(QueueURL.parse(choice.store)) if isinstance(choice.store, str) else choice.store
    # A queue named by a whole URL may have a password in it, which is nothing for a store.
    shown = str(QueueURL.parse(queue)) if "://" in queue else queue
    scope = f"{shown}:{message_type}"
    return Once(choice, store, scope=scope, subscription=subscription, lease_s=lease_s, clock=clock)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


async def _on_thread(call: Callable[[], T]) -> T:
    """Run a blocking call on a thread, to its end even when the handler is cancelled meanwhile."""
    done: Awaitable[T] = asyncio.get_running_loop().run_in_executor(None, call)
    return await asyncio.shield(done)
