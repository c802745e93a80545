# SPDX-License-Identifier: Apache-2.0
"""What only Pub/Sub has: policies, leases that are confirmed, subscriptions, and what its settings mean."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import timedelta
from typing import Any

import pytest
from google.api_core.exceptions import MethodNotImplemented
from tenacity import wait_none

import queuekit as qk
from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    Action,
    ErrorCode,
    HttpAuth,
    NotAttempted,
    OutgoingMessage,
    Rejected,
    Settlement,
    Wanted,
)
from queuekit.backends.pubsub import OtherTopicError, cost_per_million

from .conftest import Service

_ATTEMPTS = qk.RetryPolicy(max_attempts=3, wait=wait_none())


def ignore(_body: bytes) -> None:
    pass


def run_until(app: qk.App, done: threading.Event) -> None:
    working = threading.Thread(target=lambda: app.run(signals=False))
    working.start()
    finished = done.wait(30)
    app.stop()
    working.join(40)
    assert finished
    assert not working.is_alive()


def test_the_emulator_hands_out_later_messages_of_a_key_first(service: Service) -> None:
    """With Google's own client alone; Pub/Sub itself does not, so that a case of the contract fails here."""
    service.subscribe(enable_message_ordering=True)
    messages = [{"data": text, "ordering_key": "k"} for text in (b"1", b"2")]
    service.publisher.publish(request={"topic": service.topic(), "messages": messages})
    (first,) = service.pull(most=1)
    request = {"subscription": service.subscription(), "ack_ids": [first.ack_id], "ack_deadline_seconds": 0}
    service.subscriber.modify_ack_deadline(request=request)
    assert [each.message.data for each in service.pull(most=1)] == [b"2"]


def test_the_emulator_hands_out_acked_messages_without_a_key_again(service: Service) -> None:
    """With Google's own client alone: once the lease of an earlier one has ended, on an ordered subscription."""
    service.subscribe(enable_message_ordering=True)
    messages = [{"data": text} for text in (b"1", b"2")]
    service.publisher.publish(request={"topic": service.topic(), "messages": messages})
    (first,) = service.pull(most=1)
    (second,) = service.pull(most=1)
    service.subscriber.acknowledge(request={"subscription": service.subscription(), "ack_ids": [second.ack_id]})
    request = {"subscription": service.subscription(), "ack_ids": [first.ack_id], "ack_deadline_seconds": 1}
    service.subscriber.modify_ack_deadline(request=request)
    assert [each.message.data for each in service.pull()] == [b"1", b"2"]


def test_the_emulator_does_not_seek_ordered_subscriptions(service: Service) -> None:
    """With Google's own client alone; another case of the contract fails here."""
    service.subscribe(enable_message_ordering=True)
    with pytest.raises(MethodNotImplemented):
        service.subscriber.seek(request={"subscription": service.subscription(), "time": {"seconds": 1}})


@pytest.mark.parametrize(
    ("options", "dead"),
    [({"dead_letter": "graveyard"}, "graveyard"), ({"max_deliveries": "20"}, "orders-dead")],
    ids=["by copies", "by the service"],
)
def test_attempts_are_counted_and_the_dead_go_where_the_queue_says(
    service: Service, options: dict[str, str], dead: str
) -> None:
    app, seen, done = qk.App(), list[int | None](), threading.Event()

    @app.handler(service.made(**options), retry=_ATTEMPTS)
    def fail(_text: str) -> None:
        seen.append(qk.current().attempt)
        if len(seen) == 3:
            done.set()
        raise ValueError("broken")

    fail.send("x")
    run_until(app, done)
    assert seen == [1, 2, 3]
    with qk.Consumer(service.url(dead), payload=str) as consumer:
        letter = consumer.receive(timeout=10)
        assert letter is not None
        assert letter.payload == "x"


@pytest.mark.parametrize(
    "settings", [{"enable_message_ordering": True}, {"several": True}], ids=["ordered", "fanout"]
)
def test_a_worker_that_nobody_counts_attempts_for_does_not_start(service: Service, settings: dict[str, Any]) -> None:
    several = settings.pop("several", False)
    service.subscribe(**settings)
    if several:
        service.subscriber.create_subscription(
            request={"name": service.subscription("other"), "topic": service.topic()}
        )
    app = qk.App()
    app.handler(service.url())(ignore)
    with pytest.raises(qk.UnsupportedError, match="dead-letter policy"):
        app.run(signals=False)


