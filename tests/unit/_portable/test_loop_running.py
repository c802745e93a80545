# SPDX-License-Identifier: Apache-2.0
"""Async handlers: what they share, which is the loop, and what they do not, which is all else."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, DeadMessage
from queuekit._portable.resuming import Resumed

LIMIT_S = 20.0
ONCE = qk.RetryPolicy(max_attempts=1)

Dead = Callable[[str], list[DeadMessage]]
mark: ContextVar[str] = ContextVar("mark", default="")


class Log:
    """What handlers noted, in order."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self._changed = threading.Condition()

    def note(self, line: Any) -> None:
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.lines) >= count, LIMIT_S), self.lines
            return list(self.lines)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def real_app() -> Iterator[App]:
    with App("memory://") as made:
        yield made


@pytest.mark.parametrize("waits", [False, True], ids=["never waits", "waits"])
def test_what_a_handler_sets_is_kept_while_it_waits_and_seen_by_no_other(
    app: App, work: Any, log: Log, waits: bool
) -> None:
    @app.handler("q", concurrency=2)
    async def handle(text: str) -> None:
        found = mark.get()
        mark.set(text)
        if waits:
            for _ in range(3):
                await asyncio.sleep(0)
        log.note((text, found, mark.get(), qk.current().body.decode()))

    for text in "abc":
        handle.send(text)
    worker = work()
    assert sorted(log.wait(3)) == [(text, "", text, text) for text in "abc"]
    worker.stop()


def test_every_handler_that_waits_has_a_task_of_its_own(app: App, work: Any, log: Log) -> None:
    @app.handler("q", concurrency=2)
    async def handle(_text: str) -> None:
        before = asyncio.current_task()
        await asyncio.sleep(0)
        log.note((before, asyncio.current_task()))

    for text in "abcd":
        handle.send(text)
    worker = work()
    tasks = log.wait(4)
    worker.stop()
    assert all(before is after for before, after in tasks)
    assert len({id(task) for task, _ in tasks}) == 4


def cancel() -> None:
    _ = task().cancel()


def cancel_and_take_it_back() -> None:
    task().cancel()
    task().uncancel()


def task() -> asyncio.Task[Any]:
    found = asyncio.current_task()
    assert found is not None
    return found


@pytest.mark.parametrize("spoil", [cancel, cancel_and_take_it_back])
def test_a_handler_that_cancels_its_task_and_ends_harms_no_other(
    app: App, work: Any, log: Log, dead: Dead, spoil: Callable[[], None]
) -> None:
    @app.handler("q", concurrency=1, retry=ONCE)
    async def handle(text: str) -> None:
        if text == "spoils":
            spoil()
            return
        for _ in range(3):
            await asyncio.sleep(0)
        log.note((text, task().cancelling()))

    for text in ("spoils", "1", "spoils", "2"):
        handle.send(text)
    worker = work()
    assert log.wait(2) == [("1", 0), ("2", 0)]
    worker.stop()
    assert dead("q") == []


def test_a_cancellation_that_comes_after_its_handler_ended_stops_nothing(app: App, work: Any, log: Log) -> None:
    @app.handler("q")
    async def handle(text: str) -> None:
        if text == "late":
            asyncio.get_running_loop().call_soon(task().cancel)
        log.note(text)

    handle.send("late")
    worker = work()
    log.wait(1)
    handle.send("next")
    assert log.wait(2) == ["late", "next"]
    worker.stop()


def test_a_handler_that_cancels_itself_and_waits_has_failed(app: App, work: Any, log: Log, dead: Dead) -> None:
    @app.handler("q", concurrency=1, retry=ONCE)
    async def handle(text: str) -> None:
        if text == "bad":
            task().cancel()
            await asyncio.sleep(0)
        log.note(text)

    handle.send("bad")
    handle.send("good")
    worker = work()
    assert log.wait(1) == ["good"]
    worker.stop()
    (letter,) = dead("q")
    assert letter.body == b"bad"
    assert "CancelledError" in (letter.error or "")


def test_timeouts_and_task_groups_work_inside_a_handler(app: App, work: Any, log: Log, dead: Dead) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("in the group")

    @app.handler("q", retry=ONCE)
    async def handle(text: str) -> None:
        if text == "timeout":
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                log.note(("timeout", task().cancelling()))
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    await asyncio.Event().wait()
            finally:
                log.note(("group", task().cancelling()))

    handle.send("timeout")
    handle.send("group")
    worker = work()
    assert sorted(log.wait(2)) == [("group", 0), ("timeout", 0)]
    worker.stop()
    (letter,) = dead("q")
    assert letter.body == b"group"
    assert "ExceptionGroup" in (letter.error or "")


@pytest.mark.parametrize("by_factory", [False, True], ids=["plain", "task factory"])
def test_a_slot_that_is_free_takes_the_next_while_others_wait(real_app: App, by_factory: bool) -> None:
    gates = {text: asyncio.Event() for text in "abc"}
    begun: asyncio.Queue[str] = asyncio.Queue()

    @real_app.handler("q", concurrency=2)
    async def handle(text: str) -> None:
        await begun.put(text)
        if text in gates:
            await gates[text].wait()

    async def main() -> qk.ExitCode:
        if by_factory:
            asyncio.get_running_loop().set_task_factory(_at_once)
        for text in "abc":
            await handle.asend(text)
        running = asyncio.get_running_loop().create_task(real_app.arun(signals=False))
        assert [await begun.get(), await begun.get()] == ["a", "b"]
        assert begun.empty()
        gates["b"].set()
        assert await begun.get() == "c"
        gates["c"].set()
        for text in "defg":  # a slow one among quick ones keeps nobody
            await handle.asend(text)
            assert await begun.get() == text
        gates["a"].set()
        real_app.stop()
        return await running

    assert asyncio.run(asyncio.wait_for(main(), LIMIT_S)) is qk.ExitCode.DRAINED


def _at_once(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Any:
    """The eager task factory, where this Python has one."""
    make: Any = getattr(asyncio, "eager_task_factory", None)
    return asyncio.Task(coroutine, loop=loop, **options) if make is None else make(loop, coroutine, **options)


def test_handlers_that_never_wait_leave_the_loop_to_others_in_between(real_app: App) -> None:
    turns, handled = [0], [0]

    def turn(loop: asyncio.AbstractEventLoop) -> None:
        turns[0] += 1
        if handled[0] < 200:
            loop.call_soon(turn, loop)

    @real_app.handler("q")
    async def handle(_text: str) -> None:
        if not handled[0]:
            turn(asyncio.get_running_loop())
        handled[0] += 1
        if handled[0] == 200:
            real_app.stop()

    handle.send_many([str(number) for number in range(200)]).raise_for_failures()
    assert asyncio.run(real_app.arun(signals=False)) is qk.ExitCode.DRAINED
    assert turns[0] >= 10


def test_what_reaches_the_task_reaches_the_rest_of_the_coroutine() -> None:
    heard: list[str] = []

    async def coroutine() -> None:
        try:
            await _Once()
        except LookupError:
            heard.append(f"LookupError in {mark.get()!r}")
        try:
            await _Once()
        finally:
            heard.append(f"closed in {mark.get()!r}")

    context = copy_context()
    context.run(mark.set, "its own")
    begun = coroutine()
    rest = Resumed(begun, context, context.run(begun.send, None)).__await__()
    assert rest.send(None) == "waits"
    assert rest.throw(LookupError()) == "waits"
    rest.close()
    assert heard == ["LookupError in 'its own'", "closed in 'its own'"]


class _Once:
    def __await__(self) -> Any:
        yield "waits"
