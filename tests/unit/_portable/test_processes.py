# SPDX-License-Identifier: Apache-2.0
"""Workers whose handlers run in real child processes; few tests, as each child takes a moment to start."""

import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import queuekit as qk
from queuekit import App, DeadMessage, ExitCode
from queuekit._portable.child_process import ChildProcess
from queuekit.backend import SystemClock

pytestmark = pytest.mark.slow
LIMIT_S = 30.0

SOURCE = """
import contextlib, contextvars, ctypes, os, signal, threading, time
from datetime import timedelta
from pathlib import Path
import queuekit as qk

here = Path(__file__).parent
if (here / "broken").exists() and os.environ["QK_PARENT"] != str(os.getpid()):
    raise ImportError("this module does not work in a child")


class Witness(qk.Middleware):
    def handling(self, delivery):
        return self.around(delivery) if delivery.body in (b"wrapped", b"poison") else contextlib.nullcontext()

    @contextlib.contextmanager
    def around(self, delivery):
        try:
            yield
        except BaseException as error:
            note(f"handling {{delivery.attempt}} {{type(error).__name__}}")
            raise


app = qk.App("memory://?space={space}", drain=timedelta(seconds=10), middleware=[Witness()])
AT_ONCE = qk.RetryPolicy(max_attempts=10, wait=lambda state: 0)


def note(text):
    with (here / "log").open("a") as log:
        log.write(text + "\\n")


@app.handler("jobs", concurrency=4, timeout=timedelta(seconds=1), retry=AT_ONCE)
def job(text: str) -> None:
    note(f"{{text}} {{qk.current().attempt}} {{os.getpid()}}")
    if text == "crash":
        os._exit(7)
    elif text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif text == "hang" and qk.current().attempt == 1:
        threading.Event().wait(60)
    elif text == "hog" and qk.current().attempt == 1:
        ctypes.PyDLL(None).sleep(60)  # holds the interpreter lock
    elif text == "raise":
        raise ValueError("no")
    elif text == "dead":
        raise qk.DeadLetter("so it is")
    elif text == "wait":
        while not qk.current().draining:
            time.sleep(0.01)
        note("drained")


@app.batch_handler("rows", max_size=4, max_wait=timedelta(seconds=0.2), timeout=timedelta(seconds=1), retry=AT_ONCE)
def load(batch: qk.Batch[str]) -> qk.BatchResult:
    note("batch " + " ".join(batch.payloads))
    for entry in batch:
        first = entry.attempt == 1
        if entry.payload == "acked":
            entry.ack()
        elif entry.payload == "crash" and len(batch) > 1:
            os._exit(7)
        elif entry.payload == "hang" and first:
            threading.Event().wait(60)
        elif entry.payload == "wait":
            while not batch.draining:
                threading.Event().wait(0.01)
    return qk.BatchResult(
        retry=[entry for entry in batch if entry.payload == "again" and entry.attempt == 1],
        dead_letter=[entry for entry in batch if entry.payload == "poison"],
    )


@app.handler("extending", concurrency=4)
def extending(by: float) -> None:
    def extend() -> None:
        try:
            qk.current().extend(by=timedelta(seconds=by))
            note("extended")
        except Exception as error:
            note(type(error).__name__)

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(extend,)) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


@app.handler("endless", concurrency=1)
def endless(text: str) -> None:
    note("began")
    threading.Event().wait(60)
"""


class Shop:
    """An app in a module that children can import, and its worker on a thread."""

    def __init__(self, folder: Path, module: ModuleType, space: str) -> None:
        self.folder, self.app, self.module = folder, module.app, module
        self.space = space
        self.codes: list[ExitCode] = []

    def start(self, **options: Any) -> None:
        options = {"processes": 2, "signals": False} | options
        self.thread = threading.Thread(target=lambda: self.codes.append(self.app.run(**options)), daemon=True)
        self.thread.start()

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def wait(self, done: Callable[[], bool]) -> None:
        pause = threading.Event()
        for _ in range(int(LIMIT_S / 0.02)):
            if done():
                return
            pause.wait(0.02)
        pytest.fail(f"it did not come to pass: {self.log()}")

    def end(self) -> ExitCode:
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()
        return self.codes[0]

    def stop(self) -> ExitCode:
        self.app.stop()
        return self.end()

    def dead(self, queue: str = "jobs") -> list[DeadMessage]:
        with qk.DeadLetters(f"memory://{queue}?space={self.space}") as letters:
            return list(letters.letters())

    def is_empty(self, queue: str) -> bool:
        stats = self.left(queue)
        return not (stats.ready or stats.delayed or stats.leased)

    def left(self, queue: str = "jobs") -> Any:
        with qk.Consumer(f"memory://{queue}?space={self.space}") as consumer:
            return consumer._link.backend.stats()  # type: ignore[attr-defined]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE.format(space=name.replace("_", "")))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("QK_PARENT", str(os.getpid()))
    made = Shop(tmp_path, importlib.import_module(name), name.replace("_", ""))
    with made.app:
        yield made
        if made.codes == [] and hasattr(made, "thread"):
            made.app.stop()
            made.app.stop()
            made.thread.join(LIMIT_S)


