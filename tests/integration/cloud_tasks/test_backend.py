# SPDX-License-Identifier: Apache-2.0
"""Sending to Cloud Tasks, through the emulator and real HTTP."""

import os
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest

import queuekit as qk
from queuekit._values.clock import SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    Accepted,
    Duplicate,
    HttpAuth,
    HttpRequest,
    OutgoingMessage,
    Rejected,
    ScheduledRequest,
    Unknown,
)
from queuekit.backends.cloudtasks import CloudTasksBackend, DifferentSettingsError
from queuekit.backends.cloudtasks._messages import read
from queuekit.testing.emulators import LocalCloudTasks

SHARED = Path(os.environ.get("QUEUEKIT_SHARED", Path(__file__).parents[3].parent / "shared"))
WEBHOOKS = SHARED / "data" / "github-webhooks.jsonl"
ACCOUNT = "caller@shop.iam.gserviceaccount.com"
Url = Callable[..., str]


@pytest.fixture
def emulator() -> Iterator[LocalCloudTasks]:
    """On a clock that runs, as a producer's does."""
    with LocalCloudTasks() as emulator:
        yield emulator


@pytest.fixture
def url(emulator: LocalCloudTasks, worker: Any) -> Url:
    def make(queue: str = "orders", **options: str) -> str:
        options = {"endpoint": emulator.address, "target": worker.url, **options}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
        return f"cloudtasks://shop/europe-west1/{queue}?{query}"

    return make


def backend_of(text: str) -> CloudTasksBackend:
    backend = Opener(SystemClock()).open(QueueURL.parse(text))
    assert isinstance(backend, CloudTasksBackend)
    return backend


@pytest.fixture
def backend(url: Url) -> CloudTasksBackend:
    backend = backend_of(url())
    backend.create()
    return backend


def arrived(worker: Any) -> list[Any]:
    return [
        read({name.lower(): value for name, value in each.headers.items()}, each.body, "") for each in worker.seen
    ]


def test_a_message_arrives_whole(backend: Any, url: Url, emulator: LocalCloudTasks, worker: Any) -> None:
    attributes = {"tenant": "a", "Tenant-Name": "Ünal", "empty": ""}
    with qk.Producer(url(), payload=bytes) as producer:
        sent = producer.send(bytes(range(256)), attributes=attributes, type="order")
    emulator.wait_until_quiet()
    (found,) = arrived(worker)
    assert (found.message_id, found.body, found.attributes) == (sent.message_id, bytes(range(256)), attributes)
    assert (found.metadata["type"], found.attempt) == ("order", 1)
    assert worker.seen[0].headers["Content-Type"] == "application/octet-stream"
    assert "Authorization" not in worker.seen[0].headers


def test_many_are_created_at_once_with_one_outcome_each(
    backend: CloudTasksBackend, url: Url, emulator: LocalCloudTasks, worker: Any
) -> None:
    with qk.Producer(url(), payload=str) as producer:
        report = producer.send_many([str(number) for number in range(120)])
    report.raise_for_failures()
    emulator.wait_until_quiet()
    assert sorted(int(each.body) for each in worker.seen) == list(range(120))


def test_a_token_goes_with_each_call(url: Url, emulator: LocalCloudTasks, worker: Any) -> None:
    backend = backend_of(url(service_account=ACCOUNT, audience="https://shop.example"))
    backend.create()
    backend.send([OutgoingMessage("m-1", b"x")], timeout_s=10)
    emulator.wait_until_quiet()
    token = worker.seen[0].headers["Authorization"].removeprefix("Bearer ")
    key = jwt.PyJWKClient(emulator.certs_url).get_signing_key_from_jwt(token)
    assert jwt.decode(token, key, algorithms=["RS256"], audience="https://shop.example")["email"] == ACCOUNT


def test_a_delay_of_up_to_thirty_days_is_kept(
    backend: CloudTasksBackend, emulator: LocalCloudTasks, worker: Any
) -> None:
    day_s = 86_400.0
    accepted, refused = backend.send(
        [OutgoingMessage("m-1", b"x", delay_s=29 * day_s), OutgoingMessage("m-2", b"x", delay_s=30 * day_s + 1)],
        timeout_s=10,
    )
    assert isinstance(accepted, Accepted)
    assert isinstance(refused, Rejected)
    assert "30 days" in refused.error.detail
    emulator.advance(timedelta(days=29) - timedelta(minutes=1))
    emulator.wait_until_quiet()
    assert worker.seen == []
    emulator.advance(timedelta(minutes=1))
    emulator.wait_until_quiet()
    assert [each.message_id for each in arrived(worker)] == ["m-1"]


