# SPDX-License-Identifier: Apache-2.0
"""Finding servers where hosts do not answer: with sockets that do nothing, so no server is needed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from redis import exceptions

from queuekit._values.clock import SystemClock
from queuekit.backend import ErrorCode, QueueURL
from queuekit.backends.redis import NotConnectedError, RedisOptions
from queuekit.backends.redis._connections import Connections
from queuekit.backends.redis._errors import classify
from queuekit.backends.redis._options import target_of
from queuekit.backends.redis._scripts import Script

CALL_S = 5.0


def answering(*answers: bytes, always: bytes = b"") -> contextlib.AbstractContextManager[int]:
    """A server that answers each command with the next of these, and after them always with the same or not."""
    return answering_from(list(answers), always)


@contextlib.contextmanager
def answering_from(left: list[bytes], always: bytes = b"") -> Iterator[int]:
    """The same; what it answers may be added later."""

    def talk(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while text := client.recv(65_536):
                if b"CLIENT" in text:  # the client's name and version
                    client.sendall(b"+OK\r\n" * text.count(b"CLIENT"))
                else:
                    client.sendall(left.pop(0) if left else always)

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=listen, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def slots_at(port: int) -> bytes:
    """All slots are on one node, as it says itself."""
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:%d\r\n" % port


def connections(url: str, connect_s: float = 5.0) -> Connections:
    return Connections(target_of(QueueURL.parse(url), RedisOptions(), connect_s), SystemClock())


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port on which connecting is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("form", ["redis+cluster://{}?queue=q", "redis+sentinel://{}/main?queue=q"])
def test_hosts_that_do_not_answer_share_the_time_for_connecting(form: str) -> None:
    clock = SystemClock()
    with answering() as one, answering() as two, answering() as three:
        way = connections(form.format(f"127.0.0.1:{one},127.0.0.1:{two},127.0.0.1:{three}"), 0.6).for_key("k")
        began = clock.monotonic()
        with pytest.raises(NotConnectedError) as failed:
            way.call("PING", timeout_s=CALL_S)
        assert 0.3 < clock.monotonic() - began < 2.0
    meaning = classify(failed.value)
    assert (meaning.code, meaning.retryable, meaning.sent) == (ErrorCode.UNAVAILABLE, True, "no")


def test_the_first_host_may_be_dead(nobody: int) -> None:
    with answering(always=b"+PONG\r\n") as node, answering(slots_at(node)) as seed:
        way = connections(f"redis+cluster://127.0.0.1:{nobody},127.0.0.1:{seed}?queue=q").for_key("k")
        assert way.call("PING", timeout_s=CALL_S) == b"PONG"
        assert way.call("PING", timeout_s=CALL_S) == b"PONG", "it is not asked for again"


@pytest.mark.parametrize(
    ("answer", "code", "hint"),
    [
        (b"*-1\r\n", ErrorCode.REFUSED, "know no service 'main'"),
        (b"-ERR unknown command 'SENTINEL'\r\n", ErrorCode.REFUSED, "no Sentinels"),
        (b"-NOAUTH Authentication required.\r\n", ErrorCode.ACCESS_DENIED, "login"),
    ],
)
def test_what_is_wrong_with_the_sentinels_is_named(nobody: int, answer: bytes, code: ErrorCode, hint: str) -> None:
    with answering(always=answer) as one:
        for hosts in (f"127.0.0.1:{one}", f"127.0.0.1:{one},127.0.0.1:{nobody}"):
            with pytest.raises(NotConnectedError) as failed:
                connections(f"redis+sentinel://{hosts}/main?queue=q").for_key("k").call("PING", timeout_s=CALL_S)
            meaning = classify(failed.value)
            assert (meaning.code, meaning.retryable, meaning.sent) == (code, False, "no")
            assert hint in meaning.detail


def test_a_primary_that_is_a_replica_is_not_used() -> None:
    role = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"
    with answering(always=role) as server:
        told = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(server)), server)
        with answering(always=told) as sentinel:
            way = connections(f"redis+sentinel://127.0.0.1:{sentinel}/main?queue=q").for_key("k")
            with pytest.raises(NotConnectedError) as failed:
                way.call("PING", timeout_s=CALL_S)
    meaning = classify(failed.value)
    assert meaning.retryable
    assert "replica" in meaning.detail


def test_a_server_without_a_cluster_is_named() -> None:
    no_cluster = b"-ERR This instance has cluster support disabled\r\n"
    with answering(no_cluster) as server, pytest.raises(NotConnectedError) as failed:
        connections(f"redis+cluster://127.0.0.1:{server}?queue=q").for_key("k").call("PING", timeout_s=CALL_S)
    meaning = classify(failed.value)
    assert (meaning.code, meaning.retryable) == (ErrorCode.REFUSED, False)
    assert "no cluster" in meaning.detail


def test_a_slot_that_no_node_has_is_waited_for() -> None:
    with answering(b"*0\r\n") as server, pytest.raises(NotConnectedError) as failed:
        connections(f"redis+cluster://127.0.0.1:{server}?queue=q").for_key("k").call("PING", timeout_s=CALL_S)
    assert classify(failed.value).retryable


def test_redirections_in_a_circle_end() -> None:
    answers: list[bytes] = []
    with answering_from(answers) as node:
        answers += [slots_at(node), *[b"-MOVED 1 :%d\r\n" % node] * 20]
        with pytest.raises(exceptions.ResponseError):
            connections(f"redis+cluster://127.0.0.1:{node}?queue=q").for_key("k").call("PING", timeout_s=CALL_S)
        assert len(answers) > 10, "it is asked a few times only"


def test_a_script_is_given_where_it_is_missing_also_behind_a_redirection() -> None:
    script = Script(b"return 1", "sha")
    asked = b"+OK\r\n"  # to ASKING, which goes before
    there = [asked + b"-NOSCRIPT No matching script.\r\n", b"$3\r\nsha\r\n", asked + b":7\r\n"]
    here: list[bytes] = []
    with answering(*there) as other, answering_from(here) as node:
        here += [slots_at(node), b"-ASK 1 127.0.0.1:%d\r\n" % other]
        way = connections(f"redis+cluster://127.0.0.1:{node}?queue=q").for_key("k")
        assert way.run(script, ("k",), timeout_s=CALL_S) == 7


def test_a_forked_child_finds_servers_with_locks_of_its_own() -> None:
    with answering(always=b"+PONG\r\n") as server:
        shared = connections(f"redis://127.0.0.1:{server}?queue=q")
        way = shared.for_key("k")
        assert way.call("PING", timeout_s=CALL_S) == b"PONG"
        with shared._servers._lock:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if shared.for_key("k").call("PING", timeout_s=CALL_S) == b"PONG" else 1
                finally:
                    os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
