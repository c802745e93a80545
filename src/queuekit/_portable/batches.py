# SPDX-License-Identifier: Apache-2.0
"""What a batch handler takes and returns: a batch, its entries, and which of them failed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, overload

from typing_extensions import TypeVar

from queuekit._portable.context import Current
from queuekit._portable.retry import ACK, RELEASE, DeadLetter, Judge, Retry, Verdict
from queuekit._values.errors import AlreadySettledError, PartialFailureError, UsageError
from queuekit.backend import Action

T = TypeVar("T", default=Any)

OnError = Literal["retry", "bisect", "one_by_one"]
"""What follows when a batch handler raises: see `App.batch_handler`."""


class Settles(Protocol):
    """The delivery behind an entry."""

    @property
    def lease_lost(self) -> bool:
        """Whether it is not ours any more."""
        ...

    def settle(self, verdict: Verdict) -> None:
        """Record the verdict. Called once."""
        ...


class BatchEntry(Generic[T]):
    """One message of a batch.

    Of `ack`, `retry`, `dead_letter` and `release` call at most one: it is recorded at once and stands whatever
    becomes of the rest of the batch. What is left alone is decided by how the handler ends.

    Attributes:
        payload: The message's value.

    Concurrency:
        Safe from any thread.
    """

    __slots__ = ("_current", "_job", "_judge", "_lock", "_verdict", "payload")

    def __init__(self, payload: T, job: Settles, judge: Judge, current: Current, lock: threading.Lock) -> None:
        self.payload: T = payload
        self._job = job
        self._judge = judge
        self._current = current
        self._lock = lock
        self._verdict: Verdict | None = None

    @property
    def message_id(self) -> str:
        """The message's id; the same at every attempt."""
        return self._current.message_id

    @property
    def attempt(self) -> int | None:
        """Which attempt this is, from 1; None where the service does not count."""
        return self._current.attempt

    @property
    def attributes(self) -> Mapping[str, str]:
        """The strings that travel beside the body."""
        return self._current.attributes

    @property
    def ordering_key(self) -> str | None:
        """The message's ordering key."""
        return self._current.ordering_key

    @property
    def _order_key(self) -> str | None:
        """The key whose messages must follow each other; None where nothing need follow this one."""
        return self._current.ordering_key if self._judge.orders else None

    @property
    def lease_lost(self) -> bool:
        """Whether the delivery is not ours any more: leave it out, somebody else may be at it."""
        return self._job.lease_lost

    def ack(self) -> None:
        """Done: remove the message.

        Raises:
            AlreadySettledError: It was settled before.
        """
        self._settle(ACK)

    def retry(self, *, delay: timedelta | None = None) -> None:
        """Failed: try it again, and count the attempt; dead when its attempts are used up.

        Args:
            delay: No earlier than this long from now; None asks the handler's retry policy.

        Raises:
            AlreadySettledError: It was settled before.
            UsageError: The delay is negative or no timedelta.
        """
        self._settle(self._judge.on_error(Retry(delay=delay), self.attempt))

    def dead_letter(self, reason: str) -> None:
        """Never again: keep it for study in the dead-letter queue.

        Args:
            reason: Why, for whoever studies it.

        Raises:
            AlreadySettledError: It was settled before.
            UsageError: The reason is no text.
        """
        if not isinstance(reason, str) or not reason:
            msg = f"reason must be a text that says why, and is {type(reason).__name__}"
            raise UsageError(msg)
        self._settle(self._judge.on_error(DeadLetter(reason), self.attempt))

    def release(self) -> None:
        """Give it back untried: again at once, the attempt not counted where that can be.

        Raises:
            AlreadySettledError: It was settled before.
        """
        self._settle(RELEASE)

    def __repr__(self) -> str:
        return f"BatchEntry({self.message_id!r}, attempt={self.attempt})"

    def _settle(self, verdict: Verdict) -> None:
        if not self._claim(verdict):
            msg = "this entry was settled before; settle each entry once"
            raise AlreadySettledError(msg, operation=verdict.action.value)
        self._job.settle(verdict)

    def _claim(self, verdict: Verdict) -> bool:
        """Make this the entry's one verdict; False where it has one."""
        with self._lock:
            free = self._verdict is None
            if free:
                self._verdict = verdict
            return free


