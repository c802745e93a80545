# SPDX-License-Identifier: Apache-2.0
"""The contract on memory: the reference, on virtual time."""

from __future__ import annotations

from queuekit.testing import reset_memory
from queuekit.testing.contract import BackendContract, Harness


class MemoryHarness(Harness):
    """A process's own queues need nothing but a clock."""

    virtual = True
    one_process = True
    min_lease_s = 10.0
    min_delay_s = 5.0
    tolerance_s = 0.0

    def base_url(self) -> str:
        return "memory://"

    def cleanup(self) -> None:
        super().cleanup()
        reset_memory()


class TestMemory(BackendContract):
    harness_class = MemoryHarness
