# SPDX-License-Identifier: Apache-2.0
"""The calls about queues, as Google's own client makes them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud.tasks_v2 import Queue
from google.protobuf import field_mask_pb2

from queuekit.testing.emulators import LocalCloudTasks

LOCATION = "projects/shop/locations/europe-west1"
NAME = f"{LOCATION}/queues/orders"
MakeQueue = Callable[..., str]


def mask(*paths: str) -> field_mask_pb2.FieldMask:
    return field_mask_pb2.FieldMask(paths=paths)


def test_a_new_queue_has_the_documented_defaults(client: Any, queue: MakeQueue) -> None:
    found = client.get_queue(name=queue())
    assert found.state == Queue.State.RUNNING
    limits, retries = found.rate_limits, found.retry_config
    assert (limits.max_dispatches_per_second, limits.max_concurrent_dispatches, limits.max_burst_size) == (
        500,
        1000,
        500,
    )
    assert (retries.max_attempts, retries.max_doublings) == (100, 16)
    assert (retries.min_backoff, retries.max_backoff) == (timedelta(seconds=0.1), timedelta(hours=1))
    assert not found.purge_time


def test_what_is_output_only_is_not_taken(client: Any) -> None:
    given = {"name": NAME, "state": "PAUSED", "rate_limits": {"max_dispatches_per_second": 2.5, "max_burst_size": 7}}
    made = client.create_queue(parent=LOCATION, queue=given)
    assert (made.state, made.rate_limits.max_burst_size) == (Queue.State.RUNNING, 10)


def test_backoffs_are_cut_to_seconds_unless_they_are_below_one(client: Any, queue: MakeQueue) -> None:
    name = queue(retry_config={"min_backoff": timedelta(seconds=0.25), "max_backoff": timedelta(seconds=7.9)})
    retries = client.get_queue(name=name).retry_config
    assert (retries.min_backoff, retries.max_backoff) == (timedelta(seconds=0.25), timedelta(seconds=7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_limits": {"max_dispatches_per_second": 500.1}}, "at most 500"),
        ({"rate_limits": {"max_dispatches_per_second": -1}}, "more than 0"),
        ({"rate_limits": {"max_concurrent_dispatches": 5001}}, "at most 5000"),
        ({"retry_config": {"max_attempts": -2}}, "max_attempts"),
        ({"retry_config": {"max_doublings": -1}}, "max_doublings"),
        ({"retry_config": {"min_backoff": timedelta(hours=2)}}, "min_backoff"),
        ({"retry_config": {"max_retry_duration": timedelta(seconds=-1)}}, "max_retry_duration"),
        ({"http_target": {"uri_override": {"host": ""}}}, "host"),
        ({"http_target": {"uri_override": {"port": -1}}}, "port"),
        ({"http_target": {"oidc_token": {"service_account_email": "a@b.example"}}}, "audience"),
        ({"http_target": {"oauth_token": {"service_account_email": "a@b.example"}}}, "scope"),
        ({"http_target": {"header_overrides": [{"header": {"key": "a b", "value": "c"}}]}}, "header"),
    ],
)
def test_a_setting_beyond_its_limits_is_refused(client: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=message):
        client.create_queue(parent=LOCATION, queue={"name": NAME, **settings})
    assert list(client.list_queues(parent=LOCATION)) == []


@pytest.mark.parametrize(
    ("parent", "name"),
    [
        (LOCATION, ""),
        (LOCATION, "orders"),
        (LOCATION, f"{LOCATION}/queues/under_score"),
        (LOCATION, f"{LOCATION}/queues/{'q' * 101}"),
        ("projects/other/locations/europe-west1", NAME),
        ("projects/shop", NAME),
    ],
)
def test_a_name_of_another_form_is_refused(client: Any, parent: str, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        client.create_queue(parent=parent, queue={"name": name})


def test_the_longest_names_are_taken(client: Any) -> None:
    location = "projects/example.com:shop-1/locations/europe-west1"
    name = f"{location}/queues/{'q' * 100}"
    assert client.create_queue(parent=location, queue={"name": name}).name == name


def test_a_queue_is_made_once(client: Any, queue: MakeQueue) -> None:
    name = queue()
    with pytest.raises(exceptions.AlreadyExists, match="Queue already exists"):
        client.create_queue(parent=LOCATION, queue={"name": name})


def test_a_deleted_queue_can_be_made_again_after_three_days(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks, worker: Any
) -> None:
    name = queue()
    client.create_task(parent=name, task={"http_request": {"url": worker.url}, "name": f"{name}/tasks/one"})
    client.delete_queue(name=name)
    for call in (lambda: client.create_queue(parent=LOCATION, queue={"name": name}), lambda: update(client, name)):
        with pytest.raises(exceptions.FailedPrecondition, match="existed too recently"):
            call()
    with pytest.raises(exceptions.FailedPrecondition, match="no longer exists"):
        client.create_task(parent=name, task={"http_request": {"url": worker.url}})
    with pytest.raises(exceptions.NotFound):
        client.get_queue(name=name)
    emulator.advance(timedelta(days=3))
    assert client.create_queue(parent=LOCATION, queue={"name": name}).name == name
    assert list(client.list_tasks(parent=name)) == []


def update(client: Any, name: str, *paths: str, **settings: Any) -> Queue:
    return client.update_queue(queue={"name": name, **settings}, update_mask=mask(*paths))


def test_an_update_makes_a_queue_that_is_not_there(client: Any) -> None:
    assert update(client, NAME, rate_limits={"max_dispatches_per_second": 3}).rate_limits.max_burst_size == 10
    assert client.get_queue(name=NAME).rate_limits.max_dispatches_per_second == 3


def test_a_mask_names_what_changes(client: Any, queue: MakeQueue) -> None:
    name = queue(rate_limits={"max_dispatches_per_second": 3}, retry_config={"max_attempts": 7, "max_doublings": 2})
    changed = update(
        client, name, "retry_config.max_attempts", "state",
        retry_config={"max_attempts": 9, "max_doublings": 5}, rate_limits={"max_dispatches_per_second": 99},
        state="PAUSED",
    )  # fmt: skip
    assert (changed.retry_config.max_attempts, changed.retry_config.max_doublings) == (9, 2)
    assert changed.rate_limits.max_dispatches_per_second == 3
    assert changed.state == Queue.State.RUNNING
    assert client.get_queue(name=name) == changed


def test_a_masked_field_that_is_not_given_goes_back_to_its_default(client: Any, queue: MakeQueue) -> None:
    name = queue(retry_config={"max_attempts": 7})
    assert update(client, name, "retry_config").retry_config.max_attempts == 100


def test_without_a_mask_everything_is_replaced_but_the_state(client: Any, queue: MakeQueue) -> None:
    name = queue(retry_config={"max_attempts": 7}, http_target={"http_method": "PUT"})
    client.pause_queue(name=name)
    client.purge_queue(name=name)
    changed = update(client, name, rate_limits={"max_dispatches_per_second": 1})
    assert (changed.retry_config.max_attempts, changed.rate_limits.max_dispatches_per_second) == (100, 1)
    assert "http_target" not in changed
    assert changed.state == Queue.State.PAUSED
    assert changed.purge_time


def test_a_mask_of_no_field_is_refused(client: Any, queue: MakeQueue) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="update_mask"):
        update(client, queue(), "retry_config.colour")


def test_queues_of_a_location_are_listed_by_name_in_pages(client: Any, queue: MakeQueue) -> None:
    names = [queue(each) for each in ("c", "a", "b")]
    client.create_queue(
        parent="projects/other/locations/europe-west1",
        queue={"name": "projects/other/locations/europe-west1/queues/z"},
    )
    pages = list(client.list_queues(request={"parent": LOCATION, "page_size": 2}).pages)
    assert [[each.name for each in page.queues] for page in pages] == [sorted(names)[:2], sorted(names)[2:]]


def test_queues_are_filtered_by_state(client: Any, queue: MakeQueue) -> None:
    running, paused = queue("running"), queue("paused")
    client.pause_queue(name=paused)

    def listed(text: str) -> list[str]:
        return [each.name for each in client.list_queues(request={"parent": LOCATION, "filter": text})]

    assert listed("state: PAUSED") == [paused]
    assert listed('state != "PAUSED"') == [running]
    with pytest.raises(exceptions.MethodNotImplemented):
        listed("rate_limits.max_burst_size > 5")
    with pytest.raises(exceptions.InvalidArgument):
        listed("state: SLEEPING")


def test_a_page_token_belongs_to_one_list_for_two_hours(
    client: Any, queue: MakeQueue, emulator: LocalCloudTasks
) -> None:
    for each in ("a", "b"):
        queue(each)
    token = client.list_queues(request={"parent": LOCATION, "page_size": 1}).next_page_token
    for wrong in ({"page_token": "x"}, {"page_token": token, "filter": "state: PAUSED"}, {"page_size": -1}):
        with pytest.raises(exceptions.InvalidArgument, match="page_"):
            client.list_queues(request={"parent": LOCATION, **wrong})
    emulator.advance(timedelta(hours=2, seconds=1))
    with pytest.raises(exceptions.InvalidArgument, match="2 hours"):
        client.list_queues(request={"parent": LOCATION, "page_token": token})


@pytest.mark.parametrize("call", ["get_queue", "delete_queue", "purge_queue", "pause_queue", "resume_queue"])
def test_a_queue_that_is_not_there_is_not_found(client: Any, call: str) -> None:
    with pytest.raises(exceptions.NotFound):
        getattr(client, call)(name=NAME)


def test_what_is_not_emulated_says_so(client: Any, queue: MakeQueue) -> None:
    with pytest.raises(exceptions.MethodNotImplemented):
        client.get_iam_policy(request={"resource": queue()})