def test_without_a_number_a_policy_ends_after_five_which_is_too_few(service: Service) -> None:
    service.made(max_deliveries="5")
    app = qk.App()
    app.handler(service.url())(ignore)
    with pytest.raises(qk.UnsupportedError, match="after 5 deliveries"):
        app.run(signals=False)


def test_each_subscription_gets_every_message_and_goes_alone(service: Service) -> None:
    for each in ("billing", "shipping"):
        service.made(subscription=each)
    with qk.Producer(service.url(subscription="billing"), payload=str) as orders:
        orders.send("tea")
    for each in ("billing", "shipping"):
        with qk.Consumer(service.url(subscription=each), payload=str) as consumer:
            delivery = consumer.receive(timeout=10)
            assert delivery is not None
            assert delivery.payload == "tea"
            delivery.ack()
    billing, shipping = service.open(subscription="billing"), service.open(subscription="shipping")
    assert shipping.probe().copies == "fanout"
    billing.delete()
    assert (billing.exists(), shipping.exists()) == (False, True)
    assert shipping.probe().copies == "private"
    shipping.delete()
    assert list(service.publisher.list_topics(request={"project": f"projects/{service.project}"})) == []


def test_a_removal_that_was_broken_off_is_done_by_another(service: Service) -> None:
    orders = service.open("orders", max_deliveries="7")
    orders.create()
    service.subscriber.delete_subscription(request={"subscription": service.subscription("orders")})
    orders.delete()
    orders.delete()
    assert not orders.exists()
    assert list(service.publisher.list_topics(request={"project": f"projects/{service.project}"})) == []


def test_a_dead_letter_topic_that_was_named_stays_when_a_queue_goes(service: Service) -> None:
    for each in ("orders", "bills"):
        service.open(each, max_deliveries="7", dead_letter="lost").create()
    with qk.Producer(service.url("lost"), payload=str) as lost:
        lost.send("tea")
    service.open("bills", max_deliveries="7", dead_letter="lost").delete()
    with qk.Consumer(service.url("lost"), payload=str) as consumer:
        delivery = consumer.receive(timeout=10)
    assert delivery is not None
    assert delivery.payload == "tea"


def test_what_the_subscription_says_becomes_capabilities(service: Service) -> None:
    plain = service.open("plain")
    plain.create()
    can = plain.probe()
    assert (can.ordering, can.attempts, can.fencing, can.ack_confirmed) == ("none", "none", "lenient", False)
    assert (can.copies, can.release_counts, can.dead_letter_queue) == ("private", False, "")
    options = {"ordering": "true", "exactly_once": "true", "ack_deadline": "30s", "retention": "1d"}
    strict = service.open("strict", **options)
    strict.create()
    strict.create()
    can = strict.probe()
    assert (can.ordering, can.attempts, can.fencing, can.ack_confirmed) == ("per_key", "approximate", "strict", True)
    assert (can.native_max_attempts, can.release_counts) == (100, True)
    assert can.dead_letter_queue == f"pubsub://{service.project}/strict-dead?endpoint={service.server.address}"
    made = service.subscriber.get_subscription(request={"subscription": service.subscription("strict")})
    assert (made.ack_deadline_seconds, made.message_retention_duration) == (30, timedelta(days=1))
    assert not made.expiration_policy.ttl


def test_create_with_other_settings_names_what_differs(service: Service) -> None:
    service.made()
    other = service.open(ordering="true", min_backoff="1s", max_backoff="4s")
    with pytest.raises(Exception, match="differs in ordering, max_deliveries, dead_letter, min_backoff, max_backoff"):
        other.create()


def test_a_subscription_of_another_topic_is_refused(service: Service) -> None:
    service.made("orders")
    service.made("emails")
    with pytest.raises(OtherTopicError, match=r"'orders' is one of the topic 'orders'; name another"):
        service.open("emails", subscription="orders").probe()
    service.publisher.delete_topic(request={"topic": service.topic("orders")})
    with pytest.raises(OtherTopicError, match="was deleted"):
        service.open("orders").probe()


def test_confirmed_leases_tell_which_acks_came_too_late(service: Service) -> None:
    queue = service.open(exactly_once="true", ack_deadline="10s")
    queue.create()
    queue.probe()
    queue.send([OutgoingMessage(f"{number}", b"x") for number in range(4)], timeout_s=5)
    got = queue.receive(max_messages=4, wait_s=5, lease_s=10)
    assert len(got) == 4
    done = queue.settle([Settlement(got[0].handle, Action.ACK)], timeout_s=5)
    again = queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=5)
    assert (done, again) == ([SETTLED], [LEASE_LOST, SETTLED, SETTLED, SETTLED])


