# SPDX-License-Identifier: Apache-2.0
"""Backends with one flaw each: the case that is named must fail, else the contract is decoration."""

from __future__ import annotations

import base64
import binascii
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import (
    Accepted,
    Action,
    Backend,
    Failed,
    IncomingMessage,
    LeaseLost,
    OutgoingMessage,
    QueueURL,
    Settled,
    Settlement,
)
from queuekit.testing import reset_memory
from queuekit.testing.contract import BackendContract, Harness
from queuekit.testing.contract.faces import Face
from queuekit.testing.faults import Answers, Call, FaultyOpener, Proceed, Script, Step, refused

Flaw = Callable[[Any], object]
"""What is done to each backend when it is opened; most flaws are steps of its script."""


class FlawedHarness(Harness):
    """Memory with a flaw between it and the suite."""

    virtual = True
    one_process = True
    min_lease_s = 10.0
    min_delay_s = 5.0
    tolerance_s = 0.0
    flaw: Flaw

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.opener: Any = FlawedOpener(self)

    def base_url(self) -> str:
        return "memory://"

    def another_opener(self) -> Any:
        return self.opener


class FlawedOpener:
    """Gives every backend that it opens the harness's flaw."""

    def __init__(self, harness: FlawedHarness) -> None:
        self._harness, self._inner, self.script = harness, harness.opener, Script()
        self.clock = harness.clock

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        backend = FaultyOpener(self._inner, self.script).open(url, keywords)
        self._harness.flaw(backend)
        return backend

    def close(self) -> None:
        self._inner.close()


def test_no_fencing_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _no_fencing(), "LEA-09", "LEA-10", "LEA-11")


def test_ack_by_message_id_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _handle_is_the_message_id(), "LEA-14", "LEA-09", "PRO-08")


def test_early_delivery_is_caught(tmp_path: Path) -> None:
    def halve(call: Call, proceed: Proceed) -> Answers:
        return proceed([each._replace(delay_s=each.delay_s / 2) for each in call.batch])

    _expect_caught(tmp_path, _on_both(halve), "DEL-01", "DEL-07", "ACK-05")


def test_dropping_the_tail_of_a_batch_is_caught(tmp_path: Path) -> None:
    def drop(call: Call, proceed: Proceed) -> Answers:
        kept = proceed(call.batch[:2])
        return [*kept, *(Accepted(each.message_id) for each in call.batch[2:])]

    _expect_caught(tmp_path, lambda backend: backend.script.always("send", drop), "PRO-02", "CON-05", "CON-07")


def test_one_answer_for_a_whole_batch_is_caught(tmp_path: Path) -> None:
    _expect_caught(
        tmp_path, lambda backend: backend.script.always("send", lambda call, go: go(call.batch)[:1]), "PRO-02"
    )


def test_an_attempt_that_is_always_1_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_receive(lambda got: got._replace(attempt=1)), "ACK-04", "LEA-02", "LEA-18")


def test_an_error_for_a_whole_settle_batch_is_caught(tmp_path: Path) -> None:
    def whole(call: Call, proceed: Proceed) -> Answers:
        answers = proceed(call.batch)
        return [LeaseLost()] * len(answers) if LeaseLost() in answers else answers

    _expect_caught(tmp_path, lambda backend: backend.script.always("settle", whole), "ACK-10")


def test_a_silent_cap_on_delays_is_caught(tmp_path: Path) -> None:
    def cap(call: Call, proceed: Proceed) -> Answers:
        return proceed([each._replace(delay_s=min(each.delay_s, 900)) for each in call.batch])

    _expect_caught(tmp_path, _on_both(cap), "DEL-07", "ACK-06")


def test_an_ack_that_does_nothing_is_caught(tmp_path: Path) -> None:
    def lie(call: Call, proceed: Proceed) -> Answers:
        return [Settled() for _ in call.batch]

    _expect_caught(
        tmp_path, lambda backend: backend.script.always("settle", lie), "ACK-01", "ACK-04", "ACK-15", "LEA-06"
    )


def test_a_release_that_counts_unasked_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_settle({Action.RELEASE: Action.RETRY}), "ACK-07")


def test_a_retry_that_is_an_ack_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _on_settle({Action.RETRY: Action.ACK}), "ACK-04", "ACK-05", "ACK-12")


def test_an_extension_that_does_nothing_is_caught(tmp_path: Path) -> None:
    def ignore(call: Call, proceed: Proceed) -> Answers:
        kept = [each for each in call.batch if each.action is not Action.EXTEND]
        answers = iter(proceed(kept) if kept else ())
        return [Settled(lease_until=0.0) if each.action is Action.EXTEND else next(answers) for each in call.batch]

    _expect_caught(
        tmp_path, lambda backend: backend.script.always("settle", ignore), "LEA-04", "LEA-05", "LEA-06", "ACK-12"
    )


