# SPDX-License-Identifier: Apache-2.0
"""Which URLs mean one queue, and what a message may name."""

from typing import Any

import pytest

from queuekit._values.url import QueueURL
from queuekit._wiring.places import at_base, place_of, places_of, read_place, write_place


def _place(text: str, **keywords: Any) -> QueueURL:
    return place_of(QueueURL.parse(text), keywords)


@pytest.mark.parametrize(
    ("url", "keywords", "place"),
    [
        ("memory://jobs?space=a&dedup_window=5m&foreign=true", {}, "memory://jobs?space=a"),
        ("memory://jobs", {"space": "a", "max_messages": 5, "subscription": None}, "memory://jobs?space=a"),
        ("memory://jobs?lanes=a,b&lane_weights=2,1", {}, "memory://jobs?lanes=a,b"),
        ("redis://user:hunter2@host:6380/2?queue=jobs&rate=5", {}, "redis://host:6380/2?queue=jobs"),
        ("redis+unix:///run/redis.sock?database=3&queue=jobs", {}, "redis+unix:///run/redis.sock?queue=jobs&database=3"),
        ("sqlite:////tmp/x.db?queue=jobs&durability=normal", {}, "sqlite:////tmp/x.db?queue=jobs"),
        ("sqs://eu-west-1/jobs?poll=5s", {"endpoint": "http://127.0.0.1:9"}, "sqs://eu-west-1/jobs?endpoint=http://127.0.0.1:9"),
    ],
    ids=str,
)  # fmt: skip
def test_a_place_is_what_says_which_queue_it_is(url: str, keywords: dict[str, Any], place: str) -> None:
    found = _place(url, **keywords)
    assert write_place(found) == place
    assert read_place(place) == found


def test_a_queue_with_lanes_is_in_the_places_of_its_lanes_too() -> None:
    places = places_of(QueueURL.parse("memory://jobs?lanes=a,b"), {})
    assert {_place("memory://jobs-a"), _place("memory://jobs-b")} < places


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jobs",
        "memory://",
        "memory://user:hunter2@jobs",
        "memory://jobs?dedup_window=5m",
        "memory://jobs?delay_via=memory%3A%2F%2Fx",
        "redis://host/0",
    ],
)
def test_what_is_no_place_is_none(text: str) -> None:
    assert read_place(text) is None


def test_a_place_of_a_service_that_is_not_known_here_is_one_all_the_same() -> None:
    place = read_place("elsewhere://host/jobs")
    assert place is not None
    assert at_base((QueueURL.parse("memory://"), {}), place) is None


@pytest.mark.parametrize(
    ("base", "keywords", "place", "whole"),
    [
        ("memory://", {"space": "a"}, "memory://mails?space=a", "memory://mails"),
        ("memory://", {}, "memory://mails?space=a", None),
        ("memory://jobs", {}, "memory://mails", None),
        ("sqs://eu-west-1", {}, "sqs://eu-west-1/mails", "sqs://eu-west-1/mails"),
        ("sqs://eu-west-1", {}, "sqs://eu-west-2/mails", None),
        ("redis://:pw@h/0?max_messages=9", {}, "redis://h/0?queue=q", "redis://:pw@h/0?max_messages=9&queue=q"),
        ("redis://:pw@h/0", {}, "redis://other/0?queue=q", None),
        ("memory://?lanes=a,b", {}, "memory://mails", "memory://mails"),
    ],
    ids=str,
)
def test_a_queue_of_an_apps_own_url_is_opened_with_what_the_app_has(
    base: str, keywords: dict[str, Any], place: str, whole: str | None
) -> None:
    found = read_place(place)
    assert found is not None
    where = at_base((QueueURL.parse(base), keywords), found)
    assert (None if where is None else where[0].reveal()) == whole


def test_lanes_are_those_of_the_place() -> None:
    place = read_place("memory://mails?lanes=x,y")
    assert place is not None
    where = at_base((QueueURL.parse("memory://"), {"lanes": "a,b"}), place)
    assert where is not None
    assert where[1] == {"lanes": "x,y"}
