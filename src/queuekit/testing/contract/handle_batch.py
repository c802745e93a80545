# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""BPF, second half: batch handlers of which a part fails. What failed comes again, and nothing else does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

from queuekit._portable.batches import Batch, BatchEntry, BatchResult
from queuekit._portable.retry import RetryPolicy
from queuekit._portable.worker import ExitCode
from queuekit._values.errors import PartialFailureError, UsageError
from queuekit.testing.contract.dead_letter import dead_letter_argument
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.working import BatchWork

TEN = [b"%d" % index for index in range(10)]
_AGAIN = RetryPolicy(max_attempts=50, wait=wait_none())
_FOREIGN = "a-message-of-another-batch"

Handle = Callable[[Batch[bytes]], Any]


class HandleBatch(Group):
    """One answer per message, whatever a batch handler does with the rest."""

    def test_BPF_11_handle_partial_failure(self, harness: Harness, face: Face) -> None:
        """A result that names two of ten: those two come again, and the others do not."""
        named = {TEN[3], TEN[7]}
        first = _First()
        _expect_seen(
            harness,
            face,
            lambda batch: BatchResult(retry=[e for e in first(batch) if e.payload in named]),
            again=named,
        )

    def test_BPF_12_handle_raise_before_any(self, harness: Harness, face: Face) -> None:
        """An exception with nothing settled: all of the batch come again."""
        first = _First()

        def handle(batch: Batch[bytes]) -> None:
            if first(batch):
                raise ValueError("before any")

        _expect_seen(harness, face, handle, again=set(TEN))

    def test_BPF_13_handle_raise_after_some(self, harness: Harness, face: Face) -> None:
        """An exception after four were acked: these stay acked, and the rest comes again."""
        acked, first = set(TEN[:4]), _First()

        def handle(batch: Batch[bytes]) -> None:
            fresh = first(batch)
            for entry in fresh:
                if entry.payload in acked:
                    entry.ack()
            if fresh:
                raise ValueError("after some")

        _expect_seen(harness, face, handle, again=set(TEN) - acked)

    def test_BPF_14_handle_unknown_message_in_result(self, harness: Harness, face: Face) -> None:
        """A result that names a foreign message is an error: nothing is acked by it, and what was settled stays."""
        acked, first = {TEN[0]}, _First()

        def handle(batch: Batch[bytes]) -> BatchResult:
            fresh = first(batch)
            for entry in fresh:
                if entry.payload in acked:
                    entry.ack()
            return BatchResult(retry=[_FOREIGN] if fresh else [])

        _expect_seen(harness, face, handle, again=set(TEN) - acked)

    @pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
    def test_BPF_15_handle_forgotten_message(self, harness: Harness, face: Face, strict: bool) -> None:
        """What a strict handler did not mention has failed, and is counted; otherwise it is acked."""
        forgotten = {TEN[5], TEN[9]}
        first = _First()

        def handle(batch: Batch[bytes]) -> None:
            fresh = first(batch)
            for entry in batch:
                if entry not in fresh or entry.payload not in forgotten:
                    entry.ack()

        again = forgotten if strict else set[bytes]()
        counts = _expect_seen(harness, face, handle, again=again, strict=strict)
        assert counts.get("batch.forgotten", 0) == len(again)

    @requires("dead_letters")
    @pytest.mark.parametrize("on_error", ["bisect", "one_by_one"])
    def test_BPF_16_handle_poison_in_batch_isolated(self, harness: Harness, face: Face, on_error: str) -> None:
        """The one message that spoils its batch is found and is dead; every other one succeeds once."""
        queue, done = Queue(harness), list[bytes]()
        queue.put(*TEN)

        def handle(batch: Batch[bytes]) -> None:
            if TEN[6] in batch.payloads:
                raise ValueError("poison")
            done.extend(batch.payloads)

        options = {"on_error": on_error, "retry": RetryPolicy(max_attempts=1)} | dead_letter_argument(harness, queue)
        work = BatchWork(face, queue, handle, **_options(harness, **options))
        work.await_true(lambda: len(done) == 9, "the others are done", within_s=_enough_s(harness))
        assert work.stop() is ExitCode.DRAINED
        assert sorted(done) == sorted(set(TEN) - {TEN[6]})
        dead = queue.dead()
        assert dead.take()[0].body == TEN[6]
        dead.expect_nothing("what was done is not dead as well")
        queue.expect_nothing("nine are done, and one is dead")

    @requires("ordering")
    def test_BPF_17_handle_fifo_same_key_follows(self, harness: Harness, face: Face) -> None:
        """Of a key with a failure nothing is done past it, though it was in the same batch; other keys go on."""
        queue, first = Queue(harness), _First()
        for number in (b"1", b"2", b"3"):
            for key in ("a", "b"):
                queue.put(key.encode() + number, ordering_key=key)
        retry = RetryPolicy(max_attempts=50, wait=wait_fixed(harness.min_delay_s))
        work = BatchWork(
            face,
            queue,
            lambda batch: BatchResult(retry=[each for each in first(batch) if each.payload == b"a1"]),
            **_options(harness, retry=retry),
        )
        work.await_true(
            lambda: {b"a3", b"b3"} <= set(work.bodies) and work.bodies.count(b"a1") == 2 and _ended(work.bodies),
            "both keys are done",
            within_s=_enough_s(harness),
        )
        assert work.stop() is ExitCode.DRAINED
        last = {body: place for place, body in enumerate(work.bodies)}
        assert last[b"a1"] < last[b"a2"] < last[b"a3"], "nothing of the key was done past its failure"
        assert [each for each in work.bodies if each.startswith(b"b")] == [b"b1", b"b2", b"b3"]
        if queue.capabilities.attempts == "exact" and not queue.capabilities.release_counts:
            assert {attempt for body, attempt in work.seen if body in {b"a2", b"a3"}} == {1}
        queue.expect_nothing("all are done")

    def test_BPF_20_lambda_response_format(self, harness: Harness, face: Face) -> None:
        """The same result renders as batchItemFailures: exactly what comes again, and never a foreign id."""
        first, rendered = _First(), list[set[str]]()
        named = {TEN[2], TEN[8]}

        def handle(batch: Batch[bytes]) -> BatchResult:
            result = BatchResult(retry=[each for each in first(batch) if each.payload in named])
            rendered.append(_failures(result.to_lambda_response(batch)))
            assert rendered[-1] == {each.message_id for each in first.of(batch) if each.payload in named}
            _expect_all_failed(batch)
            return result

        _expect_seen(harness, face, handle, again=named)
        assert sum(map(len, rendered)) == len(named)


