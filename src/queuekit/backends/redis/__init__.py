# SPDX-License-Identifier: Apache-2.0
"""The Redis backend: queues in a Redis or Valkey server, version 6.2 or later, for many hosts.

What is accepted is as durable as the server's own persistence makes it: with the append-only file and its default
of one `fsync` a second, the end of the server or of its host can lose the last messages, up to two seconds of them.
"""

from queuekit.backends.redis._backend import SPEC, RedisBackend
from queuekit.backends.redis._errors import NotConnectedError, ServerTooOldError
from queuekit.backends.redis._options import RedisOptions

__all__ = ["SPEC", "NotConnectedError", "RedisBackend", "RedisOptions", "ServerTooOldError"]
