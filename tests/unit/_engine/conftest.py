# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from itertools import count

import pytest

from queuekit._engine.held import Held, Lease
from queuekit.backend import IncomingMessage

MakeHeld = Callable[..., Held]


@pytest.fixture(scope="session")
def make_held() -> MakeHeld:
    """Makes deliveries as a poll would bring them."""
    handles = count()

    def make(*, until: float = 60.0, received_at: float = 0.0, body: bytes = b"") -> Held:
        handle = next(handles)
        message = IncomingMessage(handle, f"m{handle}", body, {}, {}, 1, 0.0, until)
        return Held(message, Lease(until, received_at, until))

    return make