def test_a_lease_is_as_long_as_it_was_asked_for_whatever_the_subscription_says(service: Service) -> None:
    queue = service.open(ack_deadline="600s")
    queue.create()
    queue.send([OutgoingMessage("1", b"x")], timeout_s=5)
    (got,) = queue.receive(max_messages=1, wait_s=5, lease_s=1)
    (again,) = queue.receive(max_messages=1, wait_s=5, lease_s=60)
    assert (got.message_id, again.message_id) == ("1", "1")
    assert again.lease_until - got.lease_until > 50
    assert queue.api_calls()["ModifyAckDeadline"] == 2
    queue.probe()
    queue.settle([Settlement(again.handle, Action.RELEASE)], timeout_s=5)
    queue.receive(max_messages=1, wait_s=5, lease_s=600)
    assert queue.api_calls()["ModifyAckDeadline"] == 3, "the subscription's own needs no call"


def test_a_pull_that_is_left_gives_back_what_it_brings(service: Service) -> None:
    queue = service.open(ack_deadline="600s")
    queue.create()
    waiting = threading.Thread(target=lambda: queue.receive(max_messages=10, wait_s=20, lease_s=600))
    waiting.start()
    while "Pull" not in queue.api_calls() or not queue._pulls._waiting:
        pass
    queue.interrupt()
    waiting.join(5)
    assert not waiting.is_alive()
    (left,) = queue._pulls._left
    queue.send([OutgoingMessage("1", b"x")], timeout_s=5)
    left.call.result(timeout=20)  # else the other pull below could have it without its being given back
    other = service.open()
    assert [each.message_id for each in other.receive(max_messages=10, wait_s=10, lease_s=600)] == ["1"]


def test_a_pull_that_is_left_is_taken_up_by_the_next_receive(service: Service) -> None:
    queue = service.open(ack_deadline="600s")
    queue.create()
    queue.probe()
    waiting = threading.Thread(target=lambda: queue.receive(max_messages=10, wait_s=20, lease_s=600))
    waiting.start()
    while not queue._pulls._waiting:
        pass
    queue.interrupt()
    interrupted_at = time.monotonic()
    waiting.join(5)
    threading.Timer(0.2, lambda: queue.send([OutgoingMessage("1", b"x")], timeout_s=5)).start()
    (got,) = queue.receive(max_messages=10, wait_s=20, lease_s=600)
    assert got.message_id == "1"
    assert got.lease_until <= interrupted_at + 600, "its lease may be as old as the pull"
    assert "ModifyAckDeadline" not in queue.api_calls()


def test_a_pull_that_is_left_brings_no_more_than_the_next_receive_wants(service: Service) -> None:
    queue = service.open(ack_deadline="600s")
    queue.create()
    waiting = threading.Thread(target=lambda: queue.receive(max_messages=10, wait_s=20, lease_s=600))
    waiting.start()
    while not queue._pulls._waiting:
        pass
    queue.interrupt()
    waiting.join(5)
    batch = [OutgoingMessage(str(number), b"x") for number in range(3)]
    threading.Timer(0.2, lambda: queue.send(batch, timeout_s=5)).start()
    assert len(queue.receive(max_messages=1, wait_s=20, lease_s=600)) == 1


def test_one_bad_message_fails_the_call_and_attributes_are_refused_before_it(service: Service) -> None:
    queue = service.open()
    queue.create()
    batch = [OutgoingMessage("1", b"x"), OutgoingMessage("2", b"x", {"goog-x": "v"}), OutgoingMessage("3", b"x")]
    first, refused, third = queue.send(batch, timeout_s=5)
    assert isinstance(first, Accepted)
    assert isinstance(third, Accepted)
    assert first.provider_id
    assert isinstance(refused, Rejected)
    assert refused.error.code is ErrorCode.INVALID_MESSAGE
    assert "'goog-x'" in refused.error.detail
    assert {each.message_id for each in queue.receive(max_messages=10, wait_s=5, lease_s=30)} == {"1", "3"}


def test_no_message_overtakes_one_of_its_key_that_was_refused(service: Service) -> None:
    queue = service.open(ordering="true")
    queue.create()
    bad = {"goog": ""}
    batch = [OutgoingMessage(each, b"x", bad if each == "2" else {}, ordering_key="k") for each in "1234"]
    accepted, rejected, *behind = queue.send(batch, timeout_s=5)
    assert (type(accepted), type(rejected)) == (Accepted, Rejected)
    assert [type(each) for each in behind] == [NotAttempted] * 2
    assert not behind[0].error.retryable
    assert [each.message.data for each in service.pull()] == [b"x"]
    plain = [each._replace(ordering_key=None) for each in batch]
    assert [type(each) for each in queue.send(plain, timeout_s=5)] == [Accepted, Rejected, Accepted, Accepted]


