# SPDX-License-Identifier: Apache-2.0
"""Handlers that end their process, eat the memory, hang, or hold the interpreter: only their own message pays."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .killed_app import IDLE_LEASE_S, Task
from .rows import Result, figure
from .test_killed_workers import dead, handled, send
from .workers import Workers, duplicates

pytestmark = pytest.mark.slow
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"])
on_disk = pytest.mark.parametrize("backend", ["sqlite", "redis"])

MAX_CRASHES = 3
MAX_ATTEMPTS = 5


def until_done(workers: Workers, good: set[str]) -> None:
    workers.until(lambda lines: len(lines) >= len(good) and handled(lines) >= good)


@on_disk
def test_R9_poison_among_good_messages(workers: Workers, row: Result, backend: str) -> None:
    """In child processes: the parent knows which messages a dead child was running."""
    row.case = "in child processes"
    count = figure(10_000, 600)
    row.ran(good=count, poison=3)
    half = [Task(number=number) for number in range(count // 2)]
    good = send(workers, "poison", half)
    bad = send(workers, "poison", [Task(number=-1, how=how) for how in ("exit", "segv", "kill")])
    good |= send(workers, "poison", half)
    parent = workers.start("poison", "--processes", "2")
    until_done(workers, good)
    workers.until_empty_but(dead=len(bad))
    letters = dead(workers, "poison")
    lines = workers.lines()
    starts = Counter(each.message_id for each in lines)
    row.found(
        lost=len(good - handled(lines)), dead=len(letters), child_losses=workers.log().count("worker.child_lost")
    )
    assert workers.stop() == {parent: 0}, "the parent lives"
    assert {each.message_id for each in letters} == bad
    assert {each.reason for each in letters} == {f"worker lost {MAX_CRASHES} times"}
    assert all(starts[each] <= MAX_CRASHES for each in bad)
    assert handled(lines) == good
    workers.assert_sound(len(bad))


@on_disk
def test_R9_poison_in_the_worker_itself(workers: Workers, row: Result, backend: str) -> None:
    """Without child processes the worker dies with its handler, and what else it held has used an attempt too.

    Here it holds one message at a time.
    """
    row.case = "in the worker itself"
    count = figure(1_000)
    row.ran(good=count, poison=1)
    bad = send(workers, "alone", [Task(number=-1, how="kill")])
    good = send(workers, "alone", [Task(number=number) for number in range(count)])
    crashes = 0
    pid = workers.start("alone")
    while not dead(workers, "alone"):
        crashes += pid not in workers.alive()
        pid = pid if pid in workers.alive() else workers.start("alone")
        threading.Event().wait(0.02)
    until_done(workers, good)
    letters = dead(workers, "alone")
    lines = workers.lines()
    starts = Counter(each.message_id for each in lines)
    row.found(lost=len(good - handled(lines)), dead=len(letters), crashes=crashes)
    assert [each.message_id for each in letters] == list(bad)
    assert letters[0].reason == f"attempts used up: delivered {MAX_ATTEMPTS + 1} times"
    assert crashes == MAX_ATTEMPTS == max(starts[each] for each in bad)
    assert workers.stop() == {pid: 0}
    workers.assert_sound(1)


@pytest.fixture
def group() -> Iterator[Path | None]:
    """A cgroup of 256 MiB; None where this user may not make one."""
    made: Path | None = None
    root = Path("/sys/fs/cgroup")
    v1 = (root / "memory").exists()
    try:
        made = (root / "memory" if v1 else root) / f"queuekit-test-{os.getpid()}"
        made.mkdir()
        (made / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(256 << 20), encoding="ascii")
    except OSError:
        if made is not None and made.exists():
            made.rmdir()
        made = None
    yield made
    if made is not None:
        with suppress(OSError):  # somebody who was killed in there may not be gone yet
            made.rmdir()


@on_sqlite
def test_R10_memory_up_to_the_limit(workers: Workers, row: Result, backend: str, group: Path | None) -> None:
    """Where a cgroup can be made the kernel kills the child; else the allocation fails in the handler."""
    row.case = "memory eaten, cgroup" if group else "memory eaten, RLIMIT_AS"
    count = figure(1_000)
    row.ran(good=count, poison=1)
    bad = send(workers, "poison", [Task(number=-1, how="memory")])
    good = send(workers, "poison", [Task(number=number) for number in range(count)])
    env = {"QK_CGROUP": str(group) if group else ""}
    parent = workers.start("poison", "--processes", "2", env=env)
    until_done(workers, good)
    workers.until_empty_but(dead=1)
    (letter,) = dead(workers, "poison")
    row.found(lost=len(good - handled(workers.lines())), dead=1, reason=letter.reason)
    assert workers.stop() == {parent: 0}
    assert letter.message_id in bad
    assert letter.reason == (f"worker lost {MAX_CRASHES} times" if group else "attempts used up: 5 of 5")
    assert handled(workers.lines()) == good


@on_sqlite
@pytest.mark.parametrize("processes", ["0", "2"])
def test_R10_a_memory_error_stops_no_slot(workers: Workers, row: Result, backend: str, processes: str) -> None:
    """A MemoryError is a failed attempt like any other; see celery #10462, where it blocked the pool."""
    row.case = f"MemoryError, {processes} processes"
    count = figure(1_000)
    row.ran(good=count, raising=count // 10)
    bad = send(workers, "poison", [Task(number=-1, how="MemoryError") for _ in range(count // 10)])
    good = send(workers, "poison", [Task(number=number) for number in range(count)])
    parent = workers.start("poison", "--processes", processes)
    until_done(workers, good)
    workers.until_empty_but(dead=len(bad))
    letters = dead(workers, "poison")
    row.found(lost=len(good - handled(workers.lines())), dead=len(letters))
    after = send(workers, "poison", [Task(number=number) for number in range(8)])
    until_done(workers, after)
    assert workers.stop() == {parent: 0}
    assert {each.message_id for each in letters} == bad
    assert {each.error for each in letters} == {"MemoryError: "}


@on_sqlite
@pytest.mark.parametrize("how", ["sleep", "loop", "lock"])
def test_R11_a_handler_that_hangs_in_a_child(workers: Workers, row: Result, backend: str, how: str) -> None:
    """Past its timeout the child is killed, also when it holds the interpreter lock and cannot tell."""
    row.case = {"sleep": "blocking call", "loop": "endless loop", "lock": "interpreter lock"}[how] + ", in a child"
    row.ran(hanging=1, good=40, limit_s=1)
    bad = send(workers, "hang", [Task(number=-1, how=how)])
    parent = workers.start("hang", "--processes", "2")
    workers.until(lambda lines: any(each.message_id in bad for each in lines))
    good = send(workers, "hang", [Task(number=number) for number in range(40)])
    until_done(workers, good | bad)
    workers.until_empty()
    lines = workers.lines()
    first, second = (each for each in lines if each.message_id in bad)
    row.took(again=second.at - first.at)
    row.found(lost=len((good | bad) - handled(lines)))
    assert workers.stop() == {parent: 0}
    assert (first.attempt, second.attempt) == (1, 2)
    assert 1.0 <= second.at - first.at <= 5 * (1.0 + 1.0)


@on_disk
def test_R12_handlers_that_burn_the_cpu(workers: Workers, row: Result, backend: str) -> None:
    """The heartbeat stands outside the handlers' threads, and gets its turn."""
    leases = figure(10, 3)
    row.case = "burning the CPU"
    row.ran(handlers=2, waiting=4, leases=leases)
    hogs = send(workers, "hog", [Task(number=leases, how="burn") for _ in range(2)])
    waiting = send(workers, "hog", [Task(number=0) for _ in range(4)])
    pid = workers.start("hog")
    until_done(workers, hogs | waiting)
    workers.until_empty()
    lines = [each for each in workers.lines() if each.done]
    row.found(lost=0, duplicates=len(duplicates(lines)), bound=0, lost_leases=workers.log().count("lease.lost"))
    assert workers.stop() == {pid: 0}
    assert duplicates(lines) == []
    assert "lease.lost" not in workers.log()


@on_disk
@pytest.mark.parametrize("processes", [0, 1])
def test_R12_handlers_that_hold_the_interpreter_lock(
    workers: Workers, row: Result, backend: str, processes: int
) -> None:
    """In a child that harms no lease. In the worker itself nobody can extend, so the lost lease is told."""
    row.case = "holding the lock" + (" in a child" if processes else " in the worker itself")
    row.ran(handlers=1, leases=3)
    sent = send(workers, "hog", [Task(number=3, how="lock")])
    pid = workers.start("hog", "--processes", str(processes))
    until_done(workers, sent)
    workers.until_empty()
    done = [each for each in workers.lines() if each.done]
    log = workers.log()
    row.found(lost=0, duplicates=len(duplicates(done)), bound=1 - processes, lost_leases=log.count("lease.lost"))
    assert workers.stop() == {pid: 0}
    assert log.count("lease.lost") >= len(duplicates(done)) == 1 - processes, "never a silent second success"
    assert done[0].at - workers.lines()[0].at >= 3 * IDLE_LEASE_S * 0.99