def runs(shop: Shop, text: str) -> list[str]:
    return [line for line in shop.log() if line.startswith(text + " ")]


def test_verdicts_come_back_from_the_children(shop: Shop) -> None:
    for text in ("fine", "raise", "dead", "last"):
        shop.module.job.send(text)
    shop.start()
    shop.wait(lambda: len(shop.dead()) == 2)
    shop.wait(lambda: bool(runs(shop, "last")))
    assert shop.stop() is ExitCode.DRAINED
    letters = {each.body: each for each in shop.dead()}
    assert letters[b"dead"].reason == "so it is"
    assert letters[b"raise"].error == "ValueError: no"
    assert "raise ValueError" in (letters[b"raise"].traceback or "")
    assert (letters[b"raise"].attempts, len(runs(shop, "raise"))) == (10, 10)
    stats = shop.left()
    assert (stats.ready, stats.delayed, stats.leased) == (0, 0, 0)


@pytest.mark.parametrize("text", ["crash", "kill"])
def test_a_message_that_kills_its_child_three_times_is_dead(shop: Shop, text: str) -> None:
    for each in (text, *(f"good{n}" for n in range(20))):
        shop.module.job.send(each)
    shop.start()
    shop.wait(lambda: bool(shop.dead()))
    shop.wait(lambda: {line.split()[0] for line in shop.log()} >= {f"good{n}" for n in range(20)})
    assert shop.stop() is ExitCode.DRAINED
    assert [(each.body, each.reason) for each in shop.dead()] == [(text.encode(), "worker lost 3 times")]
    assert len(runs(shop, text)) == 3


@pytest.mark.parametrize("text", ["hang", "hog"])
def test_a_handler_past_its_timeout_is_killed_and_retried(shop: Shop, text: str) -> None:
    shop.module.job.send(text)
    shop.start(processes=1)
    shop.wait(lambda: len(runs(shop, text)) == 2)
    assert shop.stop() is ExitCode.DRAINED
    first, second = (line.split() for line in runs(shop, text))
    assert (first[1], second[1]) == ("1", "2")
    assert first[2] != second[2]


def test_middleware_stands_around_handlers_in_children_and_listeners_hear_in_the_parent(shop: Shop) -> None:
    heard: list[qk.Event] = []
    shop.app.listen(heard.append)
    shop.module.job.send("wrapped", message_id="w")
    shop.module.load.send_many(["poison", "again", "fine"]).raise_for_failures()
    shop.start(processes=1)
    shop.wait(lambda: len(heard) == 5)
    assert shop.stop() is ExitCode.DRAINED
    log = shop.log()
    assert {line for line in log if line.startswith(("batch", "handling"))} == {
        "batch poison again fine",
        "batch again",
        "handling 1 DeadLetter",
    }
    assert [each.body for each in shop.dead("rows")] == [b"poison"]
    assert sorted(each.name for each in heard) == ["completed", "completed", "completed", "dead", "retried"]


@pytest.mark.parametrize("text", ["crash", "hang"])
def test_a_batch_that_ends_its_child_is_tried_again(shop: Shop, text: str) -> None:
    shop.module.load.send_many(["acked", "a", text, "b"]).raise_for_failures()
    shop.start(processes=1)
    shop.wait(lambda: shop.is_empty("rows"))
    assert shop.stop() is ExitCode.DRAINED
    batches = [line.split()[1:] for line in shop.log()]
    assert batches[0] == ["acked", "a", text, "b"]
    again = sorted(each for batch in batches[1:] for each in batch)
    # A child that dies at once may not have told any more that it had acked.
    assert [each for each in again if each != "acked"] == sorted(["a", text, "b"])
    assert "acked" not in again or text == "crash"
    assert not shop.dead("rows")