def test_more_than_asked_for_is_caught(tmp_path: Path) -> None:
    def twice(call: Call, proceed: Proceed) -> Answers:
        return [*proceed(()), *proceed(())]

    _expect_caught(tmp_path, lambda backend: backend.script.always("receive", twice), "CON-04")


def test_deduplication_by_content_is_caught(tmp_path: Path) -> None:
    seen: set[bytes] = set()

    def fold(call: Call, proceed: Proceed) -> Answers:
        fresh = [each for each in call.batch if each.body not in seen and not seen.add(each.body)]
        if fresh:
            proceed(fresh)
        return [Accepted(each.message_id) for each in call.batch]

    _expect_caught(tmp_path, lambda backend: backend.script.always("send", fold), "PRO-06", "DEL-10")


def test_a_guess_at_base64_is_caught(tmp_path: Path) -> None:
    def guess(got: IncomingMessage) -> IncomingMessage:
        try:
            return got._replace(body=base64.b64decode(got.body, validate=True))
        except binascii.Error:
            return got

    _expect_caught(tmp_path, _on_receive(guess), "ENC-05")


def test_text_that_is_cleaned_is_caught(tmp_path: Path) -> None:
    def clean(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(body=sent.body.replace(b"\r\n", b"\n"))

    _expect_caught(tmp_path, _on_send(clean), "ENC-01", "ENC-03")


def test_attributes_that_are_trimmed_are_caught(tmp_path: Path) -> None:
    def trim(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(attributes={name: value.strip() for name, value in sent.attributes.items()})

    _expect_caught(tmp_path, _on_send(trim), "ENC-09")


def test_attributes_beyond_ten_that_are_lost_are_caught(tmp_path: Path) -> None:
    def ten(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(attributes=dict(list(sent.attributes.items())[:10]))

    _expect_caught(tmp_path, _on_send(ten), "ENC-12", "ENC-09")


def test_metadata_kept_among_the_attributes_is_caught(tmp_path: Path) -> None:
    def mix(sent: OutgoingMessage) -> OutgoingMessage:
        return sent._replace(attributes={**sent.attributes, **sent.metadata}, metadata={})

    _expect_caught(tmp_path, _on_send(mix), "ENC-06", "CON-01")


def test_an_error_that_sticks_is_caught(tmp_path: Path) -> None:
    broken: list[bool] = []

    def stick(call: Call, proceed: Proceed) -> Answers:
        answers = [Failed(refused())] * len(call.batch) if broken else list(proceed(call.batch))
        if LeaseLost() in answers:
            broken.append(True)
        return answers

    _expect_caught(tmp_path, lambda backend: backend.script.always("settle", stick), "ACK-02")


def test_messages_lost_at_close_are_caught(tmp_path: Path) -> None:
    def lose(backend: Any) -> None:
        honest, leased = backend.close, list[IncomingMessage]()
        receive = backend.receive

        def remember(**asked: Any) -> Any:
            got = receive(**asked)
            leased.extend(got)
            return got

        def close() -> None:
            if leased:
                backend.inner.settle([Settlement(each.handle, Action.ACK) for each in leased], timeout_s=1.0)
            honest()

        backend.receive, backend.close = remember, close

    _expect_caught(tmp_path, lose, "LEA-15", "LEA-18")


def test_a_lease_that_is_shorter_than_asked_is_caught(tmp_path: Path) -> None:
    def halve(backend: Any) -> None:
        honest = backend.receive
        backend.receive = lambda **asked: honest(**{**asked, "lease_s": asked["lease_s"] / 2})

    _expect_caught(tmp_path, halve, "LEA-03", "LEA-16")


def test_a_lease_that_does_not_end_is_caught(tmp_path: Path) -> None:
    def stretch(backend: Any) -> None:
        honest = backend.receive
        backend.receive = lambda **asked: honest(**{**asked, "lease_s": 43_200.0})

    _expect_caught(tmp_path, stretch, "LEA-02", "LEA-14", "LEA-19", "CON-01")


def test_a_poll_that_gives_up_early_is_caught(tmp_path: Path) -> None:
    def halve(backend: Any) -> None:
        honest = backend.receive
        backend.receive = lambda **asked: honest(**{**asked, "wait_s": asked["wait_s"] / 2})

    _expect_caught(tmp_path, halve, "CON-02")


def test_a_poll_that_swallows_what_comes_late_is_caught(tmp_path: Path) -> None:
    def swallow(backend: Any) -> None:
        honest, waited = backend.receive, list[bool]()

        def receive(**asked: Any) -> Any:
            got = honest(**asked)
            if waited and got:
                waited.clear()
                return []
            if asked["wait_s"] and not got:
                waited.append(True)
            return got

        backend.receive = receive

    _expect_caught(tmp_path, swallow, "CON-09")


def test_two_queues_in_one_are_caught(tmp_path: Path) -> None:
    class OneQueue(FlawedHarness):
        def url(self, queue: str) -> str:
            return "memory://all"

    harness = OneQueue(tmp_path)
    harness.flaw = lambda _backend: None
    with pytest.raises(AssertionError):
        _case("CON-10")(BackendContract(), harness)
    harness.cleanup()


def test_a_handle_that_is_only_a_number_is_caught(tmp_path: Path) -> None:
    _expect_caught(tmp_path, _numbers_as_handles(), "ACK-11")


def _expect_caught(directory: Path, flaw: Flaw, *ids: str) -> None:
    for each in ids:
        harness = FlawedHarness(directory)
        harness.flaw = flaw
        try:
            with pytest.raises((AssertionError, pytest.fail.Exception)):
                _run(each, harness)
        finally:
            harness.cleanup()
            reset_memory()


def _run(case: str, harness: Harness) -> None:
    function = _case(case)
    harness.grace_s = 0.0  # what is broken fails at once
    if "face" not in inspect.signature(function).parameters:
        function(BackendContract(), harness)
        return
    face = Face(harness, awaits=False)
    try:
        function(BackendContract(), harness, face=face)
    finally:
        face.cleanup()


def _case(case: str) -> Callable[..., None]:
    start = f"test_{case.replace('-', '_')}_"
    (name,) = [each for each in dir(BackendContract) if each.startswith(start)]
    found: Callable[..., None] = getattr(BackendContract, name)
    return found


def _on_both(step: Step) -> Flaw:
    return lambda backend: backend.script.always("send", step).always("settle", step)


def _on_send(change: Callable[[OutgoingMessage], OutgoingMessage]) -> Flaw:
    return lambda backend: backend.script.always("send", lambda call, go: go([change(each) for each in call.batch]))


def _on_receive(change: Callable[[IncomingMessage], IncomingMessage]) -> Flaw:
    return lambda backend: backend.script.always("receive", lambda call, go: [change(each) for each in go(())])


def _on_settle(other: dict[Action, Action]) -> Flaw:
    def swap(entry: Settlement) -> Settlement:
        return entry._replace(action=other.get(entry.action, entry.action))

    return lambda backend: backend.script.always("settle", lambda call, go: go([swap(each) for each in call.batch]))


def _no_fencing() -> Flaw:
    """Whoever ever held the message settles it."""
    newest: dict[str, Any] = {}
    owner: dict[Any, str] = {}

    def remember(call: Call, proceed: Proceed) -> Answers:
        got: Sequence[IncomingMessage] = proceed(())
        for each in got:
            newest[each.message_id] = each.handle
            owner[each.handle] = each.message_id
        return got

    def settle(call: Call, proceed: Proceed) -> Answers:
        return proceed([each._replace(handle=newest[owner[each.handle]]) for each in call.batch])

    return lambda backend: backend.script.always("receive", remember).always("settle", settle)


def _handle_is_the_message_id() -> Flaw:
    """The handle is the id, as in a table whose primary key is all that the worker keeps."""
    newest: dict[Any, Any] = {}

    def receive(call: Call, proceed: Proceed) -> Answers:
        got: Sequence[IncomingMessage] = proceed(())
        newest.update((each.message_id, each.handle) for each in got)
        return [each._replace(handle=each.message_id) for each in got]

    def settle(call: Call, proceed: Proceed) -> Answers:
        return proceed([each._replace(handle=newest.get(each.handle)) for each in call.batch])

    return lambda backend: backend.script.always("receive", receive).always("settle", settle)


def _numbers_as_handles() -> Flaw:
    """Handles count from 1 in each queue, and say nothing of the queue."""
    handles: dict[tuple[str, int], Any] = {}
    counts: dict[str, int] = {}

    def receive(call: Call, proceed: Proceed) -> Answers:
        made = []
        for each in proceed(()):
            counts[call.queue] = number = counts.get(call.queue, 0) + 1
            handles[call.queue, number] = each.handle
            made.append(each._replace(handle=number))
        return made

    def settle(call: Call, proceed: Proceed) -> Answers:
        return proceed([each._replace(handle=handles.get((call.queue, each.handle))) for each in call.batch])

    return lambda backend: backend.script.always("receive", receive).always("settle", settle)
