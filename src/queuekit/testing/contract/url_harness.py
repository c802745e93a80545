# SPDX-License-Identifier: Apache-2.0
"""A harness for a URL that nothing else is known about: what suits it is read from its capabilities."""

from __future__ import annotations

from pathlib import Path

from queuekit._values.clock import SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener, fill_queue
from queuekit.backend import Capabilities
from queuekit.testing.contract.harness import Harness


class URLHarness(Harness):
    """Runs on the real time, as others may use the same store.

    Args:
        url: The backend's URL without a queue, or with ``{name}`` in the queue's place.
        directory: Scratch space of the case.
    """

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self.network: bool = bool(QueueURL.parse(url.replace("{name}", "any")).hosts)
        super().__init__(directory)

    def base_url(self) -> str:
        """The URL that was given."""
        return self._url


class ProcessHarness(URLHarness):
    """For a store that lives in this process alone, whose time can be virtual."""

    virtual = True
    one_process = True
    tolerance_s: float = 0.0


class QuickHarness(URLHarness):
    """For a store that keeps time to the millisecond."""

    min_lease_s: float = 0.6
    min_delay_s: float = 0.4
    tolerance_s: float = 0.4


def harness_for(url: str, directory: Path) -> Harness:
    """The harness that suits what the URL's backend declares."""
    can = _declared(url)
    if can.durability == "process":
        return ProcessHarness(url, directory)
    quick = can.lease == "timed" and can.min_lease_s <= 0.1 and can.delay_resolution_s <= 0.01
    harness = QuickHarness(url, directory) if quick else URLHarness(url, directory)
    harness.min_lease_s = max(harness.min_lease_s, can.min_lease_s)
    return harness


def _declared(url: str) -> Capabilities:
    named = QueueURL.parse(url.replace("{name}", "any"))
    opener = Opener(SystemClock())
    backend = opener.open(named if "{name}" in url else fill_queue(named, "any"))
    capabilities = backend.capabilities
    backend.close()
    opener.close()
    return capabilities