def test_a_stop_while_every_slot_has_a_batch_does_not_wait_for_the_end_of_the_drain(shop: Shop) -> None:
    shop.module.load.send_many(["wait", "a", "b", "c"]).raise_for_failures()
    shop.start(processes=1, drain=timedelta(seconds=LIMIT_S))
    shop.wait(lambda: shop.log() == ["batch wait a b c"])
    assert shop.stop() is ExitCode.DRAINED
    assert shop.is_empty("rows")


def test_leases_are_extended_from_several_threads_of_a_child(shop: Shop) -> None:
    shop.module.extending.send(60.0)
    shop.start(processes=1)
    shop.wait(lambda: len(shop.log()) == 3)
    assert shop.stop() is ExitCode.DRAINED
    assert shop.log() == ["extended"] * 3


def test_an_extension_out_of_range_is_the_same_error_as_in_the_parent(shop: Shop) -> None:
    shop.module.extending.send(1e6)
    shop.start(processes=1)
    shop.wait(lambda: len(shop.log()) == 3)
    assert shop.stop() is ExitCode.DRAINED
    assert shop.log() == ["UsageError"] * 3


def test_a_drain_lets_handlers_finish_and_tells_them(shop: Shop) -> None:
    shop.module.job.send("wait")
    shop.start()
    shop.wait(lambda: bool(runs(shop, "wait")))
    assert shop.stop() is ExitCode.DRAINED
    assert shop.log()[-1] == "drained"
    assert not shop.dead()


def test_what_still_runs_at_the_end_of_the_drain_is_released_with_its_attempt(shop: Shop) -> None:
    shop.module.endless.send("x")
    shop.start(drain=timedelta(seconds=0.1))
    shop.wait(lambda: shop.log() == ["began"])
    assert shop.stop() is ExitCode.DRAINED
    with qk.Consumer(f"memory://endless?space={shop.space}") as consumer:
        delivery = consumer.receive(timeout=5)
        assert delivery is not None
        assert delivery.attempt == 1


def test_children_that_cannot_import_the_app_end_the_worker(shop: Shop) -> None:
    (shop.folder / "broken").touch()
    shop.start(processes=1)
    assert shop.end() is ExitCode.FAILED


class Ending:
    """A process that ends as soon as it is asked to, at the far end of a real pipe."""

    def __init__(self) -> None:
        self.ours, self.theirs = multiprocessing.Pipe()

    def kill(self) -> None:
        self.theirs.close()

    def join(self, timeout: float | None = None) -> None:
        """It is gone at once."""


def test_a_child_that_takes_the_place_of_another_during_a_stop_is_ended_too() -> None:
    started: list[Ending] = []

    def start() -> tuple[Any, Any]:
        started.append(Ending())
        if len(started) == 1:
            started[0].kill()
        return started[-1], started[-1].ours

    child = ChildProcess(
        start, [1], settle=lambda *_: None, extend=lambda *_: None, lost=lambda *_: child.drain(),
        failed=lambda _: None, timeout_s=lambda *_: None, clock=SystemClock(), stop=lambda: None,
    )  # fmt: skip
    child.start()
    assert child._reader is not None
    child._reader.join(LIMIT_S)
    assert [each.theirs.closed for each in started] == [True, True]
    child.close(1.0)


def test_an_app_that_children_cannot_find_is_refused() -> None:
    app = App("memory://")

    @app.handler("q")
    def handle(text: str) -> None:
        """Its app is in no module."""

    with pytest.raises(qk.UsageError, match="cannot find"):
        app.run(processes=1, signals=False)


def test_a_store_of_which_each_child_would_have_its_own_is_refused(shop: Shop) -> None:
    shop.app.handler("once", idempotent="memory://?space=done")(shop.module.job.function)
    with pytest.raises(qk.UsageError, match=r"its own memory://\?space=done"):
        shop.app.run(processes=1, signals=False)


@pytest.mark.parametrize("processes", [-1, 1.5, "2"])
def test_a_number_of_processes_that_cannot_work_is_refused(shop: Shop, processes: Any) -> None:
    with pytest.raises(qk.UsageError, match="processes"):
        shop.app.run(processes=processes, signals=False)
