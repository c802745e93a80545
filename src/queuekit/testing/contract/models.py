# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""MOD: random schedules against models, and long runs judged by their history."""

from __future__ import annotations

from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.machine import BackendMachine, run_machine


class Models(Group):
    """What no hand-written schedule would find."""

    def test_MOD_01_model_backend(self, harness: Harness) -> None:
        """Any schedule of the verbs is answered as the reference model answers it.

        On a virtual clock with leases and delays that run out; on a service's own clock without them, so
        that there too each answer is the only right one.
        """
        examples = harness.examples if harness.virtual else max(1, harness.examples // 2)
        run_machine(lambda: BackendMachine(harness, timed=harness.virtual), examples=examples)

    def test_MOD_02_model_backend_real(self, harness: Harness) -> None:
        """On a real clock each answer is one that the reference model allows, while leases and delays run out."""
        real = harness.in_real_time()
        if harness.virtual:
            # Its lateness was measured on the virtual clock; what is left is the rounding of times.
            real.tolerance_s = harness.tolerance_s + 0.01
            real.min_lease_s = real.min_delay_s = max(0.02, harness.capabilities.min_lease_s)
        run_machine(lambda: BackendMachine(real), examples=max(1, harness.examples // 10), steps=15)
