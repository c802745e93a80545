# SPDX-License-Identifier: Apache-2.0
"""A function of AWS Lambda without AWS: no credentials, no network."""

import threading
from collections.abc import Iterator

import pytest

from queuekit import App
from queuekit.testing.clock import VirtualClock

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/none")
    monkeypatch.delenv("QUEUEKIT_URL", raising=False)


@pytest.fixture(autouse=True)
def _no_thread_outlives_an_event() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [each for each in threading.enumerate() if each not in before]
    for each in left:  # what ends has its last steps before it still
        each.join(LIMIT_S)
    assert [each.name for each in left if each.is_alive()] == []


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def app(clock: VirtualClock) -> Iterator[App]:
    with App("sqs://us-east-2", clock=clock) as made:
        yield made
