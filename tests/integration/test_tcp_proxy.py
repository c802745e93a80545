# SPDX-License-Identifier: Apache-2.0
"""The fault proxy, byte by byte, in front of a server that answers what it is asked in capitals."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from queuekit.testing.proxy import Direction, TcpProxy

LIMIT_S = 20.0


class Shouting(socketserver.ThreadingTCPServer):
    """Answers in capitals, and remembers what arrived."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Shouter)
        self.arrived = b""
        self.changed = threading.Condition()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def until_arrived(self, count: int) -> bytes:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.arrived) >= count, LIMIT_S), self.arrived
            return self.arrived


class _Shouter(socketserver.BaseRequestHandler):
    server: Shouting

    def handle(self) -> None:
        try:
            while data := self.request.recv(1 << 16):
                with self.server.changed:
                    self.server.arrived += data
                    self.server.changed.notify_all()
                self.request.sendall(data.upper())
        except ConnectionError:
            return  # that is what is tested


@pytest.fixture
def server() -> Iterator[Shouting]:
    with Shouting() as shouting:
        thread = threading.Thread(target=shouting.serve_forever, args=(0.01,))
        thread.start()
        yield shouting
        shouting.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: Shouting) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", server.port) as running:
        yield running


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), LIMIT_S)


def read(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := client.recv(count - len(got))):
        got += more
    return got


def test_everything_passes_in_both_directions_unchanged(proxy: TcpProxy) -> None:
    body = os.urandom(3 << 20).replace(b"\xff", b"x")
    with connect(proxy) as client:
        sending = threading.Thread(target=client.sendall, args=(body,))
        sending.start()
        assert read(client, len(body)) == body.upper()
        sending.join()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert proxy.accepted == 1


def test_it_leads_to_the_server_in_the_place_of_the_url(proxy: TcpProxy, server: Shouting) -> None:
    url = f"redis://ada:pw@127.0.0.1:{server.port}/0?queue=q"
    assert proxy.through(url) == f"redis://ada:pw@127.0.0.1:{proxy.port}/0?queue=q"
    with pytest.raises(ValueError, match=r"does not name 127\.0\.0\.1:\d+ once"):
        proxy.through("redis://elsewhere:1/0")


def test_it_refuses_new_connections_and_only_those_until_it_is_healed(proxy: TcpProxy) -> None:
    with connect(proxy) as before:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        before.sendall(b"open")
        assert read(before, 4) == b"OPEN"
    proxy.heal()
    with connect(proxy) as after:
        after.sendall(b"again")
        assert read(after, 5) == b"AGAIN"


def test_where_no_server_is_the_connection_is_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        # The reset may arrive while the client is still inside connect().
        with TcpProxy(*nobody.getsockname()) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)


def test_all_connections_are_reset_at_once(proxy: TcpProxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        for each in (one, other):
            each.sendall(b"x")
            assert read(each, 1) == b"X"
        assert proxy.connections == 2
        assert proxy.reset() == 2
        assert proxy.connections == 0
        for each in (one, other):
            with pytest.raises(ConnectionResetError):
                each.recv(1)


def test_a_client_that_resets_is_passed_on(proxy: TcpProxy, server: Shouting) -> None:
    client = connect(proxy)
    client.sendall(b"x")
    assert read(client, 1) == b"X"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    limit = time.monotonic() + LIMIT_S
    while proxy.connections:
        assert time.monotonic() < limit


@pytest.mark.parametrize("to", [None, "client", "server"])
def test_a_black_hole_tells_nobody_and_what_it_held_arrives_in_the_end(
    proxy: TcpProxy, server: Shouting, to: Direction | None
) -> None:
    with connect(proxy) as client:
        client.sendall(b"one")
        assert read(client, 3) == b"ONE"
        proxy.black_hole(to=to)
        client.sendall(b"two")
        if to == "client":
            assert server.until_arrived(6) == b"onetwo"
        with connect(proxy) as late:  # it is made, and gets no answer either
            late.sendall(b"new")
            for each in (client, late):
                each.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    each.recv(1)
            assert server.arrived == (b"onetwo" if to == "client" else b"one")
            proxy.heal()
            for each, answer in ((client, b"TWO"), (late, b"NEW")):
                each.settimeout(LIMIT_S)
                assert read(each, 3) == answer


def test_what_was_given_up_in_a_black_hole_arrives_all_the_same(proxy: TcpProxy, server: Shouting) -> None:
    client = connect(proxy)
    client.sendall(b"one")
    assert read(client, 3) == b"ONE"
    proxy.black_hole()
    client.sendall(b"two")
    client.close()
    proxy.heal()
    assert server.until_arrived(6) == b"onetwo"


def test_an_answer_is_lost_after_its_request_arrived(proxy: TcpProxy, server: Shouting) -> None:
    with connect(proxy) as other, connect(proxy) as client:
        lost = proxy.cut(to="client", matching=b"w")
        other.sendall(b"one")
        assert read(other, 3) == b"ONE"
        assert not lost.is_set()
        client.sendall(b"two")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert lost.wait(LIMIT_S)
        assert server.until_arrived(6) == b"onetwo"
        other.sendall(b"wow")
        assert read(other, 3) == b"WOW", "it happens once"


def test_a_request_is_cut_in_its_middle(proxy: TcpProxy, server: Shouting) -> None:
    with connect(proxy) as client:
        cut = proxy.cut(to="server", after=7)
        client.sendall(b"12345")
        assert read(client, 5) == b"12345"
        client.sendall(b"67890")
        assert cut.wait(LIMIT_S)
        assert server.until_arrived(7) == b"1234567"
        with pytest.raises(ConnectionResetError):
            read(client, 3)  # at most two are answered, if the server was quicker
    with connect(proxy) as client:
        client.sendall(b"x")
        assert read(client, 1) == b"X"


def test_healing_calls_off_a_cut(proxy: TcpProxy) -> None:
    cut = proxy.cut(to="client")
    proxy.heal()
    with connect(proxy) as client:
        client.sendall(b"x")
        assert read(client, 1) == b"X"
    assert not cut.is_set()


def test_bytes_are_late_and_in_order(proxy: TcpProxy) -> None:
    proxy.delay(timedelta(seconds=0.05))
    with connect(proxy) as client:
        began = time.monotonic()
        client.sendall(b"one")
        client.sendall(b"two")
        assert read(client, 6) == b"ONETWO"
        assert time.monotonic() - began >= 0.1, "there and back"


def test_bytes_are_few_a_second(proxy: TcpProxy) -> None:
    proxy.throttle(100_000)
    with connect(proxy) as client:
        began = time.monotonic()
        client.sendall(b"x" * 20_000)
        assert read(client, 20_000) == b"X" * 20_000
        assert time.monotonic() - began >= 0.2


def test_nothing_of_it_is_left(server: Shouting) -> None:
    threads = threading.active_count()
    with TcpProxy("127.0.0.1", server.port) as proxy, connect(proxy) as client:
        client.sendall(b"x")
        assert read(client, 1) == b"X"
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    limit = time.monotonic() + LIMIT_S
    while threading.active_count() > threads:
        assert time.monotonic() < limit