class _First:
    """Tells which entries of a batch are there for the first time."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        self._fresh: list[BatchEntry[bytes]] = []

    def __call__(self, batch: Batch[bytes]) -> list[BatchEntry[bytes]]:
        """The entries that were not there before."""
        self._fresh = [each for each in batch if each.payload not in self._known]
        self._known.update(batch.payloads)
        return self._fresh

    def of(self, batch: Batch[bytes]) -> list[BatchEntry[bytes]]:
        """What the last call answered for this batch."""
        return [each for each in self._fresh if each in batch]


def _ended(bodies: list[bytes]) -> bool:
    """Whether what follows the failure was there after it."""
    place = {body: index for index, body in enumerate(bodies)}
    return place[b"a3"] > place[b"a1"]


def _expect_seen(harness: Harness, face: Face, handle: Handle, *, again: set[bytes], **options: Any) -> Any:
    """Handle ten messages; those of ``again`` must be given twice, and every other one once. Returns the counts."""
    queue = Queue(harness)
    queue.put(*TEN)
    work = BatchWork(face, queue, handle, **_options(harness, **options))
    total = len(TEN) + len(again)
    work.await_true(lambda: len(work.seen) >= total, f"{total} are handled", within_s=_enough_s(harness))
    assert work.stop() is ExitCode.DRAINED
    assert Counter(work.bodies) == Counter([*TEN, *again])
    queue.expect_nothing("all are done")
    (counts,) = work.app.counts().values()
    return counts


def _options(harness: Harness, **options: Any) -> dict[str, Any]:
    # What comes again makes no full batch, and waits for this.
    max_wait = timedelta(seconds=min(harness.min_delay_s, 1.0))
    longest = timedelta(seconds=min(3600.0, harness.capabilities.max_lease_s))
    return {"max_size": 10, "max_wait": max_wait, "lease": longest, "retry": _AGAIN} | options


def _enough_s(harness: Harness) -> float:
    return 30.0 + 10 * harness.min_delay_s


def _failures(response: dict[str, list[dict[str, str]]]) -> set[str]:
    assert list(response) == ["batchItemFailures"]
    assert all(list(each) == ["itemIdentifier"] for each in response["batchItemFailures"])
    return {each["itemIdentifier"] for each in response["batchItemFailures"]}


def _expect_all_failed(batch: Batch[bytes]) -> None:
    everything = BatchResult(retry=list(batch))
    assert _failures(everything.to_lambda_response(batch)) == {each.message_id for each in batch}
    with pytest.raises(PartialFailureError):
        everything.to_lambda_response(batch, all_failed="raise")
    with pytest.raises(UsageError):
        BatchResult(retry=[_FOREIGN]).to_lambda_response(batch)
