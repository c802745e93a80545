# SPDX-License-Identifier: Apache-2.0
"""What every backend does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from queuekit._spi.messages import IncomingMessage, OutgoingMessage, Settlement
from queuekit._values.capability import Capabilities
from queuekit._values.outcome import ErrorClass, SendOutcome, SettleOutcome


class Backend(Protocol):
    """One queue of one service, opened from a URL. Opening makes no I/O; the first call connects."""

    @property
    def capabilities(self) -> Capabilities:
        """What the queue can do as far as the URL tells; no I/O."""
        ...

    def probe(self) -> Capabilities:
        """Ask the service what the queue can really do, and that it can be reached.

        A field that the service would not tell keeps its static value and is named in
        `Capabilities.assumed`. Must not create, change or consume anything, except to make the structures
        of an ``implicit`` queue.

        Raises:
            Exception: The SDK's own, unwrapped; `classify` will be asked what it means.
        """
        ...

    def size(self, message: OutgoingMessage) -> int:
        """Bytes that the service will count for this message, its encoding and metadata included. Pure."""
        ...

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Hand one batch to the service and say what became of each entry.

        The engine never passes an empty batch, nor more entries or bytes than `Capabilities` allow. The
        result has the length and the order of ``batch``. `Accepted` means that the service confirmed it.
        Retrying is the engine's work: report the entries that failed, and return. A batch that was
        accepted whole, with no ids of the service's own, is cheapest answered by `AllAccepted`.

        Args:
            batch: Homogeneous where `Capabilities.one_key_per_send` says so.
            timeout_s: What is left of the engine's time budget; no call may outlive it by much.

        Raises:
            Exception: The SDK's own, unwrapped, when the call failed as a whole.
        """
        ...

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease up to ``max_messages`` messages, waiting up to ``wait_s`` seconds for the first.

        Returns as soon as there is at least one, best first (higher priority, then order of sending).
        Blocks only on the service's own primitive or on one that `Interruptible` or `close` can wake, and
        holds no connection or lock meanwhile that `send` or `settle` needs.

        Args:
            max_messages: At least 1.
            wait_s: 0 answers at once.
            lease_s: How long the messages are to be ours alone; within `Capabilities` bounds.

        Raises:
            Exception: The SDK's own, unwrapped. No message may be leased by a call that raises, but for
                what the lease brings back.
        """
        ...

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Carry out one batch of settlements and say what became of each.

        An ended or superseded handle answers `LeaseLost`, a handle that was never ours too; neither raises
        nor touches another entry. Batches have one action and one length unless
        `Capabilities.mixed_settles`; no handle stands twice in a batch.

        Args:
            batch: Not empty.
            timeout_s: As for `send`.

        Raises:
            Exception: The SDK's own, unwrapped, when the call failed as a whole.
        """
        ...

    def classify(self, error: BaseException) -> ErrorClass:
        """Say what an exception raised by one of these methods means. Pure; never raises.

        Whatever the backend does not know is ``ErrorClass(ErrorCode.UNKNOWN)``, not retryable.
        """
        ...

    def close(self) -> None:
        """Give back every resource and wake a blocked `receive`, which then returns nothing.

        Idempotent. Later calls of other methods may raise anything; the engine makes none.
        """
        ...
