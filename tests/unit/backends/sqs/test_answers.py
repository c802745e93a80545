# SPDX-License-Identifier: Apache-2.0
"""Answers that no local server gives: what is not allowed, what goes too fast, and the service's own moves.

Their shapes are those of the service's model, which botocore's Stubber holds each call and each answer against.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

import queuekit as qk
from queuekit._engine.guard import Guard
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    Action,
    LeaseLost,
    Move,
    OutgoingMessage,
    QueueURL,
    Settlement,
    SystemClock,
    Unsupported,
    Wanted,
)
from queuekit.backends.sqs import SqsBackend
from queuekit.backends.sqs._settling import Handle

ADDRESS = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
ARN = "arn:aws:sqs:eu-west-1:123456789012:orders-dead"
DENIED = {"http_status_code": 403, "service_error_code": "AccessDenied"}


class OneOpener:
    """Opens what is open already."""

    clock = SystemClock()

    def __init__(self, *backends: Any) -> None:
        self._backends = iter(backends)

    def open(self, url: QueueURL, keywords: Any = None) -> Any:
        return next(self._backends)

    def close(self) -> None: ...


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[SqsBackend]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    opener = Opener(SystemClock())
    made: Any = opener.open(QueueURL.parse("sqs://eu-west-1/orders-dead"))
    yield made
    made.close()
    opener.close()


@pytest.fixture
def service(backend: SqsBackend) -> Iterator[Stubber]:
    with Stubber(backend._clients.calling()) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def found(service: Stubber, **settings: str) -> None:
    """The service tells where the queue is, and how it is set."""
    service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    told(service, **settings)


def told(service: Stubber, **settings: str) -> None:
    answer = {"Attributes": {"QueueArn": ARN, **settings}}
    service.add_response("get_queue_attributes", answer, {"QueueUrl": ADDRESS, "AttributeNames": ["All"]})


def grave(backend: SqsBackend) -> qk.DeadLetters:
    opener: Any = OneOpener(backend, backend)
    return qk.DeadLetters("sqs://eu-west-1/orders", dead_letter="sqs://eu-west-1/orders-dead", _opener=opener)


def test_the_service_itself_moves_dead_letters_back(backend: SqsBackend, service: Stubber) -> None:
    dead = grave(backend)
    found(service)
    service.add_response(
        "start_message_move_task", {"TaskHandle": "h"}, {"SourceArn": ARN, "MaxNumberOfMessagesPerSecond": 50}
    )
    dead.start_move(rate=qk.Rate(50))
    told(service)
    service.add_response("start_message_move_task", {"TaskHandle": "h"}, {"SourceArn": ARN})
    dead.start_move()
    told(service)
    running = {
        "TaskHandle": "h",
        "Status": "RUNNING",
        "SourceArn": ARN,
        "MaxNumberOfMessagesPerSecond": 50,
        "ApproximateNumberOfMessagesMoved": 7,
        "ApproximateNumberOfMessagesToMove": 9,
        "StartedTimestamp": 1_700_000_000_500,
    }
    failed = {"Status": "FAILED", "SourceArn": ARN, "FailureReason": "CouldNotDetermineMessageSource"}
    listed = {"Results": [running, failed, {"Status": "PONDERING"}]}
    service.add_response("list_message_move_tasks", listed, {"SourceArn": ARN, "MaxResults": 10})
    assert dead.moves() == [
        Move(status="running", moved=7, total=9, per_second=50, started_at=1_700_000_000.5),
        Move(status="failed", reason="CouldNotDetermineMessageSource"),
        Move(status="unknown"),
    ]
    told(service)
    service.add_response("list_message_move_tasks", listed, {"SourceArn": ARN, "MaxResults": 10})
    cancelled = {"ApproximateNumberOfMessagesMoved": 8}
    service.add_response("cancel_message_move_task", cancelled, {"TaskHandle": "h"})
    assert dead.cancel_move() == 8
    told(service)
    service.add_response("list_message_move_tasks", {"Results": [failed]})
    assert dead.cancel_move() is None


@pytest.mark.parametrize(
    "rate", [qk.Rate(501), qk.Rate(1, per=timedelta(seconds=2)), qk.Rate(3, per=timedelta(seconds=2))]
)
def test_a_rate_that_the_service_cannot_keep_is_refused_before_any_call(
    backend: SqsBackend, service: Stubber, rate: qk.Rate
) -> None:
    with pytest.raises(qk.UnsupportedError, match="redrive"):
        grave(backend).start_move(rate=rate)
    assert backend.api_calls() == {}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "AWS.SimpleQueueService.UnsupportedOperation",
            qk.UnsupportedError,
        ),  # another task runs, or it is no such queue
        ("ResourceNotFoundException", qk.QueueNotFoundError),
        ("AccessDenied", qk.AccessDeniedError),
        ("RequestThrottled", qk.ThrottledError),
    ],
)
def test_a_move_that_the_service_refuses_is_an_error_of_ours(
    backend: SqsBackend, service: Stubber, code: str, error: type[qk.QueueKitError]
) -> None:
    found(service)
    service.add_client_error("start_message_move_task", code, http_status_code=400)
    with pytest.raises(error):
        grave(backend).start_move()


def test_where_no_service_moves_anything_that_is_said() -> None:
    with qk.DeadLetters("memory://q") as dead:
        for call in (dead.start_move, dead.moves, dead.cancel_move):
            with pytest.raises(qk.UnsupportedError, match="redrive"):
                call()


@pytest.mark.parametrize(
    ("operation", "permission"),
    [
        ("send_message_batch", "sqs:SendMessage"),
        ("delete_message_batch", "sqs:DeleteMessage"),
        ("change_message_visibility_batch", "sqs:ChangeMessageVisibility"),
        ("receive_message", "sqs:ReceiveMessage"),
        ("purge_queue", "sqs:PurgeQueue"),
    ],
)
def test_a_missing_permission_is_named(
    backend: SqsBackend, service: Stubber, operation: str, permission: str
) -> None:
    service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    service.add_client_error(operation, **DENIED)
    guard, handle = Guard(backend, "sqs://eu-west-1/orders-dead"), Handle(backend._place, "r")
    if operation == "send_message_batch":
        (refused,) = guard.send([OutgoingMessage("m", b"x")], timeout_s=30.0)
        assert isinstance(refused, qk.NotAttempted)
        text = refused.error.detail
    elif operation in {"delete_message_batch", "change_message_visibility_batch"}:
        action = Action.ACK if operation.startswith("delete") else Action.RELEASE
        answer: Any = guard.settle([Settlement(handle, action)], timeout_s=30.0)[0]
        text = answer.error.detail
    else:
        ask = {
            "receive_message": lambda: backend.receive(max_messages=1, wait_s=0.0, lease_s=30.0),
            "purge_queue": backend.purge,
        }[operation]
        with pytest.raises(qk.AccessDeniedError) as caught:
            guard.call("it", ask)
        text = str(caught.value)
    assert permission in text


def test_a_queue_whose_settings_are_hidden_can_still_be_used(backend: SqsBackend, service: Stubber) -> None:
    service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    service.add_client_error("get_queue_attributes", **DENIED)
    assert backend.probe().assumed == {"max_message_bytes", "native_max_attempts"}
    service.add_client_error("get_queue_attributes", **DENIED)
    assert [each.code for each in backend.diagnose(Wanted())] == ["settings_denied"]


def test_a_queue_that_cannot_be_found_by_this_login_cannot_be_used(backend: SqsBackend, service: Stubber) -> None:
    service.add_client_error("get_queue_url", **DENIED)
    (finding,) = backend.diagnose(Wanted())
    assert (finding.severity, finding.code) == ("loss", "unusable")
    assert "sqs:GetQueueUrl" in finding.remedy


@pytest.mark.parametrize(
    ("address", "severity", "names"), [(True, "note", "GetQueueAttributes"), (False, "warning", "GetQueueUrl")]
)
def test_what_may_not_be_asked_of_the_dead_letter_queue_is_told_with_what_then_fails(
    backend: SqsBackend, service: Stubber, address: bool, severity: str, names: str
) -> None:
    found(service, RedrivePolicy=json.dumps({"deadLetterTargetArn": ARN, "maxReceiveCount": 100}))
    if address:
        service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
        service.add_client_error("get_queue_attributes", **DENIED)
    else:
        service.add_client_error("get_queue_url", **DENIED)
    (told_of,) = [each for each in backend.diagnose(Wanted()) if each.code == "dead_letters_denied"]
    assert told_of.severity == severity
    assert names in told_of.text


@pytest.mark.parametrize(
    "code", ["KMS.AccessDeniedException", "KmsAccessDenied", "KMS.DisabledException", "KmsNotFound"]
)
def test_a_key_that_cannot_be_used_is_told_as_such(backend: SqsBackend, service: Stubber, code: str) -> None:
    service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    service.add_client_error("send_message_batch", code, http_status_code=400)
    (refused,) = Guard(backend, "q").send([OutgoingMessage("m", b"x")], timeout_s=30.0)
    assert isinstance(refused, qk.NotAttempted)
    assert (refused.error.retryable, "encryption key" in refused.error.detail) == (False, True)


@pytest.mark.parametrize(
    ("operation", "code", "call"),
    [
        ("purge_queue", "AWS.SimpleQueueService.PurgeQueueInProgress", "purge"),
        ("create_queue", "AWS.SimpleQueueService.QueueDeletedRecently", "create"),
    ],
)
def test_what_is_asked_again_within_a_minute_says_how_long_to_wait(
    backend: SqsBackend, service: Stubber, operation: str, code: str, call: str
) -> None:
    if call == "purge":
        service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    service.add_client_error(operation, code, http_status_code=403)
    with pytest.raises(qk.ThrottledError, match="wait for a minute") as caught:
        Guard(backend, "q").call(call, getattr(backend, call))
    assert (caught.value.retry_after_s, caught.value.retryable) == (60.0, True)


def test_the_three_numbers_of_a_queue_are_told_as_they_are(backend: SqsBackend, service: Stubber) -> None:
    found(
        service,
        ApproximateNumberOfMessages="3",
        ApproximateNumberOfMessagesDelayed="2",
        ApproximateNumberOfMessagesNotVisible="1",
    )
    stats = backend.stats()
    assert (stats.ready, stats.delayed, stats.leased, stats.dead) == (3, 2, 1, None)


def dead(number: int, source: str) -> dict[str, Any]:
    return {
        "MessageId": f"m{number}",
        "ReceiptHandle": f"r{number}",
        "Body": f"{number}",
        "Attributes": {
            "ApproximateReceiveCount": "4",
            "SentTimestamp": "1700000000000",
            "DeadLetterQueueSourceArn": f"arn:aws:sqs:eu-west-1:123456789012:{source}",
        },
    }


def test_of_a_shared_queue_only_those_that_the_service_took_from_this_one_are_its_dead_letters(
    backend: SqsBackend, service: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Stubber knows one client, and receives that wait have another.
    monkeypatch.setattr(backend._clients, "polling", backend._clients.calling)
    service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    service.add_response("receive_message", {"Messages": [dead(1, "orders"), dead(2, "others"), dead(3, "orders")]})
    service.add_response("receive_message", {})
    service.add_response(
        "change_message_visibility_batch", {"Successful": [{"Id": each} for each in "012"], "Failed": []}
    )
    letters = list(grave(backend).letters())
    assert [each.message_id for each in letters] == ["m1", "m3"]
    assert letters[0].reason == "the service gave it up"
    assert letters[0].source == "sqs://eu-west-1/orders"


def test_only_the_poll_after_a_full_one_is_brief_and_runs_on_the_caller_s_thread(
    backend: SqsBackend, service: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will hardly wait, and if it does, an idle queue has long polls from then on."""
    monkeypatch.setattr(backend._clients, "polling", backend._clients.calling)
    asked = list[tuple[int, bool]]()

    def note(params: Any, **_: Any) -> None:
        asked.append((params["WaitTimeSeconds"], threading.current_thread() is threading.main_thread()))

    backend._clients.calling().meta.events.register_first("before-parameter-build.sqs.ReceiveMessage", note)
    service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    for count in (10, 10, 9, 0, 0):
        service.add_response("receive_message", {"Messages": [dead(each, "orders") for each in range(count)]})
    came = [len(backend.receive(max_messages=10, wait_s=20.0, lease_s=60.0)) for _ in range(5)]
    assert came == [10, 10, 9, 0, 0]
    assert asked == [(20, False), (1, True), (1, True), (20, False), (20, False)]


