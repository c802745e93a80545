# SPDX-License-Identifier: Apache-2.0
"""What a queue's own target changes in the requests of its tasks."""

from typing import Any

import pytest
from google.cloud import tasks_v2

from queuekit.testing.emulators.cloud_tasks._requests import Request, Token, request_of

URL = "https://worker.example:8443/tasks?a=1"


def made(target: dict[str, Any] | None, *, url: str = URL, body: bytes = b"hi", **request: Any) -> Request:
    task = tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=url, http_method="POST", **request))
    queue_target = None if target is None else tasks_v2.HttpTarget.pb(tasks_v2.HttpTarget(target))
    return request_of(tasks_v2.Task.pb(task), body, queue_target, {"X-CloudTasks-QueueName": "orders"})


@pytest.mark.parametrize(
    ("override", "url"),
    [
        ({}, URL),
        ({"host": "other.example"}, "https://other.example:8443/tasks?a=1"),
        ({"scheme": "HTTP", "port": 80}, "http://worker.example:80/tasks?a=1"),
        ({"port": 0}, "https://worker.example/tasks?a=1"),
        ({"path_override": {"path": "other"}}, "https://worker.example:8443/other?a=1"),
        ({"path_override": {"path": "/a b"}}, "https://worker.example:8443/a%20b?a=1"),
        ({"path_override": {"path": ""}, "query_override": {"query_params": ""}}, "https://worker.example:8443"),
        ({"query_override": {"query_params": "b=2"}}, "https://worker.example:8443/tasks?b=2"),
        (
            {
                "host": "other.example", "port": 1, "path_override": {"path": "/x"},
                "query_override": {"query_params": "x"}, "uri_override_enforce_mode": "IF_NOT_EXISTS",
            },
            URL,
        ),
    ],
)  # fmt: skip
def test_a_queue_overrides_parts_of_the_url(override: dict[str, Any], url: str) -> None:
    assert made({"uri_override": override}).url == url


def test_what_is_missing_is_filled_in_where_that_alone_is_wanted() -> None:
    override = {
        "port": 8080, "path_override": {"path": "/x"}, "query_override": {"query_params": "q"},
        "uri_override_enforce_mode": "IF_NOT_EXISTS",
    }  # fmt: skip
    assert made({"uri_override": override}, url="http://[::1]").url == "http://[::1]:8080/x?q"


def test_a_get_of_the_queue_has_no_body() -> None:
    changed = made({"http_method": "GET"})
    assert (changed.method, changed.body) == ("GET", b"")
    assert made(None).body == b"hi"


def test_headers_of_the_queue_replace_those_of_the_task_in_any_case() -> None:
    override = {
        "header_overrides": [{"header": {"key": "a", "value": "2"}}, {"header": {"key": "Host", "value": "x"}}]
    }
    assert made(override, headers={"A": "1", "B": "1"}).headers == {
        "B": "1",
        "a": "2",
        "X-CloudTasks-QueueName": "orders",
    }


def test_the_token_of_the_queue_comes_first_and_replaces_an_authorization() -> None:
    own = {"service_account_email": "a@shop.example"}
    assert made(None, oidc_token=own).token == Token("oidc", "a@shop.example", URL)
    assert made(None, oauth_token=own).token == Token(
        "oauth", "a@shop.example", "https://www.googleapis.com/auth/cloud-platform"
    )
    target = {"oidc_token": {"service_account_email": "b@shop.example", "audience": "us"}}
    changed = made(target, oauth_token=own, headers={"authorization": "x"})
    assert changed.token == Token("oidc", "b@shop.example", "us")
    assert "authorization" not in changed.headers
    assert made(None, headers={"Authorization": "x"}).headers["Authorization"] == "x"