def test_a_dedup_id_is_a_hashed_name_and_a_second_one_a_duplicate(
    backend: CloudTasksBackend, emulator: LocalCloudTasks, worker: Any
) -> None:
    first, second, other = (
        backend.send([OutgoingMessage(f"m-{number}", b"x", dedup_id=dedup_id)], timeout_s=10)[0]
        for number, dedup_id in enumerate(("a/b ü", "a/b ü", "c"))
    )
    assert isinstance(first, Accepted)
    assert first.provider_id is not None
    assert len(first.provider_id) == 64
    assert second == Duplicate("m-1")
    assert isinstance(other, Accepted)
    emulator.wait_until_quiet()
    assert len(worker.seen) == 2
    (after,) = backend.send([OutgoingMessage("m-9", b"x", dedup_id="c")], timeout_s=10)
    assert after == Duplicate("m-9")  # it is done, and its name is still taken


def test_one_byte_over_is_refused_before_any_call_and_the_limit_is_taken(
    backend: CloudTasksBackend, url: Url, emulator: LocalCloudTasks, worker: Any
) -> None:
    with qk.Producer(url(max_size="100KiB"), payload=bytes) as producer, pytest.raises(qk.MessageTooLargeError):
        producer.send(b"x" * 100 * 1024)
    limit = backend.capabilities.max_message_bytes
    message = OutgoingMessage("m-1", b"x" * 1_000_000, {"a": "b"}, {"v": "1"}, dedup_id="d")
    fits = message._replace(body=b"x" * (1_000_000 + limit - backend.size(message)))
    assert backend.size(fits) == limit
    before = backend.api_calls()
    with qk.Producer(url(), payload=bytes) as producer, pytest.raises(qk.MessageTooLargeError):
        producer.send(b"x" * limit)
    assert backend.api_calls() == before
    (outcome,) = backend.send([fits], timeout_s=10)
    assert isinstance(outcome, Accepted)
    emulator.wait_until_quiet()
    assert worker.seen[0].body == fits.body
    late = fits._replace(delay_s=3600, dedup_id="e")
    assert backend.size(late) > limit
    late = late._replace(body=late.body[: limit - backend.size(late)])
    (outcome,) = backend.send([late], timeout_s=10)
    assert isinstance(outcome, Accepted), "its time takes room, too"


def test_the_service_waits_for_the_target_as_long_as_the_url_says(
    url: Url, backend: CloudTasksBackend, emulator: LocalCloudTasks
) -> None:
    backend.pause()
    with emulator.client() as google:
        for text, length_s in (
            (url(), 600),
            (url(dispatch_deadline="90s"), 90),
            (url(dispatch_deadline="30m"), 1800),
        ):
            (outcome,) = backend_of(text).send([OutgoingMessage("m-1", b"x")], timeout_s=10)
            assert isinstance(outcome, Accepted)
            task = google.get_task(
                name=f"projects/shop/locations/europe-west1/queues/orders/tasks/{outcome.provider_id}"
            )
            assert task.dispatch_deadline == timedelta(seconds=length_s)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"ordering_key": "k"}, "orders nothing"),
        ({"priority": 3}, "no priorities"),
        ({"attributes": {f"a{number}": "x" * 4000 for number in range(25)}}, "80 KB"),
    ],
)
def test_what_the_service_lacks_is_refused_by_name(
    backend: CloudTasksBackend, change: dict[str, Any], detail: str
) -> None:
    before = backend.api_calls()
    (outcome,) = backend.send([OutgoingMessage("m-1", b"x")._replace(**change)], timeout_s=10)
    assert isinstance(outcome, Rejected)
    assert detail in outcome.error.detail
    assert backend.api_calls() == before


def test_without_a_target_nothing_is_sent(url: Url) -> None:
    (outcome,) = backend_of(url().partition("&target=")[0]).send([OutgoingMessage("m-1", b"x")], timeout_s=10)
    assert isinstance(outcome, Rejected)
    assert "?target=" in outcome.error.detail


def test_a_queue_that_is_not_there_is_told(url: Url) -> None:
    with qk.Producer(url("nowhere"), payload=str) as producer, pytest.raises(qk.QueueNotFoundError):
        producer.send("x")


