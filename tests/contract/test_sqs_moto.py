# SPDX-License-Identifier: Apache-2.0
"""What a service answers, on moto: the second server, which shares no code with the first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from queuekit.testing.contract.admin import Administration
from queuekit.testing.contract.batch_failure import BatchFailure
from queuekit.testing.contract.consume import Consume
from queuekit.testing.contract.dead_letter import DeadLetter
from queuekit.testing.contract.delay import Delay
from queuekit.testing.contract.encoding import Encoding
from queuekit.testing.contract.expiry import Expiry
from queuekit.testing.contract.lease import Lease
from queuekit.testing.contract.produce import Produce
from queuekit.testing.contract.settle import Settle
from queuekit.testing.contract.urls import Urls

from .one_face import OneFace
from .sqs_servers import SqsHarness, a_moto, served


class MotoHarness(SqsHarness):
    """Standard queues of moto."""


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with served(a_moto(), MotoHarness):
        yield


class TestMoto(
    OneFace,
    Produce,
    Consume,
    Settle,
    Lease,
    Delay,
    DeadLetter,
    BatchFailure,
    Encoding,
    Urls,
    Administration,
    Expiry,
):
    """Not the rest, which is about the engine: moto takes the longer the more messages a queue has."""

    harness_class = MotoHarness
