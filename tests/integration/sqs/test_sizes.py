# SPDX-License-Identifier: Apache-2.0
"""A queue's own limit: exactly at it a message goes through, and one byte over it none is even tried."""

from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import Accepted, ErrorCode, OutgoingMessage, Rejected

from .conftest import Service

_LIMIT = 4096


@pytest.mark.parametrize("attributes", [{}, {"tenant": "ada", "grün": "ja", "a:b": "c"}], ids=["plain", "attributes"])
def test_at_the_limit_it_goes_through_and_one_byte_over_it_is_refused_by_name(
    service: Any, attributes: dict[str, str]
) -> None:
    name = service.queue(MaximumMessageSize=f"{_LIMIT}")
    with qk.Producer(service.url(name)) as producer:
        with pytest.raises(qk.MessageTooLargeError) as caught:
            producer.send(b"x" * _LIMIT, attributes=attributes)
        assert caught.value.limit == _LIMIT
        fits = _LIMIT - (caught.value.size - _LIMIT)
        backend = producer._link.backend
        before = backend.api_calls()
        given = [
            qk.Message(b"x" * fits, attributes=attributes),
            qk.Message(b"x" * (fits + 1), attributes=attributes),
            qk.Message(b"small", attributes=attributes),
        ]
        first, over, last = producer.send_many(given).outcomes
        assert isinstance(first, Accepted)
        assert isinstance(last, Accepted)
        assert isinstance(over, Rejected)
        assert over.error.code is ErrorCode.TOO_LARGE
        assert f"{_LIMIT + 1} bytes" in over.error.detail
        assert f"{_LIMIT}" in over.error.detail
        after = backend.api_calls()
        assert after["SendMessageBatch"] - before.get("SendMessageBatch", 0) == 1, "the one over it was never sent"


@pytest.mark.parametrize("body", [b"\x00" * 3000, b"\xff" * 3075, b""], ids=["controls", "bytes", "empty"])
def test_the_size_is_the_one_that_the_service_counts(fauxqs: Any, body: bytes) -> None:
    """fauxqs counts attributes as SQS does, so that the largest of our counting is its largest too."""
    service = Service(fauxqs)
    try:
        backend = service.open(service.queue())
        message = OutgoingMessage("one", body, {"tenant": "ada"}, {"v": "1"})
        limit = max(1024, backend.size(message))
        padded = message._replace(attributes={"tenant": "ada" + "x" * (limit - backend.size(message))})
        assert backend.size(padded) == limit
        exact = service.open(service.queue(MaximumMessageSize=f"{limit}"))
        assert [type(each) for each in exact.send([padded], timeout_s=10.0)] == [Accepted]
        over = padded._replace(attributes={"tenant": padded.attributes["tenant"] + "x"})
        (outcome,) = exact.send([over], timeout_s=10.0)
        assert isinstance(outcome, Rejected), "the service itself refuses one byte more"
    finally:
        service.close()
