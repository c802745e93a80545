# SPDX-License-Identifier: Apache-2.0
"""The calls about tasks, as Google's own client makes them. Queues are paused, so that tasks stay."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud.tasks_v2 import HttpMethod, HttpRequest, Task

from queuekit.testing import VirtualClock
from queuekit.testing.emulators import LocalCloudTasks

LOCATION = "projects/shop/locations/europe-west1"
URL = "http://127.0.0.1:9/tasks"
FULL = Task.View.FULL
MakeQueue = Callable[..., str]


@pytest.fixture
def paused(client: Any, queue: MakeQueue) -> str:
    name = queue()
    client.pause_queue(name=name)
    return name


def create(client: Any, parent: str, *, view: int = 0, **task: Any) -> Task:
    request = task.pop("http_request", {"url": URL})
    given = {"http_request": request, **task}
    return client.create_task(request={"parent": parent, "task": given, "response_view": view})


def test_a_task_is_filled_in(client: Any, paused: str, clock: VirtualClock) -> None:
    task = create(client, paused, http_request={"url": URL, "body": b"hi", "headers": {"A": "b"}})
    now = datetime.fromtimestamp(clock.time(), UTC)
    assert task.name.startswith(f"{paused}/tasks/")
    assert task.schedule_time == now
    assert task.create_time == now.replace(microsecond=0)
    assert task.dispatch_deadline == timedelta(minutes=10)
    assert task.http_request.http_method == HttpMethod.POST
    assert dict(task.http_request.headers) == {"A": "b", "User-Agent": "Google-Cloud-Tasks"}
    assert (task.dispatch_count, task.response_count) == (0, 0)
    assert "first_attempt" not in task


def test_only_the_full_view_shows_the_body(client: Any, paused: str) -> None:
    request = {"url": URL, "body": b"secret"}
    basic = create(client, paused, http_request=request)
    full = create(client, paused, http_request=request, view=FULL)
    assert (basic.view, basic.http_request.body) == (Task.View.BASIC, b"")
    assert (full.view, full.http_request.body) == (FULL, b"secret")
    got = client.get_task(request={"name": basic.name, "response_view": FULL})
    assert got.http_request.body == b"secret"
    assert [each.http_request.body for each in client.list_tasks(parent=paused)] == [b"", b""]
    listed = client.list_tasks(request={"parent": paused, "response_view": FULL})
    assert [each.http_request.body for each in listed] == [b"secret", b"secret"]


def test_a_schedule_time_in_the_past_is_now_and_beyond_thirty_days_refused(
    client: Any, paused: str, clock: VirtualClock
) -> None:
    now = datetime.fromtimestamp(clock.time(), UTC)
    assert create(client, paused, schedule_time=now - timedelta(days=400)).schedule_time == now
    exact = now + timedelta(days=29, microseconds=123457)
    assert create(client, paused, schedule_time=exact).schedule_time == exact
    assert create(client, paused, schedule_time=now + timedelta(days=30)).name
    with pytest.raises(exceptions.InvalidArgument, match="no more than 720h in the future"):
        create(client, paused, schedule_time=now + timedelta(days=30, seconds=1))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "url is required"),
        ({"url": "ftp://127.0.0.1/"}, "must begin with"),
        ({"url": "file:///etc/passwd"}, "must begin with"),
        ({"url": "127.0.0.1/tasks"}, "must begin with"),
        ({"url": "http://"}, "not a valid URL"),
        ({"url": "http://h:99999/"}, "not a valid URL"),
        ({"url": "http://h/\r\nX: y"}, "control"),
        ({"url": "http://h/" + "x" * 2075}, "2083"),
        ({"url": "http://h/" + "é" * 400}, "2083"),
        ({"url": URL, "http_method": "GET", "body": b"x"}, "POST, PUT or PATCH"),
        ({"url": URL, "http_method": "DELETE", "body": b"x"}, "POST, PUT or PATCH"),
        ({"url": URL, "headers": {"A B": "c"}}, "header"),
        ({"url": URL, "headers": {"A": "b\r\nC: d"}}, "control character"),
        ({"url": URL, "headers": {"A": "x" * 80 * 1024}}, "less than 80KB"),
        ({"url": URL, "oidc_token": {}}, "service_account_email"),
        ({"url": "http://worker.example/", "oidc_token": {"service_account_email": "a@b.example"}}, "https://"),
    ],
)
def test_a_request_that_cannot_be_sent_is_refused(
    client: Any, paused: str, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=message):
        create(client, paused, http_request=request_)
    assert list(client.list_tasks(parent=paused)) == []


def test_the_longest_url_is_taken_and_encoded(client: Any, paused: str) -> None:
    longest = "http://h/" + "x" * 2074
    assert create(client, paused, http_request={"url": longest}).http_request.url == longest
    assert create(client, paused, http_request={"url": "HTTP://h/a b?ü=%20"}).http_request.url == (
        "http://h/a%20b?%C3%BC=%20"
    )


def test_a_mebibyte_is_the_largest_task(client: Any, paused: str) -> None:
    def sized(body: int) -> Task:
        return Task(http_request=HttpRequest(url=URL, body=b"x" * body))

    fits = (1 << 20) - (Task.pb(sized(1 << 20)).ByteSize() - (1 << 20))
    assert Task.pb(sized(fits)).ByteSize() == 1 << 20
    assert client.create_task(parent=paused, task=sized(fits)).name
    with pytest.raises(exceptions.InvalidArgument, match="Task size too large"):
        client.create_task(parent=paused, task=sized(fits + 1))


def test_a_task_has_one_target(client: Any, paused: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="must be set"):
        client.create_task(parent=paused, task={})
    with pytest.raises(exceptions.MethodNotImplemented, match="App Engine"):
        client.create_task(parent=paused, task={"app_engine_http_request": {"relative_uri": "/x"}})


def test_the_deadline_is_from_fifteen_seconds_to_thirty_minutes(client: Any, paused: str) -> None:
    for seconds in (14.999, 1800.001, 0, -20):
        with pytest.raises(exceptions.InvalidArgument, match="15 seconds, 30 minutes"):
            create(client, paused, dispatch_deadline=timedelta(seconds=seconds))
    exact = timedelta(seconds=15, microseconds=1900)
    assert create(client, paused, dispatch_deadline=exact).dispatch_deadline == timedelta(seconds=15.001)
    assert create(client, paused, dispatch_deadline=timedelta(minutes=30)).name


def test_headers_of_the_service_and_of_the_connection_are_not_taken(client: Any, paused: str) -> None:
    given = {
        "Host": "evil.example", "Content-Length": "5", "User-Agent": "me", "X-Google-Secret": "x",
        "X-AppEngine-TaskName": "x", "X-CloudTasks-TaskName": "x", "Transfer-Encoding": "chunked",
        "Connection": "upgrade", "Content-Type": "application/json",
    }  # fmt: skip
    task = create(client, paused, http_request={"url": URL, "headers": given})
    assert dict(task.http_request.headers) == {
        "Content-Type": "application/json",
        "User-Agent": "Google-Cloud-Tasks",
    }


def test_output_only_fields_are_not_taken(client: Any, paused: str) -> None:
    task = create(client, paused, dispatch_count=7, response_count=3, last_attempt={"response_status": {"code": 5}})
    assert (task.dispatch_count, task.response_count, "last_attempt" in task) == (0, 0, False)


def test_a_named_task_is_created_once_and_again_after_a_day(
    client: Any, paused: str, emulator: LocalCloudTasks
) -> None:
    name = f"{paused}/tasks/{'a_-9' * 125}"
    assert create(client, paused, name=name).name == name
    with pytest.raises(exceptions.AlreadyExists, match="Requested entity already exists"):
        create(client, paused, name=name)
    client.delete_task(name=name)
    emulator.advance(timedelta(hours=23, minutes=59))
    with pytest.raises(exceptions.AlreadyExists, match="existed too recently"):
        create(client, paused, name=name)
    emulator.advance(timedelta(minutes=1))
    assert create(client, paused, name=name).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one", "Task name must be formatted"),
        (f"{LOCATION}/queues/orders/tasks/", "Task name must be formatted"),
        (f"{LOCATION}/queues/orders/tasks/a.b", "Task name must be formatted"),
        (f"{LOCATION}/queues/orders/tasks/{'a' * 501}", "Task name must be formatted"),
        (f"{LOCATION}/queues/others/tasks/a", "must be the same as the queue name in the named task"),
    ],
)
def test_a_task_name_of_another_form_is_refused(client: Any, paused: str, name: str, message: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=message):
        create(client, paused, name=name)


def test_a_task_for_a_queue_that_is_not_there_is_refused(client: Any) -> None:
    with pytest.raises(exceptions.FailedPrecondition, match="Queue does not exist"):
        create(client, f"{LOCATION}/queues/nowhere")
    with pytest.raises(exceptions.NotFound, match="Queue does not exist"):
        list(client.list_tasks(parent=f"{LOCATION}/queues/nowhere"))
    with pytest.raises(exceptions.InvalidArgument, match="Queue name must be formatted"):
        create(client, "nowhere")


@pytest.mark.parametrize("call", ["get_task", "delete_task", "run_task"])
def test_a_task_that_is_not_there_is_not_found(client: Any, paused: str, call: str) -> None:
    with pytest.raises(exceptions.NotFound, match="Task does not exist"):
        getattr(client, call)(name=f"{paused}/tasks/never")
    create(client, paused, name=f"{paused}/tasks/once")
    client.delete_task(name=f"{paused}/tasks/once")
    with pytest.raises(exceptions.NotFound, match="no longer exists"):
        getattr(client, call)(name=f"{paused}/tasks/once")


def test_tasks_are_listed_in_pages(client: Any, paused: str) -> None:
    names = {create(client, paused).name for _ in range(5)}
    pages = list(client.list_tasks(request={"parent": paused, "page_size": 2}).pages)
    assert [len(page.tasks) for page in pages] == [2, 2, 1]
    assert {task.name for page in pages for task in page.tasks} == names


def test_a_purge_removes_every_task_and_keeps_their_names(client: Any, paused: str, clock: VirtualClock) -> None:
    create(client, paused)
    create(client, paused, name=f"{paused}/tasks/one")
    purged = client.purge_queue(name=paused)
    assert purged.purge_time == datetime.fromtimestamp(clock.time(), UTC)
    assert list(client.list_tasks(parent=paused)) == []
    with pytest.raises(exceptions.AlreadyExists):
        create(client, paused, name=f"{paused}/tasks/one")


def test_a_task_is_gone_after_thirty_one_days(client: Any, paused: str, emulator: LocalCloudTasks) -> None:
    create(client, paused)
    emulator.advance(timedelta(days=30, hours=23))
    later = create(client, paused)
    emulator.advance(timedelta(hours=1))
    emulator.wait_until_quiet()
    assert [each.name for each in client.list_tasks(parent=paused)] == [later.name]


def test_a_task_may_have_retries_of_its_own(client: Any, paused: str) -> None:
    assert create(client, paused, retry_config={"max_attempts": 3}).retry_config.max_doublings == 16
    with pytest.raises(exceptions.InvalidArgument, match="max_attempts"):
        create(client, paused, retry_config={"max_attempts": -5})


def batch(client: Any, parent: str, *tasks: dict[str, Any], **more: Any) -> Any:
    requests = [{"parent": parent, "task": task} for task in tasks]
    return client.batch_create_tasks(request={"parent": parent, "requests": requests, **more})


def test_a_batch_creates_what_is_right_and_names_the_rest(client: Any, paused: str) -> None:
    good, bad = {"http_request": {"url": URL}}, {"http_request": {"url": "ftp://x"}}
    operation = batch(client, paused, good, bad, good)
    assert len(operation.result(timeout=5).tasks) == 2
    assert operation.metadata.state.name == "PARTIALLY_SUCCEEDED"
    assert {index: failed.code for index, failed in operation.metadata.failed_requests.items()} == {1: 3}
    assert len(list(client.list_tasks(parent=paused))) == 2
    assert client.get_operation(request={"name": operation.operation.name}).done


def test_a_batch_of_which_nothing_is_right_is_aborted(client: Any, paused: str) -> None:
    with pytest.raises(exceptions.Aborted, match="None of the requests succeeded"):
        batch(client, paused, {"http_request": {"url": "ftp://x"}}).result(timeout=5)


def test_a_batch_is_done_once_for_one_request_id(client: Any, paused: str) -> None:
    good = {"http_request": {"url": URL}}
    names = [batch(client, paused, good, request_id="1").operation.name for _ in range(2)]
    assert names[0] == names[1] != batch(client, paused, good, request_id="2").operation.name
    assert len(list(client.list_tasks(parent=paused))) == 2


def test_a_batch_beyond_its_limits_creates_nothing(client: Any, paused: str) -> None:
    good = {"http_request": {"url": URL}}
    large = {"http_request": {"url": URL, "body": b"x" * 1_000_000}}
    for tasks in ([good] * 101, [], [large] * 11):
        with pytest.raises(exceptions.InvalidArgument):
            batch(client, paused, *tasks)
    with pytest.raises(exceptions.InvalidArgument, match="parent"):
        client.batch_create_tasks(request={"parent": paused, "requests": [{"parent": "other", "task": good}]})
    assert list(client.list_tasks(parent=paused)) == []


def test_a_batch_deletes_what_is_there(client: Any, paused: str) -> None:
    name = create(client, paused).name
    operation = client.batch_delete_tasks(request={"parent": paused, "names": [name, f"{paused}/tasks/never"]})
    operation.result(timeout=5)
    assert {index: failed.code for index, failed in operation.metadata.failed_requests.items()} == {1: 5}
    assert list(client.list_tasks(parent=paused)) == []
    with pytest.raises(exceptions.InvalidArgument):
        client.batch_delete_tasks(request={"parent": paused, "names": [f"{LOCATION}/queues/x/tasks/a"]})
    with pytest.raises(exceptions.NotFound):
        client.get_operation(request={"name": f"{LOCATION}/operations/none"})
