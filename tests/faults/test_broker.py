# SPDX-License-Identifier: Apache-2.0
"""A server that is killed, restarted, absent, or that forgets: workers and producers outlive it, and say what was."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import queuekit as qk
from queuekit.testing.emulators import LocalRedis

from .killed_app import Task
from .load import Load, told
from .places import Place
from .rows import Result, figure
from .servers import Servers
from .workers import Workers
from .working import on_redis, until

pytestmark = pytest.mark.slow

BACK_S = 5.0
HEALED_S = 2.0


def crash(server: LocalRedis) -> None:
    server.kill()


def shut_down(server: LocalRedis) -> None:
    """As an administrator does it: the file is written, and every client is told."""
    with redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as raw:
        raw.shutdown()
    server.kill()


def outages(server: LocalRedis, row: Result, load: Load, how: Callable[[LocalRedis], None], count: int) -> None:
    """Take the server away while messages are sent and worked, again and again, and bring it back."""
    for index in range(count):
        load.until_handled(len(load.handled) + 20 if index else 20)
        how(server)
        threading.Event().wait(0.4)  # several tries fall into it
        server.start()
        row.took(back=load.back_after(time.monotonic()))


@on_redis
@pytest.mark.parametrize("how", [crash, shut_down])
def test_R16_the_server_is_killed_while_messages_are_sent(
    row: Result, servers: Servers, backend: str, how: Callable[[LocalRedis], None], caplog: pytest.LogCaptureFixture
) -> None:
    times = figure(5, 2)
    messages = figure(50_000)
    row.case = {"crash": "kill -9", "shut_down": "SHUTDOWN"}[how.__name__]
    row.ran(messages=messages, outages=times)
    with servers.own() as server, Load(Place("redis", server.url), messages, pause_s=0.004) as load:
        outages(server, row, load, how, times)
        load.finish(row)
    assert row.lost == 0
    assert row.times["back"] <= BACK_S


@on_redis
def test_R18_the_server_is_restarted_under_load(
    row: Result, servers: Servers, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    times = figure(10, 3)
    row.ran(restarts=times)
    with servers.own() as server, Load(Place("redis", server.url), None, pause_s=0.01) as load:
        outages(server, row, load, shut_down, times)
        load.finish(row)
    lines = told(caplog)
    row.found(**{name.replace(".", "_"): count for name, count in lines.items()})
    assert load.codes == [qk.ExitCode.DRAINED]
    assert row.lost == 0
    assert row.times["back"] <= BACK_S
    assert lines["receive.failed"] <= times, "one line for an outage, not for each try"
    of_messages = lines["lease.lost"] + lines["settle.unknown"]  # what became of each is told for each
    assert lines.total() - of_messages <= 2 * times


@on_redis
def test_R21_a_server_that_is_not_there(row: Result, servers: Servers, tmp_path: Path, backend: str) -> None:
    """The worker of a process of its own, so that what it uses can be told."""
    absent_s, limit_s = figure(60, 6), 2.0
    row.ran(absent_s=absent_s)
    with servers.own() as server:
        server.kill()
        began = time.monotonic()
        with qk.Producer(
            f"redis://ada:s3cr3t@127.0.0.1:{server.port}/0?queue=brief", timeout=timedelta(seconds=limit_s)
        ) as producer:
            with pytest.raises(qk.UnavailableError) as refused:
                producer.send(b"x")
            row.took(refused=time.monotonic() - began)
        text = str(refused.value)
        assert f"redis://***:***@127.0.0.1:{server.port}/0?queue=brief" in text
        assert "s3cr3t" not in text
        assert "\n" not in text
        workers = Workers(tmp_path, Place("redis", server.url))
        try:
            pid = workers.start("brief")
            workers.until(lambda _: "failed" in workers.log())
            used, lines = cpu_s(pid), workers.log().count("\n")
            threading.Event().wait(absent_s)
            share = (cpu_s(pid) - used) / absent_s
            more = workers.log().count("\n") - lines
            row.found(cpu_percent=round(100 * share, 2), log_lines=more)
            assert pid in workers.alive()
            server.start()
            answers = time.monotonic()
            with qk.Producer[Task](f"{server.url}?queue=brief", payload=Task) as task:
                task.send(Task(number=1))
            workers.until_lines(1)
            row.took(back=workers.lines()[0].at - answers)
            assert workers.stop() == {pid: 0}
        finally:
            workers.end()
    assert row.times["refused"] <= limit_s + 1
    assert row.times["back"] <= BACK_S
    assert share < 0.05
    assert more <= 6 * max(1.0, absent_s / 60)


def cpu_s(pid: int) -> float:
    """What a process has used of the CPU so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def delete_queue(server: LocalRedis) -> None:
    with qk.Consumer(f"{server.url}?queue=jobs") as consumer:
        consumer._link.backend.delete()  # type: ignore[attr-defined]


def delete_every_key(server: LocalRedis) -> None:
    with redis.Redis(port=server.port) as raw:
        raw.delete(*raw.keys("qk:{jobs}*"))


@on_redis
@pytest.mark.parametrize("how", [delete_queue, delete_every_key])
def test_R25_the_queue_is_deleted_under_a_worker(
    row: Result, servers: Servers, app_url: str, backend: str, how: Callable[[LocalRedis], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    rounds = figure(20, 2)
    row.case = how.__name__.replace("_", " ")
    row.ran(rounds=rounds)
    with servers.own(durable=False) as server, Load(Place("redis", server.url), None, pause_s=0.01) as load:
        for number in range(rounds):
            load.until_handled(len(load.handled) + 20)
            how(server)
            gone = time.monotonic()
            until(lambda number=number: told(caplog)["queue.recreated"] > number)  # type: ignore[misc]
            row.took(surfaced=time.monotonic() - gone, back=load.back_after(gone))
    row.found(told=told(caplog)["queue.recreated"])
    assert row.times["surfaced"] <= BACK_S
    assert row.times["back"] <= BACK_S
    assert load.codes == [qk.ExitCode.DRAINED]


def flush_all(server: LocalRedis) -> None:
    with redis.Redis(port=server.port) as raw:
        raw.flushall()


def flush_scripts(server: LocalRedis) -> None:
    with redis.Redis(port=server.port) as raw:
        raw.script_flush()


def fail_over(server: LocalRedis) -> None:
    """To a replica that has got nothing yet."""
    server.restart()


@on_redis
@pytest.mark.parametrize("how", [flush_all, flush_scripts, fail_over])
def test_R26_the_server_forgets(
    row: Result, servers: Servers, backend: str, how: Callable[[LocalRedis], None], caplog: pytest.LogCaptureFixture
) -> None:
    rounds, loses = figure(20, 3), how is not flush_scripts
    row.case = {flush_all: "FLUSHALL", flush_scripts: "SCRIPT FLUSH", fail_over: "to an empty replica"}[how]
    row.ran(rounds=rounds)
    with servers.own(durable=False) as server, Load(Place("redis", server.url), None, pause_s=0.01) as load:
        for number in range(rounds):
            load.until_handled(len(load.handled) + 20)
            how(server)
            row.took(healed=load.back_after(time.monotonic()))
            if loses:
                until(lambda number=number: told(caplog)["queue.recreated"] > number)  # type: ignore[misc]
        if not loses:
            load.finish(row)
    row.found(told=told(caplog)["queue.recreated"])
    assert row.times["healed"] <= (HEALED_S if how is not fail_over else BACK_S)
    assert told(caplog)["queue.recreated"] == (rounds if loses else 0)
    if not loses:
        assert row.lost == 0
        assert told(caplog).total() == 0
