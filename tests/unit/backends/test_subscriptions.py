# SPDX-License-Identifier: Apache-2.0
"""Subscriptions, on memory, SQLite and Redis alike."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from queuekit.backend import Action, OutgoingMessage, Settlement

from .stores import Store, ids, send, settle, take


def test_a_subscription_gets_what_is_sent_after_its_first_use(store: Store) -> None:
    queue, late = store.open(), store.open(subscription="late")
    send(queue, "before")
    assert take(late) == []
    send(queue, "after")
    assert ids(take(late)) == ["after"]


@pytest.mark.parametrize("first_use", ["probe", "create", "receive"])
def test_what_counts_as_a_first_use(store: Store, first_use: str) -> None:
    one = store.open(subscription="one")
    assert not one.exists()
    {"probe": one.probe, "create": one.create, "receive": lambda: take(one)}[first_use]()
    assert one.exists()
    send(store.open(), "m")
    assert ids(take(one)) == ["m"]


def test_sending_looking_and_counting_make_no_subscription(store: Store) -> None:
    one = store.open(subscription="one")
    send(one, "m")
    assert (one.stats().ready, list(one.peek(limit=5)), one.purge(), one.exists()) == (0, [], 0, False)
    assert one.cancel("m"), "it is in the queue itself"


def test_the_queue_itself_is_a_subscription_while_there_is_no_other(store: Store) -> None:
    queue, one = store.open(), store.open(subscription="one")
    send(queue, "alone")
    one.create()
    send(queue, "not for the queue, where nobody receives")
    assert ids(queue.peek(limit=5)) == ["alone"]


def test_the_queue_itself_is_a_subscription_from_its_first_receive_on(store: Store) -> None:
    queue, one = store.open(), store.open(subscription="one")
    assert take(queue) == []
    one.create()
    send(queue, "m")
    assert (ids(take(queue)), ids(take(one))) == (["m"], ["m"])


def test_a_batch_reaches_every_subscription_in_order(store: Store) -> None:
    all_ = [store.open(subscription=name) for name in ("one", "two", "three")]
    for each in all_:
        each.create()
    send(store.open(), "a", "b", "c", ordering_key="k")
    for each in all_:
        for expected in ("a", "b", "c"):
            taken = take(each)
            assert ids(taken) == [expected]
            settle(each, taken)


def test_a_slow_subscription_holds_up_no_other(store: Store) -> None:
    slow, quick = store.open(subscription="slow"), store.open(subscription="quick")
    slow.create()
    quick.create()
    send(slow, "a", "b", ordering_key="k")
    assert ids(take(slow)) == ["a"]
    settle(quick, take(quick))
    assert ids(take(quick)) == ["b"]


def test_a_duplicate_is_found_once_per_send_and_not_per_subscription(store: Store) -> None:
    one, two = store.open(subscription="one"), store.open(subscription="two")
    one.create()
    assert send(one, "a", dedup_id="x") == ["Accepted"]
    two.create()
    assert send(two, "b", dedup_id="x") == ["Duplicate"]
    assert send(store.open(), "c", dedup_id="x") == ["Duplicate"]
    assert (ids(take(one)), take(two)) == (["a"], [])


def test_a_handle_of_one_subscription_settles_nothing_in_another(store: Store) -> None:
    one, two = store.open(subscription="one"), store.open(subscription="two")
    one.create()
    two.create()
    send(one, "m")
    taken = take(one)
    take(two)
    (outcome,) = two.settle([Settlement(taken[0].handle, Action.ACK)], timeout_s=1)
    assert type(outcome).__name__ == "LeaseLost"
    settle(one, taken)
    assert (one.stats().leased, two.stats().leased) == (0, 1)


@pytest.mark.parametrize("key", [None, "k"])
def test_what_was_released_untried_can_still_be_cancelled(store: Store, key: str | None) -> None:
    queue = store.open()
    send(queue, "m", "next", ordering_key=key)
    settle(queue, take(queue, 1), Action.RELEASE)
    assert queue.cancel("m")
    assert ids(take(queue)) == ["next"]
    store.clock.advance(61)
    assert not queue.cancel("next"), "its lease ran out, and the attempt counts"
    assert ids(take(queue)) == ["next"]


def test_cancelling_removes_every_copy_that_was_never_tried(store: Store) -> None:
    one, two, three = (store.open(subscription=name) for name in ("one", "two", "three"))
    for each in (one, two, three):
        each.create()
    send(one, "m", "other")
    taken = take(two, 1)
    assert store.open().cancel("m")
    assert (ids(take(one)), ids(take(three))) == (["other"], ["other"])
    settle(two, taken, Action.RETRY)
    assert ids(take(two)) == ["m", "other"], "somebody has had it, and so it stays"
    assert not store.open().cancel("m")


def test_counts_peeks_and_purges_are_a_subscriptions_own(store: Store) -> None:
    one, two = store.open(subscription="one"), store.open(subscription="two")
    one.create()
    two.create()
    send(one, "a", "b")
    assert len(take(two, 1)) == 1
    assert ((one.stats().ready, one.stats().leased), (two.stats().ready, two.stats().leased)) == ((2, 0), (1, 1))
    assert one.purge() == 2
    assert (ids(one.peek(limit=5)), ids(two.peek(limit=5))) == ([], ["a", "b"])


def test_a_message_that_does_not_fit_into_one_subscription_is_refused_for_all(store: Store) -> None:
    full, other = store.open(subscription="full"), store.open(subscription="other")
    full.create()
    send(full, "a", "b")
    other.create()
    assert send(store.open(max_messages=2), "c", dedup_id="x") == ["Rejected"]
    assert (full.stats().ready, other.stats().ready) == (2, 0)
    assert send(store.open(max_messages=3), "c", dedup_id="x") == ["Accepted"], "what is refused is not remembered"


def test_dead_letters_and_redrive_stay_within_a_subscription(store: Store) -> None:
    one, two = store.open(subscription="one"), store.open(subscription="two")
    one.create()
    two.create()
    send(one, "m")
    settle(one, take(one), Action.DEAD)
    dead_of_one, dead_of_two = (store.open("orders.dead", name) for name in ("one", "two"))
    assert ids(dead_of_one.peek(limit=5)) == ["m"]
    assert (one.stats().dead, two.stats().dead, store.open().stats().dead) == (1, 0, 0)
    assert ids(store.open("orders.dead").peek(limit=5)) == list(dead_of_two.peek(limit=5)) == []
    settle(two, take(two))
    (outcome,) = dead_of_one.redrive([OutgoingMessage("m", b"again")], timeout_s=1)
    assert type(outcome).__name__ == "Settled"
    assert (ids(take(one)), take(two), take(store.open())) == (["m"], [], [])


def test_what_is_sent_to_dead_letters_reaches_one_subscription_only(store: Store) -> None:
    dead_of_one, dead_of_two = (store.open("orders.dead", name) for name in ("one", "two"))
    dead_of_two.create()
    send(dead_of_one, "letter")
    assert (ids(dead_of_one.peek(limit=5)), list(dead_of_two.peek(limit=5))) == (["letter"], [])


def test_deleting_a_subscription_leaves_the_others(store: Store) -> None:
    one, two = store.open(subscription="one"), store.open(subscription="two")
    one.create()
    two.create()
    send(one, "a", "b")
    settle(one, take(one, 1), Action.DEAD)
    one.delete()
    assert (one.exists(), two.exists(), store.open().exists()) == (False, True, True)
    assert store.open("orders.dead", "one").stats().ready == 0
    send(two, "c")
    assert ids(take(two)) == ["a", "b", "c"]
    assert take(one) == [], "made again by this, and empty"


def test_after_the_last_subscription_the_queue_itself_gets_messages_again(store: Store) -> None:
    one = store.open(subscription="one")
    one.create()
    one.delete()
    send(store.open(), "m")
    assert ids(store.open().peek(limit=5)) == ["m"]


def test_deleting_the_queue_deletes_its_subscriptions(store: Store) -> None:
    one = store.open(subscription="one")
    one.create()
    send(one, "m")
    settle(one, take(one), Action.DEAD)
    send(one, "n")
    store.open().delete()
    assert (one.exists(), store.open("orders.dead", "one").exists()) == (False, False)
    send(store.open(), "o")
    assert take(one) == []


def test_deleting_dead_letters_deletes_no_other_subscriptions_dead_letters(store: Store) -> None:
    one = store.open(subscription="one")
    one.create()
    send(one, "m")
    settle(one, take(one), Action.DEAD)
    store.open("orders.dead").delete()
    assert one.stats().dead == 1


@pytest.mark.parametrize(
    "name",
    ["orders", "orders.dead", "orders/one", "' OR ''='", "one'; DROP TABLE queue; --", "%", "*", "one\x1ftwo", "é"],
)
def test_no_name_of_a_subscription_reaches_another_place(store: Store, name: str) -> None:
    odd, one, other = store.open(subscription=name), store.open(subscription="one"), store.open("orders.x")
    one.create()
    odd.create()
    send(other, "elsewhere")
    send(one, "m")
    settle(odd, take(odd), Action.DEAD)
    odd.purge()
    odd.delete()
    assert (ids(take(one)), ids(take(other))) == (["m"], ["elsewhere"])
    assert store.open("orders.dead").stats().ready == 0


def test_names_of_queue_and_subscription_do_not_run_together(store: Store) -> None:
    first, second = store.open("a.b", "c"), store.open("a", "b.c")
    first.create()
    second.create()
    send(first, "m")
    assert (ids(take(first)), take(second)) == (["m"], [])


def test_a_send_wakes_every_subscription_that_waits(store: Store) -> None:
    got: dict[str, Any] = {}
    subscriptions = {name: store.open(subscription=name) for name in ("one", "two")}

    def wait(name: str) -> None:
        got[name] = ids(subscriptions[name].receive(max_messages=1, wait_s=50, lease_s=60))

    for each in subscriptions.values():
        each.create()
    waiting = [threading.Thread(target=wait, args=(name,)) for name in subscriptions]
    for each in waiting:
        each.start()
    store.wait_for_waiters(2)
    send(store.open(), "m")
    for each in waiting:
        each.join(10)
    assert got == {"one": ["m"], "two": ["m"]}


def test_copies_reach_all_where_there_are_subscriptions(store: Store) -> None:
    queue = store.open()
    assert (queue.probe().copies, queue.capabilities.fanout) == ("private", True)
    one = store.open(subscription="one")
    assert one.capabilities.copies == one.probe().copies == "fanout"
    assert queue.probe().copies == "fanout"


def test_a_deleted_queue_that_a_send_made_again_has_its_consumer(store: Store) -> None:
    queue, one = store.open(), store.open(subscription="one")
    send(queue, "a")
    assert ids(take(queue)) == ["a"]
    queue.delete()
    send(queue, "b")
    assert ids(take(queue)) == ["b"]
    one.create()
    send(queue, "c")
    assert ids(take(queue)) == ["c"]


@pytest.mark.parametrize("name", ["", "one"])
def test_a_consumer_whose_subscription_is_deleted_goes_on_with_a_new_one_at_once(store: Store, name: str) -> None:
    queue = store.open(subscription=name)
    take(queue)
    send(queue, "before")
    assert ids(take(queue)) == ["before"]
    queue.delete()
    assert take(queue) == []
    store.open(subscription="another").create()
    send(store.open(), "after")
    assert ids(take(queue)) == ["after"]
