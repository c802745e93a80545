# SPDX-License-Identifier: Apache-2.0
"""What a target gets, and what becomes of a task by its answer. Time is moved by hand."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import jwt
import pytest
from google.api_core import exceptions

from queuekit._portable.callers import Caller
from queuekit.push import OIDC
from queuekit.testing import VirtualClock
from queuekit.testing.emulators import Authority, LocalCloudTasks

from .conftest import client_of

LOCATION = "projects/shop/locations/europe-west1"
SECOND = timedelta(seconds=1)
MakeQueue = Callable[..., str]
START = 1_700_000_000


def create(client: Any, parent: str, url: str, **task: Any) -> str:
    request = {"url": url, **task.pop("http_request", {})}
    return client.create_task(parent=parent, task={"http_request": request, **task}).name


def names(client: Any, parent: str) -> list[str]:
    return [each.name for each in client.list_tasks(parent=parent)]


def get(client: Any, name: str) -> Any:
    return client.get_task(name=name)


def test_a_task_arrives_as_it_was_given_with_the_documented_headers(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue()
    request = {
        "body": bytes(range(256)),
        "http_method": "PUT",
        "headers": {"Content-Type": "a/b", "X-Ümlaut"[:1]: "ü"},
    }
    create(client, parent, worker.url + "?a=1", name=f"{parent}/tasks/one", http_request=request)
    emulator.wait_until_quiet()
    (seen,) = worker.seen
    assert (seen.method, seen.path, seen.body) == ("PUT", "/tasks?a=1", bytes(range(256)))
    host = worker.url.removeprefix("http://").removesuffix("/tasks")
    assert seen.headers["X"].encode("latin-1").decode() == "ü"
    assert {name: value for name, value in seen.headers.items() if name != "X"} == {
        "Host": host,
        "Connection": "close",
        "User-Agent": "Google-Cloud-Tasks",
        "Content-Type": "a/b",
        "Content-Length": "256",
        "X-CloudTasks-QueueName": "orders",
        "X-CloudTasks-TaskName": "one",
        "X-CloudTasks-TaskRetryCount": "0",
        "X-CloudTasks-TaskExecutionCount": "0",
        "X-CloudTasks-TaskETA": f"{START}.000000",
    }
    assert names(client, parent) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "POST"])
def test_every_method_is_sent(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any, method: str
) -> None:
    create(client, queue(), worker.url, http_request={"http_method": method})
    emulator.wait_until_quiet()
    assert [each.method for each in worker.seen] == [method]


def test_nothing_is_dispatched_before_its_time(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue()
    create(client, parent, worker.url, schedule_time=datetime.fromtimestamp(START + 3600, UTC))
    emulator.advance(timedelta(seconds=3599))
    emulator.wait_until_quiet()
    assert worker.seen == []
    emulator.advance(SECOND)
    emulator.wait_until_quiet()
    assert worker.seen[0].headers["X-CloudTasks-TaskETA"] == f"{START + 3600}.000000"


def test_a_failed_task_comes_again_by_the_documented_waits_and_is_given_up(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any, clock: VirtualClock
) -> None:
    retries = {
        "min_backoff": 10 * SECOND, "max_backoff": 100 * SECOND, "max_doublings": 2, "max_attempts": 6,
    }  # fmt: skip
    parent = queue(retry_config=retries)
    worker.answers.extend([500, 404, 302, 199 + 300, 500, 500])
    name = create(client, parent, worker.url)
    waits = []
    while True:
        emulator.wait_until_quiet()
        try:
            due = get(client, name).schedule_time.timestamp()
        except exceptions.NotFound:
            break
        waits.append(round(due - clock.time(), 3))
        emulator.advance(timedelta(seconds=waits[-1]))
    assert waits == [10, 20, 40, 80, 100]
    about = [
        (each.headers["X-CloudTasks-TaskRetryCount"], each.headers["X-CloudTasks-TaskExecutionCount"])
        for each in worker.seen
    ]
    assert about == [("0", "0"), ("1", "0"), ("2", "1"), ("3", "2"), ("4", "3"), ("5", "3")]
    assert [each.headers.get("X-CloudTasks-TaskPreviousResponse") for each in worker.seen] == [
        None, "500", "404", "302", "499", "500",
    ]  # fmt: skip
    assert worker.seen[1].headers["X-CloudTasks-TaskRetryReason"] == "HTTP status code 500"


def test_a_failed_attempt_is_told_in_the_task(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    worker.answers.append(404)
    name = create(client, queue(), worker.url)
    emulator.wait_until_quiet()
    task = get(client, name)
    assert (task.dispatch_count, task.response_count) == (1, 1)
    status = task.last_attempt.response_status
    assert (status.code, status.message) == (5, "NOT_FOUND(5): HTTP status code 404")
    now = datetime.fromtimestamp(START, UTC)
    assert (task.first_attempt.dispatch_time, task.last_attempt.response_time) == (now, now)
    assert task.schedule_time == now + timedelta(seconds=0.1)


def test_the_tasks_own_retries_come_before_the_queues(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue(retry_config={"max_attempts": 50})
    worker.answers.extend([500] * 2)
    create(client, parent, worker.url, retry_config={"max_attempts": 2, "min_backoff": SECOND})
    emulator.wait_until_quiet()
    emulator.advance(SECOND)
    emulator.wait_until_quiet()
    assert (len(worker.seen), names(client, parent)) == (2, [])


def test_the_name_of_a_task_that_was_done_is_kept_for_a_day(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue()
    name = f"{parent}/tasks/one"
    create(client, parent, worker.url, name=name)
    emulator.wait_until_quiet()
    with pytest.raises(exceptions.AlreadyExists, match="existed too recently"):
        create(client, parent, worker.url, name=name)
    with pytest.raises(exceptions.NotFound, match="no longer exists"):
        client.run_task(name=name)
    emulator.advance(timedelta(days=1))
    assert create(client, parent, worker.url, name=name) == name


def test_a_target_that_does_not_answer_within_the_deadline_has_failed(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any, told: list[str]
) -> None:
    parent = queue()
    worker.go_on.clear()
    name = create(client, parent, worker.url, dispatch_deadline=15 * SECOND)
    worker.busy.acquire(timeout=20)
    emulator.advance(timedelta(seconds=14.9))
    assert "response_time" not in get(client, name).last_attempt
    emulator.advance(timedelta(seconds=0.1))
    emulator.wait_until_quiet()
    task = get(client, name)
    assert task.last_attempt.response_status.code == 4
    assert (task.dispatch_count, task.response_count) == (1, 0)
    assert told == [f"orders/{name.rpartition('/')[2]}, attempt 1: no answer within the dispatch deadline"]
    assert worker.hung_up(), "whoever answers later has nobody who listens"
    worker.go_on.set()
    emulator.advance(SECOND)
    emulator.wait_until_quiet()
    assert worker.seen[1].headers["X-CloudTasks-TaskPreviousResponse"] == "0"
    assert names(client, parent) == []


def test_retry_after_is_waited_for_in_seconds_and_as_a_date(client: Any, queue: MakeQueue, worker: Any) -> None:
    # A date is read by the time of the targets, which here stands still as well.
    clock = VirtualClock()
    with LocalCloudTasks(clock=clock, outside=clock) as emulator, client_of(emulator) as client:
        parent = client.create_queue(parent=LOCATION, queue={"name": f"{LOCATION}/queues/orders"}).name
        date = format_datetime(datetime.fromtimestamp(START + 90, UTC), usegmt=True)
        worker.answers.extend(
            [(429, {"Retry-After": "60"}), (503, {"Retry-After": date}), (500, {"Retry-After": "?"})]
        )
        name = create(client, parent, worker.url)
        waits = []
        for _ in range(3):
            emulator.wait_until_quiet()
            waits.append(round(get(client, name).schedule_time.timestamp() - clock.time(), 1))
            emulator.advance(timedelta(seconds=waits[-1]))
        assert waits == [60, 30, 0.4]


def test_429_slows_the_whole_queue_and_500_does_not(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    for status, at_once in ((429, 6), (500, 10)):
        parent = queue(f"q{status}", rate_limits={"max_dispatches_per_second": 10})
        worker.seen.clear()
        worker.answers.append((status, {"Retry-After": "3600"}))
        create(client, parent, worker.url)
        emulator.wait_until_quiet()
        emulator.advance(timedelta(minutes=1))
        for _ in range(30):
            create(client, parent, worker.url + "/more")
        emulator.wait_until_quiet()
        # Half of the rate was left, and success brought back a tenth; the bucket had time to fill.
        emulator.advance(SECOND)
        emulator.wait_until_quiet()
        assert (status, len(worker.seen) - 1 - 10) == (status, at_once)
        client.purge_queue(name=parent)


def test_the_rate_is_a_token_bucket(client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any) -> None:
    parent = queue(rate_limits={"max_dispatches_per_second": 2})
    for _ in range(20):
        create(client, parent, worker.url)
    counts = []
    for _ in range(4):
        emulator.wait_until_quiet()
        counts.append(len(worker.seen))
        emulator.advance(SECOND)
    assert counts == [10, 12, 14, 16]


def test_no_more_run_at_once_than_the_queue_allows(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue(rate_limits={"max_concurrent_dispatches": 3})
    worker.go_on.clear()
    for _ in range(7):
        create(client, parent, worker.url)
    for _ in range(3):
        assert worker.busy.acquire(timeout=20)
    running = [each for each in client.list_tasks(parent=parent) if each.dispatch_count]
    assert (len(running), len(worker.seen)) == (3, 3)
    worker.go_on.set()
    emulator.wait_until_quiet()
    assert len(worker.seen) == 7


def test_a_paused_queue_takes_tasks_and_keeps_them_until_it_is_resumed(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue()
    client.pause_queue(name=parent)
    create(client, parent, worker.url)
    emulator.advance(timedelta(days=1))
    emulator.wait_until_quiet()
    assert worker.seen == []
    client.resume_queue(name=parent)
    emulator.wait_until_quiet()
    assert len(worker.seen) == 1


def test_run_dispatches_what_is_paused_full_and_not_due(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue(retry_config={"min_backoff": 7 * SECOND})
    client.pause_queue(name=parent)
    worker.answers.append(500)
    name = create(client, parent, worker.url, schedule_time=datetime.fromtimestamp(START + 3600, UTC))
    assert client.run_task(name=name).dispatch_count == 1
    emulator.wait_until_quiet()
    assert get(client, name).schedule_time == datetime.fromtimestamp(START + 7, UTC)
    client.run_task(name=name)
    emulator.wait_until_quiet()
    assert names(client, parent) == []


def test_run_dispatches_what_is_running_already(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue(rate_limits={"max_concurrent_dispatches": 1})
    worker.go_on.clear()
    worker.answers.extend([500, 500])
    name = create(client, parent, worker.url)
    worker.busy.acquire(timeout=20)
    client.run_task(name=name)
    worker.busy.acquire(timeout=20)
    worker.go_on.set()
    emulator.wait_until_quiet()
    assert get(client, name).dispatch_count == 2
    emulator.advance(SECOND)
    emulator.wait_until_quiet()
    assert len(worker.seen) == 3
    assert names(client, parent) == []


@pytest.mark.parametrize("how", ["delete_task", "purge_queue", "delete_queue"])
def test_what_is_deleted_while_it_runs_does_not_come_again(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any, how: str
) -> None:
    parent = queue()
    worker.go_on.clear()
    worker.answers.append(500)
    name = create(client, parent, worker.url)
    worker.busy.acquire(timeout=20)
    getattr(client, how)(name=name if how == "delete_task" else parent)
    worker.go_on.set()
    emulator.wait_until_quiet()
    emulator.advance(timedelta(hours=1))
    emulator.wait_until_quiet()
    assert len(worker.seen) == 1


def test_the_queues_target_is_what_is_called(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    port = int(worker.url.split(":")[2].split("/")[0])
    override = {"host": "127.0.0.1", "port": port, "scheme": "HTTP", "path_override": {"path": "/central"}}
    parent = queue(http_target={"uri_override": override, "http_method": "PATCH"})
    create(client, parent, "https://worker.example/x", http_request={"body": b"x"})
    emulator.wait_until_quiet()
    assert [(each.method, each.path, each.body) for each in worker.seen] == [("PATCH", "/central", b"x")]


def test_an_oidc_token_is_proved_by_the_published_key(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    parent = queue()
    email = "caller@shop.iam.gserviceaccount.com"
    create(client, parent, worker.url, http_request={"oidc_token": {"service_account_email": email}})
    create(
        client, parent, worker.url,
        http_request={"oidc_token": {"service_account_email": email, "audience": "https://shop.example"}},
    )  # fmt: skip
    emulator.wait_until_quiet()
    keys = jwt.PyJWKClient(emulator.certs_url)
    audiences = set()
    for seen in worker.seen:
        token = seen.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(
            token, keys.get_signing_key_from_jwt(token), algorithms=["RS256"], issuer="https://accounts.google.com",
            audience=[worker.url, "https://shop.example"], options={"require": ["exp", "iat", "sub", "azp"]},
        )  # fmt: skip
        assert (claims["email"], claims["email_verified"]) == (email, True)
        assert claims["exp"] - claims["iat"] == 3600
        audiences.add(claims["aud"])
    assert audiences == {worker.url, "https://shop.example"}


@pytest.mark.parametrize("issuer", ["https://accounts.google.com", "own"])
def test_queuekits_own_endpoint_lets_such_a_token_in(worker: Any, issuer: str) -> None:
    email = "caller@shop.iam.gserviceaccount.com"
    with LocalCloudTasks(issuer=issuer) as emulator, client_of(emulator) as client:
        parent = client.create_queue(parent=LOCATION, queue={"name": f"{LOCATION}/queues/orders"}).name
        create(client, parent, worker.url, http_request={"oidc_token": {"service_account_email": email}})
        emulator.wait_until_quiet()
        header = worker.seen[0].headers["Authorization"]

        def admitted(**other: str) -> bool:
            wanted = {"audience": worker.url, "service_account": email, "issuer": emulator.issuer, **other}
            auth = OIDC(certs_url=emulator.certs_url, **wanted)
            auth.learn()
            return auth.judge(Caller(header, "127.0.0.1", "127.0.0.1", frozenset())).status == 200

        assert admitted()
        assert not admitted(audience="https://other.example")
        assert not admitted(service_account="other@shop.example")


def test_a_target_with_tls_needs_a_certificate_that_is_trusted(worker: Any, tmp_path: Path, told: list[str]) -> None:
    authority = Authority(tmp_path)
    worker.use_tls(authority.issue())
    for ca_file in (None, authority.file):
        with (
            LocalCloudTasks(clock=VirtualClock(), ca_file=ca_file, tell=told.append) as emulator,
            client_of(emulator) as client,
        ):
            parent = client.create_queue(parent=LOCATION, queue={"name": f"{LOCATION}/queues/orders"}).name
            create(client, parent, worker.url)
            emulator.wait_until_quiet()
    assert "CERTIFICATE_VERIFY_FAILED" in told[0]
    assert told[1].endswith("HTTP status code 200")
    assert len(worker.seen) == 1


def test_an_oauth_token_replaces_an_authorization_of_the_task(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    request = {"oauth_token": {"service_account_email": "a@shop.example"}, "headers": {"Authorization": "mine"}}
    create(client, queue(), worker.url, http_request=request)
    emulator.wait_until_quiet()
    assert worker.seen[0].headers["Authorization"].startswith("Bearer ya29.")


def test_the_emulator_can_be_an_issuer_of_its_own() -> None:
    with (
        LocalCloudTasks(issuer="own") as emulator,
        urlopen(f"{emulator.issuer}/.well-known/openid-configuration") as answer,
    ):
        about = json.load(answer)
    assert about["issuer"] == emulator.issuer == emulator.control_url
    assert about["jwks_uri"] == emulator.certs_url


def test_the_clock_is_moved_over_http(worker: Any) -> None:
    with LocalCloudTasks() as emulator, client_of(emulator) as client:
        parent = client.create_queue(parent=LOCATION, queue={"name": f"{LOCATION}/queues/orders"}).name
        create(client, parent, worker.url, schedule_time=datetime.now(UTC) + timedelta(days=1))
        request = Request(f"{emulator.control_url}/advance", data=b'{"seconds": 86400}', method="POST")
        request.add_header("Content-Type", "application/json")
        with urlopen(request) as answer:
            assert json.load(answer) == {"seconds": 86400}
        emulator.wait_until_quiet()
        assert len(worker.seen) == 1


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/advance", "text/plain", b'{"seconds": 1}'),  # what a form of any web page could send
        ("/advance", "application/json", b'{"seconds": -1}'),
        ("/advance", "application/json", b'{"seconds": true}'),
        ("/advance", "application/json", b"[]"),
        ("/other", "application/json", b'{"seconds": 1}'),
    ],
)
def test_a_wrong_request_does_not_move_the_clock(
    emulator: LocalCloudTasks, clock: VirtualClock, path: str, kind: str, body: bytes
) -> None:
    request = Request(f"{emulator.control_url}{path}", data=body, headers={"Content-Type": kind})
    with pytest.raises(OSError, match="400") as raised:
        urlopen(request)
    with contextlib.closing(raised.value):  # type: ignore[type-var]  # an HTTPError, which is an answer too
        assert clock.time() == START


def test_a_target_that_is_not_there_is_tried_again(client: Any, queue: MakeQueue, emulator: LocalCloudTasks) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        name = create(client, queue(), f"http://127.0.0.1:{taken.getsockname()[1]}/")
        emulator.wait_until_quiet()
    task = get(client, name)
    assert (task.last_attempt.response_status.code, task.response_count) == (14, 0)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", 14),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", 14),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhi", 2),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi", 2),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 2),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, 2),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 2),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 2),
        (b"HTTP/1.1 999 ?\r\n\r\n", 2),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 204\r\n\r\n", 0),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 0),
    ],
)
def test_only_a_whole_answer_of_http_is_one(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, answer: bytes, code: int
) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        parent = queue()
        create(client, parent, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        emulator.wait_until_quiet()
        thread.join()
    codes = [each.last_attempt.response_status.code for each in client.list_tasks(parent=parent)]
    assert codes == ([code] if code else [])


def test_a_body_of_the_control_server_without_a_length_is_refused(emulator: LocalCloudTasks) -> None:
    host, _, port = emulator.control_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /advance HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n{}")
        assert b" 400 " in connection.recv(1000)
