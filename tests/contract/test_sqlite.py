# SPDX-License-Identifier: Apache-2.0
"""The contract on SQLite: a new file per case, on virtual time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from queuekit.testing.contract import BackendContract, Harness

_WRITES_HALF = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
connection.execute("BEGIN EXCLUSIVE")
connection.execute("DELETE FROM message")
connection.execute("DELETE FROM ready")
print("in the midst of it", flush=True)
sys.stdin.read()
"""


class SQLiteHarness(Harness):
    """One file for all queues of a case."""

    virtual = True
    private = True
    network = False
    min_lease_s = 10.0
    min_delay_s = 5.0
    tolerance_s = 0.0
    examples = 60

    def base_url(self) -> str:
        return f"sqlite:///{self.directory}/contract.db"

    def restart(self) -> None:
        """Kill a process in the midst of a write, and close every connection that is not in use."""
        with self.locked(""):
            pass
        for database, _ in list(self.opener._clients._clients.values()):
            database.close()

    @contextmanager
    def locked(self, _queue: str) -> Iterator[None]:
        command = [sys.executable, "-S", "-c", _WRITES_HALF, f"{self.directory}/contract.db"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline()
            yield
            holder.kill()

    def full(self, queue: str) -> str:
        return f"sqlite:///{self.directory}/full.db?max_size=1MiB&queue={queue}"


class TestSQLite(BackendContract):
    harness_class = SQLiteHarness
