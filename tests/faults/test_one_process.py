# SPDX-License-Identifier: Apache-2.0
"""What belongs to a process: threads, tasks, sockets, files, forks, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import queuekit as qk

from .places import Place
from .rows import Result, figure
from .working import LIMIT_S, on_both, on_each, until

pytestmark = pytest.mark.slow

CYCLES = 50


def held() -> dict[str, int]:
    """What this process holds: its threads, its descriptors, and those of them that are sockets."""
    gc.collect()
    descriptors = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - of numbers, on every system
    return {
        "threads": threading.active_count(),
        "descriptors": len(descriptors),
        "sockets": sum(map(_is_socket, descriptors)),
    }


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # the one that listed them
        return False


def blocking(place: Place) -> None:
    with (
        qk.Producer(place.url("jobs"), payload=int) as producer,
        qk.Consumer(place.url("jobs"), payload=int) as consumer,
    ):
        producer.send(1)
        producer.send_soon(2).result(LIMIT_S)
        for _ in range(2):
            delivery = consumer.receive(timeout=LIMIT_S)
            assert delivery is not None
            delivery.ack()


async def awaiting(place: Place) -> None:
    async with (
        qk.Producer[int](place.url("jobs"), payload=int) as producer,
        qk.Consumer[int](place.url("jobs"), payload=int) as consumer,
    ):
        await producer.asend(1)
        delivery = await consumer.areceive(timeout=LIMIT_S)
        assert delivery is not None
        delivery.ack()
        await delivery.asettled(timeout=LIMIT_S)


def running(place: Place) -> None:
    with qk.App(place.app_url) as app:

        @app.handler("jobs", concurrency=2, timeout=timedelta(seconds=60))
        def handle(_number: int) -> None:
            app.stop()

        @app.handler("others", concurrency=2)
        async def ahandle(_number: int) -> None:
            await asyncio.sleep(0)

        ahandle.send(1)
        handle.send(1)
        assert app.run(signals=False) is qk.ExitCode.DRAINED


USES: dict[str, Callable[[Place], None]] = {
    "blocking": blocking,
    "async": lambda place: asyncio.run(awaiting(place)),
    "App.run": running,
}


@on_each
@pytest.mark.parametrize("use", USES)
def test_cycles_leave_everything_as_it_was(place: Place, backend: str, use: str, tmp_path: Path) -> None:
    USES[use](place)
    before, files = held(), {each.name for each in tmp_path.iterdir()}
    for _ in range(CYCLES if backend != "redis" else CYCLES // 5):
        USES[use](place)
    until(lambda: held() == before)  # a daemon thread may take a moment to be gone
    assert {each.name for each in tmp_path.iterdir()} == files
    assert [each.name for each in tmp_path.glob("*-wake/*")] == []


@on_each
def test_async_cycles_in_one_loop_leave_no_task(place: Place, backend: str) -> None:
    async def main() -> None:
        await awaiting(place)
        for _ in range(CYCLES if backend != "redis" else CYCLES // 5):
            await awaiting(place)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() <= before


@on_both
def test_blocking_calls_inside_a_running_loop_work_and_are_told_once(
    place: Place, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a notebook; the log names the async twin."""

    async def notebook() -> list[int]:
        with qk.Producer(place.url("jobs"), payload=int) as producer:
            for number in range(3):
                producer.send(number)
        with qk.Consumer(place.url("jobs"), payload=int) as consumer:
            got = [consumer.receive(timeout=LIMIT_S) for _ in range(3)]
            for each in got:
                assert each is not None
                each.ack()
            return [each.payload for each in got if each]

    with caplog.at_level(logging.WARNING, "queuekit"):
        assert asyncio.run(notebook()) == [0, 1, 2]
    told = [
        record.getMessage() for record in caplog.records if getattr(record, "action", "") == "setup.blocking_in_loop"
    ]
    assert len(told) == len(set(told)) <= 6
    assert any("asend" in each for each in told)
    assert any("areceive" in each for each in told)


EXITING = """
import sys, threading
from datetime import timedelta
import queuekit as qk
url = sys.argv[1]
app = qk.App(url.partition("?")[0] if url.startswith("sqlite") else "memory://")

@app.handler("jobs", lease=timedelta(seconds=1))
def handle(number: int) -> None:
    sys.stdout.write("began\\n")  # in one piece: the drained messages of the producer begin beside it
    sys.stdout.flush()
    threading.Event().wait(60)

handle.send(1)
threading.Thread(target=lambda: app.run(signals=False), daemon=True).start()
producer = qk.Producer(url, payload=int)
consumer = qk.Consumer(url, payload=int)
[producer.send_soon(n) for n in range(20)]
sys.stdin.read(1)
"""


@pytest.mark.parametrize("backend", ["sqlite"])
def test_an_interpreter_that_ends_with_everything_open(place: Place, backend: str) -> None:
    """A worker in a handler, a consumer and a producer that has not sent: it ends, and nothing is lost."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", EXITING, place.url("jobs")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        _, errors = process.communicate("x", timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert place.left("jobs") == 21


@on_each
def test_R49_spawn_and_pickles(row: Result, place: Place, backend: str) -> None:
    """What is open cannot be pickled, and says so; its URL can, and is opened afresh."""
    row.case = "spawn"
    app = qk.App(place.app_url)
    with qk.Producer(place.url("jobs"), payload=int) as producer, qk.Consumer(place.url("jobs")) as consumer, app:
        producer.send(1)
        refused = 0
        for each in (producer, consumer, app):
            with pytest.raises(TypeError, match=r"cannot be pickled; \w+"):
                pickle.dumps(each)
            refused += 1
    url = qk.QueueURL.parse(place.url("jobs"))
    assert pickle.loads(pickle.dumps(url)) == url
    row.found(refused=refused)


@on_each
def test_R49_threads_that_share(row: Result, place: Place, backend: str) -> None:
    messages, threads = figure(10_000), 8
    row.case = "threads that share"
    row.ran(messages=messages, threads=threads)
    got, wrong = Counter[int](), list[str]()
    lock = threading.Lock()
    with (
        qk.Producer(place.url("jobs"), payload=int) as producer,
        qk.Consumer(place.url("jobs"), payload=int) as consumer,
    ):

        def work(first: int) -> None:
            for number in range(first, messages, threads):
                producer.send(number, attributes={"n": str(number)})
                delivery = consumer.receive(timeout=LIMIT_S)
                assert delivery is not None
                if delivery.attributes != {"n": str(delivery.payload)}:
                    wrong.append(str(delivery.attributes))
                with lock:
                    got[delivery.payload] += 1
                delivery.ack()

        workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
    row.found(lost=messages - len(got), duplicates=got.total() - len(got), bound=0, mixed_up=len(wrong))
    assert got == Counter(range(messages))
    assert wrong == []
