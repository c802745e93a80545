# SPDX-License-Identifier: Apache-2.0
"""What depends on how a server is reached: by its socket, with TLS, and by Sentinels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract.consume import Consume
from queuekit.testing.contract.faulting import Faults
from queuekit.testing.contract.lease import Lease
from queuekit.testing.contract.network import Network
from queuekit.testing.contract.produce import Produce
from queuekit.testing.contract.reconnecting import Reconnect
from queuekit.testing.contract.settle import Settle
from queuekit.testing.emulators import Authority, LocalRedis, LocalSentinel
from queuekit.testing.proxy import TcpProxy

from .redis_servers import BUSY_SOON, RedisHarness, program_of, small_server


class SocketHarness(RedisHarness):
    small: ClassVar[LocalRedis]

    def base_url(self) -> str:
        return str(self.server.unix_url)

    def full(self, queue: str) -> str:
        return f"{self.small.unix_url}?queue={queue}"


class TLSHarness(RedisHarness):
    small: ClassVar[LocalRedis]
    authority: ClassVar[Authority]

    def base_url(self) -> str:
        return f"{self.server.tls_url}?ca_file={self.authority.file}"

    def full(self, queue: str) -> str:
        return f"{self.small.url}?queue={queue}"

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("localhost", self.server.tls_port)
        return proxy.through(f"{self.base_url()}&queue={queue}&answer_timeout=500ms"), proxy


class SentinelHarness(RedisHarness):
    server: ClassVar[LocalSentinel]
    small: ClassVar[LocalRedis]

    def full(self, queue: str) -> str:
        return f"{self.small.url}?queue={queue}"

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("127.0.0.1", self.server.primary.port)
        # The Sentinel knows the primary by its proxy too, under another name.
        self.server.ask("MONITOR", queue, "127.0.0.1", proxy.port, 1)
        base = self.server.url.rpartition("/")[0].rpartition("/")[0]
        return f"{base}/{queue}?queue={queue}&answer_timeout=500ms", proxy


class _Reached(Produce, Consume, Settle, Lease, Faults, Reconnect):
    """The groups that depend on it."""

    __test__ = False


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    with small_server(tmp_path_factory.mktemp("small")) as running:
        yield running


class TestSocket(_Reached):
    harness_class = SocketHarness
    __test__ = True

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _servers(tmp_path_factory: pytest.TempPathFactory, small: LocalRedis) -> Iterator[None]:
        folder = tmp_path_factory.mktemp("socket")
        with LocalRedis(folder, program_of(), durable=True, options=BUSY_SOON) as server:
            SocketHarness.server, SocketHarness.small = server, small
            yield


class TestTLS(_Reached, Network):
    harness_class = TLSHarness
    __test__ = True

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _servers(tmp_path_factory: pytest.TempPathFactory, small: LocalRedis) -> Iterator[None]:
        folder = tmp_path_factory.mktemp("tls")
        program, authority = program_of("redis-server"), Authority(folder / "authority")
        certificate = authority.issue()
        with LocalRedis(folder, program, durable=True, certificate=certificate, options=BUSY_SOON) as server:
            TLSHarness.server, TLSHarness.small, TLSHarness.authority = server, small, authority
            yield


class TestSentinel(_Reached, Network):
    harness_class = SentinelHarness
    __test__ = True

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _servers(tmp_path_factory: pytest.TempPathFactory, small: LocalRedis) -> Iterator[None]:
        folder = tmp_path_factory.mktemp("sentinel")
        with LocalSentinel(folder, program_of(), durable=True, options=BUSY_SOON) as servers:
            SentinelHarness.server, SentinelHarness.small = servers, small
            yield
