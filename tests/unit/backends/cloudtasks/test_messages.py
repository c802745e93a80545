# SPDX-License-Identifier: Apache-2.0
"""Messages as headers: everything comes back, and nothing else becomes an attribute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit.backend import OutgoingMessage
from queuekit.backends.cloudtasks._messages import MOST_BYTES, headers_of, length_of, read

TEXTS = st.text(max_size=20) | st.sampled_from(["", " a", "a ", "\x7f", "\r\nX: y", "ü" * 5000, "x" * 4001])
NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(["Tenant", "a b", "qk", "qk-1", "content-type", "x" * 201])


def arrived(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@given(attributes=st.dictionaries(NAMES, TEXTS, max_size=3), metadata=st.dictionaries(NAMES, TEXTS, max_size=3))
def test_attributes_and_metadata_come_back(attributes: dict[str, str], metadata: dict[str, str]) -> None:
    attributes = {name: attributes[name] for name in {each.lower(): each for each in attributes}.values()}
    headers = headers_of(OutgoingMessage("m-1", b"", attributes, metadata))
    assert all(value.isascii() and value.isprintable() and value == value.strip() for value in headers.values())
    found = read(arrived(headers), b"body", "handle")
    assert (found.message_id, found.body, found.handle) == ("m-1", b"body", "handle")
    assert (dict(found.attributes), dict(found.metadata)) == (attributes, metadata)


def test_what_can_be_a_header_is_one_for_others_to_read() -> None:
    headers = headers_of(OutgoingMessage("m", b"", {"tenant": "a b"}, {"datacontenttype": "application/json"}))
    assert headers["qk-a-tenant"] == "a b"
    assert headers["Content-Type"] == "application/json"


def test_long_metadata_goes_on_in_further_headers() -> None:
    message = OutgoingMessage("m", b"", {"x": "ü" * 4000}, {"y": "z" * 10_000})
    headers = headers_of(message)
    assert max(map(len, headers.values())) <= 4000
    found = read(arrived(headers), b"", "")
    assert (found.attributes, found.metadata) == (message.attributes, message.metadata)


def test_a_dead_letter_leaves_out_what_has_no_room_and_says_so() -> None:
    metadata = {"dead-reason": "bad", "dead-traceback": "x" * 90_000, "dead-error": "ValueError"}
    headers = headers_of(OutgoingMessage("m", b"", {}, metadata))
    assert length_of(headers) <= MOST_BYTES
    found = read(arrived(headers), b"", "").metadata
    assert found == {"dead-reason": "bad", "dead-error": "ValueError", "dead-trimmed": "dead-traceback"}


@pytest.mark.parametrize(
    ("over", "lost"), [(0, []), (20, ["dead-worker"]), (200, ["dead-worker", "dead-first", "dead-reason"])]
)
def test_a_dead_letter_beside_many_attributes_says_less_rather_than_to_be_refused(over: int, lost: list[str]) -> None:
    dead = {"dead-reason": "r" * 300, "dead-worker": "w" * 60, "dead-first": "f" * 24, "dead-attempts": "5"}
    attributes = {f"a{number}": "x" * 3800 for number in range(20)} | {"b": "x", "c": "x"}
    room = MOST_BYTES - length_of(headers_of(OutgoingMessage("m", b"", attributes, dead)))
    attributes["b"], attributes["c"] = "x" * 3000, "x" * (room + over - 2998)
    headers = headers_of(OutgoingMessage("m", b"", attributes, dead))
    assert length_of(headers) <= MOST_BYTES
    found = read(arrived(headers), b"", "")
    assert found.attributes == attributes
    assert found.metadata.get("dead-trimmed", "").split() == lost
    assert set(dead) - set(found.metadata) == set(lost)


def test_headers_of_others_are_no_attributes() -> None:
    headers = {"x-custom": "1", "host": "h", "x-cloudtasks-taskname": "t-1", "x-cloudtasks-taskretrycount": "2"}
    found = read(headers, b"x", "")
    assert (found.message_id, found.attributes, found.metadata, found.attempt) == ("t-1", {}, {}, 3)
    for broken in ("{", "[]", "[" * 100_000, '{"id": "a b", "meta": 1, "attrs": {"a": 1}}'):
        found = read({**headers, "qk": broken}, b"x", "")
        assert (found.message_id, found.attributes, found.metadata) == ("t-1", {}, {})
