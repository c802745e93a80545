# SPDX-License-Identifier: Apache-2.0
import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit import Consumer, DeadLetters, Producer, QueueURL
from queuekit._engine import metadata as meta
from queuekit._engine.copies import step_id
from queuekit._portable.dead_messages import dead_message
from queuekit._portable.frames import pack, pack_jobs, read_verdict, unpack, unpack_jobs, verdict_row
from queuekit._portable.letters import Cause, LetterWriter, describe, render
from queuekit._portable.retry import Verdict
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, IncomingMessage, OutgoingMessage, StoredMessage
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import FaultyOpener

TEXTS = st.dictionaries(st.text(), st.text(), max_size=4)
MESSAGES = st.builds(
    IncomingMessage,
    handle=st.none(),
    message_id=st.text(),
    body=st.binary(),
    attributes=TEXTS,
    metadata=TEXTS,
    attempt=st.none() | st.integers(1, 1000),
    enqueued_at=st.none() | st.floats(0, 4e9),
    lease_until=st.none(),
    ordering_key=st.none() | st.text(),
    priority=st.integers(0, 9),
    received_at=st.none(),
    died_on=st.none(),
    entry_id=st.none(),
)


def _size(letter: OutgoingMessage) -> int:
    return len(letter.body) + sum(len(name) + len(text.encode()) for name, text in letter.metadata.items())


def _writer(limit: int = 1 << 20) -> LetterWriter:
    known = {"source": "memory://q", "worker": "host:1", "clock": VirtualClock(), "limit": limit, "size": _size}
    wanted = inspect.signature(LetterWriter).parameters
    return LetterWriter(**{name: known.get(name, ()) for name in wanted})  # type: ignore[arg-type]


def _message(**changes: Any) -> IncomingMessage:
    return IncomingMessage(1, "m", b"body", {"a": "b"}, {meta.TYPE: "t"}, 3, 5.0, 9.0, "key", 4)._replace(**changes)


def _error() -> ValueError:
    try:
        raise ValueError("no")
    except ValueError as error:
        return error


def test_a_letter_is_the_message_and_why_it_died() -> None:
    letter = _writer().write(_message(), Cause("used up", _error()))
    assert letter[:3] == ("m", b"body", {"a": "b"})
    assert (letter.ordering_key, letter.priority, letter.delay_s, letter.dedup_id) == ("key", 4, 0.0, None)
    known = letter.metadata
    assert known[meta.TYPE] == "t"
    assert known[meta.DEAD_REASON] == "used up"
    assert known[meta.DEAD_ERROR] == "ValueError: no"
    assert "raise ValueError" in known[meta.DEAD_TRACEBACK]
    assert known[meta.DEAD_ATTEMPTS] == "3"
    assert known[meta.DEAD_FIRST] == meta.write_instant(5.0)
    assert known[meta.DEAD_SOURCE] == "memory://q"
    assert meta.TRIMMED not in known


def test_what_is_too_large_is_left_out_in_a_fixed_order_and_told() -> None:
    order = ("dead-traceback", "dead-error", "dead-worker", "dead-first", "dead-reason")
    whole = _writer().write(_message(), Cause("used up", _error()))
    seen = set()
    for limit in range(_size(whole), 0, -1):
        letter = _writer(limit).write(_message(), Cause("used up", _error()))
        trimmed = tuple(letter.metadata.get(meta.TRIMMED, "").split())
        seen.add(trimmed)
        assert trimmed == order[: len(trimmed)]
        assert not set(trimmed) & letter.metadata.keys()
        assert _size(letter) <= limit or len(trimmed) == len(order)
        assert letter.body == b"body"
        assert letter.metadata[meta.TYPE] == "t"
    assert len(seen) == len(order) + 1


def test_an_earlier_death_leaves_no_trace_in_a_new_letter() -> None:
    first = _writer().write(_message(), Cause("the first", _error()))
    again = _message(metadata=first.metadata)
    second = _writer().write(again, Cause("the second"))
    assert second.metadata[meta.DEAD_REASON] == "the second"
    assert meta.DEAD_ERROR not in second.metadata
    assert meta.DEAD_TRACEBACK not in second.metadata


def test_an_expiry_does_not_follow_a_message_into_its_grave() -> None:
    assert meta.EXPIRES not in _writer().write(_message(metadata={meta.EXPIRES: "x"}), Cause("y")).metadata


def test_texts_are_bounded_and_can_be_stored() -> None:
    error = ValueError("\ud800" + "x" * 100_000)
    assert len(describe(error)) <= 1000
    assert len(render(error)) <= 8000
    for text in (describe(error), render(error)):
        text.encode()


@given(message=MESSAGES)
def test_a_letter_can_be_written_for_any_message(message: IncomingMessage) -> None:
    letter = _writer().write(message, Cause("x"))
    assert (letter.message_id, letter.body, letter.attributes) == message[1:4]


