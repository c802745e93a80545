# SPDX-License-Identifier: Apache-2.0
"""Small stores beside a queue: what they must do, and what they may expect in return.

An idempotency store remembers which work was done, so that a message that is delivered again does not do it
again. A store is one object with blocking methods that may be called from several threads, and from several
processes where its data outlives one. Write one against these protocols, and register it under the entry
point group ``queuekit.stores`` with its URL's scheme as the name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable

from queuekit._values.clock import Clock, SystemClock
from queuekit._values.errors import InvalidURLError
from queuekit._values.url import QueueURL

__all__ = [
    "Claim",
    "ClaimState",
    "Clock",
    "IdempotencyStore",
    "InvalidURLError",
    "QueueURL",
    "STORE_VERSION",
    "StoreSpec",
    "SystemClock",
    "Transactional",
]


STORE_VERSION = 1
"""Raised when a store written for an older version would break; checked when a store is opened."""


class ClaimState(Enum):
    """What a store says to somebody who wants to do the work of a key."""

    CLAIMED = "claimed"
    """It is yours: do it, then `IdempotencyStore.complete` or `IdempotencyStore.forget` the key."""
    DONE = "done"
    """It was done, and the time to remember that is not over: do not do it again."""
    BUSY = "busy"
    """Somebody else is doing it and has not let the claim run out."""
    MISMATCH = "mismatch"
    """The key stands for other work: the same key came with another payload."""


class Claim(NamedTuple):
    """The answer to `IdempotencyStore.claim`.

    Attributes:
        state: What may be done.
        left_s: For BUSY, the seconds until the other claim runs out unless it is renewed; else 0.
    """

    state: ClaimState
    left_s: float = 0.0


@runtime_checkable
class IdempotencyStore(Protocol):
    """Remembers, by key, work that is in progress and work that is done.

    Every change compares the owner: a claim that ran out and went to somebody else can be neither renewed,
    completed nor forgotten by its former owner. Each method is one step for all that use the store at once.

    Whatever a method raises means that the store could not be asked. The caller then knows nothing about
    the key: it does not do the work, unless it was told to go on without the store.

    Concurrency:
        Safe from any thread; in a child process after a fork, too.
    """

    def claim(self, key: str, *, owner: str, lease_s: float, fingerprint: str) -> Claim:
        """Take the work of a key for ``lease_s`` seconds, if nobody has it and it is not done.

        Asked again by the same owner, whose claim is still in progress, the answer is CLAIMED, and the claim
        holds for ``lease_s`` from then on: a call whose answer was lost may be made again.

        Args:
            key: 1 to 1,000 characters.
            owner: Names this one run of the work; never used twice.
            lease_s: How long the claim holds without `renew`, measured by a clock that setting the time
                does not move, where there is one.
            fingerprint: Of the work's input. A key that is in progress or done with another fingerprint
                answers MISMATCH.
        """
        ...

    def renew(self, key: str, *, owner: str, lease_s: float) -> bool:
        """Hold the claim for another ``lease_s`` seconds from now; False when it is not ours any more."""
        ...

    def complete(self, key: str, *, owner: str, keep_s: float) -> bool:
        """Mark the work done, and remember that for ``keep_s`` seconds.

        Done already by this owner is True; False when the claim went to somebody else, or was forgotten. A
        claim that has run out, and that nobody else has taken, may still be completed.
        """
        ...

    def forget(self, key: str, *, owner: str) -> bool:
        """Give up the claim, so that anybody may take it at once; False when it was not ours any more.

        What is done is not forgotten. A claim that was given up already is not ours any more.
        """
        ...

    def close(self) -> None:
        """Give back every resource; idempotent."""
        ...


@runtime_checkable
class Transactional(Protocol):
    """A store whose mark can be written in the user's own transaction, together with the work's effect."""

    def complete_in(self, connection: object, key: str, *, owner: str, keep_s: float) -> bool:
        """As `IdempotencyStore.complete`, on the caller's connection, inside its transaction.

        Commits nothing. False means that somebody else has the work: the caller must roll back.

        Args:
            connection: To the database that holds the store.
            key: As in `IdempotencyStore.claim`.
            owner: As in `IdempotencyStore.claim`.
            keep_s: As in `IdempotencyStore.complete`.

        Raises:
            TypeError: It is no connection to such a database.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """How stores of one scheme are opened; what an entry point names.

    Attributes:
        open: Makes a store of a URL and a clock, without I/O. Raises `InvalidURLError` for a URL that
            cannot be one.
        forms: The forms of its URLs, for messages.
        spi_version: The `STORE_VERSION` that it was written for.
        one_process: Whether each process has a store of its own under one URL, so that handlers in child
            processes cannot use it.
    """

    open: Callable[[QueueURL, Clock], IdempotencyStore]
    forms: tuple[str, ...]
    spi_version: int = STORE_VERSION
    one_process: bool = False
