# SPDX-License-Identifier: Apache-2.0
"""What each message costs: SQS charges by the call, empty receives too."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import Action, OutgoingMessage, Settled, Settlement
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


def test_an_idle_worker_makes_one_long_poll_after_the_other_and_no_other_call(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, app, ended = service.url(service.queue(), poll="1s"), qk.App(), list[float]()
    answered = SqsBackend.receive

    def note(self: SqsBackend, **how: Any) -> Any:
        got = answered(self, **how)
        ended.append(time.monotonic())
        if len(ended) == 3:
            app.stop()
        return got

    monkeypatch.setattr(SqsBackend, "receive", note)

    @app.handler(url)
    def handle(text: str) -> None:
        """Never runs."""

    with opened(monkeypatch) as backends:
        app.run(signals=False)
        assert calls_of(backends) == {"ReceiveMessage": len(ended)}
    assert ended[2] - ended[0] >= 1.9, "each waits for a second"


def test_polls_that_wait_hold_up_no_settlement(service: Service) -> None:
    backend = service.open(service.queue())
    sent = [OutgoingMessage(name, b"x") for name in "ab"]
    backend.send(sent, timeout_s=10.0)
    got = [backend.receive(max_messages=1, wait_s=20.0, lease_s=60.0)[0] for _ in sent]
    most = backend.capabilities.max_polls
    before = backend.api_calls()["ReceiveMessage"]
    polls = [
        threading.Thread(target=backend.receive, kwargs={"max_messages": 10, "wait_s": 20.0, "lease_s": 60.0})
        for _ in range(most)
    ]
    for poll in polls:
        poll.start()
    while backend.api_calls()["ReceiveMessage"] < before + most:
        threading.Event().wait(0.01)
    settlements = [Settlement(got[0].handle, Action.EXTEND, lease_s=60.0), Settlement(got[1].handle, Action.ACK)]
    for each in settlements:
        (outcome,) = backend.settle([each], timeout_s=10.0)
        assert isinstance(outcome, Settled)
    assert all(poll.is_alive() for poll in polls)
    backend.close()
    for poll in polls:
        poll.join(10.0)
        assert not poll.is_alive()
