# SPDX-License-Identifier: Apache-2.0
"""Delays that Pub/Sub does not keep: tasks of Cloud Tasks that publish by the REST interface when they are due."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

import queuekit as qk
from queuekit.testing.emulators import LocalCloudTasks

HOURS = timedelta(hours=2)
Via = Callable[..., str]


@pytest.fixture
def tasks() -> Iterator[LocalCloudTasks]:
    with LocalCloudTasks() as emulator:
        yield emulator


@pytest.fixture
def via(tasks: LocalCloudTasks) -> Via:
    """The URL of a queue for delays, which is made; the token of a request needs no account on an emulator."""

    def make(**options: str) -> str:
        written = "".join(f"&{name}={quote(text, safe='')}" for name, text in options.items())
        url = f"cloudtasks://shop/europe-west1/waiting?endpoint={tasks.address}{written}"
        qk.create_queue(url)
        return url

    return make


def test_a_delayed_message_is_published_when_it_is_due_as_it_was_sent(
    service: Any, tasks: LocalCloudTasks, via: Via
) -> None:
    attributes = {"tenant": "a", "Tenant-Name": "Ünal", "empty": ""}
    with qk.Producer(service.made(), payload=bytes, delay_via=via()) as orders:
        assert orders.check().capabilities.longest_delay_s == timedelta(days=30).total_seconds()
        sent = orders.send(bytes(range(256)), delay=HOURS, attributes=attributes, type="order")
        many = orders.send_many([qk.Message(b"%d" % number, delay=HOURS) for number in range(120)])
        with pytest.raises(qk.UnsupportedError, match="delay"):
            orders.send(b"x", delay=timedelta(days=31))
    many.raise_for_failures()
    tasks.advance(HOURS - timedelta(minutes=1))
    tasks.wait_until_quiet()
    with tasks.client() as client:
        waiting = list(client.list_tasks(parent="projects/shop/locations/europe-west1/queues/waiting"))
    assert [each.dispatch_count for each in waiting] == [0] * 121
    tasks.advance(timedelta(minutes=1))
    tasks.wait_until_quiet()
    with qk.Consumer(service.url()) as consumer:
        got = {each.payload: each for each in (_one(consumer) for _ in range(121))}
        for each in got.values():
            each.ack()
    whole = got.pop(bytes(range(256)))
    assert (whole.message_id, whole.attributes, whole.type) == (sent.message_id, attributes, "order")
    assert set(got) == {b"%d" % number for number in range(120)}
    assert {each.message_id for each in got.values()} == {each.message_id for each in many.outcomes}


def _one(consumer: qk.Consumer[bytes]) -> qk.Delivery[bytes]:
    delivery = consumer.receive(timeout=30)
    assert delivery is not None
    return delivery


@pytest.mark.parametrize(
    "policy", [{}, {"max_deliveries": "100"}], ids=["counted by copies", "counted by the service"]
)
def test_a_retry_beyond_the_longest_deadline_is_published_when_it_is_due(
    service: Any, tasks: LocalCloudTasks, via: Via, policy: dict[str, str]
) -> None:
    app = qk.App(service.made(**policy), delay_via=via())
    attempts: list[int | None] = []

    @app.handler("orders")
    def put_off(_order: str) -> qk.Retry | None:
        attempts.append(qk.current().attempt)
        if len(attempts) < 2:
            return qk.Retry(delay=HOURS)
        app.stop()
        return None

    put_off.send("tea")
    app.listen(lambda event: tasks.advance(HOURS) if event.name == "retried" else None)
    app.run(signals=False)
    counts = app.counts()["orders"]
    app.close()
    assert attempts == [1, 2]
    assert (counts["received"], counts["settled"], counts["api.CreateTask"]) == (2, 2, 1)


def test_requests_that_need_a_token_need_an_account() -> None:
    with pytest.raises(qk.UnsupportedError, match="service_account="):
        qk.Producer("pubsub://my-project/orders", delay_via="cloudtasks://my-project/here/waiting")


def test_what_is_too_large_to_wait_is_refused_by_name_before_any_call(service: Any, via: Via) -> None:
    url = via(max_size="100KiB")
    with qk.Producer(service.made(), payload=bytes, delay_via=url) as orders:
        orders.send(bytes(80_000))
        orders.send(bytes(70_000), delay=HOURS)
        before = orders.counts()
        with pytest.raises(qk.MessageTooLargeError, match="102400"):
            orders.send(bytes(80_000), delay=HOURS)  # its base64 has 106,668 bytes
        assert {name: count for name, count in orders.counts().items() if name.startswith("api.")} == {
            name: count for name, count in before.items() if name.startswith("api.")
        }


def test_what_pubsub_would_not_take_when_it_is_due_is_refused_when_it_is_sent(service: Any, via: Via) -> None:
    with (
        qk.Producer(service.made(), payload=bytes, delay_via=via()) as orders,
        pytest.raises(qk.InvalidMessageError, match="googclient_x"),
    ):
        orders.send(b"x", delay=HOURS, attributes={"googclient_x": "v"})
