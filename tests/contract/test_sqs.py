# SPDX-License-Identifier: Apache-2.0
"""The contract on standard queues of fauxqs, on real time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract import BackendContract

from .one_face import OneFace
from .sqs_servers import NO_EMOJI, SqsHarness, a_fauxqs, served


class FauxqsHarness(SqsHarness):
    """Standard queues of fauxqs."""


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with served(a_fauxqs(), FauxqsHarness):
        yield


class TestSqs(OneFace, BackendContract):
    harness_class = FauxqsHarness
    awaits = True
    known_deviations: ClassVar = {"ENC-03": NO_EMOJI, "ENC-18": NO_EMOJI}
