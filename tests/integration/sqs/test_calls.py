# SPDX-License-Identifier: Apache-2.0
"""What each message costs: SQS charges by the call, empty receives too."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

import queuekit as qk
from queuekit.backends.sqs import SqsBackend
from queuekit.testing.emulators import LocalFauxqs

from .conftest import Service

_OPENING = {"GetQueueUrl", "GetQueueAttributes"}


@pytest.fixture
def service(fauxqs: LocalFauxqs) -> Iterator[Service]:
    made = Service(fauxqs)
    yield made
    made.close()


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SqsBackend]]:
    """Every backend that is opened inside."""
    backends: list[SqsBackend] = []
    make = SqsBackend.__init__

    def note(self: SqsBackend, opening: Any) -> None:
        make(self, opening)
        backends.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(SqsBackend, "__init__", note)
        yield backends


def calls_of(backends: list[SqsBackend]) -> Mapping[str, int]:
    """How often each operation was asked for, but for what opening takes."""
    total: dict[str, int] = {}
    for backend in backends:
        for operation, count in backend.api_calls().items():
            if operation not in _OPENING:
                total[operation] = total.get(operation, 0) + count
    return total


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
def test_a_thousand_messages_take_no_more_than_310_calls(
    service: Service, monkeypatch: pytest.MonkeyPatch, awaits: bool
) -> None:
    url, app, seen, lock = service.url(service.queue(), poll="1s"), qk.App(), list[str](), threading.Lock()

    def note(text: str) -> None:
        with lock:
            seen.append(text)
        if len(seen) == 1000:
            app.stop()

    async def note_async(text: str) -> None:
        note(text)

    app.handler(url)(note_async if awaits else note)
    with opened(monkeypatch) as backends:
        with qk.Producer(url, payload=str) as producer:
            assert producer.send_many([f"{number}" for number in range(1000)]).ok
        app.run(signals=False)
        calls = calls_of(backends)
    assert len(set(seen)) == 1000
    assert set(calls) == {"SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"}
    assert sum(calls.values()) <= 310, calls
    (told,) = app.counts().values()
    assert told["api.ReceiveMessage"] == calls["ReceiveMessage"]
    assert told["api.DeleteMessageBatch"] == calls["DeleteMessageBatch"]


def test_long_polls_on_an_idle_queue_are_the_only_calls(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    url = service.url(service.queue(), poll="1s")
    with opened(monkeypatch) as backends, qk.Consumer(url) as consumer:
        assert consumer.receive(timeout=2.5) is None
        polls = backends[0].api_calls()["ReceiveMessage"]
        assert calls_of(backends) == {"ReceiveMessage": polls}
        assert 1 <= polls <= 3, "each waits for a second"