class Batch(Sequence[BatchEntry[T]]):
    """The messages that a batch handler takes at once, in the order in which they came.

    Concurrency:
        Immutable; its entries are safe from any thread.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[BatchEntry[T]]) -> None:
        self._entries = tuple(entries)

    @property
    def payloads(self) -> list[T]:
        """The values alone, in order."""
        return [each.payload for each in self._entries]

    @property
    def draining(self) -> bool:
        """Whether the worker is stopping: what cannot be done soon is best released."""
        return any(each._current.draining for each in self._entries[:1])  # noqa: SLF001 - one class with its entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> BatchEntry[T]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[BatchEntry[T]]: ...
    def __getitem__(self, index: int | slice) -> BatchEntry[T] | Sequence[BatchEntry[T]]:
        return self._entries[index]

    def __repr__(self) -> str:
        return f"Batch({len(self)} entries)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """Returned by a batch handler: which entries failed. What is not named here was done.

    Naming what is no entry of the batch fails the whole batch, so that a mistake acks nothing.

    Attributes:
        retry: Entries, or their message ids, to be tried again by the handler's policy.
        dead_letter: Entries, or their message ids, that no attempt can mend.
    """

    retry: Sequence[BatchEntry[Any] | str] = ()
    dead_letter: Sequence[BatchEntry[Any] | str] = ()

    def failures(self, batch: Batch[Any]) -> dict[BatchEntry[Any], BaseException]:
        """What the named entries of a batch failed with: a `Retry` or a `DeadLetter` each.

        Raises:
            UsageError: It names what is no entry of the batch, one entry in both lists, or one that was
                settled otherwise.
        """
        by_id: dict[str, list[BatchEntry[Any]]] = {}
        for each in batch:
            by_id.setdefault(each.message_id, []).append(each)
        found: dict[BatchEntry[Any], BaseException] = {}
        for names, failure, action in (
            (self.retry, Retry(), Action.RETRY),
            (self.dead_letter, DeadLetter("the batch handler said so"), Action.DEAD),
        ):
            for name in names:
                for entry in _entries_of(name, by_id):
                    _check_once(entry, failure, action, found)
                    found[entry] = failure
        return found

    def to_lambda_response(
        self, batch: Batch[Any], *, all_failed: Literal["report", "raise"] = "report"
    ) -> dict[str, list[dict[str, str]]]:
        """The answer that AWS Lambda takes for a batch of SQS messages: ``batchItemFailures``.

        Listed is what must come again: the entries named here, those that were settled otherwise than by an
        ack, and of each of their ordering keys what comes after. A dead letter is listed too, because nothing
        but the queue's own redrive policy keeps it there.

        Args:
            batch: What the handler was given.
            all_failed: What to do when every entry failed: list them all (``"report"``), or raise, so that
                Lambda counts a failed invocation (``"raise"``).

        Raises:
            UsageError: As `failures` does. Lambda would take an unknown id for a failure of all.
            PartialFailureError: All failed, and ``all_failed="raise"``; ``failures`` holds their ids.
        """
        named = self.failures(batch)
        broken: set[str] = set()
        failed: dict[str, None] = {}
        for entry in batch:
            key = entry._order_key  # noqa: SLF001 - the other half of the entry
            comes_again = entry in named or key in broken or _settled_otherwise(entry)
            if comes_again:
                failed[entry.message_id] = None
                broken.update(() if key is None else (key,))
        if all_failed == "raise" and batch and all(each.message_id in failed for each in batch):
            msg = f"all {len(batch)} messages of the batch failed"
            raise PartialFailureError(msg, failures=list(failed), operation="handle")
        return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}


def _entries_of(name: Any, by_id: Mapping[str, list[BatchEntry[Any]]]) -> list[BatchEntry[Any]]:
    if isinstance(name, BatchEntry):
        same = [each for each in by_id.get(name.message_id, ()) if each is name]
    elif isinstance(name, str):
        same = by_id.get(name, [])
    else:
        msg = f"a BatchResult names entries or message ids, and one is {type(name).__name__}"
        raise UsageError(msg, operation="handle")
    if not same:
        msg = "a BatchResult names a message that is no entry of the batch; nothing of the batch is acked by it"
        raise UsageError(msg, operation="handle")
    return same


def _check_once(
    entry: BatchEntry[Any], failure: BaseException, action: Action, found: Mapping[BatchEntry[Any], BaseException]
) -> None:
    verdict = entry._verdict  # noqa: SLF001 - one class with its entries
    if found.get(entry, failure) is not failure:
        msg = "a BatchResult names one entry in both retry and dead_letter"
        raise UsageError(msg, operation="handle")
    # A retry that found the attempts used up is a dead letter.
    if verdict is not None and verdict.action is not action and verdict.action is not Action.DEAD:
        msg = "a BatchResult names an entry that was settled otherwise; say one thing of each entry"
        raise UsageError(msg, operation="handle")


def _settled_otherwise(entry: BatchEntry[Any]) -> bool:
    verdict = entry._verdict  # noqa: SLF001 - one class with its entries
    return verdict is not None and verdict.action is not Action.ACK
