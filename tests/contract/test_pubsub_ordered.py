# SPDX-License-Identifier: Apache-2.0
"""The contract on ordered subscriptions of Google's emulator, on real time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract import BackendContract

from .one_face import OneFace
from .pubsub_servers import ACKED_AGAIN, LATER_FIRST, NO_COUNT, NO_SEEK, OrderedHarness, served


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with served(OrderedHarness):
        yield


class TestPubSubOrdered(OneFace, BackendContract):
    harness_class = OrderedHarness
    known_deviations: ClassVar = {
        "ADM-04": NO_SEEK,
        "FLT-06": ACKED_AGAIN,
        "ORD-05": LATER_FIRST,
        "PSH-06": NO_COUNT,
    }
