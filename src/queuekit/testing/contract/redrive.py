# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""RED: dead letters that are sent back to where they came from."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta

import pytest

from queuekit._engine import metadata as meta
from queuekit._engine.rate import Rate
from queuekit._values.errors import UnavailableError, UnsupportedError
from queuekit.backend import (
    Accepted,
    IncomingMessage,
    OutgoingMessage,
    Redrivable,
    Settled,
    Support,
    Unsupported,
)
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.spi import CALL_S, Queue, message
from queuekit.testing.faults import (
    Answers,
    Call,
    FaultyOpener,
    Proceed,
    Verb,
    as_is,
    raise_after,
    raise_before,
    unavailable,
)

_CRASHES_MIDWAY = """
import os, signal, sys
from queuekit._portable.dead_letters import DeadLetters
from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.testing.faults import FaultyOpener, Script, as_is

def crash(call, proceed):
    proceed(call.batch)
    os.kill(os.getpid(), signal.SIGKILL)

lowered = {"max_settle_batch": 2, "max_receive": 2, "max_lease_s": float(sys.argv[2])}
opener = FaultyOpener(Opener(SystemClock()), Script().on(sys.argv[1], as_is, crash), **lowered)
DeadLetters(sys.stdin.read(), _opener=opener).redrive()
"""


class Redrive(Group):
    """A dead letter is in one place at any time: in its grave, or back in its queue."""

    @requires("redrive")
    def test_RED_01_redrive_moves_all(self, harness: Harness, face: Face) -> None:
        """Every dead letter goes back to the source, once each, in as many calls as it takes; none is left."""
        queue, count = Queue(harness), 25
        bodies = _bury(queue, *(b"%d" % index for index in range(count)))
        letters = face.dead_letters(queue, opener=FaultyOpener(harness.opener, max_settle_batch=7))
        report = face.redrive(letters)
        assert len(set(report.moved)) == count
        assert (report.skipped, report.failed) == ((), ())
        assert sorted(each.body for each in queue.take(count)) == sorted(bodies)
        queue.expect_nothing("each went back once")
        queue.dead().expect_nothing("all went back")
        assert face.redrive(letters).moved == ()

    @requires("redrive")
    def test_RED_02_redrive_resets_attempts_keeps_id(self, harness: Harness, face: Face) -> None:
        """It has its id, body, attributes and key, a first attempt, and one more redrive; nothing of its death."""
        queue, ordered = Queue(harness), harness.capabilities.ordering != "none"
        key = "k" if ordered else None
        for redriven in (1, 2):
            if redriven == 1:
                queue.put(b"x", attributes={"a": "1"}, metadata={"type": "t"}, message_id="id-1", ordering_key=key)
            queue.retry(queue.take()[0])
            (got,) = queue.take()
            _bury_as_engine(queue, got)
            assert face.redrive(face.dead_letters(queue)).moved == ("id-1",)
            consumer = face.consumer(queue)
            back = face.next(consumer)
            assert (back.message_id, back.body, back.ordering_key) == ("id-1", b"x", key)
            assert (dict(back.attributes), back.redriven) == ({"a": "1"}, redriven)
            assert back.attempt in {1, None}
            back.release()
            face.close(consumer)
        (last,) = queue.take()
        assert last.metadata["type"] == "t"
        assert [name for name in last.metadata if name.startswith(meta.DEAD_PREFIX)] == []

    @requires("redrive")
    def test_RED_03_redrive_filter_and_limit(self, harness: Harness, face: Face) -> None:
        """Only those that are named, that match, and that the limit has room for; a dry run moves nothing."""
        queue = Queue(harness)
        _bury(queue, *(b"%d" % index for index in range(10)))
        letters = face.dead_letters(queue)
        odd = face.redrive(letters, where=lambda each: int(each.body) % 2 == 1, limit=3, dry_run=True)
        assert len(odd.moved) == 3
        queue.expect_nothing("it was a dry run")
        moved = face.redrive(letters, where=lambda each: int(each.body) % 2 == 1, limit=3).moved
        back = sorted(each.body for each in queue.take(3))
        if harness.capabilities.redrive is Support.NATIVE:
            assert (moved, back) == (odd.moved, [b"1", b"3", b"5"]), "the oldest first"
        assert len(moved) == 3
        assert all(int(body) % 2 == 1 for body in back)
        named = [each.message_id for each in letters.letters() if each.body in {b"0", b"2"}]
        assert sorted(face.redrive(letters, message_ids=[*named, "no-such-id"]).moved) == sorted(named)
        assert sorted(each.body for each in queue.take(2)) == [b"0", b"2"]
        assert face.redrive(letters, limit=0).moved == ()
        queue.expect_nothing("nothing else was asked for")
        left = {b"%d" % index for index in range(10)} - {*back, b"0", b"2"}
        assert sorted(each.body for each in letters.letters()) == sorted(left)

    @requires("redrive")
    def test_RED_04_redrive_rate_limited(self, harness: Harness, face: Face) -> None:
        """A redrive with a rate stays under it in any stretch of time, and moves all the same."""
        queue, opener, per = Queue(harness), FaultyOpener(harness.opener), min(1.0, harness.min_delay_s)
        bodies = _bury(queue, *(b"%d" % index for index in range(7)))
        moved_at = list[float]()

        def note(call: Call, proceed: Proceed) -> Answers:
            moved_at.extend([harness.clock.monotonic()] * len(call.batch))
            return proceed(call.batch)

        opener.script.always(_verb(harness), note)
        letters, rate = face.dead_letters(queue, opener=opener), Rate(2, per=timedelta(seconds=per), burst=1)
        assert len(face.redrive(letters, rate=rate, dry_run=True).moved) == 7
        assert len(face.redrive(letters, rate=rate).moved) == 7
        assert sorted(each.body for each in queue.take(7)) == sorted(bodies)
        assert len(moved_at) == 7
        assert moved_at[-1] - moved_at[0] >= 3 * per - 0.005, "one at once, then two in each stretch"
        assert all(b - a >= per - 0.005 for a, b in zip(moved_at, moved_at[3:], strict=False))

    @requires("redrive")
    def test_RED_05_redrive_crash_midway(self, harness: Harness, face: Face) -> None:
        """A redrive that is cut off, before a call or after it was carried out, loses nothing and doubles nothing;
        a second run finishes it."""
        bridged = harness.capabilities.redrive is Support.BRIDGED
        for cut in (raise_before, raise_after):
            queue, opener = Queue(harness), FaultyOpener(harness.opener, max_settle_batch=2, max_receive=2)
            bodies = _bury(queue, *(b"%d" % index for index in range(7)))
            opener.script.on(_verb(harness), as_is, cut(unavailable()))
            with pytest.raises(UnavailableError):
                face.redrive(face.dead_letters(queue, opener=opener))
            # A copy whose confirmation was lost is made once more.
            _expect_rest_to_follow(queue, bodies, face, 2 if bridged and cut is raise_after else 0)
        if not harness.one_process and not face.awaits:
            real = face.in_real_time()
            queue = Queue(real.harness)
            bodies = _bury(queue, *(b"%d" % index for index in range(7)))
            ran = subprocess.run(
                [sys.executable, "-c", _CRASHES_MIDWAY, _verb(harness), str(harness.min_lease_s)],
                input=real.harness.url(queue.name),
                text=True,
                timeout=REAL_LIMIT_S,
                check=False,
            )
            assert ran.returncode == -signal.SIGKILL
            if bridged:
                real.harness.pass_time(
                    harness.min_lease_s + real.harness.tolerance_s
                )  # what it had received comes back
            _expect_rest_to_follow(queue, bodies, real, 2 if bridged else 0)

    def test_RED_06_redrive_unsupported_is_explicit(self, harness: Harness, face: Face) -> None:
        """Where dead letters cannot be moved back, or there is no source to move them to, that is said, and nothing
        is moved."""
        queue, opener = Queue(harness), FaultyOpener(harness.opener, redrive=Support.NONE)
        if harness.capabilities.dead_letters is Support.NATIVE:
            _bury(queue, b"x")
        with pytest.raises(UnsupportedError, match="receive them"):
            face.redrive(face.dead_letters(queue, opener=opener))
        assert opener.script.calls("redrive") == []
        queue.expect_nothing("nothing was moved")
        backend = queue.backend
        if isinstance(backend, Redrivable):
            outcomes = backend.redrive([message(b"1"), message(b"2")], timeout_s=CALL_S)
            assert [type(each) for each in outcomes] == [Unsupported] * 2
            queue.expect_nothing("it is no dead-letter queue")