MALFORMED = ["", "x", "²", "-1", "9" * 5000, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:30])
def test_malformed_metadata_of_a_letter_does_not_hide_it(text: str) -> None:
    known = dict.fromkeys((meta.DEAD_ATTEMPTS, meta.DEAD_FIRST, meta.DEAD_LAST, meta.TRIMMED), text)
    stored = StoredMessage("m", b"body", {}, known, "ready", 0, 0.0, 0.0, None, 0, "1")
    shown = dead_message(stored)
    assert shown.body == b"body"
    assert shown.attempts == 0
    assert shown.first is None


def test_a_step_has_one_id_and_another_step_another() -> None:
    message = _message()
    ids = {
        step_id(message, "dead"),
        step_id(message, "hop"),
        step_id(message._replace(attempt=4), "dead"),
        step_id(message._replace(message_id="n"), "dead"),
        step_id(message._replace(metadata={meta.REDRIVEN: "1"}), "dead"),
    }
    ids |= {step_id(message._replace(enqueued_at=at, body=body), "dead") for at, body in ((2.5, b"b"), (2.6, b"c"))}
    assert len(ids) == 7
    assert step_id(message, "dead") == step_id(_message(handle=2, lease_until=9.0), "dead")


def test_a_step_is_known_by_the_services_own_name_however_often_it_is_taken() -> None:
    """Whoever ends between a confirmed copy and the answer that the message is done comes to the same step again."""
    message = _message(entry_id="task-1", attempt=1)
    assert step_id(message, "retry") == step_id(message._replace(attempt=2), "retry")
    assert step_id(message, "retry") != step_id(message._replace(entry_id="task-2"), "retry")
    assert step_id(message, "retry") != step_id(message, "dead")


def test_dead_letters_of_a_queue_and_of_its_dead_letter_queue_are_the_same() -> None:
    with DeadLetters("memory://q") as one, DeadLetters("memory://q.dead") as two:
        assert one.queue == two.queue


# Frames between a worker and its children


@given(jobs=st.lists(st.tuples(st.integers(0, 10**9), MESSAGES), max_size=5), queue=st.integers(0, 9))
def test_jobs_come_through_a_pipe_unchanged(jobs: list[tuple[int, IncomingMessage]], queue: int) -> None:
    header, bodies = unpack(pack_jobs(queue, jobs))
    assert header["queue"] == queue
    assert unpack_jobs(header, bodies) == jobs


@given(bodies=st.lists(st.binary(), max_size=5), text=st.text(st.characters()))
def test_any_frame_comes_back(bodies: list[bytes], text: str) -> None:
    header, back = unpack(pack({"op": "x", "text": text}, bodies))
    assert (header["text"], back) == (text, bodies)


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(Action.ACK),
        Verdict(Action.RELEASE),
        Verdict(Action.RETRY, 5.5, Cause("failed", _error()), demanded=True),
        Verdict(Action.DEAD, cause=Cause("used up")),
        Verdict(Action.DEAD, cause=Cause("used up", _error())),
    ],
    ids=lambda each: each.action.value,
)
def test_a_verdict_comes_through_a_pipe(verdict: Verdict) -> None:
    header, _ = unpack(pack({"results": [verdict_row(7, verdict)]}))
    job_id, back = read_verdict(header["results"][0])
    assert job_id == 7
    assert (back.action, back.delay_s, back.demanded) == (verdict.action, verdict.delay_s, verdict.demanded)
    if verdict.cause is not None:
        assert back.cause is not None
        assert back.cause.reason == verdict.cause.reason
        if verdict.cause.error is not None:
            assert back.cause.error is not None
            assert describe(back.cause.error) == describe(verdict.cause.error)
            assert bool(render(back.cause.error)) == (verdict.action is Action.DEAD)


def test_a_letter_keeps_the_options_that_its_queue_has_not() -> None:
    opener = FaultyOpener(Opener(VirtualClock()), ordering="none", priority_levels=0)
    with Producer("memory://plain", payload=str, clock=opener.clock) as producer:
        producer.send("x", ordering_key="ada", priority=3)
    with Consumer("memory://plain", dead_letter="memory://grave", _opener=opener) as consumer:
        delivery = consumer.receive()
        assert delivery is not None
        delivery.dead_letter("poison")
        delivery.settled()
    (stored,) = Opener(opener.clock).open(QueueURL.parse("memory://grave")).peek(limit=9)  # type: ignore[attr-defined]
    assert (stored.ordering_key, stored.priority) == (None, 0)
    assert (stored.metadata[meta.DEAD_KEY], stored.metadata[meta.DEAD_PRIORITY]) == ("ada", "3")
