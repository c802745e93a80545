# SPDX-License-Identifier: Apache-2.0
"""Which queue a request of Cloud Tasks belongs to."""

from typing import Any

import pytest

from queuekit._portable.callers import Caller
from queuekit._portable.doorway import Named
from queuekit._values.url import QueueURL
from queuekit.push._cloud_tasks_request import TaskQueue, is_task, queue_behind
from queuekit.push._requests import Refusal, Request

AGENT = "Google-Cloud-Tasks"


def request_with(**headers: str) -> Request:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Request("POST", "", named, Caller(None, "127.0.0.1", "127.0.0.1", frozenset(named)), 0)


def named(url: str, **options: Any) -> Named:
    return Named("orders", QueueURL.parse(url), options)


HERE = named("cloudtasks://shop/here/orders?target=https://worker.example/queues/here")
THERE = named("cloudtasks://shop/there/orders", target="https://worker.example/queues/there")
OTHER = named("cloudtasks://shop/here/mails?target=https://worker.example/queues/here")
ELSEWHERE = named("pubsub://shop/orders")


def test_a_request_names_its_queue_by_a_header() -> None:
    request = request_with(x_cloudtasks_queuename="orders")
    assert is_task(request)
    assert queue_behind(request) == TaskQueue("orders")
    assert not is_task(request_with(user_agent=AGENT))


def test_headers_of_two_services_mean_the_one_that_calls() -> None:
    both = {"x_cloudtasks_queuename": "orders", "x_goog_pubsub_subscription_name": "orders"}
    assert is_task(request_with(user_agent=AGENT, **both))
    assert not is_task(request_with(user_agent="CloudPubSub-Google", **both))
    assert not is_task(request_with(**both))


def test_a_queue_is_known_by_its_name_whatever_the_path() -> None:
    assert TaskQueue("orders").among([OTHER, HERE, ELSEWHERE], "anything") is HERE
    assert TaskQueue("orders").among([OTHER, ELSEWHERE, Named("orders", None, {})], "") is None


@pytest.mark.parametrize("path", ["queues/there", "there"])
def test_of_two_queues_with_one_name_the_path_of_the_target_decides(path: str) -> None:
    assert TaskQueue("orders").among([HERE, THERE], path) is THERE


@pytest.mark.parametrize("path", ["", "here/orders", "ere"])
def test_what_is_not_to_be_made_out_is_refused(path: str) -> None:
    with pytest.raises(Refusal, match="paths of their own") as caught:
        TaskQueue("orders").among([HERE, THERE], path)
    assert caught.value.status == 404
