# SPDX-License-Identifier: Apache-2.0
"""What is kept for a time, on memory, SQLite and Redis alike: done messages where asked for, and dead letters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from queuekit.backend import Action, OutgoingMessage

from .stores import Store, ids, send, settle, take

HOUR = timedelta(hours=1)
DAY_S = 86_400.0


def finish(queue: Any, *names: str, **fields: Any) -> None:
    send(queue, *names, **fields)
    settle(queue, take(queue))


def bury(queue: Any, *names: str) -> None:
    send(queue, *names)
    settle(queue, take(queue), Action.DEAD)


def touch(store: Store, queue: Any) -> None:
    """Let the time come at which a backend tidies, and use it."""
    store.clock.advance(61)
    settle(queue, take(queue), Action.RELEASE)


def test_done_messages_leave_no_trace_unless_asked_for(store: Store) -> None:
    queue = store.open()
    finish(queue, "a", "b")
    assert (queue.stats().done, list(queue.peek(limit=5, done=True))) == (0, [])


def test_done_messages_can_be_looked_at(store: Store) -> None:
    queue = store.open(keep_done=HOUR)
    began = store.clock.time()
    batch = [OutgoingMessage("a", b"body", {"colour": "blue"}, {"v": "1"}, 0.0, "k", None, 7)]
    queue.send(batch, timeout_s=1)
    settle(queue, take(queue), Action.RETRY)
    store.clock.advance(5)
    settle(queue, take(queue))
    (done,) = queue.peek(limit=5, done=True)
    if store.kind == "redis":  # its streams have the server's own time
        done = done._replace(enqueued_at=began, due_at=began)
    assert done._replace(cursor="") == (
        *("a", b"body", {"colour": "blue"}, {"v": "1"}, "done", 2),
        *(began, began, "k", 7, "", began + 5),
    )
    assert (list(queue.peek(limit=5)), queue.stats().ready, queue.stats().done) == ([], 0, 1)
    assert take(queue) == []


def test_done_messages_are_read_page_by_page_in_order_of_sending(store: Store) -> None:
    queue = store.open(keep_done=HOUR)
    send(queue, "a", "b", "c")
    taken = take(queue)
    settle(queue, taken[2:])
    settle(queue, taken[:2])
    first = queue.peek(limit=2, done=True)
    assert ids(first) == ["a", "b"]
    assert ids(queue.peek(limit=2, done=True, after=first[-1].cursor)) == ["c"]


def test_only_what_is_acknowledged_is_done(store: Store) -> None:
    queue = store.open(keep_done=HOUR)
    bury(queue, "dead")
    finish(queue, "done")
    send(queue, "purged")
    queue.purge()
    send(queue, "late", delay_s=5.0)
    queue.cancel("late")
    assert ids(queue.peek(limit=5, done=True)) == ["done"]


def test_done_messages_are_forgotten_at_their_age(store: Store) -> None:
    queue = store.open(keep_done=HOUR)
    finish(queue, "a")
    store.clock.advance(1800)
    finish(queue, "b")
    store.clock.advance(1799)
    assert queue.stats().done == 2
    store.clock.advance(1)
    assert (queue.stats().done, ids(queue.peek(limit=5, done=True))) == (1, ["b"])


def test_the_latest_of_the_done_are_kept(store: Store) -> None:
    queue = store.open(keep_done=HOUR, keep_done_max=3)
    finish(queue, "a", "b")
    store.clock.advance(1)
    finish(queue, "c", "d", "e")
    assert (queue.stats().done, ids(queue.peek(limit=9, done=True))) == (3, ["c", "d", "e"])


def test_a_smaller_limit_is_reached_in_steps(store: Store) -> None:
    many = store.open(keep_done=HOUR)
    for _ in range(4):
        finish(many, *map(str, range(100)))
    few = store.open(keep_done=HOUR, keep_done_max=10)
    while (before := few.stats().done) > 10:
        finish(few, "x")
        assert few.stats().done < before or before == 10
    assert few.stats().done == 10


def test_who_settles_decides_and_whoever_comes_tidies(store: Store) -> None:
    keeping, other = store.open(keep_done=timedelta(minutes=5)), store.open()
    finish(keeping, "kept")
    finish(other, "not kept")
    assert ids(other.peek(limit=5, done=True)) == ["kept"]
    store.clock.advance(300)
    touch(store, other)
    assert other.stats().done == 0


def test_done_messages_of_a_subscription_are_its_own(store: Store) -> None:
    one, two = store.open(subscription="one", keep_done=HOUR), store.open(subscription="two", keep_done=HOUR)
    one.create()
    two.create()
    finish(one, "m")
    assert (one.stats().done, two.stats().done) == (1, 0)


def test_deleting_a_queue_forgets_what_is_done(store: Store) -> None:
    queue = store.open(keep_done=HOUR)
    finish(queue, "m")
    queue.delete()
    send(queue, "n")
    assert queue.stats().done == 0


@pytest.mark.parametrize("user", ["orders", "orders.dead"])
def test_dead_letters_are_kept_for_their_time_and_then_removed(store: Store, user: str) -> None:
    queue, dead = store.open(), store.open("orders.dead")
    bury(queue, "old")
    store.clock.advance(13 * DAY_S)
    bury(queue, "new")
    store.clock.advance(0.99 * DAY_S)
    touch(store, store.open(user))
    assert (queue.stats().dead, ids(dead.peek(limit=5))) == (2, ["old", "new"])
    store.clock.advance(0.3 * DAY_S)
    touch(store, store.open(user))
    assert (queue.stats().dead, ids(dead.peek(limit=5))) == (1, ["new"])
    assert ids(take(dead)) == ["new"]


def test_how_long_a_dead_letter_is_kept_is_decided_when_it_becomes_one(store: Store) -> None:
    short, long = (store.open(dead_letter_retention=timedelta(hours=hours)) for hours in (1, 48))
    bury(short, "short")
    bury(long, "long")
    bury(short, "short too")
    store.clock.advance(2 * 3600)
    touch(store, store.open())
    assert ids(store.open("orders.dead").peek(limit=5)) == ["long"]


def test_a_leased_dead_letter_is_spared(store: Store) -> None:
    queue, dead = store.open(dead_letter_retention=HOUR), store.open("orders.dead")
    bury(queue, "a", "b")
    store.clock.advance(3500)
    leased = take(dead, 1, lease_s=600)
    store.clock.advance(200)
    touch(store, queue)
    assert ids(dead.peek(limit=5)) == ["a"]
    settle(dead, leased, Action.RELEASE)
    store.clock.advance(61)
    touch(store, queue)
    assert list(dead.peek(limit=5)) == []


def test_a_redriven_message_has_no_end(store: Store) -> None:
    queue, dead = store.open(dead_letter_retention=HOUR), store.open("orders.dead")
    bury(queue, "m")
    dead.redrive([OutgoingMessage("m", b"")], timeout_s=1)
    store.clock.advance(2 * 3600)
    touch(store, queue)
    store.clock.advance(61)
    assert ids(take(queue)) == ["m"]


def test_dead_letters_with_ordering_keys_go_one_after_another(store: Store) -> None:
    queue, dead = store.open(dead_letter_retention=HOUR), store.open("orders.dead", dead_letter_retention=HOUR)
    send(dead, "a", "b", ordering_key="k")
    store.clock.advance(1800)
    send(dead, "c", ordering_key="k")
    store.clock.advance(1900)
    touch(store, queue)
    assert ids(take(dead)) == ["c"]


def test_thousands_are_removed_in_small_steps(store: Store) -> None:
    queue = store.open(dead_letter_retention=HOUR)
    for _ in range(6):
        bury(queue, *(["m"] * 100))
    touch(store, queue)
    store.clock.advance(2 * 3600)
    left = []
    for _ in range(4):
        take(queue)
        store.clock.advance(61)
        left.append(len(store.open("orders.dead").peek(limit=1000)))
    assert left[-1] == 0


def test_what_is_kept_of_one_queue_is_not_removed_with_another(store: Store) -> None:
    short, long = store.open("short", dead_letter_retention=HOUR), store.open("long")
    bury(short, "a")
    bury(long, "b")
    store.clock.advance(2 * 3600)
    touch(store, short)
    touch(store, long)
    assert (short.stats().dead, long.stats().dead) == (0, 1)
