# SPDX-License-Identifier: Apache-2.0
"""A harness for a URL that nothing else is known about."""

from __future__ import annotations

from pathlib import Path

from queuekit._values.url import QueueURL
from queuekit.testing.contract.harness import Harness

_ON_VIRTUAL_TIME = frozenset({"memory", "sqlite"})


class URLHarness(Harness):
    """Runs on the real time, with lengths that most services can keep.

    Args:
        url: The backend's URL without a queue, or with ``{name}`` in the queue's place.
        directory: Scratch space of the case.
    """

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(directory)
        self._url = url

    def base_url(self) -> str:
        """The URL that was given."""
        return self._url


class VirtualURLHarness(URLHarness):
    """Runs on virtual time, for the stores of queuekit's own."""

    virtual = True


def harness_for(url: str, directory: Path) -> Harness:
    """The harness that suits the URL's scheme."""
    scheme = QueueURL.parse(url.replace("{name}", "name")).scheme
    kind = VirtualURLHarness if scheme in _ON_VIRTUAL_TIME else URLHarness
    harness = kind(url, directory)
    harness.one_process = scheme == "memory"
    return harness
