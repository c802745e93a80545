# SPDX-License-Identifier: Apache-2.0
"""The contract on unordered subscriptions of Google's emulator, on real time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from queuekit.testing.contract import BackendContract

from .one_face import OneFace
from .pubsub_servers import PubSubHarness, served


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with served(PubSubHarness):
        yield


class TestPubSub(OneFace, BackendContract):
    harness_class = PubSubHarness
    awaits = True