def _bury(queue: Queue, *bodies: bytes) -> Sequence[bytes]:
    """Let the bodies be dead letters of the queue."""
    queue.put(*bodies)
    for got in queue.take(len(bodies)):
        _bury_as_engine(queue, got)
    return bodies


def _verb(harness: Harness) -> Verb:
    """What moves a dead letter back: one call for both, or a copy that the queue confirms."""
    return "redrive" if harness.capabilities.redrive is Support.NATIVE else "send"


def _bury_as_engine(queue: Queue, got: IncomingMessage) -> None:
    dead = OutgoingMessage(
        got.message_id,
        got.body,
        got.attributes,
        {**got.metadata, meta.DEAD_REASON: "broken", meta.DEAD_ATTEMPTS: "1"},
        ordering_key=got.ordering_key,
    )
    if queue.capabilities.dead_letters is Support.NATIVE:
        assert isinstance(queue.bury(got, dead), Settled)
        return
    assert isinstance(queue.dead().send(dead)[0], Accepted)
    assert isinstance(queue.ack(got)[0], Settled)


def _expect_rest_to_follow(queue: Queue, bodies: Sequence[bytes], face: Face, doubled: int = 0) -> None:
    """Some are back, the others still dead, none is neither, and but for the doubled none is both; then all go back.

    Where a copy stands between the two, those whose confirmation was lost are both. They are copied once more, which
    a queue that knows the id of this very step does not store again.
    """
    letters = face.dead_letters(queue)
    left = [each.body for each in letters.letters()]
    back = [each.body for each in queue.take(len(bodies) - len(left) + doubled)]
    assert len(back) > 0
    assert len(left) > 0
    assert set(left) | set(back) == set(bodies)
    assert len(left) + len(back) == len(bodies) + doubled
    assert len(face.redrive(letters).moved) == len(left)
    again = [body for body in left if not (queue.capabilities.dedup_window_s and body in back)]
    assert sorted(each.body for each in queue.take(len(again))) == sorted(again)
    queue.expect_nothing("each went back once")
    queue.dead().expect_nothing("all went back")
