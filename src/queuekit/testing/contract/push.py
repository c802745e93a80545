# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - the IDs of the cases are written as the contract writes them
"""PSH: messages that the service pushes to an app, and that nothing but the app's answer is waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from tenacity import wait_none

from queuekit._engine import metadata as meta
from queuekit._portable.app import App
from queuekit._portable.context import current
from queuekit._portable.retry import DeadLetter as DeadLetterOutcome
from queuekit._portable.retry import Retry, RetryPolicy
from queuekit._values.errors import UnsupportedError
from queuekit.backend import Accepted, Duplicate, Support
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import REAL_LIMIT_S, Harness
from queuekit.testing.contract.pushing import Pushing
from queuekit.testing.contract.spi import Queue

_AT_ONCE = RetryPolicy(max_attempts=9, wait=wait_none())
_DEADLINE_S = 2.0


class Order(BaseModel):
    """What PSH-08 expects."""

    number: int


class Push(Group):
    """What is answered is true: done means done and kept, and everything else comes again."""

    @requires("push")
    def test_PSH_01_push_ack_is_200(self, harness: Harness, face: Face) -> None:
        """A message whose handler returned is answered as done, and does not come again."""
        queue, seen = Queue(harness), list[bytes]()
        with _pushed(face, queue, seen.append) as pushing:
            queue.put(b"1", b"2", b"3")
            assert list(pushing.wait_for(3)) == [True] * 3
        assert sorted(seen) == [b"1", b"2", b"3"]
        queue.expect_nothing("each was answered as done")

    @requires("push")
    def test_PSH_02_push_retry_sets_delay(self, harness: Harness, face: Face) -> None:
        """A message that is to be retried later comes again, and not before its time."""
        queue, times = Queue(harness), list[float]()

        def handle(_body: bytes) -> Retry | None:
            times.append(harness.clock.monotonic())
            return Retry(delay=timedelta(seconds=harness.min_delay_s)) if len(times) == 1 else None

        with _pushed(face, queue, handle) as pushing:
            queue.put(b"x")
            answers = pushing.wait_for(2)
        assert answers[-1], "the second attempt went well"
        assert len(times) == 2
        # The clocks of the service and of this host differ by as much as a service that counts whole seconds rounds.
        assert times[1] - times[0] >= harness.min_delay_s - 1.0

    @requires("push")
    def test_PSH_03_push_dead_copies_then_200(self, harness: Harness, face: Face) -> None:
        """A dead letter is in its queue when the message is answered as done; where it cannot be sent, the message
        is not done."""
        queue, other = Queue(harness), Queue(harness)
        dead, gone = harness.unique_name(), harness.unique_name()
        letters = Queue(harness, dead)

        def handle(_body: bytes) -> DeadLetterOutcome:
            return DeadLetterOutcome("no good")

        with _pushed(face, queue, handle, dead_letter=harness.url(dead)) as pushing:
            (sent,) = queue.put(b"x")
            assert list(pushing.wait_for(1)) == [True]
            (letter,) = letters.take()
        assert (letter.body, letter.message_id) == (b"x", sent.message_id)
        assert letter.metadata[meta.DEAD_REASON] == "no good"
        with _pushed(face, other, handle, dead_letter=harness.url_of(gone)) as pushing:
            other.put(b"y")
            assert list(pushing.wait_for(1)) == [False], "its dead letter was not confirmed"

    @requires("push")
    def test_PSH_04_push_extend_refused(self, harness: Harness, face: Face) -> None:
        """The deadline can be seen; where nothing but the answer settles a message, its time cannot be extended."""
        queue, seen, problems = Queue(harness), list[Any](), list[BaseException]()

        def handle(_body: bytes) -> None:
            running = current()
            seen.append(running.deadline)
            try:
                running.extend(by=timedelta(seconds=harness.lease_s))
            except UnsupportedError as error:
                problems.append(error)

        with _pushed(face, queue, handle) as pushing:
            queue.put(b"x")
            assert list(pushing.wait_for(1)) == [True]
        assert seen != [None]
        assert len(problems) == (1 if harness.capabilities.pushes == "answered" else 0)

    @requires("push")
    def test_PSH_05_push_deadline_cancels(self, harness: Harness, face: Face) -> None:
        """A handler over the deadline has failed, and is answered for in time; on an event loop it is cancelled."""
        queue, gate, ended = Queue(harness), threading.Event(), list[str]()
        app = _app(face)
        if face.awaits:

            @app.handler(harness.url(queue.name), retry=_AT_ONCE)
            async def handle_async(body: bytes) -> None:  # noqa: ARG001 - a handler takes a payload
                try:
                    await asyncio.sleep(0 if ended else REAL_LIMIT_S)  # noqa: TID251 - what is cut off
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise
        else:

            @app.handler(harness.url(queue.name), retry=_AT_ONCE)
            def handle(body: bytes) -> None:  # noqa: ARG001 - as above
                gate.wait(REAL_LIMIT_S)

        queue.put(b"x")
        with app, harness.hook("push")(app, deadline_s=_DEADLINE_S) as pushing:
            (done,) = pushing.wait_for(1)
            gate.set()
            if done:
                # Where copies count the attempts, the failed one is done for by its copy, which comes again.
                assert list(pushing.wait_for(2)) == [True, True]
        assert ended == (["cancelled"] if face.awaits else [])
        if done:
            counted = harness.capabilities.counted_attempts
            assert counted is Support.BRIDGED, "it was answered as done, though nothing was"

    @requires("push")
    def test_PSH_06_push_attempt_from_headers(self, harness: Harness, face: Face) -> None:
        """Every attempt has its number."""
        queue, attempts = Queue(harness), list[int | None]()

        def handle(_body: bytes) -> None:
            attempts.append(current().attempt)
            if len(attempts) < 3:
                raise ValueError

        with _pushed(face, queue, handle) as pushing:
            queue.put(b"x")
            assert pushing.wait_for(3)[-1]
        assert attempts == [1, 2, 3]

    @requires("push")
    def test_PSH_07_push_auth_required(self, harness: Harness, face: Face) -> None:
        """Whoever may not push is refused, and no handler runs."""
        queue, seen = Queue(harness), list[bytes]()
        with _pushed(face, queue, seen.append) as pushing:
            refused = pushing.strangers()
            assert len(refused) >= 3
            assert all(refused)
            assert seen == []

    @requires("push")
    def test_PSH_08_push_malformed_request(self, harness: Harness, face: Face) -> None:
        """What cannot be decoded is kept as a dead letter with its bytes, and is done then: pushed again it would be
        no better."""
        queue, dead = Queue(harness), harness.unique_name()
        letters = Queue(harness, dead)

        def handle(_order: Order) -> None:
            pytest.fail("nothing was to be handled")

        with _pushed(face, queue, handle, payload=Order, dead_letter=harness.url(dead)) as pushing:
            queue.put(b'{"number": ')
            assert list(pushing.wait_for(1)) == [True]
            (letter,) = letters.take()
            assert (letter.body, letter.metadata[meta.DEAD_REASON]) == (b'{"number": ', "undecodable")
            letters.ack(letter)
            if (done := pushing.garbage(b"\xff\x00 no request")) is not None:
                assert done
                (letter,) = letters.take()
                assert (letter.body, letter.metadata[meta.DEAD_REASON]) == (b"\xff\x00 no request", "undecodable")

    @requires("push", "dedup")
    def test_PSH_09_push_task_name_dedup(self, harness: Harness, face: Face) -> None:
        """A message that was sent twice with one dedup id is pushed once."""
        queue, seen = Queue(harness), list[bytes]()
        with _pushed(face, queue, seen.append) as pushing:
            (sent,) = queue.put(b"once", dedup_id="d")
            (outcome,) = queue.send(sent._replace(message_id="another"))
            # Some services take it, and drop it without a word.
            assert isinstance(outcome, Accepted | Duplicate)
            queue.put(b"other", dedup_id="e")
            assert list(pushing.wait_for(2)) == [True, True]
        assert sorted(seen) == [b"once", b"other"]


def _app(face: Face) -> App:
    app = App(clock=face.harness.clock)
    # An App has no argument for it.
    app._opener = face.harness.another_opener()
    return app


@contextmanager
def _pushed(
    face: Face, queue: Queue, handle: Callable[[Any], Any], *, payload: Any = bytes, **options: Any
) -> Iterator[Pushing]:
    """Inside, the queue's messages are pushed to a handler, sync or async by the face."""
    app = _app(face)
    options = {"retry": _AT_ONCE} | options

    async def run_async(body: Any) -> Any:
        return handle(body)

    def run(body: Any) -> Any:
        return handle(body)

    chosen: Any = run_async if face.awaits else run
    chosen.__annotations__["body"] = payload
    app.handler(face.harness.url(queue.name), **options)(chosen)
    with app, face.harness.hook("push")(app, deadline_s=None) as pushing:
        yield pushing
