# SPDX-License-Identifier: Apache-2.0
"""Queues made and judged: what `create` leaves behind, what the probe reads of it, and what the doctor says."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit.backend import ErrorCode, QueueURL, Wanted
from queuekit.backends.sqs import DifferentSettingsError


@pytest.mark.parametrize("suffix", ["", ".fifo"], ids=["standard", "fifo"])
def test_create_makes_the_queue_its_dead_letters_and_the_policy_between_them(service: Any, suffix: str) -> None:
    stem = f"q-{uuid.uuid4().hex[:12]}"
    backend = service.open(stem + suffix, max_receives=50, retention=timedelta(days=7))
    backend.create()
    backend.create()
    told = service.client.get_queue_attributes(QueueUrl=service.address(stem + suffix), AttributeNames=["All"])[
        "Attributes"
    ]
    policy = json.loads(told["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith(f":{stem}-dead{suffix}")
    assert int(policy["maxReceiveCount"]) == 50
    assert told["MessageRetentionPeriod"] == f"{7 * 86_400}"
    assert told.get("FifoQueue", "false") == ("true" if suffix else "false")
    assert backend.probe().native_max_attempts == 50
    codes = {each.code for each in backend.diagnose(Wanted())}
    assert "dead_letters_refused" not in codes
    if type(service.server).__name__ == "LocalFauxqs":  # moto does not keep a redrive allow policy
        assert "dead_letters_of_anybody" not in codes
    other = service.open(stem + suffix, max_receives=60)
    with pytest.raises(DifferentSettingsError, match="max_receives") as caught:
        other.create()
    assert other.classify(caught.value).code is ErrorCode.EXISTS
    backend.delete()
    assert not backend.exists()
    with pytest.raises(service.client.exceptions.QueueDoesNotExist):
        service.address(f"{stem}-dead{suffix}")


def test_a_queue_is_made_by_its_url(service: Any) -> None:
    url = service.url(f"q-{uuid.uuid4().hex[:12]}")
    with qk.Producer(url) as producer, pytest.raises(qk.QueueNotFoundError):
        producer.send(b"x")
    assert qk.create_queue(url, max_receives=50) == url
    assert qk.create_queue(url, max_receives=50) == url
    with qk.Producer(url) as producer:
        producer.send(b"x")
    with pytest.raises(qk.QueueExistsError, match="max_receives"):
        qk.create_queue(url, max_receives=60)


def test_the_probe_reads_the_queue_s_own_limits(service: Any) -> None:
    backend = service.open(service.queue(MaximumMessageSize="2048"))
    assert backend.capabilities.max_message_bytes == 1 << 20
    can = backend.probe()
    assert (can.max_message_bytes, can.native_max_attempts, can.assumed) == (2048, None, frozenset())


def test_the_doctor_asks_the_queue_and_the_queue_of_its_dead_letters(service: Any) -> None:
    name = f"q-{uuid.uuid4().hex[:12]}"
    made = service.open(name, max_receives=3)
    made.create()
    diagnosis = qk.doctor(service.url(name))
    codes = {each.code for each in diagnosis.findings}
    assert {"retention", "few_receives"} <= codes
    assert "dead_letters_missing" not in codes
    assert "dead_letters_denied" not in codes
    made.delete()


def test_a_worker_whose_attempts_the_service_would_cut_short_is_refused(service: Any) -> None:
    name = f"q-{uuid.uuid4().hex[:12]}"
    made = service.open(name, max_receives=3)
    made.create()
    app = qk.App()

    @app.handler(service.url(name, poll="1s"), retry=qk.RetryPolicy(max_attempts=5))
    def handle(body: bytes) -> None: ...

    with pytest.raises(qk.UnsupportedError, match="after 3 deliveries"):
        app.run(signals=False)
    made.delete()


def test_a_worker_that_names_no_dead_letter_queue_uses_the_one_of_the_redrive_policy(service: Any) -> None:
    name = f"q-{uuid.uuid4().hex[:12]}"
    made = service.open(name)
    made.create()
    app = qk.App()

    @app.handler(service.url(name, poll="1s"))
    def handle(body: bytes) -> qk.DeadLetter:
        app.stop()
        return qk.DeadLetter("broken")

    with qk.Producer(service.url(name)) as producer:
        sent = producer.send(b"x", attributes={"tenant": "ada"})
    app.run(signals=False)
    with qk.Consumer(service.url(f"{name}-dead", poll="1s")) as dead:
        letter = dead.receive(timeout=60.0)
        assert letter is not None
        assert (letter.message_id, letter.body, letter.attributes) == (sent.message_id, b"x", {"tenant": "ada"})
        assert letter._held.message.metadata["dead-reason"] == "broken"
        letter.ack()
    assert service.open(name).receive(max_messages=1, wait_s=0.0, lease_s=1.0) == []
    made.delete()


@pytest.mark.parametrize("suffix", ["", ".fifo"], ids=["standard", "fifo"])
def test_a_consumer_that_names_no_dead_letter_queue_uses_the_one_of_the_redrive_policy(
    service: Any, suffix: str
) -> None:
    name = f"q-{uuid.uuid4().hex[:12]}"
    made = service.open(name + suffix)
    made.create()
    dead = f"{name}-dead{suffix}"
    # A queue for dead letters may take less than a traceback.
    service.client.set_queue_attributes(QueueUrl=service.address(dead), Attributes={"MaximumMessageSize": "1024"})
    with qk.Consumer(service.url(name + suffix, poll="1s")) as consumer:
        with qk.Producer(service.url(name + suffix)) as producer:
            sent = producer.send(b"x" * 400, ordering_key="k" if suffix else None)
        delivery = consumer.receive(timeout=10.0)
        assert delivery is not None
        delivery.dead_letter("a long reason " * 60)
        delivery.settled(timeout=10.0)
        assert consumer.counts()["delivery.dead"] == 1
    with qk.Consumer(service.url(dead, poll="1s")) as letters:
        letter = letters.receive(timeout=10.0)
        assert letter is not None
        known = letter._held.message.metadata
        assert (letter.message_id, letter.body, letter.ordering_key) == (
            sent.message_id,
            b"x" * 400,
            "k" if suffix else None,
        )
        assert "dead-reason" in known["dead-trimmed"].split(), "only what there is room for is kept"
        letter.ack()
    made.delete()


def test_without_a_redrive_policy_a_dead_letter_is_retried_and_that_is_told(service: Any) -> None:
    url = service.url(service.queue(), poll="1s")
    with qk.Producer(url) as producer:
        producer.send(b"1")
        producer.send(b"2")
    with qk.Consumer(url) as consumer:
        for _ in range(2):
            delivery = consumer.receive(timeout=10.0)
            assert delivery is not None
            delivery.dead_letter("broken")
            delivery.settled(timeout=10.0)
        assert consumer.counts()["dead_letter.missing"] == 2


def test_a_fair_queue_takes_a_key_as_the_tenant_and_orders_nothing(service: Any) -> None:
    name = service.queue()
    with qk.Producer(service.url(name)) as plain, pytest.raises(qk.UnsupportedError, match="ordering key"):
        plain.send(b"x", ordering_key="ada")
    with qk.Producer(service.url(name, fair="true")) as fair:
        fair.send(b"x", ordering_key="ada", delay=timedelta(0))
        assert not fair._link.capabilities.missing(["delay"])
        assert fair._link.capabilities.missing(["ordering"]) == ["ordering"]
    told = service.client.receive_message(
        QueueUrl=service.address(name), MessageSystemAttributeNames=["MessageGroupId"], WaitTimeSeconds=5
    )["Messages"][0]
    assert told["Body"] == "x"
    if type(service.server).__name__ == "LocalMoto":  # fauxqs drops the group on standard queues
        assert told["Attributes"]["MessageGroupId"] == "ada"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqs://eu-west-1/orders.dead", "names a queue by 1 to 80"),
        ("sqs://eu-west-1/a/orders", "too many; the form is sqs://"),
        ("sqs://eu-west-1:80/orders", "AWS region"),
        ("sqs:///orders", "AWS region"),
        ("sqs://me@eu-west-1/orders", "12 digits"),
        ("sqs://eu-west-1/orders.fifo?fair=true", "'fair'"),
        ("sqs://eu-west-1/orders.fifo?lanes=high,low", "lanes"),
        ("sqs://eu-west-1/orders?endpoint=localhost", "'endpoint'"),
        (f"sqs://eu-west-1/{'x' * 81}", "1 to 80"),
    ],
)
def test_a_url_that_cannot_be_is_refused_by_name(url: str, says: str) -> None:
    with pytest.raises(qk.InvalidURLError, match=says):
        qk.Producer(url)
    assert QueueURL.parse(url)
