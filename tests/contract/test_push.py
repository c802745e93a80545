# SPDX-License-Identifier: Apache-2.0
"""What is pushed: by Google's emulator of Pub/Sub to a real server, and by a mapping of SQS to AWS Lambda."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract.push import Push

from .pubsub_servers import OrderedHarness, PubSubHarness
from .pubsub_servers import served as pubsub_served
from .sqs_servers import FifoHarness, OneFace, SqsHarness, a_fauxqs
from .sqs_servers import served as sqs_served


class PushedHarness(PubSubHarness):
    """Pub/Sub, where copies count the attempts."""


class CountedHarness(OrderedHarness):
    """Pub/Sub with order, where the service counts the attempts."""


class MappedHarness(SqsHarness):
    """Standard queues behind functions of AWS Lambda."""


class MappedFifoHarness(FifoHarness):
    """FIFO queues behind them."""


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with pubsub_served(PushedHarness, CountedHarness), sqs_served(a_fauxqs(), MappedHarness, MappedFifoHarness):
        yield


class TestPubSub(Push):
    harness_class = PushedHarness


class TestOrderedPubSub(OneFace, Push):
    """What it changes that the service counts the attempts."""

    harness_class = CountedHarness
    test_PSH_04_push_extend_refused = None  # type: ignore[assignment]  # noqa: N815
    test_PSH_07_push_auth_required = None  # type: ignore[assignment]  # noqa: N815
    test_PSH_08_push_malformed_request = None  # type: ignore[assignment]  # noqa: N815
    test_PSH_09_push_task_name_dedup = None  # type: ignore[assignment]  # noqa: N815
    known_deviations: ClassVar = {
        "PSH-06": "the emulator leaves deliveryAttempt out of what it pushes, though there is a dead-letter policy; "
        "tests/integration/push shows it",
    }


class TestLambda(OneFace, Push):
    harness_class = MappedHarness


class TestLambdaFifo(OneFace, Push):
    """What order and dedup ids change."""

    harness_class = MappedFifoHarness
    test_PSH_01_push_ack_is_200 = None  # type: ignore[assignment]  # noqa: N815
    test_PSH_04_push_extend_refused = None  # type: ignore[assignment]  # noqa: N815
    test_PSH_05_push_deadline_cancels = None  # type: ignore[assignment]  # noqa: N815
    test_PSH_07_push_auth_required = None  # type: ignore[assignment]  # noqa: N815
    test_PSH_08_push_malformed_request = None  # type: ignore[assignment]  # noqa: N815
