# SPDX-License-Identifier: Apache-2.0
"""The contract on SQLite: a new file per case, on virtual time."""

from __future__ import annotations

from queuekit.testing.contract import BackendContract, Harness


class SQLiteHarness(Harness):
    """One file for all queues of a case."""

    virtual = True
    private = True
    min_lease_s = 10.0
    min_delay_s = 5.0
    tolerance_s = 0.0

    def base_url(self) -> str:
        return f"sqlite:///{self.directory}/contract.db"


class TestSQLite(BackendContract):
    harness_class = SQLiteHarness
