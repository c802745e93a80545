# SPDX-License-Identifier: Apache-2.0
"""``priorities=weighted``, on memory and SQLite alike."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from queuekit.backend import Action, OutgoingMessage

from .stores import Store, ids, send, settle, take


def fill(queue: Any, count: int, *priorities: int) -> None:
    for each in priorities:
        queue.send([OutgoingMessage(f"{each}", b"", priority=each) for _ in range(count)], timeout_s=1)


def test_each_priority_gets_its_share(embedded: Store) -> None:
    queue = embedded.open(priorities="weighted")
    fill(queue, 300, 9, 4, 0)
    got: Counter[str] = Counter()
    for _ in range(32):
        got.update(ids(take(queue, 10)))
    # Weights 10, 5 and 1 of 16: of 320 messages 200, 100 and 20 are expected.
    assert sum(got.values()) == 320
    assert (170 <= got["9"] <= 230, 70 <= got["4"] <= 130, 8 <= got["0"] <= 35) == (True, True, True)


def test_one_at_a_time_nobody_is_starved(embedded: Store) -> None:
    queue = embedded.open(priorities="weighted")
    fill(queue, 400, 9)
    fill(queue, 1, 0)
    fill(queue, 1, 3)
    got = [each for _ in range(200) for each in ids(take(queue, 1))]
    assert {"0", "3"} <= set(got)


def test_strict_serves_the_lower_ones_last(embedded: Store) -> None:
    queue = embedded.open()
    fill(queue, 50, 0, 9)
    assert ids(take(queue, 50)) == ["9"] * 50


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_every_message_comes_once_and_a_batch_is_full(embedded: Store, limit: int) -> None:
    queue = embedded.open(priorities="weighted")
    fill(queue, 20, 9, 5, 0)
    send(queue, *(f"key{index}" for index in range(3)), ordering_key="k", priority=2)
    taken = []
    while batch := take(queue, limit):
        assert len(batch) == min(limit, 61 - len(taken)) or len(taken) >= 61 or "key1" in ids(batch + taken)
        taken += batch
        settle(queue, batch)
    assert Counter(ids(taken)) == {"9": 20, "5": 20, "0": 20, "key0": 1, "key1": 1, "key2": 1}
    assert [each for each in ids(taken) if each.startswith("key")] == ["key0", "key1", "key2"]


def test_a_batch_has_the_best_first_and_each_priority_in_order_of_sending(embedded: Store) -> None:
    queue = embedded.open(priorities="weighted")
    for index in range(30):
        send(queue, f"{index:02}", priority=index % 3)
    taken = take(queue, 12)
    assert [each.priority for each in taken] == sorted((each.priority for each in taken), reverse=True)
    for priority in range(3):
        of_it = [each.message_id for each in taken if each.priority == priority]
        assert of_it == [f"{index:02}" for index in range(30) if index % 3 == priority][: len(of_it)]


def test_what_a_lease_gives_back_is_drawn_again(embedded: Store) -> None:
    queue = embedded.open(priorities="weighted")
    fill(queue, 5, 9, 0)
    settle(queue, take(queue, 6), Action.RETRY)
    assert Counter(ids(take(queue))) == {"9": 5, "0": 5}


def test_with_the_same_seed_it_replays(embedded: Store, tmp_path: Any) -> None:
    runs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        again = Store(embedded.kind, tmp_path / name)
        queue = again.open(f"of-{name}", priorities="weighted")
        fill(queue, 40, 9, 5, 0)
        runs.append([each for _ in range(30) for each in ids(take(queue, 3))])
        again.close()
    assert runs[0] == runs[1]
