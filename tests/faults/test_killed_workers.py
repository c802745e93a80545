# SPDX-License-Identifier: Apache-2.0
"""Workers that are killed, stopped or restarted: nothing is lost, and only what a killed one held comes twice."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time

import pytest

import queuekit as qk
from queuekit.cli.ledger import Kill, Line

from .killed_app import LEASE_S, STOPPED_LEASE_S, Task
from .rows import FULL, Result, figure
from .workers import Workers, assert_explained, duplicates, in_flight

pytestmark = pytest.mark.slow
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"])
on_disk = pytest.mark.parametrize("backend", ["sqlite", "redis"])
on_servers = pytest.mark.parametrize("backend", ["redis", "sqs", "pubsub"])
on_all = pytest.mark.parametrize("backend", ["sqlite", "redis", "sqs", "pubsub"])

WORKERS = 3
GRACE_S = 2.0
TOLD_S = 1.0


def send(workers: Workers, queue: str, tasks: list[Task]) -> set[str]:
    with qk.Producer[Task](workers.url(queue), payload=Task) as producer:
        report = producer.send_many(tasks)
    report.raise_for_failures()
    return {each.message_id for each in report if isinstance(each, qk.Accepted)}


def handled(lines: list[Line]) -> set[str]:
    return {each.message_id for each in lines if each.done}


def dead(workers: Workers, queue: str) -> list[qk.DeadMessage]:
    return workers.place.letters(queue)


@on_sqlite
def test_R1_kills_of_random_workers(workers: Workers, row: Result, backend: str) -> None:
    kill_at_random(workers, row, "busy", figure(200_000), figure(100))


@on_servers
def test_R2_kills_of_random_workers(workers: Workers, row: Result, backend: str) -> None:
    """With a handler that takes some time, as all would be done before the last kill."""
    # Workers of Pub/Sub start slowly, beside an emulator in Java.
    kill_at_random(workers, row, "steady", figure(50_000, 2_000 if backend == "pubsub" else None), figure(20))


def kill_at_random(workers: Workers, row: Result, queue: str, messages: int, times: int) -> None:
    row.ran(messages=messages, kills=times, workers=WORKERS)
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed: {seed}\n")
    chance = random.Random(seed)
    sent = send(workers, queue, [Task(number=number) for number in range(messages)])
    assert len(sent) == messages
    began = time.monotonic()
    for _ in range(WORKERS):
        workers.start(queue)

    kills: list[Kill] = []
    for index in range(times):
        due = messages * (index + 1) // (times + 1)
        workers.until_lines(due)
        workers.until(lambda lines: bool(workers.at_work()) or len(handled(lines)) == messages)
        working = sorted(workers.at_work())
        if not working:
            break  # they were quicker than the kills
        kills.append(workers.kill(chance.choice(working)))
        workers.start(queue)
    assert len(kills) > times // 5, "the host was too busy for this to show anything"
    workers.until(
        lambda lines: len(lines) >= messages and len(handled(lines)) == messages,
        lambda: f"{len(handled(workers.lines()))} messages",
    )
    row.took(run=time.monotonic() - began)
    workers.until_empty()
    lines = workers.lines()
    codes = workers.stop()

    held = explained(workers, kills, lines)
    row.found(lost=len(sent - handled(lines)), duplicates=len(duplicates(lines)), bound=held)
    row.took(last_one_back=last_one_back(kills, lines))
    assert handled(lines) == sent
    assert dead(workers, queue) == []
    assert not {code for pid, code in codes.items() if pid in {each.pid for each in lines}} - {0}
    assert last_one_back(kills, lines) <= 5 * (LEASE_S + GRACE_S)
    assert len(duplicates(lines)) <= held
    assert held >= len(kills) or workers.place.backend == "pubsub", "every victim was at work, else nothing was shown"
    workers.assert_sound()


def explained(workers: Workers, kills: list[Kill], lines: list[Line]) -> int:
    """How many deliveries the killed workers held; everything that came twice had been handled by one of them."""
    if workers.place.backend != "sqs":
        assert_explained(kills, lines)
        return in_flight(kills, lines)
    assert {each.pid for each in duplicates(lines)} <= {kill.pid for kill in kills}
    return workers.leased_at_kills  # as the service counts them: who holds which it does not say


def last_one_back(kills: list[Kill], lines: list[Line]) -> float:
    """How long after the last kill the last message was first done."""
    first_done: dict[str, float] = {}
    for each in lines:
        first_done[each.message_id] = min(each.at, first_done.get(each.message_id, each.at))
    return max(first_done.values()) - kills[-1].at


@on_all
def test_R3_on_an_idle_queue_another_worker_gets_what_a_killed_one_held(
    workers: Workers, row: Result, backend: str
) -> None:
    rounds = figure(50, 2 if backend == "pubsub" else 3)
    row.ran(rounds=rounds)
    started = 0
    with qk.Producer[Task](workers.url("idle"), payload=Task) as producer:
        for number in range(rounds):
            while len(workers.running) < 2:
                workers.start("idle")
                started += 1
            workers.until_started(started)
            held = producer.send(Task(number=number, hold=True)).message_id
            workers.until_lines(2 * number + 1)
            kill = workers.kill(workers.lines()[-1].pid)
            assert kill.leased.get(held) == 1 or workers.leased_at_kills == number + 1
            workers.until_lines(2 * number + 2)
            last = workers.lines()[-1]
            assert (last.message_id, last.attempt, last.done) == (held, 2, True)
            assert last.pid in workers.running
            row.took(back=last.at - kill.at)
            assert last.at - kill.at <= workers.place.least_lease_s + 5 * GRACE_S
    assert set(workers.stop().values()) == {0}
    row.found(lost=0, back=rounds)


@pytest.mark.parametrize("backend", ["sqlite", "redis", "pubsub"])
def test_R4_all_workers_are_killed_and_one_starts_later(workers: Workers, row: Result, backend: str) -> None:
    messages = figure(20_000, 1_000 if backend == "pubsub" else None)
    row.ran(messages=messages, workers=WORKERS)
    for _ in range(WORKERS):
        workers.start("steady")
    workers.until_started(WORKERS)
    sent = send(workers, "steady", [Task(number=number) for number in range(messages)])
    workers.until(
        lambda lines: (
            len(lines) >= messages // 4 and (len(workers.at_work()) == WORKERS or len(lines) >= messages // 2)
        )  # one may have come too late
    )
    kills = [workers.kill(pid) for pid in list(workers.running)]
    before = len(workers.lines())
    assert before < messages
    threading.Event().wait(LEASE_S)  # longer makes no difference: by then no lease is left
    started = time.monotonic()
    workers.start("steady")
    workers.until(lambda lines: len(lines) > before)
    row.took(first_back=workers.lines()[before].at - started)
    workers.until_empty()
    assert set(workers.stop().values()) == {0}
    lines = workers.lines()
    row.found(lost=len(sent - handled(lines)), duplicates=len(duplicates(lines)), bound=in_flight(kills, lines))
    assert handled(lines) == sent
    assert_explained(kills, lines)
    workers.assert_sound()


@on_disk
def test_R5_a_worker_is_killed_and_started_again(workers: Workers, row: Result, backend: str) -> None:
    rounds = figure(20, 2)
    row.ran(rounds=rounds)
    pid = workers.start("idle")
    with qk.Producer[Task](workers.url("idle"), payload=Task) as producer:
        for number in range(rounds):
            held = producer.send(Task(number=number, hold=True)).message_id
            workers.until_lines(2 * number + 1)
            kill = workers.kill(pid)
            pid = workers.start("idle")
            workers.until_lines(2 * number + 2)
            last = workers.lines()[-1]
            assert (last.message_id, last.attempt, last.pid) == (held, 2, pid)
            row.took(back=last.at - kill.at)
        producer.send(Task(number=rounds))  # with SQLite, whoever sends removes the sockets of the dead
        workers.until_lines(2 * rounds + 1)
    workers.until_empty()
    assert workers.leased() == {}
    sockets = [] if backend == "redis" else [each.name for each in (workers.folder / "jobs.db-wake").iterdir()]
    assert all(name.startswith(f"{pid}-") for name in sockets), "the dead left nothing behind"
    assert set(workers.stop().values()) == {0}
    row.found(lost=0, back=rounds)


@on_all
def test_R7_rolling_restarts(workers: Workers, row: Result, backend: str) -> None:
    messages, restarts = (2_000, 3) if backend == "pubsub" and not FULL else (figure(50_000), figure(50))
    restarted = 0
    row.ran(messages=messages, restarts=restarts, workers=WORKERS)
    sent = send(workers, "brief", [Task(number=number) for number in range(messages)])
    for _ in range(WORKERS):
        workers.start("brief")
    for index in range(restarts):
        due = messages * (index + 1) // (restarts + 1)
        workers.until_lines(due)
        workers.until(lambda lines: bool(workers.at_work()) or len(handled(lines)) == messages)
        working = sorted(workers.at_work())
        if not working:
            break  # they were quicker than the restarts
        restarted += 1
        victim = working[0]
        asked = workers.signal(victim, signal.SIGTERM)
        assert workers.wait(victim) == 0
        row.took(exit=time.monotonic() - asked)
        assert workers.start("brief")
    workers.until_lines(messages)
    ended = time.monotonic()
    workers.until_empty()
    row.took(last_settled=time.monotonic() - ended)
    codes = workers.stop()
    lines = workers.lines()
    row.found(lost=len(sent - handled(lines)), duplicates=len(duplicates(lines)), bound=0)
    assert restarted > restarts // 5, "the host was too busy for this to show anything"
    assert handled(lines) == sent
    assert duplicates(lines) == []
    if backend not in {"sqs", "pubsub"}:  # which count what was received and given back
        assert {each.attempt for each in lines} == {1}, "what had not begun was released, and cost no attempt"
    assert not {code for pid, code in codes.items() if pid in {each.pid for each in lines}} - {0}
    workers.assert_sound()


@on_sqlite
def test_R8_a_handler_longer_than_the_drain(workers: Workers, row: Result, backend: str) -> None:
    messages = figure(50)
    row.ran(messages=messages)
    sent = send(workers, "long", [Task(number=number) for number in range(messages)])
    pid = workers.start("long", "--drain", "500ms")
    workers.until_lines(messages)
    asked = workers.signal(pid, signal.SIGTERM)
    code = workers.wait(pid)
    row.took(exit=time.monotonic() - asked)
    lines = workers.lines()
    row.found(lost=0, told=len(handled(lines)), exit_code=code)
    assert code == 0
    assert handled(lines) == sent, "each handler saw its cancellation"
    with qk.Consumer(workers.url("long"), prefetch=0) as consumer:
        back = [consumer.receive(timeout=10) for _ in sent]  # long before their leases of 30 s would end
        assert {each.message_id for each in back if each} == sent
        assert {each.attempt for each in back if each} == {1}
    assert dead(workers, "long") == []


@on_disk
def test_R14_stopped_workers_and_late_acks(workers: Workers, row: Result, backend: str) -> None:
    stops, at_once, each_holds = figure(200, 10), 5, 10
    row.ran(stops=stops, leases=stops * each_holds)
    sent: set[str] = set()
    victims = [workers.start("stopped") for _ in range(at_once)]
    workers.until_started(at_once)
    for _round in range(stops // at_once):
        before = len(workers.lines())
        sent |= send(workers, "stopped", [Task(number=number) for number in range(at_once * each_holds)])
        workers.until_lines(before + at_once * each_holds)
        assert {each.pid for each in workers.lines()[before:]} == set(victims)
        for pid in victims:
            workers.signal(pid, signal.SIGSTOP)
        threading.Event().wait(3 * STOPPED_LEASE_S)
        goes_on = {pid: workers.signal(pid, signal.SIGCONT) for pid in victims}
        workers.until_lines(before + 3 * at_once * each_holds)
        told = [each for each in workers.lines()[before:] if each.done and each.attempt == 1]
        assert {each.message_id for each in told} == {each.message_id for each in workers.lines()[before:]}
        told_s = max(each.at - goes_on[each.pid] for each in told)
        row.took(told=told_s)
        assert told_s <= 5 * TOLD_S
    workers.until_empty()
    log = workers.log()
    assert set(workers.stop().values()) == {0}
    lines = workers.lines()
    row.found(lost=len(sent - handled(lines)), lost_leases=log.count("lease.lost"))
    assert {each.attempt for each in lines} == {1, 2}, "no late ack took a message from its new holder"
    assert [each.attempt for each in lines if each.done].count(2) == len(sent)
    assert "lease.lost" in log
