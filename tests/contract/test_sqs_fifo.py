# SPDX-License-Identifier: Apache-2.0
"""The contract on FIFO queues of fauxqs, on real time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract import BackendContract

from .one_face import OneFace
from .sqs_servers import NO_EMOJI, FifoHarness, a_fauxqs, served


class FauxqsFifoHarness(FifoHarness):
    """FIFO queues of fauxqs."""


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with served(a_fauxqs(), FauxqsFifoHarness):
        yield


class TestSqsFifo(OneFace, BackendContract):
    harness_class = FauxqsFifoHarness
    known_deviations: ClassVar = {"ENC-03": NO_EMOJI, "ENC-18": NO_EMOJI}

    # SQS's window is five minutes and cannot be set: no test waits for its end.
    test_DUP_02_dedup_id_after_window_twice = None  # type: ignore[assignment]  # noqa: N815
