# SPDX-License-Identifier: Apache-2.0
"""The whole suite against one URL: ``pytest --pyargs queuekit.testing.contract --queuekit-url=URL``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queuekit.testing.contract import BackendContract, Harness
from queuekit.testing.contract.url_harness import harness_for


class TestURL(BackendContract):
    """Every case, on the backend that the option names."""

    __test__ = True

    @pytest.fixture
    def harness(self, tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Harness]:
        """A harness on the URL of the command line."""
        url = pytestconfig.getoption("--queuekit-url")
        if not url:
            pytest.skip("give the backend's URL with --queuekit-url")
        harness = harness_for(url, tmp_path)
        yield harness
        harness.cleanup()
