# SPDX-License-Identifier: Apache-2.0
"""The contract on memory: the reference, on virtual time."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from queuekit.testing import reset_memory
from queuekit.testing.contract import BackendContract, Harness


class MemoryHarness(Harness):
    """A process's own queues need nothing but a clock."""

    virtual = True
    private = True
    one_process = True
    min_lease_s = 10.0
    min_delay_s = 5.0
    tolerance_s = 0.0
    examples = 200
    url_table: ClassVar = {
        "memory://orders": ("orders", {"space": "", "dedup_window": timedelta(hours=1), "max_messages": None}),
        "memory://orders?space=blue": ("orders", {"space": "blue"}),
        "memory://orders?dedup_window=5m&max_messages=10": (
            "orders",
            {"dedup_window": timedelta(minutes=5), "max_messages": 10},
        ),
        "memory://caf%C3%A9.a%2Fb": ("caf\u00e9.a/b", {}),
    }

    def base_url(self) -> str:
        return "memory://"

    def cleanup(self) -> None:
        super().cleanup()
        reset_memory()


class TestMemory(BackendContract):
    harness_class = MemoryHarness