@pytest.mark.parametrize("gone", ["get_queue_url", "delete_queue"])
def test_a_queue_is_removed_though_the_one_for_its_dead_letters_is_gone(
    backend: SqsBackend, service: Stubber, gone: str
) -> None:
    dead = "arn:aws:sqs:eu-west-1:123456789012:orders-dead-dead"
    found(service, RedrivePolicy=json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 100}))
    if gone == "delete_queue":
        service.add_response("get_queue_url", {"QueueUrl": f"{ADDRESS}-dead"})
    service.add_client_error(gone, "QueueDoesNotExist", http_status_code=400)
    service.add_response("delete_queue", {}, {"QueueUrl": ADDRESS})
    backend.delete()


def test_a_queue_stays_where_the_one_for_its_dead_letters_may_not_be_removed(
    backend: SqsBackend, service: Stubber
) -> None:
    dead = "arn:aws:sqs:eu-west-1:123456789012:orders-dead-dead"
    found(service, RedrivePolicy=json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 100}))
    service.add_response("get_queue_url", {"QueueUrl": f"{ADDRESS}-dead"})
    service.add_client_error("delete_queue", **DENIED)
    with pytest.raises(ClientError):
        backend.delete()


def test_what_no_queue_of_this_kind_takes_is_answered_in_its_place_and_the_rest_is_sent(
    backend: SqsBackend, service: Stubber
) -> None:
    service.add_response("get_queue_url", {"QueueUrl": ADDRESS})
    sent = [{"Id": "0", "MessageId": "s", "MD5OfMessageBody": hashlib.md5(b"x", usedforsecurity=False).hexdigest()}]
    damaged = {"Id": "1", "MessageId": "d", "MD5OfMessageBody": "0" * 32}
    service.add_response("send_message_batch", {"Successful": [damaged, *sent], "Failed": []})
    plain = OutgoingMessage("plain", b"x")
    batch = [
        plain._replace(message_id="priority", priority=1),
        plain,
        plain._replace(message_id="delay", delay_s=901.0),
        plain._replace(message_id="dedup", dedup_id="one"),
        plain._replace(message_id="damaged"),
        plain._replace(message_id="key", ordering_key="k"),
    ]
    outcomes = backend.send(batch, timeout_s=60.0)
    assert [each.message_id for each in outcomes] == [each.message_id for each in batch]
    assert [type(each) for each in outcomes] == [
        *(qk.Rejected, qk.Accepted, qk.Rejected, qk.Rejected, qk.Unknown, qk.Rejected)
    ]


def test_what_is_of_another_queue_or_too_long_is_settled_without_a_call(backend: SqsBackend) -> None:
    ours, theirs = Handle(backend._place, "r"), Handle(("elsewhere",), "r")
    (lost,) = backend.settle([Settlement(theirs, Action.ACK)], timeout_s=60.0)
    (long,) = backend.settle([Settlement(ours, Action.RETRY, 43_201.0)], timeout_s=60.0)
    assert (type(lost), type(long)) == (LeaseLost, Unsupported)
    assert backend.api_calls() == {}