@pytest.mark.parametrize("name", ["orders", "a%252Fb+c~d"])
def test_a_message_that_is_published_by_rest_is_the_same(service: Service, name: str) -> None:
    queue = service.open(name, ordering="true")
    queue.create()
    queue.probe()
    sent = OutgoingMessage("id-1", b"\x00\xff", {"color": "red"}, {"v": "1"}, ordering_key="k")
    request = queue.as_http(sent)
    assert queue.http_auth == HttpAuth("none")
    raw = urllib.request.Request(request.url, request.body, dict(request.headers), method=request.method)
    with urllib.request.urlopen(raw, timeout=10) as answer:
        assert json.loads(answer.read())["messageIds"]
    (got,) = queue.receive(max_messages=1, wait_s=5, lease_s=30)
    assert got[1:5] == ("id-1", b"\x00\xff", {"color": "red"}, {"v": "1"})
    assert got.ordering_key == "k"


def test_doctor_says_what_a_subscription_made_by_hand_can_lose(service: Service) -> None:
    service.subscribe("dead")
    service.subscriber.delete_subscription(request={"subscription": service.subscription("dead")})
    service.subscribe(
        enable_message_ordering=True,
        filter='attributes.a = "b"',
        message_retention_duration=timedelta(minutes=10),
        expiration_policy={"ttl": timedelta(days=31)},
        dead_letter_policy={"dead_letter_topic": service.topic("dead"), "max_delivery_attempts": 5},
        retry_policy={"minimum_backoff": timedelta(seconds=10), "maximum_backoff": timedelta(seconds=60)},
        push_config={"push_endpoint": "http://127.0.0.1:9/", "no_wrapper": {"write_metadata": False}},
    )
    service.subscriber.create_subscription(request={"name": service.subscription("other"), "topic": service.topic()})
    found = service.open().diagnose(Wanted(max_attempts=5, lease_s=60.0))
    assert {each.code: each.severity for each in found} == {
        "retention": "warning",
        "expires": "warning",
        "filter": "warning",
        "pushed": "note",
        "pushed_without_metadata": "warning",
        "short_ack_deadline": "note",
        "retry_policy": "note",
        "several_subscriptions": "note",
        "few_deliveries": "warning",
        "dead_letters_unread": "loss",
        "permissions_denied": "note",
    }
    assert not service.open().probe().receives, "what is pushed cannot be pulled"


def test_what_create_makes_has_nothing_grave(service: Service) -> None:
    service.made(ordering="true")
    diagnosis = qk.doctor(service.url())
    assert diagnosis.ok
    assert not [each for each in diagnosis.findings if each.severity != "note"]


_FORKS = """
import os, sys
import queuekit as qk
with qk.Producer(sys.argv[1]) as orders:
    orders.send(b"parent")
    child = os.fork()
    if child == 0:
        orders.send(b"child")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    orders.send(b"parent again")
"""


def test_a_child_that_was_forked_talks_by_itself(service: Service) -> None:
    """In a process that does nothing else with gRPC, whose own threads must be at rest when a process forks."""
    subprocess.run([sys.executable, "-c", _FORKS, service.made()], check=True, timeout=60)
    found = set[bytes]()
    while len(found) < 3:
        got = service.pull()
        assert got
        found |= {each.message.data for each in got}
    assert found == {b"parent", b"child", b"parent again"}


def test_a_thousand_messages_take_few_calls(service: Service) -> None:
    url = service.made()
    queue = service.open()
    with qk.Producer(url) as orders:
        orders.send_many([b"x" * 1000] * 1000).raise_for_failures()
    while got := queue.receive(max_messages=1000, wait_s=0.0, lease_s=60):
        queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=10)
    calls = queue.api_calls()
    assert sum(calls.values()) <= 50
    assert (calls["ModifyAckDeadline"], calls["GetSubscription"]) == (1, 1), "the subscription's own lease does"
    assert 0 < cost_per_million({"Publish": 1, **calls}, 1000, message_bytes=1100) < 1


def test_without_credentials_the_first_call_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/at-all.json")
    with (
        qk.Producer("pubsub://my-project/orders", payload=str) as orders,
        pytest.raises(qk.AccessDeniedError, match="no usable credentials"),
    ):
        orders.send("tea")
