# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""FLT: a network that breaks in the middle of a message, and one that falls silent."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import pytest

from queuekit._portable.link import BackendOpener
from queuekit._portable.producer import Producer
from queuekit._values.errors import UnavailableError
from queuekit._values.url import QueueURL
from queuekit.backend import Accepted, Backend, Duplicate
from queuekit.stores import IdempotencyStore
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import Answers, Call, FaultyOpener, Proceed, Verb, raise_before, unavailable
from queuekit.testing.proxy import TcpProxy

_SEND_S = 1.0
_VERBS: tuple[Verb, ...] = ("send", "receive", "settle")


class Network(Group):
    """What the network does to bytes: half of a message is none, and silence is not waited out."""

    @requires("lease")
    def test_FLT_06_tcp_cut_mid_body(self, harness: Harness, face: Face) -> None:
        """A request that is cut in its middle leaves nothing behind and is sent again; an answer that is cut in its
        middle loses nothing. What arrives is whole, and each message once."""
        queue = Queue(harness)
        wire, opener = _wire_to(harness, queue)
        producer = face.producer(queue, opener=opener)
        size = min(200_000, queue.capabilities.max_message_bytes // 2)
        bodies = [b"%d" % number + b"-" * size for number in range(3)]
        bringing = wire.cut_answer(size // 2)  # what answers a send is shorter
        for body, share in zip(bodies, (0.0, 0.4, 0.8), strict=True):
            cut = wire.cut_request(int(size * share))
            assert isinstance(face.send(producer, body), Accepted | Duplicate)
            assert cut.is_set(), "the request was not cut"
        lease = timedelta(seconds=harness.min_lease_s)
        consumer = face.consumer(queue, opener=opener, lease=lease, prefetch=0)
        seen = []
        for _ in bodies:
            delivery = face.next(consumer)
            seen.append(delivery.body)
            delivery.ack()
            face.settled(delivery)
        assert bringing.is_set(), "the answer was not cut"
        assert sorted(seen) == bodies
        face.close(consumer)
        harness.pass_time(harness.min_lease_s + harness.tolerance_s)
        queue.expect_nothing("each was sent once, and acked")

    def test_FLT_07_tcp_blackhole(self, harness: Harness, face: Face) -> None:
        """No bytes come back, and no reset either: a send ends within its time, a waiting consumer notices, and both
        go on once the network does."""
        queue = Queue(harness)
        wire, opener = _wire_to(harness, queue)
        producer = face.producer(queue, opener=opener, timeout=timedelta(seconds=_SEND_S))
        if harness.pushed:
            wire.fall_silent()
            _expect_send_to_give_up(harness, face, producer, wire)
            wire.heal()
            assert isinstance(face.send(face.producer(queue, opener=opener), b"after"), Accepted)
            return
        consumer = face.consumer(queue, opener=opener, prefetch=0)
        assert isinstance(face.send(producer, b"before"), Accepted)
        face.next(consumer).ack()
        waiting = face.receiving(consumer)
        harness.until_blocked()
        wire.fall_silent()
        _expect_send_to_give_up(harness, face, producer, wire)
        harness.until(
            lambda: consumer.counts().get("receive.failed"),
            within_s=wire.silence_s,
            what="a waiting consumer notices that nothing comes back",
            pause_s=0.01,
        )
        wire.heal()
        assert isinstance(face.send(face.producer(queue, opener=opener), b"after"), Accepted)
        harness.until(lambda: waiting.done, within_s=60.0, what="the consumer goes on by itself", pause_s=0.01)
        seen, delivery = set[bytes](), waiting.result()
        while delivery is not None:  # what was sent into the silence may have arrived too
            seen.add(delivery.body)
            delivery.ack()
            face.settled(delivery)
            delivery = None if b"after" in seen else face.next(consumer)
        assert seen <= {b"during", b"after"}
        assert consumer.counts()["receive.failed"] == consumer.counts()["receive.resumed"] == 1, (
            "one outage, told once"
        )


class _Wire(Protocol):
    """What can be done to the way between the queue and its users.

    Attributes:
        silence_s: How long silence may stay unnoticed.
    """

    silence_s: float

    def cut_request(self, after: int, /) -> threading.Event: ...
    def cut_answer(self, after: int, /) -> threading.Event: ...
    def fall_silent(self) -> None: ...
    def heal(self) -> None: ...


def _expect_send_to_give_up(harness: Harness, face: Face, producer: Producer[Any], wire: _Wire) -> None:
    sending = harness.start(lambda: face.send(producer, b"during"))
    harness.until(
        lambda: sending.done,
        within_s=_SEND_S + wire.silence_s,
        what="a send ends within its time, though nothing comes back",
        pause_s=0.01,
    )
    with pytest.raises(UnavailableError):
        sending.result()


def _wire_to(harness: Harness, queue: Queue) -> tuple[_Wire, BackendOpener]:
    """Where there is no network, the backend's answers stand in for it."""
    if harness.one_process or not harness.network:
        opener = FaultyOpener(harness.opener)
        return _Answers(opener), opener
    url, proxy = harness.hook("proxy")(queue.name)
    return _Bytes(proxy, harness.silence_s), _Through(harness.opener, url)


class _Bytes:
    def __init__(self, proxy: TcpProxy, silence_s: float) -> None:
        self._proxy = proxy
        self.silence_s = silence_s

    def cut_request(self, after: int) -> threading.Event:
        return self._proxy.cut(to="server", after=after)

    def cut_answer(self, after: int) -> threading.Event:
        return self._proxy.cut(to="client", after=after)

    def fall_silent(self) -> None:
        self._proxy.black_hole()

    def heal(self) -> None:
        self._proxy.heal()


class _Answers:
    silence_s = 60.0  # a poll that began before is not disturbed

    def __init__(self, opener: FaultyOpener) -> None:
        self._script = opener.script

    def cut_request(self, _after: int) -> threading.Event:
        happened = threading.Event()

        def cut(call: Call, proceed: Proceed) -> Answers:
            happened.set()
            return raise_before(unavailable())(call, proceed)

        self._script.on("send", cut)
        return happened

    def cut_answer(self, _after: int) -> threading.Event:
        happened = threading.Event()

        def cut(call: Call, proceed: Proceed) -> Answers:
            messages = proceed(call.batch)
            if messages and not happened.is_set():
                happened.set()
                raise_before(unavailable())(call, proceed)
            return messages

        self._script.always("receive", cut)
        return happened

    def fall_silent(self) -> None:
        for verb in _VERBS:
            self._script.always(verb, raise_before(unavailable()))

    def heal(self) -> None:
        for verb in _VERBS:
            self._script.always(verb, None)


class _Through:
    """Opens one URL, whatever it is asked for: that of the queue behind the proxy."""

    def __init__(self, opener: BackendOpener, url: str) -> None:
        self.clock = opener.clock
        self._opener = opener
        self._url = QueueURL.parse(url)

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:  # noqa: ARG002
        return self._opener.open(self._url, keywords)

    def open_store(self, url: QueueURL) -> IdempotencyStore:
        return self._opener.open_store(url)

    def close(self) -> None:
        self._opener.close()
