# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from redis import crc, exceptions

from queuekit.backends.redis._scripts import keys_of
from queuekit.backends.redis._topology import (
    SLOTS,
    Node,
    Redirect,
    is_primary,
    read_primary,
    read_slots,
    redirect_of,
    slot_of,
)

ASKED = Node("db.example", 7000)


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),  # the example of the cluster's specification
        ("{user1000}.following", slot_of("user1000")),
        ("foo{}{bar}", slot_of("foo{}{bar}")),
        ("foo{{bar}}zap", slot_of("{bar")),
        ("foo{bar}{zap}", slot_of("bar")),
        ("foo{bar", slot_of("foo{bar")),
        ("", 0),
    ],
)
def test_the_slot_of_a_key_is_that_of_its_first_braces(key: str, slot: int) -> None:
    assert slot_of(key) == slot


@given(some.text(alphabet=some.sampled_from("ab{}é:"), max_size=12))
def test_slots_are_those_of_the_client_library(key: str) -> None:
    assert slot_of(key) == crc.key_slot(key.encode())
    assert 0 <= slot_of(key) < SLOTS


@pytest.mark.parametrize("queue", ["orders", "or{d}ers", "orders.dead", "ü", "{}"])
def test_all_keys_of_a_queue_and_of_its_dead_letters_are_in_one_slot(queue: str) -> None:
    keys = [*keys_of(queue).all, *keys_of(queue.removesuffix(".dead") + ".dead", "one").all]
    assert len({slot_of(key) for key in keys}) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.MovedError("3999 127.0.0.1:6381"), Redirect(3999, Node("127.0.0.1", 6381), once=False)),
        (exceptions.AskError("3999 127.0.0.1:6381"), Redirect(3999, Node("127.0.0.1", 6381), once=True)),
        (exceptions.ResponseError("MOVED 1 db-2.example:1"), Redirect(1, Node("db-2.example", 1), once=False)),
        (exceptions.ResponseError("ASK 1 ::1:6381"), Redirect(1, Node("::1", 6381), once=True)),
        (exceptions.ResponseError("ASK 1 [::1]:6381"), Redirect(1, Node("::1", 6381), once=True)),
        (exceptions.MovedError("7 :6381"), Redirect(7, Node("db.example", 6381), once=False)),
        (exceptions.MovedError("7 ?:6381"), Redirect(7, Node("db.example", 6381), once=False)),
        (exceptions.ResponseError("3999 127.0.0.1:6381"), None),
        (exceptions.ResponseError("MOVED to somewhere"), None),
        (exceptions.TryAgainError("Multiple keys request during rehashing of slot"), None),
        (exceptions.ConnectionError("lost"), None),
    ],
)
def test_a_redirection_is_read_from_the_text_or_the_class(error: Exception, expected: Redirect | None) -> None:
    assert redirect_of(error, ASKED) == expected


def test_cluster_slots_tell_the_primaries() -> None:
    one, two = Node("10.0.0.1", 1), Node("10.0.0.2", 2)
    slots = read_slots(
        [
            [5000, 9999, [b"10.0.0.2", 2, b"id", []], [b"10.0.0.9", 9, b"id"]],
            [0, 4999, [b"10.0.0.1", 1, b"id"], [b"10.0.0.8", 8, b"id"]],
            [10000, 10000, [b"10.0.0.1", 1, b"id"]],
            [16000, 16383, [None, 7001, b"id"]],
            [15000, 15001, [b"", 7002, b"id"]],
        ],
        ASKED,
    )
    found = {slot: slots.node_of(slot) for slot in (0, 4999, 5000, 9999, 10000, 10001, 15000, 16383)}
    assert found == {
        0: one,
        4999: one,
        5000: two,
        9999: two,
        10000: one,
        10001: None,
        15000: Node("db.example", 7002),
        16383: Node("db.example", 7001),
    }
    assert set(slots.nodes) == {one, two, Node("db.example", 7001), Node("db.example", 7002)}
    assert read_slots([], ASKED).node_of(0) is None


def test_what_sentinels_and_servers_say_of_roles() -> None:
    assert read_primary([b"10.0.0.1", b"6379"]) == Node("10.0.0.1", 6379)
    assert read_primary(None) is None
    assert is_primary([b"master", 3129659, []])
    assert not is_primary([b"slave", b"10.0.0.1", 6379, b"connected", 3167038])
    assert not is_primary([b"sentinel", [b"main"]])
