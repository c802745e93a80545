# SPDX-License-Identifier: Apache-2.0
"""What a batch handler is called with, and what becomes of each entry. Pure: the calls are the runner's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from queuekit._portable.batches import Batch, BatchEntry, BatchResult, OnError
from queuekit._portable.retry import DeadLetter, Retry, Verdict, failure_in, unwrapped
from queuekit._values.errors import UsageError
from queuekit.backend import Action

Entry = BatchEntry[Any]

_COMES_AGAIN = frozenset({Action.RETRY, Action.RELEASE})


class BatchJudge:
    """Decides what to call a batch handler with next, and what its answers mean for each entry.

    Ask `next` for a batch, call the handler, report by `returned` or `failed`, and so on until there is no
    next one; then `fate` says what each entry came to.

    Of an ordering key, nothing is decided past an entry that comes again: what follows it is released, or the
    order of the key would be lost.

    Args:
        entries: Everything that was taken, in order.
        strict: Whether an entry that the handler did not mention has failed.
        on_error: What follows when the handler raises.
        forgotten: Called with the number of entries that were not mentioned, where that is a failure.
    """

    def __init__(
        self, entries: Sequence[Entry], *, strict: bool, on_error: OnError, forgotten: Callable[[int], None]
    ) -> None:
        self.entries = entries
        self._strict, self._on_error, self._forgotten = strict, on_error, forgotten
        self._places = {entry: place for place, entry in enumerate(entries)}
        self._parts: list[Sequence[Entry]] = [entries]
        self._fates: dict[Entry, BaseException | None] = {}
        self._broken_from: dict[str, int] = {}

    def next(self) -> Batch[Any] | None:
        """What to call the handler with now; None when all is decided."""
        while self._parts:
            part = [each for each in self._parts.pop() if self._is_open(each)]
            if part:
                return Batch(part)
        return None

    def returned(self, batch: Batch[Any], value: object) -> None:
        """The handler returned for a batch that `next` gave."""
        failure = None if value is None else failure_in(value)
        if failure is not None:
            self._fail(batch, failure)
            return
        try:
            named = _result(value).failures(batch)
        except Exception as error:  # noqa: BLE001 - the handler boundary: what it returned may be anything
            self._fail(batch, error)
            return
        unnamed = [each for each in batch if each not in named and self._is_open(each)]
        forgotten = UsageError("the handler did not mention this entry, and strict=True", operation="handle")
        for entry in unnamed:
            self._fates[entry] = forgotten if self._strict else None
        self._fates.update(named)
        if self._strict and unnamed:
            self._forgotten(len(unnamed))
        self._note_keys(batch)

    def failed(self, batch: Batch[Any], error: BaseException) -> None:
        """The handler raised for a batch that `next` gave."""
        rest = [each for each in batch if self._is_open(each)]
        again = isinstance(error, Exception) and not isinstance(unwrapped(error), (Retry, DeadLetter))
        if not again or self._on_error == "retry" or len(rest) <= 1:
            self._fail(batch, error)
            return
        self._note_keys(batch)
        size = 1 if self._on_error == "one_by_one" else math.ceil(len(rest) / 2)
        # The last part is taken first.
        self._parts.extend(rest[start : start + size] for start in reversed(range(0, len(rest), size)))

    def refuse(self, entry: Entry, error: BaseException | None) -> None:
        """An entry whose fate was decided before the handler was called."""
        self._fates[entry] = error
        self._note_keys([entry])

    def stop(self, error: BaseException | None) -> None:
        """Call the handler no more: what is undecided failed with this error, or with None was not tried."""
        self._parts.clear()
        if error is not None:
            self._fail([each for each in self.entries if self._is_open(each)], error)

    def verdict(self, entry: Entry) -> Verdict | None:
        """The settlement that the handler gave an entry itself."""
        return entry._verdict  # noqa: SLF001 - the other half of the entry

    def waits(self, entry: Entry) -> bool:
        """Whether an earlier entry of its key comes again."""
        key = entry._order_key  # noqa: SLF001 - the other half of the entry
        return key is not None and self._broken_from.get(key, math.inf) < self._places[entry]

    def is_decided(self, entry: Entry) -> bool:
        """Whether the handler was called with it and has answered."""
        return entry in self._fates

    def fate(self, entry: Entry) -> BaseException | None:
        """What a decided entry failed with; None when it was done."""
        return self._fates[entry]

    def _is_open(self, entry: Entry) -> bool:
        return entry not in self._fates and self.verdict(entry) is None and not self.waits(entry)

    def _fail(self, batch: Sequence[Entry], error: BaseException) -> None:
        for entry in batch:
            if self._is_open(entry):
                self._fates[entry] = error
                self._note_keys([entry])
        self._note_keys(batch)

    def _note_keys(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            key, place = entry._order_key, self._places[entry]  # noqa: SLF001 - as above
            if key is not None and self._comes_again(entry):
                self._broken_from[key] = min(place, self._broken_from.get(key, place))

    def _comes_again(self, entry: Entry) -> bool:
        verdict, failure = self.verdict(entry), self._fates.get(entry)
        if verdict is None and failure is not None:
            verdict = entry._judge.on_error(failure, entry.attempt)  # noqa: SLF001 - the other half of the entry
        return verdict is not None and verdict.action in _COMES_AGAIN


def _result(value: object) -> BatchResult:
    if value is None:
        return BatchResult()
    if isinstance(value, BatchResult):
        return value
    msg = f"a batch handler returns None, a BatchResult, Retry or DeadLetter, and returned {type(value).__name__}"
    raise UsageError(msg, operation="handle")
