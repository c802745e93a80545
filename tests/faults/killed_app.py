# SPDX-License-Identifier: Apache-2.0
"""The app of the workers that are killed, stopped and restarted. It works in the current folder."""

import asyncio
import ctypes
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

import queuekit as qk
from queuekit.cli.ledger import Line, write_line

LEASE_S = float(os.environ.get("QK_LEASE_S", "2.0"))
IDLE_LEASE_S = float(os.environ.get("QK_LEAST_LEASE_S", "1.0"))
STOPPED_LEASE_S = 0.5
MOST_ATTEMPTS = int(os.environ.get("QK_MOST_ATTEMPTS", "500"))

app = qk.App(os.environ.get("QK_APP_URL", "sqlite:///jobs.db"))


class Task(BaseModel):
    number: int
    hold: bool = False
    how: str = ""


def append(task: Task, *, done: bool) -> None:
    """By one write and not by the interpreter's buffers, so that a kill cannot take it back."""
    running = qk.current()
    line = Line(
        message_id=running.message_id,
        file=str(task.number),
        attempt=running.attempt or 0,
        redriven=running.redriven,
        pid=os.getpid(),
        at=time.monotonic(),
        digest="done" if done else "",
    )
    descriptor = os.open("ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, write_line(line))
    os.close(descriptor)


# Every kill costs what the worker held an attempt, and in a storm of them that must not end in a dead letter.
@app.handler(
    "busy", concurrency=4, lease=timedelta(seconds=LEASE_S), retry=qk.RetryPolicy(max_attempts=MOST_ATTEMPTS)
)
def work(task: Task) -> None:
    append(task, done=True)


@app.handler("brief", concurrency=4, lease=timedelta(seconds=30))
def work_briefly(task: Task) -> None:
    time.sleep(0.006)
    append(task, done=True)


@app.handler(
    "steady", concurrency=4, lease=timedelta(seconds=LEASE_S), retry=qk.RetryPolicy(max_attempts=MOST_ATTEMPTS)
)
def work_steadily(task: Task) -> None:
    time.sleep(0.006)
    append(task, done=True)


@app.handler("idle", concurrency=1, prefetch=0, lease=timedelta(seconds=IDLE_LEASE_S))
def work_or_hold(task: Task) -> None:
    if task.hold and qk.current().attempt == 1:
        append(task, done=False)
        threading.Event().wait()
    append(task, done=True)


@app.handler("long", lease=timedelta(seconds=30))
async def outlast_the_drain(task: Task) -> None:
    append(task, done=False)
    try:
        await asyncio.Event().wait()
    finally:
        append(task, done=True)  # it was told


@app.handler("stopped", concurrency=10, prefetch=0, lease=timedelta(seconds=STOPPED_LEASE_S))
def work_until_lost(task: Task) -> None:
    """The first attempt goes on until its lease is lost; what is done then must not count."""
    running = qk.current()
    if running.attempt == 1:
        append(task, done=False)
        while not running.lease_lost:
            time.sleep(0.005)
    append(task, done=True)


@app.handler(
    "once",
    concurrency=4,
    prefetch=0,
    lease=timedelta(seconds=STOPPED_LEASE_S),
    idempotent="sqlite:///effects.db",
)
def take_effect_once(task: Task) -> None:
    """The first attempt goes on until its lease is lost, and then tries to take effect all the same."""
    running = qk.current()
    append(task, done=False)
    while running.attempt == 1 and not running.lease_lost:
        time.sleep(0.005)
    with closing(sqlite3.connect("effects.db", timeout=30)) as connection, connection:
        connection.execute("INSERT INTO effects VALUES (?)", (task.number,))
        running.complete_in(connection)


@app.handler("delayed", concurrency=4)
def note_when(task: Task) -> None:
    append(task, done=True)


AT_ONCE = qk.RetryPolicy(max_attempts=5, wait=lambda _state: 0)


@app.handler("alone", concurrency=1, prefetch=0, lease=timedelta(seconds=STOPPED_LEASE_S), retry=AT_ONCE)
def work_or_die_alone(task: Task) -> None:
    append(task, done=not task.how)
    if task.how:
        os.kill(os.getpid(), signal.SIGKILL)


@app.handler("poison", concurrency=4, lease=timedelta(seconds=LEASE_S), retry=AT_ONCE)
def work_or_die(task: Task) -> None:
    append(task, done=not task.how)
    if task.how == "exit":
        os._exit(7)
    elif task.how == "segv":
        ctypes.string_at(0)
    elif task.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif task.how == "memory":
        eat_memory()
    elif task.how == "MemoryError":
        raise MemoryError


def eat_memory() -> None:
    """Up to the limit of a cgroup, which kills this process; where there is none, up to one of its own."""
    group = os.environ.get("QK_CGROUP", "")
    if group:
        Path(group, "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    else:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, most))
    eaten = []
    while True:
        eaten.append(b"x" * (8 << 20))


@app.handler("hang", concurrency=4, timeout=timedelta(seconds=1), retry=AT_ONCE, lease=timedelta(seconds=LEASE_S))
def work_or_hang(task: Task) -> None:
    """The first attempt hangs, where it is to hang at all."""
    first = qk.current().attempt == 1
    append(task, done=not (task.how and first))
    if first and task.how == "sleep":
        time.sleep(60)
    elif first and task.how == "loop":
        while True:
            pass
    elif first and task.how == "lock":
        ctypes.PyDLL(None).sleep(60)  # holds the interpreter lock


@app.handler("hog", concurrency=2, prefetch=4, lease=timedelta(seconds=IDLE_LEASE_S))
def hog(task: Task) -> None:
    """Burns the CPU, or holds the interpreter lock, for a number of leases."""
    append(task, done=False)
    if task.how == "lock" and qk.current().attempt == 1:
        ctypes.PyDLL(None).usleep(int(task.number * IDLE_LEASE_S * 1e6))
    elif task.how == "burn":
        until = time.monotonic() + task.number * IDLE_LEASE_S
        while time.monotonic() < until:
            pass
    append(task, done=True)


# What waits while both children start anew is kept for three leases, and a busy host takes long to start one.
@app.handler(
    "failing",
    concurrency=4,
    lease=timedelta(seconds=30),
    retry=qk.RetryPolicy(max_attempts=5, wait=lambda _state: 0.5),
)
def fail_or_die(task: Task) -> None:
    append(task, done=False)
    if task.how and qk.current().attempt == 2:
        os._exit(7)
    raise ValueError(task.number)
