# SPDX-License-Identifier: Apache-2.0
"""The contract on a directory of files."""

from __future__ import annotations

from typing import ClassVar

from queuekit.testing.contract import BackendContract, Harness


class DirectoryHarness(Harness):
    """All queues of a case in one folder. The backend's time is the clock's alone, so it can be virtual."""

    virtual = True
    private = True  # nobody but queuekit writes these files, so there are no foreign messages
    min_lease_s = 10.0
    min_delay_s = 5.0
    tolerance_s = 0.0
    url_table: ClassVar = {
        "dir:///var/spool?queue=orders": ("orders", {"sync": True}),
        "dir:///var/spool?queue=orders&sync=false": ("orders", {"sync": False}),
        "dir:///var/spool?queue=caf%C3%A9.a%2Fb": ("caf\u00e9.a/b", {}),
    }

    def base_url(self) -> str:
        """A folder of the case's own."""
        # What a case sends need not survive the host.
        return f"dir://{self.directory}/queues?sync=false"


class TestDirectory(BackendContract):
    """Every case."""

    harness_class = DirectoryHarness
