# SPDX-License-Identifier: Apache-2.0
"""The SQLite backend: durable queues in one file, for many processes on one host.

Nothing has to be installed or started. It cannot be used on a network file system, where SQLite's locks do
not work, nor from several hosts.
"""

from queuekit.backends.sqlite._backend import SPEC, SQLiteBackend
from queuekit.backends.sqlite._options import SQLiteOptions
from queuekit.backends.sqlite._schema import SchemaError

__all__ = ["SPEC", "SQLiteBackend", "SQLiteOptions", "SchemaError"]
