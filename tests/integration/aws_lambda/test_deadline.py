# SPDX-License-Identifier: Apache-2.0
"""A function whose service does not answer, as in a network without a way to it, still answers in time."""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk

_LEFT_S = 4.0
_BUSY_S = 5.0
"""By so much a busy host may be late; a call that nobody bounds takes longer."""


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes every connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Context:
    """Lambda's, with little time left."""

    def __init__(self) -> None:
        self.end = time.monotonic() + _LEFT_S

    def get_remaining_time_in_millis(self) -> int:
        return int((self.end - time.monotonic()) * 1000)


def record(number: int, body: str) -> dict[str, Any]:
    return {
        "messageId": f"id-{number}",
        "receiptHandle": f"receipt-{number}",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000"},
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:orders",
    }


def test_what_is_done_is_told_in_time_though_the_service_answers_nothing(
    silent: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    caplog.set_level(logging.INFO, logger="queuekit")
    extended, ended = list[BaseException](), threading.Event()
    with qk.App("sqs://us-east-1", endpoint=silent) as app:

        @app.handler("orders", concurrency=4)
        def handle(text: str) -> object:
            if text == "keep me":
                try:
                    qk.current().extend(by=timedelta(minutes=1))
                except qk.UnavailableError as error:
                    extended.append(error)
                ended.set()
            return {"dead": qk.DeadLetter("broken"), "again": qk.Retry(delay=timedelta(seconds=5))}.get(text)

        function, context = app.aws_lambda(margin=timedelta(seconds=1.6)), Context()
        bodies = ["done", "dead", "again", "keep me", "done"]
        answer = function({"Records": [record(at, body) for at, body in enumerate(bodies)]}, context)
        late_s = -context.get_remaining_time_in_millis() / 1000
        assert late_s < _BUSY_S, "Lambda would have ended it, and all would come again"
        assert ended.wait(20.0)
    failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
    # The one that could not be extended has run, and may be done by the end or not.
    assert failed - {"id-3"} == {"id-1", "id-2"}
    assert [type(each) for each in extended] == [qk.UnavailableError]
    assert "push.left" in {getattr(each, "action", "") for each in caplog.records}
