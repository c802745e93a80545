# SPDX-License-Identifier: Apache-2.0
"""What the model allows where a service may deliver a message once more for no reason, and elsewhere does not."""

import pytest

from queuekit.backend import SETTLED, Accepted, Action, Capabilities, IncomingMessage, OutgoingMessage, Settlement
from queuekit.testing.model import Model, Span

SENT = OutgoingMessage("m", b"x")


def delivered(handle: int) -> IncomingMessage:
    return IncomingMessage(handle, "m", b"x", {}, {}, handle, None, None)


def model(*, unasked: bool) -> Model:
    can = Capabilities(
        queues="declared",
        durability="replicated",
        max_message_bytes=1,
        attempts="approximate",
        fencing="lenient",
        redelivers_unasked=unasked,
    )
    made = Model(can)
    made.send([SENT], [Accepted("m")], Span(0.0, 0.1))
    made.receive([delivered(1)], limit=1, lease_s=30.0, now=Span(1.0, 1.1))
    return made


def test_a_second_holder_is_a_fault_unless_the_service_may_do_that() -> None:
    with pytest.raises(AssertionError, match="two holders"):
        model(unasked=False).receive([delivered(2)], limit=1, lease_s=30.0, now=Span(2.0, 2.1))
    model(unasked=True).receive([delivered(2)], limit=1, lease_s=30.0, now=Span(2.0, 2.1))


def test_a_finished_message_comes_again_only_where_the_service_may_do_that() -> None:
    for unasked in (False, True):
        made = model(unasked=unasked)
        made.settle(Settlement(1, Action.ACK), SETTLED, Span(2.0, 2.1))
        if unasked:
            made.receive([delivered(2)], limit=1, lease_s=30.0, now=Span(3.0, 3.1))
        else:
            with pytest.raises(AssertionError, match="finished"):
                made.receive([delivered(2)], limit=1, lease_s=30.0, now=Span(3.0, 3.1))


def test_a_message_that_nobody_sent_is_a_fault_everywhere() -> None:
    stranger = delivered(2)._replace(message_id="stranger")
    with pytest.raises(AssertionError, match="never sent"):
        model(unasked=True).receive([stranger], limit=1, lease_s=30.0, now=Span(2.0, 2.1))
