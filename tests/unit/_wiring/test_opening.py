# SPDX-License-Identifier: Apache-2.0
"""Where the queue's name stands in a URL, and what is refused there."""

from dataclasses import dataclass, replace
from typing import Literal

import pytest

from queuekit._values.clock import SystemClock
from queuekit._values.errors import InvalidURLError
from queuekit._values.url import QueueURL
from queuekit._wiring import opening
from queuekit._wiring.opening import Opener, dead_letter_url, fill_queue, has_queue
from queuekit.backend import BackendSpec


@dataclass(frozen=True)
class Options:
    a: int = 0
    x: int = 0


@pytest.fixture(autouse=True)
def _schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    slots: dict[str, Literal["host", "path", "option"]] = {"hosted": "host", "pathed": "path", "optioned": "option"}
    specs = {
        scheme: BackendSpec(open=lambda each: each, options=Options, slot=slot, forms=(f"{scheme}://FORM",))  # type: ignore[arg-type,return-value]
        for scheme, slot in slots.items()
    }
    specs["deep"] = replace(specs["pathed"], forms=("deep://FORM",), path_parts=1)
    monkeypatch.setattr(opening, "find_spec", specs.__getitem__)


FILLED = [
    ("hosted://", "orders", "hosted://orders"),
    ("hosted://?a=1", "x:y", "hosted://x%3Ay?a=1"),
    ("pathed://region", "orders", "pathed://region/orders"),
    ("pathed://region/", "orders", "pathed://region/orders"),
    ("deep://project/place", "orders", "deep://project/place/orders"),
    ("deep://project/place/", "orders", "deep://project/place/orders"),
    ("optioned:///f.db", "a&b", "optioned:///f.db?queue=a%26b"),
    ("optioned:///f.db?x=1", "orders", "optioned:///f.db?x=1&queue=orders"),
]


@pytest.mark.parametrize(("url", "queue", "filled"), FILLED)
def test_the_name_goes_into_its_slot_and_is_found_there(url: str, queue: str, filled: str) -> None:
    app_url = QueueURL.parse(url)
    assert not has_queue(app_url)
    whole = fill_queue(app_url, queue)
    assert whole.reveal() == filled
    assert has_queue(whole)
    assert Opener(SystemClock()).open(QueueURL.parse(filled)).queue == queue  # type: ignore[attr-defined]
    assert fill_queue(whole, queue) == whole


@pytest.mark.parametrize(
    ("url", "dead"),
    [
        ("hosted://orders?a=1", "hosted://orders.dead?a=1"),
        ("pathed://r/orders", "pathed://r/orders.dead"),
        ("deep://r/p/orders/", "deep://r/p/orders.dead"),
        ("optioned:///f?queue=orders", "optioned:///f?queue=orders.dead"),
    ],
)
def test_the_dead_letter_queue_stands_beside_its_queue(url: str, dead: str) -> None:
    assert dead_letter_url(QueueURL.parse(url)).reveal() == dead


@pytest.mark.parametrize(
    "url", ["hosted://orders", "pathed://r/orders", "deep://r/p/orders", "optioned:///f?queue=orders"]
)
def test_a_taken_slot_is_not_overwritten(url: str) -> None:
    with pytest.raises(InvalidURLError, match="names the queue 'orders' already"):
        fill_queue(QueueURL.parse(url), "others")


def test_a_slash_cannot_move_a_name_to_another_queue() -> None:
    with pytest.raises(InvalidURLError, match="cannot hold a '/'"):
        fill_queue(QueueURL.parse("pathed://region"), "a/b")


@pytest.mark.parametrize(
    "url",
    ["pathed://r/a/b", "pathed://r//b", "deep://r", "deep://r/", "deep://r/a/b/c", "deep://r/a//"],
)
def test_a_path_of_another_length_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(InvalidURLError, match=r"too few parts, or too many; the form is .*://FORM"):
        fill_queue(QueueURL.parse(url), "orders")
    with pytest.raises(InvalidURLError, match=r"too few parts, or too many; the form is .*://FORM"):
        Opener(SystemClock()).open(QueueURL.parse(url))


@pytest.mark.parametrize("url", ["hosted://", "pathed://r", "pathed://r/", "deep://r/p", "optioned:///f"])
def test_a_url_without_a_queue_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(InvalidURLError, match=r"names no queue; the form is .*://FORM"):
        Opener(SystemClock()).open(QueueURL.parse(url))


@pytest.mark.parametrize("name", ["a%20b", "a%E2%80%A8b", "q" * 256])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(
        InvalidURLError, match="with a space, control character or lone surrogate, or over 255 characters"
    ):
        Opener(SystemClock()).open(QueueURL.parse(f"hosted://{name}"))


@pytest.mark.parametrize("url", ["hosted://", "pathed://r", "optioned:///f"])
def test_half_a_character_is_refused_too(url: str) -> None:
    with pytest.raises(InvalidURLError, match="lone surrogate"):
        Opener(SystemClock()).open(fill_queue(QueueURL.parse(url), "a\ud800b"))


@pytest.mark.parametrize("url", ["hosted://a,b", "hosted://a:1"])
def test_hosts_are_no_queue_name(url: str) -> None:
    with pytest.raises(InvalidURLError, match="takes a queue name where it has hosts"):
        Opener(SystemClock()).open(QueueURL.parse(url))


def test_an_option_of_another_backend_is_refused() -> None:
    with pytest.raises(InvalidURLError, match="no option 'queue' for hosted URLs"):
        Opener(SystemClock()).open(QueueURL.parse("hosted://orders?queue=x"))