def test_a_service_that_is_not_there_leaves_nothing_unknown(worker: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        backend = backend_of(f"cloudtasks://shop/here/orders?endpoint={endpoint}&target={quote(worker.url, safe='')}")
        (outcome,) = backend.send([OutgoingMessage("m-1", b"x")], timeout_s=5)
    assert isinstance(outcome, Rejected)
    assert (outcome.error.retryable, outcome.error.sent) == (True, "no")


def test_a_service_that_does_not_answer_leaves_it_unknown(worker: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        target = quote(worker.url, safe="")
        backend = backend_of(
            f"cloudtasks://shop/here/orders?endpoint={endpoint}&target={target}&answer_timeout=200ms"
        )
        (outcome,) = backend.send([OutgoingMessage("m-1", b"x")], timeout_s=5)
    assert isinstance(outcome, Unknown)
    assert (outcome.error.retryable, outcome.error.sent) == (True, "maybe")


def test_a_consumer_is_refused_by_name(backend: Any, url: Url) -> None:
    with pytest.raises(qk.UnsupportedError, match="pushes"), qk.Consumer(url(), payload=str) as consumer:
        consumer.receive(timeout=0)


def test_a_queue_is_made_with_its_settings_and_once(url: Url, emulator: LocalCloudTasks) -> None:
    options = {"rate": "2.5", "max_concurrent": "3", "max_dispatches": "20", "min_backoff": "5s", "max_backoff": "1m"}
    backend = backend_of(url(**options))
    assert not backend.exists()
    backend.create()
    backend.create()
    assert backend.exists()
    assert backend.probe().native_max_attempts == 20
    with pytest.raises(DifferentSettingsError, match="differs in rate, max_dispatches"):
        backend_of(url(**{**options, "rate": "3", "max_dispatches": "0"})).create()
    backend.delete()
    backend.delete()
    assert not backend.exists()


def test_a_paused_queue_takes_messages_and_purging_removes_them(
    backend: CloudTasksBackend, emulator: LocalCloudTasks, worker: Any
) -> None:
    backend.pause()
    assert backend.is_paused()
    backend.send([OutgoingMessage("m-1", b"x")], timeout_s=10)
    backend.purge()
    backend.send([OutgoingMessage("m-2", b"x")], timeout_s=10)
    emulator.wait_until_quiet()
    assert worker.seen == []
    backend.resume()
    assert not backend.is_paused()
    emulator.wait_until_quiet()
    assert [each.message_id for each in arrived(worker)] == ["m-2"]


def test_the_doctor_says_when_the_service_drops_messages_too_early(url: Url) -> None:
    for name, most, attempts, severity in (("a", "5", 5, "loss"), ("b", "12", 5, "warning"), ("c", "0", 99, None)):
        backend = backend_of(url(name, max_dispatches=most))
        backend.create()
        findings = qk.doctor(url(name), max_attempts=attempts).findings
        assert [each.severity for each in findings if each.code == "few_dispatches"] == [severity] * bool(severity)
        assert "retention" in {each.code for each in findings}


def test_a_request_to_another_service_is_made_at_its_time(url: Url, emulator: LocalCloudTasks, worker: Any) -> None:
    backend = backend_of(url(service_account=ACCOUNT))
    backend.create()
    request = HttpRequest(worker.url + "/publish", b"{}", {"Content-Type": "application/json"}, "PUT")
    due = SystemClock().time() + 3600
    (outcome,) = backend.schedule_http(
        [ScheduledRequest("m-1", request, due, HttpAuth("oauth", "scope"))], timeout_s=10
    )
    assert isinstance(outcome, Accepted)
    assert outcome.message_id == "m-1"
    emulator.wait_until_quiet()
    assert worker.seen == []
    emulator.advance(timedelta(hours=1))
    emulator.wait_until_quiet()
    (seen,) = worker.seen
    assert (seen.method, seen.path, seen.body) == ("PUT", "/tasks/publish", b"{}")
    assert seen.headers["Authorization"].startswith("Bearer ya29.")


def test_a_request_that_cannot_be_made_is_refused(url: Url, worker: Any) -> None:
    request, auth = HttpRequest(worker.url), HttpAuth("oauth", "scope")
    wanted = [ScheduledRequest("m-1", request, 0, auth)]
    (no_account,) = backend_of(url()).schedule_http(wanted, timeout_s=10)
    real = backend_of("cloudtasks://shop/here/orders?service_account=a@shop.example")
    (plain,) = real.schedule_http(wanted, timeout_s=10)
    assert isinstance(no_account, Rejected)
    assert "service_account" in no_account.error.detail
    assert isinstance(plain, Rejected)
    assert "http" in plain.error.detail
    assert real.api_calls() == {}


def test_every_webhook_goes_through_byte_by_byte(
    backend: Any, url: Url, emulator: LocalCloudTasks, worker: Any
) -> None:
    if not WEBHOOKS.exists():
        pytest.skip(
            f"{WEBHOOKS.name} is not in {WEBHOOKS.parent}; name the folder that holds data/ with QUEUEKIT_SHARED"
        )
    bodies = WEBHOOKS.read_bytes().splitlines()
    with qk.Producer(url(), payload=bytes) as producer:
        producer.send_many(bodies).raise_for_failures()
    emulator.wait_until_quiet()
    assert len(bodies) == 451
    assert sorted(each.body for each in worker.seen) == sorted(bodies)
