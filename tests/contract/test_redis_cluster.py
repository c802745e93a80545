# SPDX-License-Identifier: Apache-2.0
"""The contract on a real cluster of three nodes: queues are spread over them by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract import BackendContract
from queuekit.testing.emulators import LocalRedisCluster
from queuekit.testing.proxy import TcpProxy

from .redis_servers import BUSY_SOON, RedisHarness, program_of

SMALL = ("--maxmemory", "7680kb")
"""A node of a cluster needs more for itself than a single server."""


class ClusterHarness(RedisHarness):
    small: ClassVar[LocalRedisCluster]
    """Of one node, with little memory."""

    def full(self, queue: str) -> str:
        return f"{self.small.url}?queue={queue}"

    def proxy(self, queue: str) -> tuple[str, TcpProxy]:
        proxy = self.behind("127.0.0.1", self.small.nodes[0].port)
        self._announce(proxy.port)
        return proxy.through(f"{self.small.url}?queue={queue}&answer_timeout=500ms"), proxy

    def cleanup(self) -> None:
        super().cleanup()
        self._announce(0)

    def _announce(self, port: int) -> None:
        """Let the node tell everybody this port, or its own."""
        self.small.call(self.small.nodes[0], "CONFIG", "SET", "cluster-announce-port", port)


@pytest.fixture(scope="module", autouse=True)
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        LocalRedisCluster(folder / "all", program_of(), durable=True, options=BUSY_SOON) as cluster,
        LocalRedisCluster(folder / "small", program_of(), nodes=1, durable=True, options=SMALL) as small,
    ):
        ClusterHarness.server, ClusterHarness.small = cluster, small
        yield


class TestRedisCluster(BackendContract):
    harness_class = ClusterHarness
