# SPDX-License-Identifier: Apache-2.0
"""``queuekit dead move``: what is asked of the service, and how its answers are told."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from queuekit.cli.commands import run

ARN = "arn:aws:sqs:eu-west-1:123456789012"
URL = "sqs://eu-west-1/orders"
ADDRESS = "https://sqs.eu-west-1.amazonaws.com/123456789012"
RUNNING = {
    "TaskHandle": "h",
    "Status": "RUNNING",
    "MaxNumberOfMessagesPerSecond": 50,
    "ApproximateNumberOfMessagesMoved": 7,
    "ApproximateNumberOfMessagesToMove": 9,
    "StartedTimestamp": 1_700_000_000_500,
}
FAILED = {"Status": "FAILED", "FailureReason": "CouldNotDetermineMessageSource"}

Calls = list[tuple[str, dict[str, Any]]]
Service = Callable[..., Calls]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """A queue and the one for its dead letters, in a service that has had these tasks."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    def made(*tasks: dict[str, Any]) -> Calls:
        calls: Calls = []
        policy = {"deadLetterTargetArn": f"{ARN}:orders-dead", "maxReceiveCount": 100}
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "GetQueueUrl": lambda asked: {"QueueUrl": f"{ADDRESS}/{asked['QueueName']}"},
            "GetQueueAttributes": lambda asked: {
                "Attributes": {
                    "QueueArn": f"{ARN}:{asked['QueueUrl'].rpartition('/')[2]}",
                    "RedrivePolicy": json.dumps(policy),
                }
            },
            "StartMessageMoveTask": lambda _: {"TaskHandle": "h"},
            "ListMessageMoveTasks": lambda _: {"Results": list(tasks)},
            "CancelMessageMoveTask": lambda _: {"ApproximateNumberOfMessagesMoved": 8},
        }

        def answer(_: object, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
            if "MessageMove" in operation:
                calls.append((operation, asked))
            return answers[operation](asked)

        # Where botocore would make its request: no local server has such tasks.
        monkeypatch.setattr("botocore.client.BaseClient._make_api_call", answer)
        return calls

    return made


def test_a_move_is_started_as_fast_as_was_said(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    calls = service()
    assert run(["dead", "move", "start", URL, "--rate", "50/s"]) == 0
    assert "moves back what it moved to sqs://eu-west-1/orders-dead" in capsys.readouterr().err
    assert run(["dead", "move", "start", URL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"queue": f"{URL}-dead", "started": True}
    source = {"SourceArn": f"{ARN}:orders-dead"}
    assert calls == [
        ("StartMessageMoveTask", source | {"MaxNumberOfMessagesPerSecond": 50}),
        ("StartMessageMoveTask", source),
    ]


def test_a_rate_that_the_service_cannot_keep_is_refused(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    calls = service()
    assert run(["dead", "move", "start", URL, "--rate", "30/m"]) == 2
    assert "redrive" in capsys.readouterr().err
    assert calls == []


def test_tasks_are_listed(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service(RUNNING, FAILED)
    assert run(["dead", "move", "ls", URL, "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "status": "running",
        "moved": 7,
        "total": 9,
        "per_second": 50,
        "started_at": "2023-11-14T22:13:20+00:00",
        "reason": "",
    }
    assert (second["status"], second["reason"], second["started_at"]) == ("failed", FAILED["FailureReason"], None)
    assert run(["dead", "move", "ls", URL]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("running", "per second", "2023-11-14", FAILED["FailureReason"]))
    service()
    assert run(["dead", "move", "ls", URL]) == 0
    assert "nothing" in capsys.readouterr().err


def test_a_task_is_stopped_and_none_is_told(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    calls = service(RUNNING)
    assert run(["dead", "move", "cancel", URL]) == 0
    assert "about 8" in capsys.readouterr().err
    assert calls[-1] == ("CancelMessageMoveTask", {"TaskHandle": "h"})
    service(FAILED)
    assert run(["dead", "move", "cancel", URL, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"queue": f"{URL}-dead", "cancelled": False, "moved": None}


def test_where_no_service_moves_anything_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dead", "move", "start", "memory://orders"]) == 2
    assert "use redrive" in capsys.readouterr().err
